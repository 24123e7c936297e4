"""The transport of a WebSocket that Hypercorn serves: what it takes, what it counts, and how it ends."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection

from qrusty_trio.access.access import Access
from qrusty_trio.access.failures import FREE_FAILURES
from qrusty_trio.access.tokens_file import read_tokens
from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.http.fallback import websocket as module
from qrusty_trio.http.fallback.websocket import (
    COPIES,
    RECEIVED_CHARACTERS,
    RECEIVED_FRAMES,
    UNSEEN_COPIES,
    HypercornStream,
    QuartWebSocketTransport,
    serve_quart_websocket,
)
from qrusty_trio.http.fallback.websocket_stream import LastMessage
from qrusty_trio.http.pipe import ConnectionLost
from qrusty_trio.http.websocket import WebSocketServices
from qrusty_trio.http.websocket_transport import Finished
from tests.access.guarded import TokenBook


class Talk:
    """Quart's side: what comes, what was sent, and how it was closed."""

    def __init__(self) -> None:
        self._incoming, self._outgoing = trio.open_memory_channel[Any](10_000)
        self.taken = 0
        self.sent: list[str] = []
        self.seen: list[tuple[bool, int]] = []
        """Of each text that was sent: whether the transport was sending, and what it held."""
        self.closed: tuple[int, str] | None = None
        self.headers: dict[str, str] = {}
        self.scope = {"http_version": "1.1"}
        self.transport: QuartWebSocketTransport

    def come(self, *frames: Any) -> None:
        for frame in frames:
            self._incoming.send_nowait(frame)

    async def receive(self) -> Any:
        try:
            received = self._outgoing.receive_nowait()  # all that is there, in one step
        except trio.WouldBlock:
            received = await self._outgoing.receive()
        self.taken += 1
        return received

    async def send(self, text: str) -> None:
        self.sent.append(text)
        self.seen.append((self.transport.sending, self.transport.held))
        await trio.lowlevel.checkpoint()

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


def activity(under: object = None) -> Any:
    return SimpleNamespace(last_heard=5.0, socket=under, pauses={})


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Talk:
    talk = Talk()
    monkeypatch.setattr(module, "websocket", talk)
    return talk


@asynccontextmanager
async def collecting(talk: Talk, budget: Budget | None = None) -> AsyncIterator[QuartWebSocketTransport]:
    talk.transport = QuartWebSocketTransport(None, None, budget or Budget())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.transport.collect)
        yield talk.transport
        nursery.cancel_scope.cancel()


def services_of(path: Path) -> WebSocketServices:
    book = TokenBook(path / "tokens")
    book.add("boss", "admin:*")
    nothing: Any = None
    tokens = Access(read_tokens(book.path.read_bytes()), lambda: 0)
    return WebSocketServices(nothing, nothing, nothing, nothing, 30, 10, tokens=tokens)


# Verifies: WS-0050, WS-0031
@pytest.mark.parametrize(
    ("headers", "status", "code", "asks"),
    [
        ({"Authorization": "Bearer wrong"}, 401, "unauthenticated", "Bearer"),
        ({"Host": "localhost", "Origin": "http://elsewhere"}, 403, "origin_not_allowed", None),
    ],
)
async def test_a_handshake_that_is_refused(
    talk: Talk, tmp_path: Path, headers: dict[str, str], status: int, code: str, asks: str | None
) -> None:
    talk.headers = headers
    response = await serve_quart_websocket(services_of(tmp_path))
    assert response is not None
    assert (response.status_code, response.content_type) == (status, "application/json")
    assert response.headers.get("WWW-Authenticate") == asks
    assert json.loads(await response.get_data())["code"] == code


# Verifies: API-0190
@pytest.mark.parametrize("stopping", [False, True])
async def test_a_handshake_after_many_failures_waits_for_its_turn(
    talk: Talk, tmp_path: Path, stopping: bool, autojump_clock: trio.testing.MockClock
) -> None:
    talk.headers = {"Authorization": "Bearer wrong"}
    services = services_of(tmp_path)
    begun = trio.current_time()
    for _ in range(FREE_FAILURES):
        await serve_quart_websocket(services)
    assert trio.current_time() == begun
    if stopping:
        services.stopping.set()
    for _ in range(2):
        await serve_quart_websocket(services)
    assert (trio.current_time() > begun) is not stopping


