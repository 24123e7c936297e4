"""Memory pressure as a state machine: the levels, the thresholds and the steps that free memory.

Rule: this module is pure. Usage, limit and time are arguments. `observe` returns the steps to take, in order, and
`server/pressure.py` takes them. The tables below are the whole policy.

    normal ── usage >= warning ──> warning ── usage >= critical ──> critical
    normal <── usage < exit ────── warning <── usage < warning ──── critical

A level is left at a lower threshold than it was entered at, so usage near a threshold does not flap between levels. A
jump from normal to critical, or back, happens in one reading.

There are two kinds of steps. Standing steps (cache size, tier size, refused publishes) hold until they are undone.
Passing steps (flush, drop, shrink, compact) free what is there now and are repeated while the level lasts.

Requirements: SYS-0012
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from qrusty_trio.errors import StartupRefused

REPEAT_SECONDS = 30.0
"""Passing steps are repeated this often while a level lasts."""
COMPACTION_COOLDOWN_SECONDS = 900.0
"""The minimum time from the start of one compaction of the whole store to the start of the next."""


class Level(IntEnum):
    """How scarce memory is. Levels are ordered: clients see `level >= Level.WARNING` as memory pressure."""

    NORMAL = 0
    WARNING = 1
    CRITICAL = 2


class Step(Enum):
    """One measure against memory pressure. The value is its name in the log.

    Requirements: SCH-0042
    """

    REFUSE_PUBLISHES = "refuse publishes"
    ACCEPT_PUBLISHES = "accept publishes"
    QUARTER_CACHE = "block cache to a quarter"
    MINIMAL_CACHE = "block cache to the minimum"
    TRIM_TIERS = "hot tiers to 10 %"
    WIDEN_TIERS = "hot tiers to 100 %"
    DROP_IDLE = "drop structures of empty queues"
    SHRINK_INDEXES = "shrink lock index and dedup caches"
    FLUSH_MEMTABLES = "flush memtables"
    COMPACT_PAYLOADS = "compact payload store"
    COMPACT_STORE = "compact the whole store"
    RESTORE = "restore"


WARNING_SHARE = 0.80
CRITICAL_SHARE = 0.90
EXIT_SHARE = 0.70


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds as shares of the memory limit, 0 to 1. Raises StartupRefused unless 0 < exit < warning < critical.

    Requirements: SCH-0038
    """

    warning: float = WARNING_SHARE
    critical: float = CRITICAL_SHARE
    exit: float = EXIT_SHARE

    def __post_init__(self) -> None:
        if not 0.0 < self.exit < self.warning < self.critical <= 1.0:  # false for NaN, too
            raise StartupRefused(
                f"QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD={self.exit:g}, "
                f"QRUSTY_MEMORY_PRESSURE_THRESHOLD={self.warning:g} "
                f"and QRUSTY_MEMORY_CRITICAL_THRESHOLD={self.critical:g} must rise in this order, above 0 and up to 1."
            )

    @classmethod
    def around(cls, *, warning: float | None, critical: float | None, way_out: float | None) -> Self:
        """Thresholds with the given shares, and defaults for the others. A default that does not fit is adjusted.

        Raises StartupRefused when the given shares do not fit together.
        """
        if critical is None:
            highest = max(warning or 0.0, way_out or 0.0)
            critical = CRITICAL_SHARE if highest < CRITICAL_SHARE else (highest + 1.0) / 2
        if warning is None:
            if way_out is None:
                warning = WARNING_SHARE if critical > WARNING_SHARE else critical * WARNING_SHARE / CRITICAL_SHARE
            else:
                warning = WARNING_SHARE if way_out < WARNING_SHARE < critical else (way_out + critical) / 2
        if way_out is None:
            way_out = EXIT_SHARE if warning > EXIT_SHARE else warning * EXIT_SHARE / WARNING_SHARE
        return cls(warning, critical, way_out)


PASSING: dict[Level, tuple[Step, ...]] = {
    Level.NORMAL: (),
    Level.WARNING: (Step.DROP_IDLE, Step.SHRINK_INDEXES, Step.FLUSH_MEMTABLES),
    Level.CRITICAL: (Step.DROP_IDLE, Step.SHRINK_INDEXES, Step.FLUSH_MEMTABLES, Step.COMPACT_PAYLOADS),
}
"""Taken when usage rises into a level, and every `REPEAT_SECONDS` while the level lasts."""

STANDING: dict[tuple[Level, Level], tuple[Step, ...]] = {
    (Level.NORMAL, Level.WARNING): (Step.QUARTER_CACHE,),
    # Stop the growth of memory first. No QUARTER_CACHE is needed: the minimum is less than a quarter.
    (Level.NORMAL, Level.CRITICAL): (Step.REFUSE_PUBLISHES, Step.MINIMAL_CACHE, Step.TRIM_TIERS),
    (Level.WARNING, Level.CRITICAL): (Step.REFUSE_PUBLISHES, Step.MINIMAL_CACHE, Step.TRIM_TIERS),
    (Level.CRITICAL, Level.WARNING): (Step.QUARTER_CACHE, Step.WIDEN_TIERS, Step.ACCEPT_PUBLISHES),
    (Level.CRITICAL, Level.NORMAL): (Step.RESTORE, Step.ACCEPT_PUBLISHES),
    (Level.WARNING, Level.NORMAL): (Step.RESTORE,),
}
"""Taken once, when the level changes."""


class PressureMachine:
    """The level, and when steps were last taken. One instance per server. Times are seconds of a monotonic clock.

    Requirements: SCH-0038
    """

    __slots__ = ("_compacted_at", "_repeat_at", "level", "thresholds")

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.level = Level.NORMAL
        self._repeat_at = 0.0
        self._compacted_at: float | None = None

    def observe(self, usage: int, limit: int, now: float) -> tuple[Step, ...]:
        """Take a reading and return the steps to take now, in order. Updates `level`.

        `usage` and `limit` are bytes; `limit` is more than 0.

        Requirements: SCH-0039
        """
        before, self.level = self.level, self._next(usage / limit)
        steps = STANDING.get((before, self.level), ())
        rising = self.level > before
        if rising or now >= self._repeat_at:
            steps += PASSING[self.level]
            self._repeat_at = now + REPEAT_SECONDS
        if self.level and (self._compacted_at is None or now - self._compacted_at >= COMPACTION_COOLDOWN_SECONDS):
            steps += (Step.COMPACT_STORE,)
            self._compacted_at = now
        return steps

    def _next(self, share: float) -> Level:
        bounds = self.thresholds
        if share >= bounds.critical:
            return Level.CRITICAL
        if share >= bounds.warning:
            # Between warning and critical: rise from normal, but do not yet fall from critical.
            return max(self.level, Level.WARNING)
        if share >= bounds.exit:
            return min(self.level, Level.WARNING)
        return Level.NORMAL
