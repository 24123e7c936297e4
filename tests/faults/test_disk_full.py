"""The real server on a disk that gets full: clear refusals, nothing answered is lost, and it recovers by itself."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from qrusty_trio.api.gate import Gate
from qrusty_trio.config import Settings
from qrusty_trio.errors import StorageFault
from qrusty_trio.server.disk_room import LOOK_SECONDS, keep_room, reserve
from qrusty_trio.server.supervisor import Server
from tests.core.ownership import check_ownership
from tests.faults.conftest import DISK_MIB, SmallDisk
from tests.server.room import room
from tests.server.running import child_server, client_of, running, settings_for, until_ready, url
from tests.wire.http_client import HttpClient, open_client

ROOM = 20 * 2**20
WORKERS = 4
RECOVER_SECONDS = 60.0


def settings_on(disk: SmallDisk, **changes: Any) -> Settings:
    sizes = {"rocksdb_cache_mb": 8, "rocksdb_write_buffer_mb": 2, "segment_max_mb": 1}
    return settings_for(disk.data, **{**sizes, **changes})


def incompressible(text: str, size: int) -> str:
    return f"{text}|{b64encode(os.urandom(size)).decode()}"[:size]


@dataclass
class Books:
    """What clients were told."""

    published: dict[str, str] = field(default_factory=dict)
    """Payload -> id."""
    unclear: set[str] = field(default_factory=set)
    """Payloads of publishes that were refused with a fault: there or not."""
    acked: set[str] = field(default_factory=set)
    ack_unclear: set[str] = field(default_factory=set)
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)


async def post(client: HttpClient, target: str, **body: Any) -> tuple[int, Any]:
    response = await client.request("POST", target, json.dumps(body).encode())
    return response.status, json.loads(response.body or b"null")


async def publish_until(server: Server, books: Books, name: str, size: int, full: trio.Event) -> None:
    """Publish until somebody met the full disk."""
    async with open_client(url(server.port)) as client:
        number = 0
        while not full.is_set():
            payload = incompressible(f"{name}-{number}", size)
            number += 1
            await publish(client, books, payload)
            if books.refusals:
                full.set()


async def publish(client: HttpClient, books: Books, payload: str) -> bool:
    status, body = await post(client, "/publish", queue="q", priority=1, payload=payload, max_retries=9)
    if status == 200:
        books.published[payload] = body["id"]
    else:
        books.unclear.add(payload)
        books.refusals.append((status, body))
    return status == 200


async def consume_until(server: Server, books: Books, full: trio.Event) -> None:
    """Consume, and ack every other message."""
    async with open_client(url(server.port)) as client:
        while not full.is_set():
            status, delivery = await post(client, "/consume/q", consumer_id="worker", timeout_seconds=10_000)
            if status == 200 and delivery is not None and len(books.acked) * 4 < len(books.published):
                await ack(client, books, delivery)
            await trio.sleep(0.002)


async def ack(client: HttpClient, books: Books, delivery: dict[str, Any]) -> None:
    status, body = await post(client, f"/ack/q/{delivery['id']}", consumer_id="worker")
    if status == 200:
        books.acked.add(delivery["payload"])
    else:
        books.ack_unclear.add(delivery["payload"])
        books.refusals.append((status, body))


async def until_published(server: Server, books: Books) -> None:
    """Try until the server takes a publish again."""
    async with open_client(url(server.port)) as client:
        with trio.fail_after(RECOVER_SECONDS):
            number = 0
            while not await publish(client, books, f"again-{number}"):
                number += 1
                await trio.sleep(0.05)


async def check_all(settings: Settings, books: Books) -> None:
    """After a restart everything answered is there, once, in full."""
    async with running(settings) as server:
        await until_ready(server)
        check_ownership(server.engine.broker.journal.storage)
        async with open_client(url(server.port)) as client:
            for id in [lock.id for lock in server.engine.broker.catalog.by_name["q"].locks]:
                assert (await post(client, f"/nack/q/{id}", consumer_id="worker"))[0] == 200
            found: list[str] = []
            while True:
                status, delivery = await post(client, "/consume/q", consumer_id="audit", timeout_seconds=10_000)
                assert status == 200
                if delivery is None:
                    break
                found.append(delivery["payload"])
                assert books.published.get(delivery["payload"], delivery["id"]) == delivery["id"]
        assert server.engine.broker.payloads.removed_total == 0
    assert len(found) == len(set(found))
    assert books.published.keys() - books.acked - books.ack_unclear <= set(found)
    assert set(found) <= (books.published.keys() | books.unclear) - books.acked


# Verifies: SYS-0011, PER-0044
@pytest.mark.parametrize("size", [4000, 30_000], ids=["records", "segments"])
async def test_publishes_are_refused_and_taken_again(small_disk: SmallDisk, size: int) -> None:
    small_disk.data.mkdir()
    small_disk.leave(ROOM)
    settings = settings_on(small_disk)
    books = Books()
    async with running(settings) as server:
        await until_ready(server)
        with trio.fail_after(RECOVER_SECONDS):
            async with trio.open_nursery() as nursery:
                full = trio.Event()
                for number in range(WORKERS):
                    nursery.start_soon(publish_until, server, books, f"w{number}", size, full)
                nursery.start_soon(consume_until, server, books, full)
        for status, body in books.refusals:
            assert (status, body["code"]) == (507, "disk_full"), body
            assert "No space left on the device" in body["error"]
        # Who only looks is served all the while.
        async with open_client(url(server.port)) as client:
            assert (await client.request("GET", "/health")).status == 200
            stats = (await client.request("GET", "/queue-stats/q")).json()
            assert stats["total"] > 0
        small_disk.unload()
        await until_published(server, books)
    await check_all(settings, books)


# Verifies: PER-0063
async def test_while_there_is_little_room_all_but_publishes_goes_on(small_disk: SmallDisk) -> None:
    small_disk.data.mkdir()
    books = Books()
    async with running(settings_on(small_disk)) as server, open_client(url(server.port)) as client:
        await until_ready(server)
        for number in range(200):
            assert await publish(client, books, incompressible(str(number), 1000))
        small_disk.leave(reserve(DISK_MIB * 2**20) - 2**16)
        with trio.fail_after(RECOVER_SECONDS):
            for number in count():
                if not await publish(client, books, f"more-{number}"):
                    break
                await trio.sleep(0.02)
        ((status, body),) = books.refusals
        assert (status, body["code"]) == (507, "disk_full")
        assert "are kept for acks and consumes" in body["error"]
        for _ in range(100):
            _, delivery = await post(client, "/consume/q", consumer_id="worker", timeout_seconds=10_000)
            await ack(client, books, delivery)
        assert (len(books.acked), len(books.refusals)) == (100, 1)
        assert server.engine.last_fault is None
        assert b"qrusty_disk_short 1.0" in (await client.request("GET", "/metrics")).body
        small_disk.unload()
        await until_published(server, books)
        assert server.engine.last_fault is None
    await check_all(settings_on(small_disk), books)


# Verifies: PER-0063
# Verifies: PER-0067
@pytest.mark.parametrize("policy", ["always", "everysec", "never"])
async def test_a_stop_on_a_full_disk_is_in_order(small_disk: SmallDisk, policy: str) -> None:
    """The log has all that was answered, so nothing has to be written."""
    sizes = {"ROCKSDB_CACHE_MB": "8", "ROCKSDB_WRITE_BUFFER_MB": "2"}
    published: set[str] = set()
    async with child_server(small_disk.data, QRUSTY_FSYNC=policy, **sizes) as server:
        async with client_of(server) as client:
            for number in range(50):
                payload = incompressible(str(number), 20_000 if number % 10 == 0 else 2000)
                assert (await post(client, "/publish", queue="q", priority=1, payload=payload))[0] == 200
                published.add(payload)
        small_disk.leave(0)
        assert await server.stop() == 0
        assert re.search("WARN .*No space left.*The log has everything", server.log), server.log
    small_disk.unload()
    async with child_server(small_disk.data, **sizes) as server:
        async with client_of(server) as client:
            for _ in range(50):
                published.remove((await post(client, "/consume/q", consumer_id="c"))[1]["payload"])
        assert await server.stop() == 0
    assert not published


async def test_room_that_cannot_be_looked_at_refuses_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        await nursery.start(keep_room, gate, tmp_path / "missing")
        await trio.sleep(3 * LOOK_SECONDS)
        assert gate.disk_short is None
        nursery.cancel_scope.cancel()


# Verifies: PER-0063
def test_what_is_kept_free() -> None:
    assert [reserve(total) for total in (0, 2**30, 2**40)] == [0, 2**30 // 20, 64 * 2**20]


# Verifies: PER-0036
@pytest.mark.parametrize(("left", "enough"), [(0, False), (60_000, False), (160_000, False), (800_000, True)])
async def test_compaction_without_room_loses_nothing_and_goes_on_later(
    small_disk: SmallDisk, left: int, enough: bool
) -> None:
    """Room for what lives in one segment is enough: each makes room for the next."""
    small_disk.data.mkdir()
    async with room(small_disk.data, 2**20, rocksdb_cache_mb=8, rocksdb_write_buffer_mb=2) as it:
        payloads = [incompressible(str(number), 50_000) for number in range(200)]
        for payload in payloads:
            await it.publish("q", payload)
        for number in range(200):
            delivery = await it.consume("q")
            assert delivery is not None
            if number % 5:
                await it.ack("q", delivery.id)
        small_disk.leave(left)
        with nullcontext() if enough else pytest.raises(StorageFault, match="No space left on the device"):
            await it.compactor.compact()
        small_disk.unload()
        with trio.fail_after(RECOVER_SECONDS):
            while it.engine.fault is not None:  # noqa: ASYNC110  # a flag
                await trio.sleep(0.02)
        await it.compactor.compact()
        assert it.payloads.disk_bytes() < 4 * 2**20
        assert sum(check_ownership(it.stores.storage).values()) == 40 * 50_000
        for lock in list(it.broker.catalog.by_name["q"].locks):
            await it.nack("q", lock.id)
        assert await it.drain("q") == payloads[::5]
        assert it.broker.payloads.removed_total == 0
