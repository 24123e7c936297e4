"""The stream that Hypercorn is given, once it is closed: its descriptor may be that of another connection by then."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qrusty_trio.http.fallback.guard import GuardedStream
from qrusty_trio.http.fallback.share import ConnectionShare
from tests.http.web import context_for, make_engine


def guarded(sock: socket.socket) -> GuardedStream:
    engine = make_engine()
    context = context_for(engine, False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    return GuardedStream(stream, b"", engine, ConnectionShare(context.received, context.unsent))


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