class Under:
    """A stream of Hypercorn's."""

    buffer: Any

    def __init__(self, **has: object) -> None:
        vars(self).update(has)

    def send(self) -> None: ...


@pytest.mark.parametrize(
    ("has", "ending"),
    [
        ({"closed": False}, None),
        ({"closed": True}, Ending.LOST),
        ({}, Ending.LOST),
        ({"closed": False, "last": LastMessage(Ending.REFUSED, CloseConnection(1009))}, Ending.REFUSED),
        ({"closed": True, "last": LastMessage(Ending.CLOSED, CloseConnection(1000))}, Ending.CLOSED),
        ({"closed": False, "connection": SimpleNamespace(state=ConnectionState.OPEN)}, None),
        ({"closed": True, "connection": SimpleNamespace(state=ConnectionState.OPEN)}, Ending.LOST),
        ({"closed": False, "connection": SimpleNamespace(state=ConnectionState.REMOTE_CLOSING)}, Ending.CLOSED),
        ({"closed": True, "connection": SimpleNamespace(state=ConnectionState.CLOSED)}, Ending.CLOSED),
    ],
)
def test_how_the_peer_ended_it(talk: Talk, has: dict[str, object], ending: Ending | None) -> None:
    transport = QuartWebSocketTransport(activity(), HypercornStream(Under(**has).send), Budget())
    assert transport.farewell() is ending
    transport.let_go()
    assert transport.farewell() is Ending.LOST


def test_what_is_not_known_without_hypercorn(talk: Talk) -> None:
    transport = QuartWebSocketTransport(None, None, Budget())
    assert (transport.farewell(), transport.last_heard, transport.held) == (Ending.LOST, math.inf, 0)
    assert (transport.unread(), transport.acked(), transport.control_bytes()) == (0, 0, 0)
    assert not transport.pause()
    assert not transport.sending
    assert HypercornStream(lambda: None).farewell() is Ending.LOST
    assert HypercornStream(lambda: None).unseen() == 0
    transport.abort()
    transport.let_go()


# Verifies: WS-0021
def test_what_hypercorn_holds_is_counted_and_more_than_the_budget_pauses_it(talk: Talk) -> None:
    budget, under = Budget(100), Under(buffer=SimpleNamespace(length=99))
    known = activity()
    transport = QuartWebSocketTransport(known, HypercornStream(under.send), budget)
    assert transport.last_heard == 5.0
    (pause,) = known.pauses
    assert not pause()
    assert budget.held == transport.held == UNSEEN_COPIES * 99
    under.buffer = SimpleNamespace(length=100)
    assert pause()
    assert budget.held == transport.held == UNSEEN_COPIES * 100
    transport.let_go()
    assert (budget.held, transport.held, known.pauses) == (0, 0, {})


