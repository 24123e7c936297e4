"""Request batching: what many connections ask at the same time is one burst, and only the clock can tell."""

from __future__ import annotations

import errno
import json
import os
import select
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.api.call import Call, Reply
from qrusty_trio.errors import DiskFull
from qrusty_trio.http import batching, header_block, pipe
from qrusty_trio.http.pauses import SocketPause
from qrusty_trio.http.responses import Responses
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.supervisor import Server
from qrusty_trio.storage.base import Storage
from tests.server.running import running, settings_for, until_ready
from tests.wire.http_client import Connection

PUBLISH = json.dumps({"queue": "q", "priority": 1, "payload": "x"}).encode()
CONSUME = json.dumps({"consumer_id": "c", "timeout_seconds": 60}).encode()


class Counted:
    """What was served in batches: the number of calls of each."""

    def __init__(self, server: Server) -> None:
        self.batches: list[int] = []
        self._run = server.engine.run_nowait
        server.engine.run_nowait = self._count  # type: ignore[method-assign]  # to look on

    def _count(self, calls: Sequence[Call]) -> list[Reply]:
        self.batches.append(len(calls))
        return self._run(calls)


def synced_in_a_thread(engine: Engine) -> Storage:
    """Its store, of which `sync` is called: the kernel syncs none of it."""
    storage = engine.committer._storage
    storage.sync_descriptor = lambda: None  # type: ignore[method-assign]
    return storage


class HeldSync:
    """Syncs that wait until they are let go."""

    def __init__(self, server: Server) -> None:
        self.reached = threading.Event()
        self._go = threading.Event()
        self._storage = synced_in_a_thread(server.engine)
        self._sync = self._storage.sync
        self._storage.sync = self._hold  # type: ignore[method-assign]  # the real sync comes after the wait

    def _hold(self) -> None:
        self.reached.set()
        self._go.wait(60)
        self._sync()

    async def until_reached(self) -> None:
        assert await trio.to_thread.run_sync(self.reached.wait, 30)

    def release(self) -> None:
        self._go.set()


