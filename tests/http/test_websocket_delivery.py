"""Deliveries over sockets, on both transports: who gets what, when readers are slow, when they vanish."""

from __future__ import annotations

import logging
import socket
import struct
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed

from qrusty_trio.errors import StorageFault
from tests.http.ws_server import PATIENCE, Running, Socket, both_paths, running

LONG = 600
"""Seconds of a lock that does not end during a test."""


def narrow(slow: Socket) -> None:
    """Let the kernel keep little for a reader."""
    slow.socket().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)


async def publish_many(server: Running, count: int, payload: str = "") -> None:
    """Over a WebSocket, without waiting for each response."""
    async with server.socket() as publisher:
        for number in range(count):
            await publisher.send(type="publish", queue="jobs", payload=f"{number}{payload}", max_retries=1000)
        responses = Counter([(await publisher.response())["type"] for _ in range(count)])
    assert responses == {"ok": count}


# Verifies: SCH-0023
@both_paths
@pytest.mark.parametrize(("subscribers", "messages"), [(1, 400), (10, 400), (200, 1000)])
async def test_subscribers_share_a_queue(fast_path: bool, subscribers: int, messages: int) -> None:
    got: list[list[str]] = [[] for _ in range(subscribers)]
    left = messages
    done = trio.Event()

    async def work(server: Running, mine: list[str], *, task_status: trio.TaskStatus[None]) -> None:
        nonlocal left
        async with server.socket() as one:
            await one.subscribe()
            task_status.started()
            while True:
                delivery = await one.push()
                mine.append(delivery["payload"])
                await one.send(type="ack", queue="jobs", id=delivery["id"], no_reply=True)
                left -= 1
                if not left:
                    done.set()

    async with running(fast_path) as server, trio.open_nursery() as nursery:
        await server.create()
        for mine in got:
            await nursery.start(work, server, mine)
        await publish_many(server, messages)
        with trio.fail_after(PATIENCE * 4):
            await done.wait()
        await server.settle_down(0, 0, 0)
        nursery.cancel_scope.cancel()
    assert Counter(payload for mine in got for payload in mine) == Counter(str(number) for number in range(messages))
    share = messages / subscribers
    assert all(0.9 * share <= len(mine) <= 1.1 * share for mine in got), sorted(map(len, got))
    assert all(mine == sorted(mine, key=int) for mine in got)


# Verifies: WS-0018
@both_paths
async def test_a_slow_reader_stops_nobody_and_loses_nothing(fast_path: bool) -> None:
    messages, payload = 500, "x" * 40_000
    async with (
        running(fast_path) as server,
        server.socket(message_queue_size=1) as slow,
        server.socket() as fast,
        trio.open_nursery() as nursery,
    ):
        await server.create()
        narrow(slow)
        await slow.subscribe(lock_timeout_secs=LONG)
        await fast.subscribe(lock_timeout_secs=LONG)
        got = Counter[Socket]()

        async def work(reader: Socket) -> None:
            while True:
                await reader.ack(await reader.push())
                got[reader] += 1

        nursery.start_soon(work, fast)
        await publish_many(server, messages, payload)
        with trio.fail_after(PATIENCE):
            while server.counts()[0] > 0:  # noqa: ASYNC110  # the server announces no such thing
                await trio.sleep(0.002)
        nursery.start_soon(work, slow)
        await server.settle_down(0, 0, 0)
        with trio.fail_after(PATIENCE):
            while got.total() < messages:  # noqa: ASYNC110  # the last acks are on their way back
                await trio.sleep(0.002)
        nursery.cancel_scope.cancel()
    assert 0 < got[slow] < messages / 2  # Its pull stopped long before its share.
    assert got.total() == messages


# Verifies: WS-0018
@both_paths
async def test_a_reader_that_stopped_goes_on_where_it_was(fast_path: bool) -> None:
    """Alone on its queue, so that what has no room waits for it."""
    messages, payload = 250, "x" * 40_000
    async with running(fast_path) as server, server.socket(message_queue_size=1) as slow:
        await server.create()
        narrow(slow)
        await slow.subscribe(lock_timeout_secs=LONG)
        await publish_many(server, messages, payload)
        available, locked, _ = server.counts()
        assert available > 0
        assert available + locked == messages
        got = [(await slow.push())["payload"] for _ in range(messages)]
        assert [text.rstrip("x") for text in got] == [str(number) for number in range(messages)]
        assert server.counts() == (0, messages, 0)


