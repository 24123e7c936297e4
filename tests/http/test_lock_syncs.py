"""With QRUSTY_FSYNC_LOCKS no message leaves before a sync of its lock: over sockets, on both paths."""

from __future__ import annotations

import gc
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.errors import DiskFull
from qrusty_trio.http.connection import FastConnection
from tests.http.test_batching import HeldSync, synced_in_a_thread
from tests.http.ws_server import PATIENCE, Running, Socket, both_paths, running
from tests.server.engines import consume
from tests.wire.http_client import Connection, Response

LONG = 3600
CONSUME = {"consumer_id": "c", "timeout_seconds": LONG}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "consume": ("/consume/jobs", CONSUME),
    "consume_batch": ("/consume-batch/jobs", {**CONSUME, "max_messages": 10}),
    "waiting": ("/consume/jobs", {**CONSUME, "wait_seconds": 60}),
}
each_way = pytest.mark.parametrize("way", WAYS)


@asynccontextmanager
async def synced(fast_path: bool, tmp_path: Path) -> AsyncIterator[Running]:
    """A server whose locks are synced, with a queue."""
    async with running(fast_path, data_path=tmp_path / "data", fsync_locks=True) as server:
        await server.create()
        yield server


@asynccontextmanager
async def held(server: Running) -> AsyncIterator[HeldSync]:
    sync = HeldSync(server)  # type: ignore[arg-type]  # it takes the engine of either
    try:
        yield sync
    finally:
        sync.release()