@contextmanager
def held(server: Server) -> Iterator[HeldSync]:
    sync = HeldSync(server)
    try:
        yield sync
    finally:
        sync.release()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(settings_for(tmp_path / "data")) as server:
        await until_ready(server)
        yield server


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Connection]:
    """A connection whose kinds of requests are known to the server already."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        connection = Connection(stream)
        for _ in range(2):
            assert (await connection.request("POST", "/publish", PUBLISH)).status == 200
            assert (await connection.request("POST", "/consume/q", CONSUME)).status == 200
        yield connection


def available(server: Server) -> int:
    stats = server.engine.broker.catalog.stats("q")
    assert stats is not None
    return stats.available


# Verifies: SCH-0034
async def test_a_request_of_a_known_kind_is_served_in_a_batch(server: Server) -> None:
    async with connected(server) as connection:
        counted = Counted(server)
        id = (await connection.request("POST", "/publish", PUBLISH)).json()["id"]
        delivery = (await connection.request("POST", "/consume/q", CONSUME)).json()
        assert delivery == {"id": id, "payload": "x", "retry_count": 1}
        assert (await connection.request("POST", f"/ack/q/{id}", b'{"consumer_id":"c"}')).status == 200
        assert (await connection.request("POST", f"/ack/q/{id}", b'{"consumer_id":"c"}')).status == 404
        assert counted.batches[:2] == [1, 1]
        assert sum(counted.batches) >= 3


# Verifies: SCH-0034
async def test_what_is_not_known_or_not_alone_goes_the_other_way(server: Server) -> None:
    async with connected(server) as connection:
        counted = Counted(server)
        assert (await connection.request("GET", "/stats")).status == 200
        assert (await connection.request("POST", "/publish", PUBLISH, headers=[("X-New", "1" * 3000)])).status == 200
        assert (await connection.request("POST", "/publish", PUBLISH, headers=[("Origin", "null")])).status != 500
        assert (await connection.request("POST", "/publish", PUBLISH, content_type="text/plain")).status == 415
        await connection.stream.send_all(b"POST /publish HTTP/1.1\r\nHost: localhost\r\n")
        await connection.stream.send_all(b"Content-Length: %d\r\nContent-Type: application/json\r\n\r\n" % len(PUBLISH))
        await connection.stream.send_all(PUBLISH)
        assert (await connection.receive()).status == 200
        await connection.send("POST", "/publish", PUBLISH)
        await connection.send("POST", "/consume/q", CONSUME)
        assert "id" in (await connection.receive()).json()
        assert "payload" in (await connection.receive()).json()
        assert sum(counted.batches) <= 2  # the last two, if they arrived apart


CHANGING = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-{:016x}-01",
    "x-request-id": "request-{}",
    "Date": "Thu, 26 Nov 2026 10:00:{:02} GMT",
    "User-Agent": "worker/1.0 ({} jobs done)",
    "Cookie": "session=0123456789abcdef; seen={}",
    "Authorization": "Bearer {}" + "e" * 700,
}


# Verifies: SCH-0034
@pytest.mark.parametrize("name", CHANGING)
async def test_headers_that_change_with_each_request_stay_in(server: Server, name: str) -> None:
    async with connected(server) as connection:
        counted = Counted(server)
        for number in range(20):
            headers = [(name, CHANGING[name].format(number))]
            id = (await connection.request("POST", "/publish", PUBLISH, headers=headers)).json()["id"]
            delivery = (await connection.request("POST", "/consume/q", CONSUME, headers=headers)).json()
            assert delivery == {"id": id, "payload": "x", "retry_count": 1}
            settled = await connection.request("POST", f"/ack/q/{id}", b'{"consumer_id":"c"}', headers=headers)
            assert settled.status == 200
        assert sum(counted.batches) == 60


async def test_bodies_of_ever_new_lengths_and_queries_stay_in(server: Server) -> None:
    async with connected(server) as connection:
        counted = Counted(server)
        for number in range(20):
            body = json.dumps({"queue": "q", "priority": 1, "payload": "x" * number}).encode()
            assert (await connection.request("POST", f"/publish?trace={number}", body)).status == 200
        assert sum(counted.batches) == 20


async def test_headers_that_change_do_not_make_others_be_read_anew(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    read_anew = header_block._read_block

    def read_and_note(block: bytes, http11: bool) -> header_block.HeaderBlock:
        read.append(block)
        return read_anew(block, http11)

    monkeypatch.setattr(header_block, "_read_block", read_and_note)
    async with connected(server) as constant, connected(server) as changing:
        for number in range(header_block.MAX_KEPT_BLOCKS + 100):
            headers = [("X-Time", str(number))]
            assert (await changing.request("GET", "/health", headers=headers)).status == 200
        assert len(read) >= header_block.MAX_KEPT_BLOCKS
        read.clear()
        assert (await constant.request("POST", "/publish", PUBLISH)).status == 200
        assert not read


async def test_a_request_that_is_refused_in_a_batch_is_refused_as_ever(server: Server) -> None:
    async with connected(server) as connection:
        for number in range(3):
            headers = [("X-Request-Id", str(number))]
            wrong = await connection.request("POST", "/publish", PUBLISH, headers=headers, content_type="text/plain")
            assert wrong.status == 415
            assert (await connection.request("POST", "/nothing", PUBLISH, headers=headers)).status == 404
            assert (await connection.request("DELETE", "/publish", PUBLISH, headers=headers)).status == 405
        bad = await connection.request("POST", "/publish", PUBLISH, headers=[("X-Bad", "a\x01b")])
        assert bad.status == 400
        assert bad.headers["connection"] == "close"


# Verifies: PER-0002
async def test_those_that_wait_together_share_a_sync(server: Server) -> None:
    async with trio.open_nursery() as nursery:
        done = 0

        async def ask(connection: Connection) -> None:
            nonlocal done
            assert (await connection.request("POST", "/publish", PUBLISH)).status == 200
            done += 1

        async with AsyncExitStack() as stack:
            first, *others = [await stack.enter_async_context(connected(server)) for _ in range(4)]
            with held(server) as sync:
                nursery.start_soon(ask, first)
                await sync.until_reached()
                before = server.engine.committer.syncs
                for connection in others:
                    nursery.start_soon(ask, connection)
                with trio.fail_after(60):
                    while available(server) < 4:  # noqa: ASYNC110  # a count of the core
                        await trio.sleep(0.001)
                assert done == 0
            with trio.fail_after(60):
                while done < 4:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            assert server.engine.committer.syncs <= before + 2


def more_seen(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Set when something has arrived from a connection whose response is not ready yet."""
    seen = trio.Event()
    read = batching.Batching._read

    def read_and_look(self: batching.Batching, events: list[tuple[int, int]]) -> batching.PendingCalls:
        batch = read(self, events)
        if any(connection.reading_paused for connection in self._parked.values()):
            seen.set()
        return batch

    monkeypatch.setattr(batching.Batching, "_read", read_and_look)
    return seen


