"""Long work of many connections: a few steps in each pass of the event loop, so that others wait for no more."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import pytest
import trio
from h2.events import RequestReceived
from websockets.protocol import Protocol
from wsproto.connection import Connection
from wsproto.events import Event

from qrusty_trio.http.connection import REQUESTS_PER_STEP
from qrusty_trio.http.fallback.guard import GuardedStream
from qrusty_trio.http.fallback.http2 import Http2
from qrusty_trio.http.fast_websocket import FastWebSocketTransport
from qrusty_trio.http.frame_reader import BYTES_PER_STEP, TEXTS_AT_ONCE, TEXTS_PER_STEP, FrameReader
from qrusty_trio.http.request_line import Target
from qrusty_trio.http.request_parser import OPAQUE_BYTES_PER_STEP, Request, RequestParser, ServedElsewhere
from qrusty_trio.http.turns import ARRIVALS_PER_PASS, BYTES_AT_ONCE, CHANGES_PER_PASS, STEPS_PER_PASS, Turns
from tests.http.ws_raw import CLOSE, CONT, PING, PONG, TEXT, frame, raw, upgrade
from tests.http.ws_server import PATIENCE, running

MANY = 10
"""Connections."""
GATES = [(Turns.arrive, ARRIVALS_PER_PASS), (Turns.change, CHANGES_PER_PASS)]
FRAMES = 3000
"""Each sends so many."""
CONTINUES = frame(CONT, fin=False)
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class PerPass(trio.abc.Instrument):
    """Adds up what is counted in each pass of the event loop."""

    def __init__(self) -> None:
        self.most = self.now = self.all = self.busy = 0

    def count(self, number: int) -> None:
        self.now += number
        self.all += number
        self.most = max(self.most, self.now)

    def before_io_wait(self, timeout: float) -> None:
        self.busy += self.now > 0
        self.now = 0


async def send(port: int, frames: bytes) -> None:
    """Send all of these over a WebSocket, and close it in order."""
    async with raw(port) as peer:
        await peer.send(frames, frame(CLOSE, b"\x03\xe8"))
        while (await peer.any_frame()).opcode != CLOSE:
            pass


async def ask(port: int, sent: bytes) -> None:
    """Send all of that, and take what comes until the end."""
    async with raw(port, sent) as peer:
        await peer.end()
        with suppress(trio.BrokenResourceError):
            while await peer.stream.receive_some():
                pass


async def from_many(send: Callable[[], Awaitable[None]], counted: PerPass) -> None:
    """Run `send` for many connections at once, and count meanwhile."""
    trio.lowlevel.add_instrument(counted)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(MANY):
                nursery.start_soon(send)
    trio.lowlevel.remove_instrument(counted)


# Verifies: API-0201
async def test_a_few_return_in_each_pass_in_turn() -> None:
    turns, counted = Turns(), PerPass()
    came, left = list[int](), list[int]()

    async def take(number: int) -> None:
        came.append(number)
        await turns.next()
        counted.count(1)
        left.append(number)

    trio.lowlevel.add_instrument(counted)
    async with trio.open_nursery() as nursery:
        for number in range(MANY):
            nursery.start_soon(take, number)
    trio.lowlevel.remove_instrument(counted)
    assert counted.most == STEPS_PER_PASS
    for begin in range(0, MANY, STEPS_PER_PASS):
        in_a_pass = slice(begin, begin + STEPS_PER_PASS)
        assert set(left[in_a_pass]) == set(came[in_a_pass])


async def test_who_leaves_the_queue_keeps_nobody_waiting() -> None:
    turns = Turns()
    with trio.CancelScope() as leaving:
        leaving.cancel()
        await turns.next()
    assert leaving.cancelled_caught
    async with trio.open_nursery() as nursery:
        for number in range(MANY):
            with trio.CancelScope() as scope:
                nursery.start_soon(turns.next)
                if number % 2:
                    scope.cancel()
                    await turns.next()
    with trio.fail_after(PATIENCE):
        await turns.next()


# Verifies: API-0201, WS-0026
@pytest.mark.parametrize(
    "small",
    [frame(PING), frame(PONG), frame(TEXT, b"[]"), CONTINUES],
    ids=["ping", "pong", "text", "continuation"],
)
async def test_small_frames_of_many_connections(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = PerPass()
    read, recv_frame = FrameReader.read, Protocol.recv_frame

    def count_texts(self: FrameReader, data: bytes | bytearray, begin: int, texts: int, octets: int) -> int:
        before = len(self.messages)
        end = read(self, data, begin, texts, octets)
        counted.count(len(self.messages) - before)
        return end

    def count_frame(self: Protocol, received: object) -> None:
        counted.count(1)
        recv_frame(self, received)  # type: ignore[arg-type]

    monkeypatch.setattr(FrameReader, "read", count_texts)
    monkeypatch.setattr(Protocol, "recv_frame", count_frame)
    begins = frame(TEXT, fin=False) if small == CONTINUES else b""

    async with running(True) as server:
        await from_many(partial(send, server.port, begins + small * FRAMES), counted)
    at_once = TEXTS_AT_ONCE + BYTES_AT_ONCE // len(small)
    assert counted.all >= MANY * FRAMES
    assert counted.most <= MANY * at_once + STEPS_PER_PASS * (TEXTS_PER_STEP + BYTES_PER_STEP // len(small))


# Verifies: API-0201
async def test_small_frames_of_many_websockets_on_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = PerPass()
    events = Connection.events

    def count_events(self: Connection) -> Iterator[Event]:
        for event in events(self):
            counted.count(1)
            yield event

    monkeypatch.setattr(Connection, "events", count_events)

    async with running(False) as server:
        await from_many(partial(send, server.port, frame(PING) * (FRAMES // 10)), counted)
    assert counted.all >= MANY * FRAMES // 10
    assert counted.most <= 2 * MANY + STEPS_PER_PASS


# Verifies: API-0201
async def test_small_frames_of_many_http2_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = PerPass()
    receive = GuardedStream.receive_some

    async def count_bytes(self: GuardedStream, max_bytes: int | None = None) -> bytes:
        data = await receive(self, max_bytes)
        counted.count(len(data) if len(data) > BYTES_AT_ONCE else 0)
        return data

    monkeypatch.setattr(GuardedStream, "receive_some", count_bytes)
    pings = (bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"whatever") * (FRAMES // 10)

    async with running(True) as server:
        await from_many(partial(ask, server.port, HTTP2 + pings), counted)
    assert counted.all > MANY * len(pings) // 2
    assert counted.most <= STEPS_PER_PASS * OPAQUE_BYTES_PER_STEP


# Verifies: API-0201
async def test_many_connections_with_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first requests of each run at once, and may all do so in the same pass. The others do not."""
    counted = PerPass()
    following = RequestParser.next

    def count_requests(self: RequestParser) -> Request[Target] | ServedElsewhere | None:
        found = following(self)
        counted.count(found is not None)
        return found

    monkeypatch.setattr(RequestParser, "next", count_requests)
    bursts = 8
    asked = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n" * (REQUESTS_PER_STEP * bursts)

    async with running(True) as server:
        await from_many(partial(ask, server.port, asked), counted)
    assert counted.all == MANY * bursts * REQUESTS_PER_STEP
    assert counted.busy >= MANY * (bursts - 1) / STEPS_PER_PASS


