"""How many requests the next sync waits for.

A client that has just received its response usually sends its next request at once. If the next sync starts before that
request is there, the request waits for the end of that sync, and for a whole one more. So it pays to hold a sync until
those who were just answered are back. With 8 connections a sync then covers 8 changes instead of 4.

Rule: nobody waits long for a client that does not come back. A window is short (`WINDOW_SECONDS`). After one that ended
by time, the next ones expect only the share that came back. Now and then a window expects everybody again. Requests of
others do not count: those that arrive at a rate of their own would come just as well during the sync.

Requirements: PER-0060
"""

from __future__ import annotations

from collections.abc import Iterable

WINDOW_SECONDS = 0.002
"""Longest window, from the end of a sync. Trio's timers can't be shorter: epoll counts in milliseconds."""
LEAST = 3
"""No window for fewer responses. With two connections it cost 14 %."""
FIRST_PAUSE = 16
LONGEST_PAUSE = 1024
"""Syncs until a window expects everybody again. Each one that ends by time doubles the pause."""


class Window:
    """Decides whether the next sync waits for more requests. No clock, no I/O."""

    __slots__ = ("_answered", "_away", "_expected", "_missing", "_pause", "_share", "_syncs")

    def __init__(self) -> None:
        self._away: set[int] = set()
        """Those who were just answered and did not come back yet, by the id of the object that stands for each."""
        self._answered = 0
        self._expected = self._missing = 0
        """How many of them should come back, and how many of these did not yet."""
        self._share = 1.0
        """The share of those answered that is expected back."""
        self._pause = FIRST_PAUSE
        self._syncs = 0
        """Syncs since the share became less than 1."""

    def synced(self, peers: Iterable[int]) -> None:
        """A sync has ended, and these were answered."""
        if self._share < 1.0:
            self._syncs += 1
            if self._syncs >= self._pause:
                self._share = 1.0
        self._away = set(peers)
        self._answered = len(self._away)
        expected = int(self._answered * self._share)
        self._expected = self._missing = expected if expected >= LEAST else 0

    def came(self, peers: Iterable[int]) -> None:
        """These wait for the next sync."""
        if self._missing > 0:
            before = len(self._away)
            self._away.difference_update(peers)
            self._missing -= before - len(self._away)

    @property
    def open(self) -> bool:
        """Whether the next sync waits for more requests."""
        return self._missing > 0

    def ended(self) -> None:
        """A window has ended."""
        if self._missing > 0:
            self._share = (self._expected - self._missing) / self._answered
            self._syncs = 0
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif self._share == 1.0:
            self._pause = FIRST_PAUSE
