"""Tokens that change while something waits, and what counts for a request that waits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TypeVar

import pytest
import trio
from trio_websocket import ConnectionClosed

from qrusty_trio.access import failures
from qrusty_trio.access.access import Access
from qrusty_trio.access.tokens_file import new_token, read_tokens
from qrusty_trio.api.waiting import Waiter
from qrusty_trio.api.ws_session import WsSession
from qrusty_trio.http import websocket_auth
from qrusty_trio.server import waiters
from qrusty_trio.server.supervisor import Server
from tests.access.guarded import TokenBook, client_to, guarded, websocket_to
from tests.access.test_served_matrix import PATHS
from tests.wire.http_client import HttpClient

T = TypeVar("T")
R = TypeVar("R")
WAITING = b'{"consumer_id":"c","wait_seconds":0.01}'
SUBSCRIBE = '{"type":"subscribe","queue":"q","credits":0}'


async def held(server: Server, client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> Access:
    """From now on, a token that is new to the server waits for its turn."""
    guess = [("Authorization", f"Bearer {new_token()}")]
    for _ in range(failures.FREE_FAILURES):
        assert (await client.request("GET", "/queues", headers=guess)).status == 401
    monkeypatch.setattr(failures, "FIRST_DELAY_SECONDS", 0.5)
    assert server.access is not None
    return server.access


async def read_anew_once_known(access: Access, book: TokenBook) -> None:
    """Once a token was looked up, read all of them anew."""
    while not access.known:  # noqa: ASYNC110  # a table
        await trio.sleep(0.001)
    book.write()
    access.replace(read_tokens(book.path.read_bytes()))


# Verifies: API-0189
@PATHS
async def test_a_request_that_is_held_has_what_its_token_may_do_then(
    book: TokenBook, fast_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.add("goes", "read:*")
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        access = await held(server, client, monkeypatch)
        headers = book.bearer("goes")
        book.remove("goes")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_anew_once_known, access, book)
            assert (await client.request("GET", "/queues", headers=headers)).status == 401


# Verifies: API-0189, WS-0050
@PATHS
async def test_a_handshake_that_is_held_has_what_its_token_may_do_then(
    book: TokenBook, fast_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.add("shrinks", "consume:*")
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        await server.engine.transact(lambda broker, now: broker.publish("q", 1, "p", 3, now), sync=True)
        access = await held(server, client, monkeypatch)
        book.add("shrinks", "consume:other")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_anew_once_known, access, book)
            async with websocket_to(server, book.bearer("shrinks")) as socket:
                await socket.send_message(SUBSCRIBE)
                assert json.loads(await socket.get_message())["code"] == "forbidden"


class Steps(trio.abc.Instrument):
    """Counts how often functions are called in each step of a task."""

    def __init__(self) -> None:
        self._step = 0
        self._calls: Counter[int] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._step += 1

    def counting(self, function: Callable[[T], R]) -> Callable[[T], R]:
        def counted(of: T) -> R:
            self._calls[self._step] += 1
            return function(of)

        return counted

    @property
    def most(self) -> int:
        return max(self._calls.values())


# Verifies: API-0189
async def test_when_tokens_change_calls_that_wait_and_websockets_are_looked_at_bit_by_bit(
    book: TokenBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.add("goes", "consume:*")
    headers = book.bearer("goes")
    book.add("stays", "consume:*")
    monkeypatch.setattr(waiters, "LOOKED_AT_PER_STEP", 2)
    monkeypatch.setattr(websocket_auth, "LOOKED_AT_PER_STEP", 2)
    statuses: list[int] = []
    async with guarded(book) as server, AsyncExitStack() as stack:
        assert server.access is not None

        async def wait_for_a_message() -> None:
            async with client_to(server) as client:
                body = b'{"consumer_id":"c","wait_seconds":60}'
                statuses.append((await client.request("POST", "/consume/q", body, headers=headers)).status)

        sockets = [await stack.enter_async_context(websocket_to(server, headers)) for _ in range(7)]
        async with trio.open_nursery() as nursery:
            for _ in range(7):
                nursery.start_soon(wait_for_a_message)
            while len(server.engine.waiters) < 7:  # noqa: ASYNC110  # no event tells of it
                await trio.sleep(0.001)
            calls, connections = Steps(), Steps()
            monkeypatch.setattr(Waiter, "refusal", calls.counting(Waiter.refusal))
            looked_at = connections.counting(lambda _: None)
            replace = WsSession.replace_principal
            monkeypatch.setattr(
                WsSession, "replace_principal", lambda session, now: (looked_at(session), replace(session, now))
            )
            for each in (calls, connections):
                trio.lowlevel.add_instrument(each)
            book.remove("goes")
            server.access.replace(read_tokens(book.path.read_bytes()))
        for socket in sockets:
            with pytest.raises(ConnectionClosed) as closed:
                await socket.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1008
        for each in (calls, connections):
            trio.lowlevel.remove_instrument(each)
    assert statuses == [401] * 7
    assert calls.most == 2
    assert connections.most == 2


# Verifies: WS-0050
@PATHS
async def test_a_ping_may_come_before_the_token(book: TokenBook, fast_path: bool) -> None:
    token = book.add("late", "publish:*")
    async with guarded(book, fast_path=fast_path) as server, websocket_to(server) as socket:
        await socket.ping()
        await socket.send_message(json.dumps({"type": "auth", "token": token, "req_id": "1"}))
        assert json.loads(await socket.get_message()) == {"type": "ok", "req_id": "1"}


# Verifies: API-0138
@PATHS
async def test_a_request_that_waits_counts_once(book: TokenBook, fast_path: bool) -> None:
    """However its way to the queue goes: alone, on a parked connection, or behind another one."""
    consume = f"POST /consume/q HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(WAITING)}"
    health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    async with guarded(book, fast_path=fast_path) as server:
        assert server.access is not None
        for token, before in (("first", b""), ("second", health), ("third", b"")):
            book.add(token, "consume:*", requests=0.001)
            server.access.replace(read_tokens(book.path.read_bytes()))
            lines = "\r\n".join([consume, *(f"{name}: {value}" for name, value in book.bearer(token))])
            request = f"{lines}\r\n\r\n".encode() + WAITING
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(health)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
                await stream.send_all(before + request)
                data = b""
                while data.count(b"HTTP/1.1") < 1 + bool(before) or not data.endswith(b"null"):
                    more = await stream.receive_some()
                    assert more
                    data += more
                    assert b"429" not in data
