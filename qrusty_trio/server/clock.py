"""The time that the core is given.

Rule: wall time is read once. From then on it moves with Trio's monotonic clock, so that a stepped system clock ends no
lock and delays none.
"""

from __future__ import annotations

import time

import trio


class Clock:
    """Wall time in milliseconds that never jumps. Made and used inside a Trio run."""

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset = time.time() - trio.current_time()

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int((trio.current_time() + self._offset) * 1000)

    def seconds_until(self, wall_ms: int) -> float:
        """How long until it is `wall_ms`; negative when that is over."""
        return wall_ms / 1000 - self._offset - trio.current_time()