@asynccontextmanager
async def connected(server: Running) -> AsyncIterator[Connection]:
    """A connection that has been parked once."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        connection = Connection(stream)
        assert (await connection.request("GET", "/health")).status == 200
        yield connection


class Asked:
    """A request whose response is read by a task of its own."""

    def __init__(self, connection: Connection, nursery: trio.Nursery) -> None:
        self.response: Response | None = None
        self._done = trio.Event()
        nursery.start_soon(self._read, connection)

    async def _read(self, connection: Connection) -> None:
        self.response = await connection.receive()
        self._done.set()

    async def done(self) -> Response:
        with trio.fail_after(PATIENCE):
            await self._done.wait()
        assert self.response is not None
        return self.response


async def asking(server: Running, way: str, connection: Connection) -> Callable[[], Awaitable[None]]:
    """Prepares to ask for the one message there is. A call that waits is woken by one that comes back unsynced."""
    path, body = WAYS[way]
    data = json.dumps(body).encode()
    if way != "waiting":
        return partial(connection.send, "POST", path, data)
    (taken,) = await server.engine.run([consume("jobs")])
    await connection.send("POST", path, data)
    with trio.fail_after(PATIENCE):
        while not len(server.engine.waiters):  # noqa: ASYNC110  # no event tells of it
            await trio.sleep(0.001)

    async def wake() -> None:
        server.engine.give_back(taken)

    return wake


async def delivered_again(server: Running) -> int:
    response = await server.http("POST", "/consume/jobs", CONSUME)
    retry_count: int = response["retry_count"]
    return retry_count


def break_next_sync(server: Running, error: Exception) -> None:
    storage = synced_in_a_thread(server.engine)
    sync = storage.sync

    def fail() -> None:
        storage.sync = sync  # type: ignore[method-assign]
        raise error

    storage.sync = fail  # type: ignore[method-assign]


async def until_back(server: Running) -> None:
    with trio.fail_after(PATIENCE):
        while server.engine.fault is not None:  # noqa: ASYNC110  # no event tells of it
            await trio.sleep(0.01)


# Verifies: PER-0061
@both_paths
@each_way
async def test_a_message_leaves_after_the_sync_of_its_lock(fast_path: bool, way: str, tmp_path: Path) -> None:
    async with synced(fast_path, tmp_path) as server, connected(server) as connection, trio.open_nursery() as nursery:
        id = await server.publish()
        ask = await asking(server, way, connection)
        async with held(server) as sync:
            await ask()
            await sync.until_reached()
            asked = Asked(connection, nursery)
            await server.settle_down(0, 1, 0)
            await trio.testing.wait_all_tasks_blocked()
            assert asked.response is None
        response = await asked.done()
        assert response.status == 200
        assert id in response.body.decode()


# Verifies: API-0069
@both_paths
@pytest.mark.parametrize("on", [True, False])
async def test_the_server_tells_whether_locks_are_synced(fast_path: bool, on: bool, tmp_path: Path) -> None:
    async with running(fast_path, data_path=tmp_path / "data", fsync_locks=on) as server:
        storage = (await server.http("GET", "/server"))["storage"]
        assert (storage["fsync"], storage["fsync_locks"]) == ("always", on)


# Verifies: PER-0061
@both_paths
async def test_requests_that_came_together_wait_together(fast_path: bool, tmp_path: Path) -> None:
    async with synced(fast_path, tmp_path) as server, connected(server) as connection:
        ids = [await server.publish() for _ in range(3)]
        async with held(server) as sync:
            for _ in ids:
                await connection.send("POST", "/consume/jobs", json.dumps(CONSUME).encode())
            await sync.until_reached()
        got = [(await connection.receive()).json()["id"] for _ in ids]
        assert got == ids
        await server.settle_down(0, 3, 0)


# Verifies: PER-0062
@both_paths
@each_way
async def test_a_sync_that_fails_gives_the_message_back(fast_path: bool, way: str, tmp_path: Path) -> None:
    async with synced(fast_path, tmp_path) as server, connected(server) as connection:
        await server.publish()
        ask = await asking(server, way, connection)
        break_next_sync(server, DiskFull("No space left on the device"))
        await ask()
        response = await connection.receive()
        assert (response.status, response.json()["code"]) == (507, "disk_full")
        await until_back(server)
        assert server.counts() == (1, 0, 0)
        assert await delivered_again(server) == 1


# Verifies: PER-0062
@both_paths
@each_way
async def test_a_client_that_goes_while_its_message_waits(fast_path: bool, way: str, tmp_path: Path) -> None:
    async with synced(fast_path, tmp_path) as server:
        await server.publish()
        async with connected(server) as connection:
            assert isinstance(connection.stream, trio.SocketStream)
            ask = await asking(server, way, connection)
            async with held(server) as sync:
                await ask()
                await sync.until_reached()
                await server.settle_down(0, 1, 0)
                # A reset, so that the response can't be written.
                connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.stream.socket.close()
            await server.settle_down(1, 0, 0)
        assert await delivered_again(server) == 1


# Verifies: PER-0062
async def test_a_connection_that_is_cut_off_while_its_message_waits(tmp_path: Path) -> None:
    """Its task is gone when the sync is over: request batching holds the message alone."""
    async with synced(True, tmp_path) as server, connected(server) as connection:
        await server.publish()
        async with held(server) as sync:
            await connection.send("POST", "/consume/jobs", json.dumps(CONSUME).encode())
            await sync.until_reached()
            await server.settle_down(0, 1, 0)
            cut_off_all()
            await trio.testing.wait_all_tasks_blocked()
        await server.settle_down(1, 0, 0)
        assert await delivered_again(server) == 1


def cut_off_all() -> None:
    for each in gc.get_objects():
        if type(each) is FastConnection:
            each.scope.cancel()


# Verifies: PER-0061
async def test_large_responses_that_wait_count_against_the_budget(tmp_path: Path) -> None:
    async with synced(True, tmp_path) as server, connected(server) as connection:
        await server.publish("x" * 100_000)
        (fast,) = (each for each in gc.get_objects() if type(each) is FastConnection and each.task is not None)
        async with held(server) as sync:
            await connection.send("POST", "/consume/jobs", json.dumps(CONSUME).encode())
            await sync.until_reached()
            assert fast.unsent.held > 100_000
        assert len((await connection.receive()).body) > 100_000
        with trio.fail_after(PATIENCE):
            while fast.unsent.held:  # noqa: ASYNC110  # a count
                await trio.sleep(0.001)


class Pushed:
    """What a WebSocket is sent, read by a task of its own."""

    def __init__(self, socket: Socket, nursery: trio.Nursery) -> None:
        self.frames: list[dict[str, Any]] = []
        self._arrived = trio.Event()
        nursery.start_soon(self._read, socket)

    async def _read(self, socket: Socket) -> None:
        while True:
            self.frames.append(await socket._read())
            self._arrived.set()
            self._arrived = trio.Event()

    async def until(self, count: int) -> list[dict[str, Any]]:
        with trio.fail_after(PATIENCE):
            while len(self.frames) < count:
                await self._arrived.wait()
        return self.frames


# Verifies: PER-0061
@both_paths
@pytest.mark.parametrize("fields", [{}, {"batch": 5}], ids=["alone", "in_batches"])
async def test_a_delivery_leaves_after_the_sync_of_its_lock(
    fast_path: bool, fields: dict[str, Any], tmp_path: Path
) -> None:
    """What comes behind it waits, too."""
    async with synced(fast_path, tmp_path) as server, server.socket() as worker, trio.open_nursery() as nursery:
        await worker.subscribe(**fields)
        pushed = Pushed(worker, nursery)
        async with held(server) as sync:
            nursery.start_soon(server.publish)
            await sync.until_reached()
            await server.settle_down(0, 1, 0)
            await worker.send(type="unsubscribe", queue="jobs")
            await trio.testing.wait_all_tasks_blocked()
            assert not pushed.frames
        delivery, response = await pushed.until(2)
        assert delivery["type"] == ("deliver-batch" if fields else "deliver")
        assert response == {"type": "ok"}
        nursery.cancel_scope.cancel()


# Verifies: PER-0061
@both_paths
async def test_a_renewal_over_websocket_is_answered_after_its_sync(fast_path: bool, tmp_path: Path) -> None:
    async with synced(fast_path, tmp_path) as server, server.socket() as worker, trio.open_nursery() as nursery:
        await worker.subscribe(lock_timeout_secs=LONG)
        await server.publish()
        delivery = await worker.push()
        pushed = Pushed(worker, nursery)
        async with held(server) as sync:
            await worker.send(type="renew", queue="jobs", id=delivery["id"])
            await sync.until_reached()
            await trio.testing.wait_all_tasks_blocked()
            assert not pushed.frames
        assert (await pushed.until(1))[0]["type"] == "ok"
        nursery.cancel_scope.cancel()


# Verifies: PER-0062
@both_paths
@pytest.mark.parametrize("error", [DiskFull("No space left on the device"), MemoryError()], ids=["disk", "memory"])
async def test_a_delivery_whose_sync_fails_is_seen_by_nobody(fast_path: bool, error: Exception, tmp_path: Path) -> None:
    async with synced(fast_path, tmp_path) as server, server.socket() as worker:
        await server.publish()
        (taken,) = await server.engine.run([consume("jobs")])
        await worker.subscribe()
        break_next_sync(server, error)
        server.engine.give_back(taken)
        assert await worker.closed() == 1013
        assert not worker.pushes
        await until_back(server)
        await server.settle_down(1, 0, 0)
        assert await delivered_again(server) == 1


# Verifies: PER-0062
@both_paths
async def test_a_websocket_that_breaks_while_its_delivery_waits(fast_path: bool, tmp_path: Path) -> None:
    async with synced(fast_path, tmp_path) as server:
        async with server.socket() as worker:
            await server.publish()
            (taken,) = await server.engine.run([consume("jobs")])
            await worker.subscribe()
            async with held(server) as sync:
                server.engine.give_back(taken)
                await sync.until_reached()
                await worker.vanish()
                await server.settle_down(1, 0, 0)
        assert await delivered_again(server) == 1


# Verifies: PER-0061
@both_paths
async def test_a_server_that_stops_sends_what_waits(fast_path: bool, tmp_path: Path) -> None:
    async with synced(fast_path, tmp_path) as server, server.socket() as worker:
        await server.publish()
        (taken,) = await server.engine.run([consume("jobs")])
        await worker.subscribe()
        async with held(server) as sync:
            server.engine.give_back(taken)
            await sync.until_reached()
            server.stopping.set()
            await trio.testing.wait_all_tasks_blocked()
        assert await worker.closed() == 1001
        assert [push["type"] for push in worker.pushes] == ["deliver"]
