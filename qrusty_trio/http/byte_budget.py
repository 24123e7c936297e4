"""Budgets for what all HTTP connections hold together: requests not answered yet, and responses not sent yet.

Rule: a large request is not received, and a large response not made, before there is room for it. Waiters get room in
turn, and hold nothing of that budget while they wait. A holder waits only for its peer, or, with a request in hand, for
room for its response. Nobody who holds room for a response waits for a request's, so there is no deadlock. While
anyone waits, a peer that moves less than STALL_BYTES in STALL_SECONDS is cut off. Pieces of up to SMALL_BYTES always
pass and are not counted.

Requirements: SYS-0007
"""

from __future__ import annotations

from collections import deque

import trio

LIMIT_BYTES = 64 * 1024 * 1024
"""Limit for requests, and the same again for responses."""
LIMIT_SHARE = 8
"""A budget is at most this fraction (1/8) of the memory limit."""
LARGE_BYTES = 2 * 1024 * 1024
"""Room reserved for a response until its size is known."""
SMALL_BYTES = 8 * 1024
STALL_SECONDS = 5.0
STALL_BYTES = 64 * 1024


def limit_for(memory_limit: int) -> int:
    """The size of a budget in bytes. `memory_limit`: the server's memory limit in bytes.

    Requirements: API-0040
    """
    return min(LIMIT_BYTES, memory_limit // LIMIT_SHARE)


class _Turn:
    __slots__ = ("come", "octets")

    def __init__(self, octets: int) -> None:
        self.octets = octets
        self.come = trio.Event()


class Budget:
    """Bytes that all connections hold, with a limit and a queue of waiters.

    Requirements: API-0040
    """

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.limit = limit
        self.held = 0
        self.waiting: deque[_Turn] = deque()

    @property
    def short(self) -> bool:
        """Whether a piece of more than SMALL_BYTES has to wait."""
        return self.held >= self.limit or bool(self.waiting)

    @property
    def tight(self) -> bool:
        """Whether a response that may be large has to wait."""
        held = self.held  # as `fits`, without a call: this is asked for each consume
        return bool(self.waiting) or (held + LARGE_BYTES > self.limit and held != 0)

    def fits(self, octets: int) -> bool:
        """Whether there is room. A piece larger than the whole budget fits when nothing else is held."""
        return self.held + octets <= self.limit or self.held == 0

    def change(self, octets: int) -> None:
        """Count `octets` more, or fewer if negative."""
        self.held += octets
        if octets < 0:
            self._let_in()

    def take_now(self, octets: int) -> bool:
        """Count `octets` if there is room and nobody waits. Returns whether it did."""
        if self.waiting or not self.fits(octets):
            return False
        self.held += octets
        return True

    async def take(self, octets: int) -> None:
        """Wait in turn until there is room, then count `octets`."""
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
    """What one connection, or one of its requests, holds of a budget. Must be set to 0 at its end.

    `among`: limits how many requests of a connection may hold room at a time.
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
        """Wait until there is room for `octets`, then hold them."""
        self.set(0)
        if self._among is not None:
            await self._among.acquire()
            self._entered = True
        await self.budget.take(octets)
        self.held = octets

    def reserve_now(self, octets: int) -> bool:
        """Hold `octets` if there is room at once. Returns whether there was."""
        self.set(0)
        if not self.budget.take_now(octets):
            return False
        self.held = octets
        return True

    def set(self, octets: int) -> None:
        """Set what is held, whether there is room or not."""
        held = octets if octets > SMALL_BYTES else 0
        self._since = None
        if held != self.held:
            change, self.held = held - self.held, held
            self.budget.change(change)
        if not held and self._entered and self._among is not None:
            self._entered = False
            self._among.release()

    def lags(self, now: float, moved: int) -> bool:
        """Whether others wait for room while this peer stalls.

        `now`: seconds. `moved`: bytes that the peer has sent or taken so far.

        Requirements: API-0041
        """
        if not self.budget.waiting or not self.held:
            self._since = None
        elif self._since is None or moved - self._mark >= STALL_BYTES:
            self._since, self._mark = now, moved
        else:
            return now - self._since >= STALL_SECONDS
        return False