# Verifies: DLV-0026
@both_paths
@pytest.mark.parametrize("way", ["close", "eof", "reset"])
async def test_what_a_lost_connection_held_goes_to_the_next_one(fast_path: bool, way: str) -> None:
    async with running(fast_path) as server, AsyncExitStack() as stack:
        await server.create()
        first = await stack.enter_async_context(server.socket())
        await first.subscribe(lock_timeout_secs=LONG, credits=50)
        await publish_many(server, 100)
        taken = [await first.push() for _ in range(20)]
        await first.ack(taken[0])
        await server.settle_down(50, 49, 0)
        if way == "close":
            await first.websocket.aclose()
        else:
            if way == "reset":
                first.socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await first.vanish()
        await server.settle_down(99, 0, 0)
        again = await server.http("POST", "/consume/jobs", {"consumer_id": "c", "timeout_seconds": LONG})
        # The delivery counts when the connection was lost, not when it was closed in order.
        assert (again["payload"], again["retry_count"]) == ("1", 1 if way == "close" else 2)
        async with server.socket() as second:
            await second.subscribe()
            payloads = [(await second.push())["payload"] for _ in range(98)]
        assert payloads == [str(number) for number in range(2, 100)]


# Verifies: DLV-0026
@both_paths
async def test_connections_that_come_and_go_lose_nothing(fast_path: bool) -> None:
    """Twenty subscribers, each of which vanishes with messages in its hands, over and over."""
    done: Counter[str] = Counter()
    async with running(fast_path) as server:
        await server.create()
        await publish_many(server, 400)

        async def visit(number: int) -> None:
            for turn in range(5):
                async with server.socket() as one:
                    await one.subscribe(lock_timeout_secs=LONG, credits=8)
                    for _ in range(2):
                        delivery = None
                        with trio.move_on_after(1):
                            delivery = await one.push()
                        if delivery is not None:
                            await one.ack(delivery)
                            done[delivery["payload"]] += 1
                    if (number + turn) % 2:
                        await one.vanish()

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(visit, number)
        await server.settle_down(400 - done.total(), 0, 0)
        assert set(done.values()) == {1}


# Verifies: SCH-0021
@both_paths
async def test_whatever_makes_a_message_available_wakes_the_subscriber(fast_path: bool) -> None:
    async with running(fast_path) as server, server.socket() as waiting:
        await server.create()
        consumer = {"consumer_id": "c", "timeout_seconds": 1}

        async def arrived(id: str) -> None:
            delivery = await waiting.push()
            assert delivery["id"] == id
            await waiting.ack(delivery)

        await waiting.subscribe()
        await arrived(await server.publish())  # over HTTP
        async with server.socket() as other:
            await arrived(await other.publish())  # over another socket
            await waiting.ask(type="unsubscribe", queue="jobs")
            ids = [await other.publish(str(number)) for number in range(3)]
            for id in ids:
                assert (await server.http("POST", "/consume/jobs", consumer))["id"] == id
            await waiting.subscribe()
            await server.http("POST", f"/nack/jobs/{ids[0]}", {"consumer_id": "c"})
            await arrived(ids[0])
            await server.http("POST", "/nack-batch/jobs", {"consumer_id": "c", "message_ids": [ids[1]]})
            await arrived(ids[1])
            await arrived(ids[2])  # when its lock has ended
            await other.subscribe()
            await waiting.ask(type="unsubscribe", queue="jobs")
            id = await server.publish()
            assert (await other.push())["id"] == id
            await other.ask(type="unsubscribe", queue="jobs")
            await waiting.subscribe()
            await other.ask(type="nack", queue="jobs", id=id)
            await arrived(id)


# Verifies: DLV-0029
@both_paths
async def test_a_subscription_outlives_its_queue(fast_path: bool) -> None:
    async with running(fast_path) as server, server.socket() as waiting:
        await server.create()
        await waiting.subscribe()
        await server.http("POST", "/delete-all")
        id = await server.publish()
        assert (await waiting.push())["id"] == id
        await server.http("POST", "/update-queue", {"name": "jobs", "config": {"name": "work"}})
        second = await server.publish(queue="work")
        delivery = await waiting.push()
        assert (delivery["id"], delivery["queue"]) == (second, "jobs")
        await waiting.ack(delivery)
        assert server.counts("work") == (0, 1, 0)


@both_paths
async def test_deliveries_from_disk_survive_a_restart(fast_path: bool, tmp_path: Path) -> None:
    """What a connection held when the server stopped is available again, and what was acked is gone."""
    data = tmp_path / "data"
    async with running(fast_path, data_path=data) as server, server.socket() as one:
        await server.create()
        await publish_many(server, 30)
        await one.subscribe(credits=20, lock_timeout_secs=LONG)
        for _ in range(10):
            await one.ack(await one.push())
        server.stopping.set()
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await one.push()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1001
    async with running(fast_path, data_path=data) as server, server.socket() as one:
        assert server.counts() == (20, 0, 0)
        await one.subscribe()
        assert [(await one.push())["payload"] for _ in range(20)] == [str(number) for number in range(10, 30)]


# Verifies: WS-0029
@both_paths
async def test_stopping_closes_with_1001_and_gives_back(fast_path: bool) -> None:
    async with running(fast_path) as server, server.socket() as one, server.socket() as idle:
        await server.create()
        await server.publish()
        await one.subscribe(lock_timeout_secs=LONG)
        await one.push()
        server.stopping.set()
        for each in (one, idle):
            with pytest.raises(ConnectionClosed) as closed:
                await each.push()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1001
        assert server.counts() == (1, 0, 0)