# Verifies: API-0202
@pytest.mark.parametrize(("enter", "size"), GATES)
async def test_few_arrive_in_each_pass_and_who_comes_alone_at_once(
    enter: Callable[[Turns], Awaitable[None]], size: int
) -> None:
    turns, counted = Turns(), PerPass()
    trio.lowlevel.add_instrument(counted)

    async def arrive() -> None:
        await enter(turns)
        counted.count(1)

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(MANY * size):
                nursery.start_soon(arrive)
    trio.lowlevel.remove_instrument(counted)
    assert counted.all == 2 * MANY * size
    assert size <= counted.most <= 2 * size


# Verifies: API-0202
@pytest.mark.parametrize(("enter", "size"), GATES)
async def test_who_leaves_while_many_arrive_keeps_nobody_waiting(
    enter: Callable[[Turns], Awaitable[None]], size: int
) -> None:
    turns = Turns()
    for _ in range(MANY * size):
        with trio.CancelScope() as leaving:
            leaving.cancel()
            await enter(turns)
    with trio.fail_after(PATIENCE):
        for _ in range(MANY * size):
            await enter(turns)


# Verifies: API-0202
@pytest.mark.parametrize("does", ["send", "end", "break"])
@pytest.mark.parametrize("fast", [True, False], ids=["fast path", "fallback"])
async def test_many_websockets_that_send_or_end_at_once(fast: bool, does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived in the same pass is taken in several."""
    counted = PerPass()
    ends = does != "send"
    owner: Any = FastWebSocketTransport if fast else GuardedStream
    name = "receive" if fast else "receive_some"
    receive = getattr(owner, name)

    async def count(self: Any, *arguments: Any) -> Any:
        found = None
        try:
            found = await receive(self, *arguments)
        finally:
            counted.count(1 if ends is not bool(found) else 0)
        return found

    monkeypatch.setattr(owner, name, count)
    size = ARRIVALS_PER_PASS if fast and not ends else CHANGES_PER_PASS
    many = 5 * size
    async with running(fast) as server, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(raw(server.port, upgrade())) for _ in range(many)]
        for peer in peers:
            await peer.head()
        counted.most = counted.all = 0
        trio.lowlevel.add_instrument(counted)
        for peer in peers:
            assert isinstance(peer.stream, trio.SocketStream)
            # Without a checkpoint, so that all of them are there in the same pass of the server.
            if ends:
                if does == "break":
                    peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.stream.socket.close()
            else:
                os.write(peer.stream.socket.fileno(), frame(TEXT, b"[]"))
        with trio.fail_after(PATIENCE):
            while counted.all < many:
                await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(counted)
        most = counted.most
    assert most <= 2 * size


# Verifies: API-0202
async def test_many_requests_of_many_http2_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = PerPass()
    create = Http2._create_stream

    async def count(self: Http2, request: RequestReceived) -> None:
        counted.count(1)
        await create(self, request)

    monkeypatch.setattr(Http2, "_create_stream", count)
    asked = 5
    fields = b"\x82\x86\x41\x09localhost\x04\x06/livez"
    requests = b"".join(
        len(fields).to_bytes(3, "big") + bytes([1, 5]) + (2 * number + 1).to_bytes(4, "big") + fields
        for number in range(asked)
    )

    async with running(True) as server:
        await from_many(partial(ask, server.port, HTTP2 + requests), counted)
    assert counted.all == MANY * asked
    assert counted.most <= STEPS_PER_PASS