# Verifies: API-0038
async def test_a_request_behind_one_that_waits_is_answered_in_turn(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(server) as connection:
        seen = more_seen(monkeypatch)
        with held(server) as sync:
            await connection.send("POST", "/publish", PUBLISH)
            await sync.until_reached()
            await connection.send("POST", "/consume/q", CONSUME)
            with trio.fail_after(60):
                await seen.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert available(server) == 1
        id = (await connection.receive()).json()["id"]
        assert (await connection.receive()).json()["id"] == id


async def test_a_client_that_leaves_while_its_publish_waits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(server) as connection:
        seen = more_seen(monkeypatch)
        with held(server) as sync:
            await connection.send("POST", "/publish", PUBLISH)
            await sync.until_reached()
            await connection.stream.aclose()
            with trio.fail_after(60):
                await seen.wait()
    async with connected(server) as other:
        assert (await other.request("GET", "/health")).status == 200
    assert available(server) == 1


# Verifies: PER-0040
async def test_a_sync_that_fails_is_the_answer(server: Server) -> None:
    async with connected(server) as connection:
        storage = synced_in_a_thread(server.engine)
        sync = storage.sync

        def fail() -> None:
            storage.sync = sync  # type: ignore[method-assign]
            raise DiskFull("No space left on the device")

        storage.sync = fail  # type: ignore[method-assign]
        response = await connection.request("POST", "/publish", PUBLISH)
        assert response.status == 507
        assert response.json()["code"] == "disk_full"
        with trio.fail_after(60):
            while (await connection.request("POST", "/publish", PUBLISH)).status != 200:  # noqa: ASYNC110
                await trio.sleep(0.05)


async def test_a_sync_that_crashes_answers_nobody(tmp_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="lost"), flatten_subgroups=True, allow_unwrapped=True):
        async with running(settings_for(tmp_path / "data")) as server:
            await until_ready(server)
            async with connected(server) as connection:

                def crash() -> None:
                    raise RuntimeError("lost")

                synced_in_a_thread(server.engine).sync = crash  # type: ignore[method-assign]
                try:
                    status = (await connection.request("POST", "/publish", PUBLISH)).status
                except (EOFError, trio.BrokenResourceError):
                    status = 0
                assert status != 200


async def test_an_answer_larger_than_the_socket_takes(server: Server) -> None:
    payload = "y" * 1_500_000
    async with connected(server) as connection:
        big = json.dumps({"queue": "q", "priority": 1, "payload": payload}).encode()
        assert (await connection.request("POST", "/publish", big)).status == 200
        await connection.send("POST", "/consume/q", CONSUME)
        await trio.sleep(0.1)  # the server has sent what the socket takes, and waits
        assert (await connection.receive()).json()["payload"] == payload
        assert (await connection.request("POST", "/publish", PUBLISH)).status == 200


class BrokenWrites:
    """`os`, as far as a pipe uses it. Once `failed` is False, the next write of a response fails."""

    def __init__(self, error: int) -> None:
        self.failed = True
        self._error = error

    def read(self, descriptor: int, size: int) -> bytes:
        return os.read(descriptor, size)

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.failed:
            self.failed = True
            raise OSError(self._error, os.strerror(self._error))
        return os.write(descriptor, data)


# Verifies: DLV-0019
@pytest.mark.parametrize("error", [errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT])
async def test_a_consumer_that_is_gone_gives_its_message_back(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    async with connected(server) as other:
        writes = BrokenWrites(error)
        with monkeypatch.context() as patch:
            patch.setattr(pipe, "os", writes)
            async with connected(server) as consumer:
                await other.request("POST", "/purge-queue/q")
                id = (await other.request("POST", "/publish", PUBLISH)).json()["id"]
                writes.failed = False
                with pytest.raises((EOFError, trio.BrokenResourceError)):
                    await consumer.request("POST", "/consume/q", CONSUME)
        assert writes.failed
        stats = server.engine.broker.catalog.stats("q")
        assert stats is not None
        assert (stats.available, stats.locked) == (1, 0)
        again = (await other.request("POST", "/consume/q", CONSUME)).json()
        assert again == {"id": id, "payload": "x", "retry_count": 1}


@pytest.mark.contained
async def test_an_answer_that_cannot_be_made_gives_its_message_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(server) as consumer, connected(server) as other:
        await other.request("POST", "/purge-queue/q")
        await other.request("POST", "/publish", PUBLISH)

        def fail(self: Responses, reply: Reply, extra: bytes = b"") -> bytes:
            raise RuntimeError("nobody thought of that")

        with monkeypatch.context() as patch:
            patch.setattr(Responses, "response", fail)
            with suppress(EOFError, trio.BrokenResourceError):
                assert (await consumer.request("POST", "/consume/q", CONSUME)).status == 500
        again = (await other.request("POST", "/consume/q", CONSUME)).json()
        assert (again["payload"], again["retry_count"]) == ("x", 1)


async def test_stopping_while_an_answer_waits(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path / "data")) as server:
        await until_ready(server)
        async with connected(server) as connection:
            with held(server) as sync:
                await connection.send("POST", "/publish", PUBLISH)
                await sync.until_reached()
                server.stopping.set()
                await trio.sleep(0.05)
            response = await connection.receive()
            assert response.status == 200
            assert response.headers["connection"] == "close"


