"""The listener: how many connections, and how it ends."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from ipaddress import ip_network

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from qrusty_trio.http import listener
from qrusty_trio.http.admission import Admission
from qrusty_trio.http.header_block import MAX_HEADER_BYTES
from qrusty_trio.http.listener import serve
from tests.http.test_vanish import HEALTH, SlowEngine
from tests.http.web import PATHS, Client, Web, make_engine, request, running
from tests.http.ws_raw import PING, frame, raw, upgrade

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])


@asynccontextmanager
async def websocket(web: Web) -> AsyncIterator[WebSocketConnection]:
    async with open_websocket_url(f"ws://127.0.0.1:{web.port}/ws") as socket:
        yield socket
        # The client leaves its socket open when the server was the one to close.
        await trio.aclose_forcefully(socket._stream)


# Verifies: API-0037
async def test_one_connection_more_gets_503_and_a_close(fast_path: bool) -> None:
    async with running(fast_path, max_connections=3) as web:
        clients = [await web.connect() for _ in range(3)]
        for client in clients:
            assert (await client.ask("GET", "/health")).status == 200
        async with web.client() as client:
            response = await client.ask("POST", "/publish", {"queue": "q", "priority": 1, "payload": "x" * 100_000})
            assert (response.status, response.json()["code"]) == (503, "unavailable")
            assert response.headers["retry-after"] == "2"
            assert response.headers["connection"] == "close"
            assert await client.ended()
        for client in clients:
            assert (await client.ask("GET", "/health")).status == 200
        await clients.pop().stream.aclose()
        with trio.fail_after(60):
            while (await web.ask("GET", "/health")).status == 503:
                await trio.testing.wait_all_tasks_blocked(0.01)
        for client in clients:
            await client.stream.aclose()


# Verifies: WS-0028
async def test_one_websocket_more_is_closed_with_1013(fast_path: bool) -> None:
    async with running(fast_path, max_connections=1) as web, web.client() as client:
        assert (await client.ask("GET", "/health")).status == 200
        async with websocket(web) as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await socket.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1013


# Verifies: API-0037
async def test_one_connection_more_that_says_nothing_is_not_kept(fast_path: bool) -> None:
    async with running(fast_path, max_connections=0) as web, web.client() as client:
        with trio.fail_after(60):
            assert (await client.response()).status == 503
            assert await client.ended()


@dataclass(frozen=True)
class Surplus:
    """What a connection too many says first, and what it is told: a status, or a close code."""

    said: bytes
    told: int
    ends: bool = False
    by_proxy: bool = False


# Verifies: API-0037, WS-0028
@pytest.mark.parametrize(
    "surplus",
    [
        Surplus(upgrade() + frame(PING), 1013),
        Surplus(b"\r\n" + upgrade(), 1013),
        Surplus(b"PROXY UNKNOWN\r\n" + upgrade(), 1013, by_proxy=True),
        Surplus(upgrade(b"/health"), 503),
        Surplus(request("GET", "/ws"), 503),
        Surplus(b"no request\r\n\r\n", 503),
        Surplus(b"GET /ws HTTP/1.1\r\nX: " + b"x" * MAX_HEADER_BYTES, 503),
        Surplus(b"GET /ws HTTP/1.1\r\n", 503, ends=True),
    ],
    ids=["and more", "empty line", "proxy", "elsewhere", "no upgrade", "garbage", "long", "cut short"],
)
async def test_what_a_connection_too_many_is_told(
    fast_path: bool, monkeypatch: pytest.MonkeyPatch, surplus: Surplus
) -> None:
    monkeypatch.setattr(listener, "TURN_AWAY_SECONDS", 3600)
    admission = Admission(trusted=(ip_network("127.0.0.1"),)) if surplus.by_proxy else None
    async with (
        running(fast_path, max_connections=0, admission=admission) as web,
        raw(web.port, surplus.said) as peer,
    ):
        if surplus.ends:
            await peer.end()
        response = await peer.head()
        if surplus.told == 1013:
            assert response.startswith(b"HTTP/1.1 101")
            assert (await peer.read()).close_code == 1013
        else:
            assert response.startswith(b"HTTP/1.1 %d" % surplus.told)
        await peer.stream.aclose()


# Verifies: API-0037
async def test_only_so_many_are_told_at_once_that_there_are_too_many(fast_path: bool) -> None:
    async with running(fast_path, max_connections=0, max_turned_away=2) as web:
        told = [await web.connect() for _ in range(2)]
        async with web.client() as one_more:
            assert await one_more.ended()
        for client in told:
            assert (await client.ask("GET", "/health")).status == 503
            await client.stream.aclose()


async def test_the_count_is_right_after_many_connections(fast_path: bool) -> None:
    async with running(fast_path, max_connections=5) as web:

        async def some() -> None:
            for number in range(10):
                async with web.client() as client:
                    await client.send(request("GET", "/health")[: number * 3])

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(some)
        with trio.fail_after(60):
            while True:
                clients = [await web.connect() for _ in range(5)]
                statuses = [(await client.ask("GET", "/health")).status for client in clients]
                for client in clients:
                    await trio.aclose_forcefully(client.stream)
                if statuses == [200] * 5:
                    break


# Verifies: API-0055
async def test_stopping_closes_idle_connections_at_once(fast_path: bool) -> None:
    async with running(fast_path) as web:
        clients = [await web.connect() for _ in range(3)]
        for client in clients[1:]:
            assert (await client.ask("GET", "/health")).status == 200
        before = trio.current_time()
        web.context.stopping.set()
        for client in clients:
            assert await client.ended()
            await client.stream.aclose()
        with pytest.raises(OSError, match="all attempts to connect"):
            await web.connect()
        await gone(web)
        assert trio.current_time() - before < listener.STOP_SECONDS


async def gone(web: Web) -> None:
    with trio.fail_after(60):
        while web.nursery.child_tasks:
            await trio.testing.wait_all_tasks_blocked(0.01)


# Verifies: API-0055
async def test_stopping_lets_a_request_in_hand_finish(fast_path: bool) -> None:
    slow = SlowEngine(make_engine())
    async with running(fast_path, engine=slow) as web:  # type: ignore[arg-type]  # it is one but for the gate
        await web.ask("POST", "/publish", {"queue": "q", "priority": 1, "payload": "p"})
        async with web.client() as client:
            await client.send(HEALTH + request("POST", "/consume/q", {"consumer_id": "w"}))
            await slow.entered.wait()
            web.context.stopping.set()
            await trio.testing.wait_all_tasks_blocked()
            slow.go.set()
            first = await client.response()
            assert first.status == 200
            if fast_path:
                assert "connection" not in first.headers, "another response follows"
            response = await client.response()
            assert not fast_path or response.headers["connection"] == "close"
            assert response.json()["payload"] == "p"
            assert await client.ended()


async def test_stopping_lets_a_request_arrive_that_has_begun(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        data = request("POST", "/publish", {"queue": "q", "priority": 1, "payload": "p"})
        await client.send(data[:-5])
        await trio.testing.wait_all_tasks_blocked()
        web.context.stopping.set()
        await trio.testing.wait_all_tasks_blocked()
        await client.send(data[-5:])
        assert (await client.response()).status == 200
        assert await client.ended()


# Verifies: API-0055
@pytest.mark.parametrize("whole", [b"", HEALTH], ids=["alone", "behind another"])
@pytest.mark.parametrize("part", [b"GET /hea", request("POST", "/publish", {"queue": "q"})[:-5]], ids=["head", "body"])
async def test_stopping_does_not_wait_for_the_rest_of_a_request(
    fast_path: bool, monkeypatch: pytest.MonkeyPatch, whole: bytes, part: bytes
) -> None:
    monkeypatch.setattr(listener, "STOP_SECONDS", 3600)
    async with running(fast_path) as web, web.client() as client:
        await client.send(whole + part)
        if whole:
            assert (await client.response()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        web.context.stopping.set()
        with trio.fail_after(60):
            if fast_path:
                assert (await client.response()).status == 503
            assert await client.ended()
        await client.stream.aclose()
        await gone(web)


# Verifies: API-0055
async def test_stopping_waits_for_nobody_for_ever(fast_path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STOP_SECONDS", 0.2)
    async with running(fast_path) as web, web.client() as client:
        await client.send(request("POST", "/publish", {})[:-1])
        await trio.testing.wait_all_tasks_blocked()
        web.context.stopping.set()
        await gone(web)


async def test_a_busy_loop_lets_many_in_at_a_time(fast_path: bool) -> None:
    steps = 0

    async def busy() -> None:
        nonlocal steps
        while True:
            steps += 1
            await trio.lowlevel.checkpoint()

    count = 300
    async with running(fast_path, max_connections=2 * count) as web, trio.open_nursery() as nursery:
        with ExitStack() as stack:
            # Made by the kernel, without a step of the loop in between.
            for _ in range(count):
                stack.enter_context(closing(socket.create_connection(("127.0.0.1", web.port))))
            nursery.start_soon(busy)
            async with web.client() as client:
                assert (await client.ask("GET", "/health")).status == 200
            assert steps < count / 2
            nursery.cancel_scope.cancel()


async def test_stopping_waits_for_no_reader_that_takes_nothing(
    fast_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "STOP_SECONDS", 0.2)
    async with running(fast_path) as web, web.client() as client:
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(8):
            await web.ask("POST", "/publish", {"queue": "q", "priority": 1, "payload": "p" * 1_900_000})
        await client.send(request("POST", "/consume/q", {"consumer_id": "w"}) * 8)
        await trio.testing.wait_all_tasks_blocked(0.1)
        web.context.stopping.set()
        with trio.fail_after(60):
            await gone(web)


# Verifies: WS-0029
async def test_stopping_closes_websockets_with_1001(fast_path: bool) -> None:
    async with running(fast_path) as web:
        async with websocket(web) as socket:
            await socket.send_message('{"type":"subscribe-logs"}')
            await socket.get_message()
            web.context.stopping.set()
            with pytest.raises(ConnectionClosed) as closed:
                await socket.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1001


class Failing(trio.abc.Listener[trio.SocketStream]):
    """A listener that fails some times before it accepts."""

    def __init__(self, inner: trio.SocketListener, errors: list[int]) -> None:
        self._inner = inner
        self.port: int = inner.socket.getsockname()[1]
        self.errors = errors

    async def accept(self) -> trio.SocketStream:
        if self.errors:
            raise OSError(self.errors.pop(), "made up")
        return await self._inner.accept()

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def running_behind(fast_path: bool, errors: list[int]) -> AsyncIterator[Failing]:
    """A server with such a listener besides its own."""
    async with running(fast_path) as web, trio.open_nursery() as nursery:
        (inner,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        failing = Failing(inner, errors)
        await nursery.start(serve, [failing], web.context)
        yield failing
        web.context.stopping.set()


# Verifies: API-0066
async def test_no_file_descriptor_left_is_logged_and_tried_again(
    fast_path: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "TELL_SECONDS", 0)
    async with running_behind(fast_path, [errno.EMFILE, errno.ENFILE]) as failing:
        async with await trio.open_tcp_stream("127.0.0.1", failing.port) as stream:
            assert (await Client(stream).ask("GET", "/health")).status == 200
        messages = [record.message for record in caplog.records if record.levelno == logging.ERROR]
        assert [message.partition(" could")[0] for message in messages] == ["1 connection"] * 2


async def test_one_line_for_many_connections_that_could_not_be_accepted(
    fast_path: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "ACCEPT_PAUSE_SECONDS", 0)
    async with running_behind(fast_path, [errno.EMFILE] * 3) as failing:
        while failing.errors:
            await trio.testing.wait_all_tasks_blocked()
        assert [record.message.partition(" could")[0] for record in caplog.records] == ["1 connection"]


async def test_any_other_error_of_a_listener_ends_the_server(fast_path: bool) -> None:
    async with running(fast_path) as web:
        (inner,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        with pytest.raises(BaseExceptionGroup) as caught:
            await serve([Failing(inner, [errno.EBADF])], web.context)  # type: ignore[list-item]  # it is used as one
        assert caught.group_contains(OSError, match="made up")
