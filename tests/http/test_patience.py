"""A peer is not blamed for the time in which the server itself stood still."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.http.fallback.websocket import QuartWebSocketTransport
from qrusty_trio.http.fast_websocket import FastWebSocketTransport
from qrusty_trio.http.patience import PIECES, wait_while_running
from tests.http.ws_server import both_paths, running


# Verifies: WS-0024
@pytest.mark.parametrize(
    ("jumps", "over"),
    [
        ([1.0] * PIECES, True),
        ([1.0] * (PIECES - 1) + [0.9], False),
        ([1.9] * PIECES, True),
        ([2.0] + [1.0] * (PIECES - 1), False),
        ([60.0] * (2 * PIECES - 1), False),
        ([60.0] * 2 * PIECES, True),
        ([1.0, 60.0] * PIECES, True),
    ],
    ids=["in time", "not yet", "a little late", "late once", "late so far", "always late", "late now and then"],
)
async def test_a_piece_in_which_the_loop_stood_still_does_not_count(
    jumps: list[float], over: bool, mock_clock: trio.testing.MockClock
) -> None:
    done = trio.Event()

    async def wait() -> None:
        await wait_while_running(float(PIECES))
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for seconds in jumps:
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked()
        assert done.is_set() == over
        nursery.cancel_scope.cancel()


# Verifies: WS-0024
@pytest.mark.parametrize("seconds", [0, 0.001, 0.1])
async def test_a_short_wait_ends(seconds: float) -> None:
    with trio.fail_after(60):
        await wait_while_running(seconds)


class StandsStill:
    """A ping after which the loop stands still, a few times: its peer can't answer before the loop goes on."""

    def __init__(self, kind: Any, seconds: list[float]) -> None:
        self._ping = kind.ping
        self._seconds = seconds
        self.over = trio.Event()

    def __call__(self, transport: Any) -> None:
        self._ping(transport)
        if self._seconds:
            trio.lowlevel.current_trio_token().run_sync_soon(time.sleep, self._seconds.pop())
        else:
            self.over.set()


# Verifies: WS-0024
@both_paths
async def test_a_ping_that_left_late_may_be_answered_late(fast_path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = FastWebSocketTransport if fast_path else QuartWebSocketTransport
    ping = StandsStill(kind, [0.6, 1.5, 0.8])
    monkeypatch.setattr(kind, "ping", lambda transport: ping(transport))
    async with (
        running(fast_path, ws_ping_interval_secs=0.2, ws_ping_timeout_secs=0.5) as server,
        server.socket() as socket,
    ):
        with trio.fail_after(60):
            await ping.over.wait()
        await server.create()
        await socket.publish()
