"""The time that the core is given.

Rule: wall time is read once. From then on it moves with Trio's monotonic clock, so that a stepped system clock ends no
lock and delays none.
"""

from __future__ import annotations

import time
import zlib
from pathlib import Path

import trio

from qrusty_trio.core.records import ClockFrame

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock:
    """Wall time in milliseconds that never jumps. Made and used inside a Trio run."""

    __slots__ = ("_offset", "frame")

    def __init__(self) -> None:
        wall = time.time()
        self._offset = wall - trio.current_time()
        self.frame = ClockFrame(_boot(), int((wall - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000))
        """By which a later process tells whether the wall clock was set meanwhile."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int((trio.current_time() + self._offset) * 1000)

    def seconds_until(self, wall_ms: int) -> float:
        """How long until it is `wall_ms`; negative when that is over."""
        return wall_ms / 1000 - self._offset - trio.current_time()


def _boot() -> int:
    """A number that is another one after each start of the machine; 0 when the system does not tell."""
    try:
        return zlib.crc32(BOOT_ID.read_bytes()) or 1
    except OSError:
        return 0
