"""Whose turn it is to do long work on the event loop.

Rule: no step of a connection takes more than about 2 ms, but in one pass of the loop each connection may make one. A
hundred of them would keep everybody else waiting for 200 ms, several times. So only the first part of what a read
brought is done at once. Each further step waits for its turn: a few connections in each pass, first come, first served.

Not one connection in each pass: what runs in the same pass is stored and synced together.

Nor may the first parts run all in one pass: thousands of connections may send, or end, at the same moment. A part comes
at once as long as few do.

Requirements: API-0201, API-0202
"""

from __future__ import annotations

import trio

BYTES_AT_ONCE = 256
"""What needs no turn of what one read brought. A frame may be as small as six bytes."""
STEPS_PER_PASS = 4
"""Steps of about 2 ms."""
ARRIVALS_PER_PASS = 64
"""Connections that send something: some tenths of a millisecond for each. Twice as many where few came before. So those
of usual servers come together."""
CHANGES_PER_PASS = 8
"""Connections that begin or end, and reads of the fallback: up to about 1 ms for each. Twice as many as above."""


class Turns:
    """Shared by all connections of a server."""

    def __init__(self) -> None:
        self._passing = trio.Semaphore(STEPS_PER_PASS)
        self._arriving = _Gate(ARRIVALS_PER_PASS)
        self._changing = _Gate(CHANGES_PER_PASS)

    async def next(self) -> None:
        """Wait for a turn: at least until the next pass of the event loop. In each, STEPS_PER_PASS callers return."""
        # It is got in the next pass at the earliest. Let go at once, it is somebody else's in the pass after that.
        async with self._passing:
            pass

    async def arrive(self) -> None:
        """Call this when something has arrived: waits while many others have arrived, too. No checkpoint if few have.

        At most 2 * ARRIVALS_PER_PASS callers return in each pass.

        Requirements: API-0202
        """
        await self._arriving.enter()

    async def change(self) -> None:
        """The same when a connection begins or ends, for 2 * CHANGES_PER_PASS callers.

        Requirements: API-0202
        """
        await self._changing.enter()


class _Gate:
    """Lets twice `size` callers through in each pass of the event loop, the first of them without a checkpoint."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting = trio.Semaphore(size)
        self._at_once = size
        """Those that need not wait until one has waited for the next pass."""
        self._renewing = False
        """One waits for that."""

    async def enter(self) -> None:
        if self._at_once:
            self._at_once -= 1
            return
        renews, self._renewing = not self._renewing, True
        try:
            async with self._waiting:
                pass
        finally:
            if renews:
                self._at_once, self._renewing = self._size, False
