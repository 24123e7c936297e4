"""Whose turn it is to do long work on the event loop.

Rule: no step of a connection takes more than about 2 ms, but in one pass of the loop each connection may make one. A
hundred of them would keep everybody else waiting for 200 ms, several times. So only the first part of what a read
brought is done at once. Each further step waits for its turn: a few connections in each pass, first come, first served.

Not one connection in each pass: what runs in the same pass is stored and synced together.

Requirements: API-0201
"""

from __future__ import annotations

import trio

STEPS_PER_PASS = 4
"""Steps of about 2 ms."""


class Turns:
    """Shared by all connections of a server."""

    def __init__(self) -> None:
        self._passing = trio.Semaphore(STEPS_PER_PASS)

    async def next(self) -> None:
        """Wait for a turn: at least until the next pass of the event loop. In each, STEPS_PER_PASS callers return."""
        # It is got in the next pass at the earliest. Let go at once, it is somebody else's in the pass after that.
        async with self._passing:
            pass