# Verifies: WS-0021
@pytest.mark.parametrize(
    ("frame", "count"),
    [
        ("", RECEIVED_FRAMES),
        ("x" * (RECEIVED_CHARACTERS // 2), 2),
        ("x" * (RECEIVED_CHARACTERS // 2 - 1), 3),
        ("x" * RECEIVED_CHARACTERS, 1),
    ],
    ids=["frames", "characters", "a little less", "one"],
)
async def test_so_much_is_taken_and_the_rest_when_that_is_served(talk: Talk, frame: str, count: int) -> None:
    budget = Budget()
    talk.come(*[frame] * (3 * count + 1))
    async with collecting(talk, budget) as transport:
        for turn in range(1, 4):
            await wait_all_tasks_blocked()
            assert talk.taken == turn * count
            assert budget.held == transport.held == (count if turn == 1 else 2 * count) * len(frame)
            assert await transport.receive() == [frame] * count
        await wait_all_tasks_blocked()
        assert await transport.receive() == [frame]
        assert transport.held == len(frame), "it is being served"
        with trio.move_on_after(0):
            await transport.receive()
        assert transport.held == 0


async def test_frames_that_came_together_are_given_together(talk: Talk) -> None:
    async with collecting(talk) as transport, trio.open_nursery() as nursery:
        given: list[list[str | bytes]] = []

        async def receive() -> None:
            given.append(await transport.receive())

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert not given
        talk.come("a", None, b"b")
        await wait_all_tasks_blocked()
        assert given, "it was woken"
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert [each for frames in given for each in frames] == ["a", b"", b"b"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("ending", "error"),
    [(Ending.LOST, ConnectionLost), (Ending.CLOSED, Finished), (Ending.REFUSED, Finished)],
)
@pytest.mark.parametrize("waits", [False, True], ids=["came", "comes"])
async def test_the_end_comes_behind_the_frames(talk: Talk, ending: Ending, error: type[Exception], waits: bool) -> None:
    last = LastMessage(ending, CloseConnection(3000, "enough"))
    async with collecting(talk) as transport:
        if waits:
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    assert await transport.receive() == ["a"]

                nursery.start_soon(receive)
                await wait_all_tasks_blocked()
                talk.come("a", last)
        else:
            talk.come("a", last)
            await wait_all_tasks_blocked()
            assert await transport.receive() == ["a"]
        with pytest.raises(error):
            await transport.receive()
        await transport.close(1001, "the server stops")
        assert talk.closed == (3000, "enough")


@pytest.mark.parametrize("reason", [None, "enough"])
async def test_a_close_of_our_own(talk: Talk, reason: str | None) -> None:
    async with collecting(talk) as transport:
        await transport.close(1001, "the server stops")
        assert talk.closed == (1001, "the server stops")
        talk.come(LastMessage(Ending.CLOSED, CloseConnection(1000, reason)))
        await wait_all_tasks_blocked()
        await transport.close(1001, "the server stops")
        assert talk.closed == (1000, reason or "")


# Verifies: WS-0021
async def test_a_frame_that_is_sent_counts_with_its_copies(talk: Talk) -> None:
    budget = Budget()
    talk.transport = transport = QuartWebSocketTransport(None, None, budget)
    await transport.send([b"a" * 10, "ü".encode()])
    assert talk.sent == ["a" * 10, "ü"]
    assert talk.seen == [(True, COPIES * 10), (True, COPIES)]
    assert (transport.sends, transport.sending, transport.held, budget.held) == (2, False, 0, 0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.send([b"a" * 10])
    assert transport.sending, "it may have stopped inside of a frame"
    transport.let_go()
    assert budget.held == 0


# Verifies: WS-0021
async def test_what_comes_while_it_is_closed_is_not_held(talk: Talk) -> None:
    budget = Budget()
    async with collecting(talk, budget) as transport:
        talk.come("a" * 100)
        await wait_all_tasks_blocked()
        assert budget.held == 100
        transport.let_go()
        talk.come("b" * 100, LastMessage(Ending.CLOSED, CloseConnection(1000)))
        await wait_all_tasks_blocked()
        assert budget.held == transport.held == 0
        await transport.close(1001, "the server stops")
    assert talk.closed == (1000, "")


@pytest.mark.parametrize(("version", "ends"), [("1.1", True), ("1.0", True), ("2", False)])
def test_a_send_that_waits_is_ended_with_its_connection(talk: Talk, version: str, ends: bool) -> None:
    talk.scope["http_version"] = version
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = QuartWebSocketTransport(activity(ours), None, Budget())
        theirs.setblocking(False)
        theirs.send(b"abc")
        assert (transport.unread(), transport.acked()) == (3, 0)
        transport.abort()
        if ends:
            assert theirs.recv(1) == b""
        else:
            with pytest.raises(BlockingIOError):
                theirs.recv(1)
    transport.abort()  # It is closed.


async def test_who_waits_for_frames_is_told_of_the_end(talk: Talk) -> None:
    async with collecting(talk) as transport, trio.open_nursery() as nursery:

        async def wait() -> None:
            with trio.fail_after(60), pytest.raises(ConnectionLost):
                await transport.receive()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        talk.come(LastMessage(Ending.LOST, CloseConnection(1006)))
