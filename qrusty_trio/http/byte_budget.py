"""Bytes that all HTTP connections together make the server hold: requests not answered yet, and answers not sent yet.

Rule: a large piece is not received, nor made, before there is room for it; who waits gets room in turn, and holds
nothing of that budget meanwhile. Those who hold some wait for their peers alone, or for the other budget (requests for
room for their answers), never the other way round; so nobody waits for ever. While somebody waits, a peer that brings
or takes less than STALL_BYTES in STALL_SECONDS is cut off. What is up to SMALL_BYTES always passes and is not counted.
"""

from __future__ import annotations

from collections import deque

import trio

LIMIT_BYTES = 64 * 1024 * 1024
"""Of requests, and again of answers."""
LIMIT_SHARE = 8
"""At most one part in so many of the memory limit."""
LARGE_BYTES = 2 * 1024 * 1024
"""Room that is kept for an answer until its size is known."""
SMALL_BYTES = 8 * 1024
STALL_SECONDS = 5.0
STALL_BYTES = 64 * 1024


def limit_for(memory_limit: int) -> int:
    """The size of a budget for a server whose memory is limited to so many bytes."""
    return min(LIMIT_BYTES, memory_limit // LIMIT_SHARE)


class _Turn:
    __slots__ = ("come", "octets")

    def __init__(self, octets: int) -> None:
        self.octets = octets
        self.come = trio.Event()


class Budget:
    """What all connections hold."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.limit = limit
        self.held = 0
        self.waiting: deque[_Turn] = deque()

    @property
    def short(self) -> bool:
        """Whether what is not small has to wait."""
        return self.held >= self.limit or bool(self.waiting)

    @property
    def tight(self) -> bool:
        """Whether an answer that may be large has to wait."""
        return bool(self.waiting) or not self.fits(LARGE_BYTES)

    def fits(self, octets: int) -> bool:
        """Whether there is room. A piece that is larger than the whole budget gets it alone."""
        return self.held + octets <= self.limit or self.held == 0

    def change(self, octets: int) -> None:
        """That much more is held, or less when negative."""
        self.held += octets
        if octets < 0:
            self._let_in()

    def take_now(self, octets: int) -> bool:
        """Count it if there is room and nobody waits."""
        if self.waiting or not self.fits(octets):
            return False
        self.held += octets
        return True

    async def take(self, octets: int) -> None:
        """Wait in turn until there is room, and count it."""
        if self.take_now(octets):
            return
        turn = _Turn(octets)
        self.waiting.append(turn)
        try:
            await turn.come.wait()
        except trio.Cancelled:
            if turn.come.is_set():
                self.held -= octets
            else:
                self.waiting.remove(turn)
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self.waiting and self.fits(self.waiting[0].octets):
            turn = self.waiting.popleft()
            self.held += turn.octets
            turn.come.set()


class Holding:
    """What one connection, or one request of it, holds of a budget. To be set to 0 at its end.

    `among`: how many requests of a connection may hold some at a time.
    """

    __slots__ = ("_among", "_entered", "_mark", "_since", "budget", "held")

    def __init__(self, budget: Budget, among: trio.Semaphore | None = None) -> None:
        self.budget = budget
        self.held = 0
        self._among = among
        self._entered = False
        self._since: float | None = None
        self._mark = 0

    async def reserve(self, octets: int) -> None:
        """Hold so much, once there is room."""
        self.set(0)
        if self._among is not None:
            await self._among.acquire()
            self._entered = True
        await self.budget.take(octets)
        self.held = octets

    def reserve_now(self, octets: int) -> bool:
        """Hold so much, if there is room at once."""
        self.set(0)
        if not self.budget.take_now(octets):
            return False
        self.held = octets
        return True

    def set(self, octets: int) -> None:
        """So much is held now, whether there is room or not."""
        held = octets if octets > SMALL_BYTES else 0
        self._since = None
        if held != self.held:
            change, self.held = held - self.held, held
            self.budget.change(change)
        if not held and self._entered and self._among is not None:
            self._entered = False
            self._among.release()

    def lags(self, now: float, moved: int) -> bool:
        """Whether others wait for what the peer, which has brought or taken `moved` bytes so far, hardly moves."""
        if not self.budget.waiting or not self.held:
            self._since = None
        elif self._since is None or moved - self._mark >= STALL_BYTES:
            self._since, self._mark = now, moved
        else:
            return now - self._since >= STALL_SECONDS
        return False
