"""How many requests the next sync waits for.

A client that has just received its response usually sends its next request at once. If the next sync starts before that
request is there, the request waits for the end of that sync, and for a whole one more. So it pays to hold a sync until
those who were just answered are back. With 8 connections a sync then covers 8 changes instead of 4.

Rule: nobody waits long for a client that does not come back. A window is short (`WINDOW_SECONDS`). After one that ended
by time, the next ones expect only the share that came back. Now and then a window expects everybody again.

Requirements: PER-0060
"""

from __future__ import annotations

WINDOW_SECONDS = 0.002
"""Longest window, from the end of a sync. Trio's timers can't be shorter: epoll counts in milliseconds."""
LEAST = 3
"""No window for fewer responses. With two connections it cost 14 %."""
FIRST_PAUSE = 16
LONGEST_PAUSE = 1024
"""Syncs until a window expects everybody again. Each one that ends by time doubles the pause."""


class Window:
    """Decides how many responses the next sync should serve. No clock, no I/O."""

    __slots__ = ("_answered", "_expected", "_pause", "_share", "_syncs", "_waiting")

    def __init__(self) -> None:
        self._answered = 0
        self._waiting = 0
        self._expected = 0
        self._share = 1.0
        """The share of those answered that is expected back."""
        self._pause = FIRST_PAUSE
        self._syncs = 0
        """Syncs since the share became less than 1."""

    def synced(self, answered: int, waiting: int) -> None:
        """A sync has ended. `answered`: its responses; `waiting`: the responses that wait for the next one already."""
        self._answered = answered
        self._waiting = waiting
        if self._share < 1.0:
            self._syncs += 1
            if self._syncs >= self._pause:
                self._share = 1.0
        self._expected = int(answered * self._share)

    @property
    def target(self) -> int:
        """Responses that the next sync should serve; 0 if it should not wait for more."""
        return self._waiting + self._expected if self._expected >= LEAST else 0

    def ended(self, served: int) -> None:
        """A window has ended, with so many responses waiting for the sync."""
        came = served - self._waiting
        if came < self._expected:
            self._share = max(came, 0) / self._answered
            self._syncs = 0
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif self._share == 1.0:
            self._pause = FIRST_PAUSE
