"""Cancelled at any of its steps, a connection leaves nothing behind: no lock that nobody got, no open stream."""

from __future__ import annotations

import pytest
import trio
from trio.abc import Instrument
from trio.testing import MockClock, memory_stream_pair

from qrusty_trio.http.fallback.hypercorn import Fallback
from qrusty_trio.http.fast_path import FastPath
from qrusty_trio.server.engine import Engine
from tests.http.web import PATHS, context_for, make_engine, request

PUBLISH = request("POST", "/publish", {"queue": "q", "priority": 1, "payload": "p"})
CONSUME = request("POST", "/consume/q", {"consumer_id": "w"})
CHUNKED = (
    b"POST /consume/q HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'13\r\n{"consumer_id":"w"}\r\n0\r\n\r\n'
)
SCENARIO = [(PUBLISH, 1), (PUBLISH * 3, 3), (CONSUME, 1), (CONSUME + request("GET", "/health"), 2), (CHUNKED, 1)]
"""What is sent, and how many responses are waited for before the next."""
MAX_STEPS = 3000


class CancelAt(Instrument):
    """Cancels a scope before the given step of the tasks inside it."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self.nursery: trio.Nursery | None = None
        """The nursery around the tasks that are counted."""
        self._left = step
        self.fired = False

    def _counts(self, task: trio.lowlevel.Task) -> bool:
        parent = task.parent_nursery
        while parent is not None and parent is not self.nursery:
            parent = parent.parent_task.parent_nursery
        return parent is not None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.nursery is not None and not self.fired and self._counts(task):
            self._left -= 1
            if not self._left:
                self.fired = True
                self.scope.cancel()


async def cancelled_at(step: int, fast_path: bool) -> tuple[bool, Engine, bytes]:
    """Whether there was such a step, the engine afterwards, and what the client got before its stream was closed."""
    engine = make_engine()
    context = context_for(engine, fast_path)
    fallback = Fallback(context)
    fast = FastPath(context, fallback.serve)
    ours, theirs = memory_stream_pair()
    cancelling = CancelAt(step)

    async def serve() -> None:
        with cancelling.scope:
            async with trio.open_nursery() as nursery:
                cancelling.nursery = nursery
                nursery.start_soon(fast.serve if fast_path else fallback.serve, ours)

    received = b""
    trio.lowlevel.add_instrument(cancelling)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            expected = 0
            try:
                for data, responses in SCENARIO:
                    await theirs.send_all(data)
                    expected += responses
                    while received.count(b"HTTP/1.1 200") < expected and (more := await theirs.receive_some(65536)):
                        received += more
                await theirs.send_eof()
                while more := await theirs.receive_some(65536):
                    received += more
            except trio.BrokenResourceError:
                pass  # Closed by the server.
    finally:
        trio.lowlevel.remove_instrument(cancelling)
    return cancelling.fired, engine, received


# Verifies: DLV-0025
@pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])
async def test_cancelled_at_every_step(fast_path: bool, autojump_clock: MockClock) -> None:
    for step in range(1, MAX_STEPS):
        fired, engine, received = await cancelled_at(step, fast_path)
        stats = engine.broker.catalog.stats("q")
        if stats is not None:
            assert stats.locked == received.count(b'"retry_count":1'), step
            assert stats.available + stats.locked >= received.count(b'{"id"') - received.count(b'"retry_count"'), step
        if not fired:
            assert (received.count(b"HTTP/1.1 200"), received.count(b'"retry_count":1')) == (8, 3)
            return
    pytest.fail("the scenario has no end")
