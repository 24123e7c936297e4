"""The client against the real server, over real sockets, on both transports."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from qrusty_trio import client as q
from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.client.connection import Connection, Frame
from tests.client.hosting import Host, break_connections
from tests.http.ws_server import PATIENCE, both_paths, running
from tests.wire.http_client import open_client


async def publish_many(client: q.Client, payloads: list[str]) -> set[str]:
    """Twenty at a time; returns the ids."""
    ids: set[str] = set()
    waiting = list(reversed(payloads))

    async def work() -> None:
        while waiting:
            ids.add(await client.publish("jobs", waiting.pop()))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(work)
    return ids


async def take(deliveries: q.Deliveries, count: int) -> list[q.Delivery]:
    with trio.fail_after(PATIENCE):
        return [await anext(deliveries) for _ in range(count)]


# Verifies: SYS-0020
@both_paths
async def test_publish_and_subscribe(fast_path: bool) -> None:
    async with running(fast_path) as server, q.connect(server.url) as client:
        await server.create()
        got: Counter[str] = Counter()
        async with client.subscribe("jobs", prefetch=7) as deliveries, trio.open_nursery() as nursery:

            async def work() -> None:
                async for delivery in deliveries:
                    await delivery.ack()
                    got[delivery.payload] += 1
                    if got.total() == 300:
                        nursery.cancel_scope.cancel()

            for _ in range(5):
                nursery.start_soon(work)
            ids = await publish_many(client, [str(number) for number in range(300)])
        assert len(ids) == 300
        assert got == Counter(str(number) for number in range(300))
        await server.settle_down(0, 0, 0)


@both_paths
async def test_a_batch_is_published_and_delivered_in_few_frames(
    fast_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: Counter[str] = Counter()
    take = Connection._take

    def counted(connection: Connection, frame: Frame) -> None:
        frames[frame.type] += 1
        take(connection, frame)

    monkeypatch.setattr(Connection, "_take", counted)
    async with running(fast_path) as server, q.connect(server.url) as client:
        await server.create()
        told = await client.publish_batch("jobs", [q.NewMessage(payload=str(number)) for number in range(300)])
        assert (len(set(told.ids)), told.rejected) == (300, [])
        told = await client.publish_batch("jobs", [q.NewMessage(payload="p", priority="high")])
        assert [(each.index, each.code) for each in told.rejected] == [(0, "priority_kind_mismatch")]
        with pytest.raises(q.QueueNotFound):
            await client.publish_batch("none", [q.NewMessage(payload="p")])
        async with client.subscribe("jobs", prefetch=100) as deliveries:
            got: list[str] = []
            while len(got) < 300:
                delivery = await anext(deliveries)
                got.append(delivery.payload)
                await delivery.ack()
        assert got == [str(number) for number in range(300)]
        await server.settle_down(0, 0, 0)
    assert frames["deliver-batch"] > 0
    assert frames["deliver-batch"] + frames["deliver"] < 250  # the first hundred came in one


# Verifies: WS-0040
@both_paths
@pytest.mark.parametrize("character", ["x", "\x01", '"', "é", "😀", "\x7f"])
async def test_the_largest_messages_are_taken(fast_path: bool, character: str) -> None:
    """The client's own limit is never the reason for a 1009: whatever was published in one request can be delivered."""
    written = len(json.dumps(character, ensure_ascii=False).encode()) - 2
    payload = character * ((MAX_BODY_BYTES - 1000) // written)
    queue = '"\x01' * 60
    body = json.dumps({"queue": queue, "priority": 0, "payload": payload}, ensure_ascii=False).encode()
    assert MAX_BODY_BYTES - 2000 < len(body) < MAX_BODY_BYTES
    async with running(fast_path) as server, q.connect(server.url) as client:
        await server.create(queue)
        async with open_client(f"http://127.0.0.1:{server.port}") as http:
            assert (await http.request("POST", "/publish", body)).status == 200
        async with client.subscribe(queue) as deliveries:
            (delivery,) = await take(deliveries, 1)
            assert delivery.payload == payload
            await delivery.ack()
        await server.settle_down(0, 0, 0, queue=queue)


@both_paths
async def test_errors(fast_path: bool) -> None:
    async with running(fast_path) as server, q.connect(server.url) as client:
        await server.create()
        with pytest.raises(q.QueueNotFound):
            await client.publish("nope", "p")
        with pytest.raises(q.QueueNotFound):
            async with client.subscribe("nope"):
                pass
        with pytest.raises(q.PublishFailed):
            await client.publish("jobs", "p", priority="high")
        with pytest.raises(q.InvalidRequest):
            await client.publish("jobs", "p", max_retries=-1)
        server.engine.services.gate.memory_critical = True
        with pytest.raises(q.MemoryPressure):
            await client.publish("jobs", "p")
        server.engine.services.gate.memory_critical = False
        server.engine.services.gate.starting = True
        with pytest.raises(q.Starting):
            await client.publish("jobs", "p")
        server.engine.services.gate.starting = False
        payload = "x" * (2 * 1024 * 1024 - 200)
        await client.publish("jobs", payload)
        async with client.subscribe("jobs") as deliveries:
            (delivery,) = await take(deliveries, 1)
            assert delivery.payload == payload
            await delivery.renew(60)
            await delivery.ack()
            with pytest.raises(q.NotLocked):
                await delivery.renew(60)


@both_paths
async def test_connecting_where_it_is_not(fast_path: bool) -> None:
    async with running(fast_path) as server:
        for url in (server.url.removesuffix("/ws") + "/nowhere", "ws://127.0.0.1:1/ws"):
            with pytest.raises(q.ConnectFailed):
                async with q.connect(url):
                    pass
        with pytest.raises(ValueError, match="not a WebSocket URL"):
            async with q.connect(f"http://127.0.0.1:{server.port}/ws"):
                pass


# Verifies: DLV-0004
@both_paths
async def test_nack_brings_it_back_and_then_to_the_dead_letters(fast_path: bool) -> None:
    async with running(fast_path) as server, q.connect(server.url) as client:
        await server.create()
        await client.publish("jobs", "p", max_retries=3)
        async with client.subscribe("jobs", prefetch=1) as deliveries:
            for _ in range(3):
                (delivery,) = await take(deliveries, 1)
                await delivery.nack()
        await server.settle_down(0, 0, 1)


# Verifies: WS-0039
@both_paths
async def test_leaving_gives_back_what_was_read_ahead(fast_path: bool) -> None:
    async with running(fast_path) as server, q.connect(server.url) as client, q.connect(server.url) as other:
        await server.create()
        for number in range(20):
            await client.publish("jobs", str(number), max_retries=100)
        async with client.subscribe("jobs", prefetch=10, lock_timeout=600) as deliveries:
            (mine,) = await take(deliveries, 1)
            await server.settle_down(10, 10, 0)
        await server.settle_down(19, 1, 0)
        async with other.subscribe("jobs", prefetch=100, lock_timeout=600) as deliveries:
            rest = await take(deliveries, 19)
            assert [each.payload for each in rest] == [str(number) for number in range(1, 20)]
            await mine.ack()
            await server.settle_down(0, 19, 0)
            for each in rest:
                await each.ack()
        await server.settle_down(0, 0, 0)


@both_paths
async def test_the_end_of_a_client_gives_back_everything(fast_path: bool) -> None:
    async with running(fast_path) as server:
        await server.create()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(q.connect(server.url))
            for _ in range(20):
                await client.publish("jobs", "p", max_retries=100)
            deliveries = await stack.enter_async_context(client.subscribe("jobs", prefetch=10, lock_timeout=600))
            await take(deliveries, 5)
            await server.settle_down(10, 10, 0)
        await server.settle_down(20, 0, 0)


# Verifies: SYS-0020
@both_paths
async def test_a_broken_connection_is_made_good(fast_path: bool) -> None:
    done: Counter[str] = Counter()
    async with running(fast_path) as server, q.connect(server.url) as client:
        await server.create()
        async with client.subscribe("jobs", prefetch=5, lock_timeout=600) as deliveries:
            for number in range(60):
                await client.publish("jobs", str(number), max_retries=100)
            lost = 0
            while len(done) < 60:
                (delivery,) = await take(deliveries, 1)
                if len(done) % 20 == 10 and lost < 1 + len(done) // 20:
                    lost += 1
                    break_connections(server)
                try:
                    await delivery.ack()
                except q.ConnectionLost:
                    continue  # It comes again, or the ack has counted.
                finally:
                    done[delivery.payload] += 1
            assert lost == 3
        await server.settle_down(0, 0, 0)


# Verifies: SYS-0020
@both_paths
async def test_a_server_that_restarts(fast_path: bool, tmp_path: Path) -> None:
    """What was acked before stays acked, what was held comes again, and the subscription goes on."""
    async with trio.open_nursery() as nursery:
        host = Host(nursery, fast_path, tmp_path / "data")
        server = await host.start()
        port, url = server.port, server.url
        await server.create()
        async with (
            q.connect(url) as client,
            client.subscribe("jobs", prefetch=4, lock_timeout=600) as deliveries,
        ):
            for number in range(10):
                await client.publish("jobs", str(number), max_retries=100)
            early = await take(deliveries, 4)
            for each in early[:3]:
                await each.ack()
            await host.stop()
            assert early[3].lost
            with pytest.raises(q.ConnectionLost):
                await early[3].ack()
            server = await host.start(port)
            for number in range(3, 10):
                (delivery,) = await take(deliveries, 1)
                assert delivery.payload == str(number)
                await delivery.ack()
            await client.publish("jobs", "after")
            (delivery,) = await take(deliveries, 1)
            assert delivery.payload == "after"
            await delivery.ack()
            await server.settle_down(0, 0, 0)
        await host.stop()
