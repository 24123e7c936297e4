"""The stream that Hypercorn is given, once it is closed: its descriptor may be that of another connection by then."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from qrusty_trio.http.byte_budget import SMALL_BYTES, Budget, Holding
from qrusty_trio.http.fallback.guard import GuardedStream
from qrusty_trio.http.fallback.share import ConnectionShare
from qrusty_trio.http.header_block import HTTP2_PREFACE, SEND_SECONDS
from qrusty_trio.http.lingering import LINGER_SECONDS
from qrusty_trio.http.pauses import EventPause
from qrusty_trio.http.pipe import READ_BYTES
from tests.http.web import context_for, make_engine
from tests.http.ws_raw import upgrade


def guarded(sock: socket.socket) -> GuardedStream:
    context = context_for(make_engine(), False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    return GuardedStream(stream, b"", context, ConnectionShare(context.received, context.unsent))


# Verifies: SYS-0009
async def test_what_is_sent_after_the_close_reaches_nobody() -> None:
    ours, theirs = socket.socketpair()
    descriptor = ours.fileno()
    guard = guarded(ours)
    with ExitStack() as stack:
        stack.enter_context(theirs)
        await guard.aclose()
        others = [stack.enter_context(one) for _ in range(3) for one in socket.socketpair()]
        assert descriptor in [one.fileno() for one in others]
        with pytest.raises(trio.ClosedResourceError):
            await guard.send_all(b"of another connection")
        for one in others:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(100)


# Verifies: API-0010
async def test_what_is_sent_while_it_closes_does_not_cut_that_short() -> None:
    """The peer still sends, so it is lingered for: otherwise it would lose its last response."""
    ours, theirs = socket.socketpair()
    guard = guarded(ours)
    guard.filter.feed(b"GET")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.aclose)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await guard.send_all(b"too late")
        assert not guard.end.broken
        assert guard.end.too_late
        assert len(nursery.child_tasks) == 1
        theirs.close()


# Verifies: API-0048
@pytest.mark.parametrize("takes", [False, True])
async def test_a_send_to_a_peer_that_takes_nothing_ends_with_the_connection(
    autojump_clock: MockClock, takes: bool
) -> None:
    context = context_for(make_engine(), False)
    ours, theirs = lockstep_stream_pair()
    guard = GuardedStream(ours, b"", context, ConnectionShare(context.received, context.unsent))
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        if takes:
            nursery.start_soon(theirs.receive_some)
            await guard.send_all(b"a response")
        else:
            with pytest.raises(trio.BrokenResourceError):
                await guard.send_all(b"a response")
        assert trio.current_time() - begun == (0 if takes else SEND_SECONDS)
        assert guard.end.broken is guard.end.scope.cancel_called is not takes


@pytest.mark.parametrize("closed", [False, True])
async def test_a_call_does_not_wait_for_a_peer_that_has_closed(closed: bool) -> None:
    ours, theirs = socket.socketpair()
    guard = guarded(ours)
    with theirs:
        guard.end.peer_closed = closed
        pause = EventPause(Holding(Budget()))
        guard.watch_end(pause)
        assert pause.over is closed
        guard.requests.give_up()
        assert pause.over
        await guard.aclose()


@pytest.mark.parametrize(
    ("data", "lingers"),
    [(b"", False), (b"GET", True), (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True)],
)
async def test_the_end_of_a_peer_is_waited_for_where_something_of_it_may_be_unread(
    autojump_clock: MockClock, data: bytes, lingers: bool
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        guard = guarded(ours)
        if data:
            guard.filter.feed(data)
        if data.endswith(b"\n"):
            assert await guard.receive_some() == data
        begun = trio.current_time()
        await guard.aclose()
        assert trio.current_time() - begun == (LINGER_SECONDS if lingers else 0)


# Verifies: SYS-0009
@pytest.mark.parametrize("steps", range(5))
async def test_two_tasks_of_hypercorn_close_at_once(steps: int) -> None:
    """One as the connection was idle for long, and the one that reads as its read has ended by that."""
    ours, theirs = socket.socketpair()
    with theirs:
        guard = guarded(ours)
        theirs.sendall(b"POST /publish HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n{")
        await guard.receive_some()

        async def read() -> None:
            with suppress(trio.ClosedResourceError):
                while await guard.receive_some():
                    pass
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            await guard.send_eof()
            await guard.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            nursery.start_soon(guard.aclose)
            await wait_all_tasks_blocked()
            assert theirs.recv(1) == b""
            theirs.close()


# Verifies: API-0040
@pytest.mark.parametrize("short", ["received", "unsent", "neither"])
async def test_reads_are_small_while_there_is_no_room(short: str) -> None:
    context = context_for(make_engine(), False)
    others = {"received": Holding(context.received), "unsent": Holding(context.unsent)}
    for name, other in others.items():
        other.set(other.budget.limit if name == short else other.budget.limit - 1)
    ours, theirs = memory_stream_pair()
    guard = GuardedStream(ours, b"", context, ConnectionShare(context.received, context.unsent))
    head = b"POST /publish HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n"
    await theirs.send_all(head + b"x" * 2 * READ_BYTES)
    read = len(await guard.receive_some()) + guard.filter.waiting
    assert read == (READ_BYTES if short == "neither" else SMALL_BYTES)
    for other in others.values():
        other.set(0)


WHOLE = b"POST /publish HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"POST /publish HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{"


# Verifies: API-0055
@pytest.mark.parametrize(
    ("data", "is_cut_off"),
    [
        (b"", False),
        (b"GET /health HT", True),
        (WHOLE, False),
        (WHOLE[:-1], True),
        (CHUNKED, True),
        (CHUNKED + b"}\r\n", True),
        (CHUNKED + b"}\r\n0\r\n\r\n", False),
        (WHOLE + b"GET /health HT", False),
        (HTTP2_PREFACE + b"\x00", False),
        (upgrade() + b"\x81", False),
    ],
    ids=[
        "idle",
        "head",
        "whole",
        "body",
        "chunk",
        "chunks",
        "whole chunks",
        "behind one in hand",
        "HTTP/2",
        "WebSocket",
    ],
)
@pytest.mark.parametrize("stops", [True, False], ids=["stops", "runs"])
async def test_the_rest_of_a_request_is_not_waited_for_when_the_server_stops(
    autojump_clock: MockClock, data: bytes, is_cut_off: bool, stops: bool
) -> None:
    context = context_for(make_engine(), False)
    ours, theirs = memory_stream_pair()
    guard = GuardedStream(ours, b"", context, ConnectionShare(context.received, context.unsent))
    if stops:
        guard.stopping.set()

    async def read() -> None:
        while True:
            await guard.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.watch)
        nursery.start_soon(read)
        await theirs.send_all(data[:1])
        await trio.sleep(0.5)
        await theirs.send_all(data[1:])
        await trio.sleep(0.6)
        assert not guard.end.broken, "something came a moment ago"
        await trio.sleep(1)
        assert guard.end.broken == (stops and is_cut_off)
        nursery.cancel_scope.cancel()