# logs


# Verifies: WS-0017
@both_paths
async def test_log_history_then_live(fast_path: bool) -> None:
    log = logging.getLogger("qrusty_trio.test.websocket")
    log.setLevel(logging.INFO)
    async with running(fast_path) as server, server.socket() as one:
        for number in range(1500):
            log.info("record %d", number)
        assert await one.ask(type="subscribe-logs") == {"type": "ok"}
        records = [await one.push() for _ in range(1000)]
        assert [record["message"] for record in records] == [f"record {number}" for number in range(500, 1500)]
        assert set(records[0]) == {"type", "timestamp", "level", "message"}
        log.error("a live one")
        await trio.to_thread.run_sync(log.warning, "from a thread")
        live = [await one.push(), await one.push()]
        assert [(each["level"], each["message"]) for each in live] == [
            ("error", "a live one"),
            ("warn", "from a thread"),
        ]
        assert await one.ask(type="unsubscribe-logs") == {"type": "ok"}
        log.info("to nobody")
        await one.ask(type="unsubscribe", queue="jobs")
        assert not one.pushes


@both_paths
async def test_a_slow_log_reader_loses_records_and_no_deliveries(fast_path: bool) -> None:
    log = logging.getLogger("qrusty_trio.test.websocket")
    log.setLevel(logging.INFO)
    records = 2500
    async with running(fast_path) as server, server.socket(message_queue_size=1) as slow:
        await server.create()
        narrow(slow)
        await slow.subscribe()
        await slow.ask(type="subscribe-logs")
        slow.pushes.clear()
        for number in range(records):
            log.info("%d %s", number, "x" * 7000)
            if number % 100 == 50:
                await server.publish(str(number))
            await trio.lowlevel.checkpoint()
        seen, lost = 0, 0
        delivered: list[str] = []
        while seen + lost < records or len(delivered) < records // 100:
            push = await slow.push()
            if push["type"] == "deliver":
                delivered.append(push["payload"])
            elif push["message"].endswith("x"):
                number = int(push["message"].split()[0])
                assert number == seen + lost
                seen += 1
            elif "were lost" in push["message"]:
                lost += int(push["message"].split()[0])
                assert push["level"] == "warn"
    assert delivered == [str(number) for number in range(50, records, 100)]
    assert lost > 0
    assert seen > 0


async def test_a_store_that_fails_does_not_end_a_slow_readers_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Room comes back while the store is broken: deliveries go on once it is back."""
    async with running(True) as server, server.socket(message_queue_size=1) as slow:
        await server.create()
        narrow(slow)
        await slow.subscribe(lock_timeout_secs=LONG)
        await publish_many(server, 200, "x" * 40_000)
        assert server.counts()[0] > 0
        server.engine.fault = StorageFault("broken for a while")
        sent = server.counts()[1]
        for _ in range(sent):
            await slow.push()
        assert server.counts()[1] == sent
        server.engine.fault = None
        server.engine.dispatch_soon()
        for _ in range(200 - sent):
            await slow.push()


# Verifies: DLV-0024
@both_paths
async def test_what_could_not_be_stored_is_not_delivered(fast_path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publish and its delivery are one batch: when that can't be written, neither has happened.

    All WebSockets are told to come back; what they held is available again.
    """
    async with running(fast_path) as server:
        async with server.socket() as publisher, server.socket() as waiting:
            await server.create()
            await waiting.subscribe(credits=2)
            storage = server.engine.broker.journal.storage

            def refuse(batch: object) -> None:
                raise StorageFault("no more")

            with monkeypatch.context() as broken:
                broken.setattr(storage, "write", refuse)
                response = await publisher.ask(type="publish", queue="jobs", payload="lost", req_id="r")
                assert (response["code"], response["req_id"]) == ("storage_error", "r")
            for each in (publisher, waiting):
                assert await each.closed() == 1013
            assert not waiting.pushes
        with trio.fail_after(PATIENCE):
            while server.engine.fault is not None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        async with server.socket() as publisher, server.socket() as waiting:
            await waiting.subscribe(credits=1)
            await publisher.publish("kept")
            delivery = await waiting.push()
            assert delivery["payload"] == "kept"
            await waiting.ack(delivery)
            await server.settle_down(0, 0, 0)


# Verifies: WS-0041
@both_paths
async def test_a_warning_before_a_lock_ends(fast_path: bool) -> None:
    async with running(fast_path) as server, server.socket() as worker:
        await server.create()
        await worker.subscribe(lock_timeout_secs=LONG, deadline_soon_secs=LONG - 1)
        id = await worker.publish()
        delivery, warning = await worker.push(), await worker.push()
    assert delivery["id"] == id
    assert warning["lock_until"] > 0
    assert warning == {"type": "deadline-soon", "queue": "jobs", "id": id, "lock_until": warning["lock_until"]}
