"""The clock that gives the core its time.

Rule: wall time is read once. From then on it advances with Trio's monotonic clock. So setting the system clock neither
ends a lock early nor prolongs it.

Requirements: SCH-0018
"""

from __future__ import annotations

import time
import zlib
from pathlib import Path

import trio

from qrusty_trio.core.records import ClockFrame

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock:
    """Wall time in milliseconds that never jumps. Create and use it inside a Trio run.

    Requirements: SCH-0018
    """

    __slots__ = ("_offset", "frame")

    def __init__(self) -> None:
        wall = time.time()
        self._offset = wall - trio.current_time()
        self.frame = ClockFrame(_boot(), int((wall - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000))
        """Lets a later process tell whether the wall clock was set meanwhile."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int((trio.current_time() + self._offset) * 1000)

    def seconds_until(self, wall_ms: int) -> float:
        """Seconds until `wall_ms`; negative if it has passed."""
        return wall_ms / 1000 - self._offset - trio.current_time()


def _boot() -> int:
    """A number that identifies this boot of the machine; 0 if the system does not provide one."""
    try:
        return zlib.crc32(BOOT_ID.read_bytes()) or 1
    except OSError:
        return 0