class Refusing:
    """What watches the parked sockets. Refuses one when `refuse` is set, and it is watched for one of `events`."""

    refuse = False
    events = select.EPOLLIN

    def __init__(self, epoll: Callable[[], Any] = select.epoll) -> None:
        self._epoll = epoll()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)

    def register(self, fd: int, events: int) -> None:
        if Refusing.refuse and events & Refusing.events:
            Refusing.refuse = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._epoll.register(fd, events)


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.contained
async def test_a_connection_that_cannot_be_watched_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """The system watches so many descriptors and no more."""
    monkeypatch.setattr(select, "epoll", Refusing)
    monkeypatch.setattr(Refusing, "refuse", False)
    seen = more_seen(monkeypatch)
    async with running(settings_for(tmp_path / "data")) as server:
        await until_ready(server)
        async with connected(server) as other:
            if answered:
                async with connected(server) as connection:
                    with held(server) as sync:
                        await connection.send("POST", "/publish", PUBLISH)
                        await sync.until_reached()
                        await connection.send("POST", "/publish", PUBLISH)
                        with trio.fail_after(60):
                            await seen.wait()
                        Refusing.refuse = True
                    with pytest.raises((EOFError, trio.BrokenResourceError)):
                        await connection.receive()
            else:
                Refusing.refuse = True
                async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                    with suppress(trio.BrokenResourceError):
                        assert await stream.receive_some() == b""
            assert not Refusing.refuse
            assert (await other.request("POST", "/publish", PUBLISH)).status == 200


# Verifies: SYS-0009
@pytest.mark.contained
async def test_a_wait_that_cannot_be_watched_leaves_nothing_to_the_next_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one has its descriptor."""
    monkeypatch.setattr(select, "epoll", Refusing)
    monkeypatch.setattr(Refusing, "events", select.EPOLLRDHUP)
    monkeypatch.setattr(Refusing, "refuse", True)
    waiting = json.dumps({"consumer_id": "c", "wait_seconds": 60}).encode()
    async with running(settings_for(tmp_path / "data")) as server:
        await until_ready(server)
        for _ in range(3):
            async with connected(server) as connection:
                if Refusing.refuse:
                    await connection.send("POST", "/consume/q", waiting)
                    with pytest.raises((EOFError, trio.BrokenResourceError)):
                        await connection.receive()
                    assert not Refusing.refuse
                else:
                    assert (await connection.request("POST", "/publish", PUBLISH)).status == 200


# Verifies: DLV-0057
async def test_who_has_left_is_not_woken_by_a_late_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another connection waits under its descriptor."""
    pauses: list[SocketPause] = []
    wait = SocketPause.wait

    async def noted(pause: SocketPause, seconds: float) -> None:
        pauses.append(pause)
        await wait(pause, seconds)

    monkeypatch.setattr(SocketPause, "wait", noted)
    waiting = json.dumps({"consumer_id": "c", "wait_seconds": 60}).encode()
    async with running(settings_for(tmp_path / "data")) as server:
        await until_ready(server)
        for number in range(1, 4):
            async with connected(server) as connection:
                await connection.send("POST", "/consume/q", waiting)
                with trio.fail_after(60):
                    while len(pauses) < number:  # noqa: ASYNC110  # nobody tells
                        await trio.sleep(0.001)
                await trio.testing.wait_all_tasks_blocked()
                for late in pauses[:-1]:
                    late.wake()
                await trio.testing.wait_all_tasks_blocked()
                assert len(server.engine.waiters) == 1
            with trio.fail_after(60):
                while len(server.engine.waiters):  # noqa: ASYNC110  # nobody tells
                    await trio.sleep(0.001)
