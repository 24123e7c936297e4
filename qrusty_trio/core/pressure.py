"""When memory gets scarce, and what is done about it: the levels, the thresholds and the steps, as a state machine.

Rule: pure. Usage, limit and time are arguments; `observe` answers with the steps to take, in order, and somebody else
(`server/pressure.py`) takes them. The tables below are the whole policy.

    normal ── usage >= warning ──> warning ── usage >= critical ──> critical
    normal <── usage < exit ────── warning <── usage < warning ──── critical

Each way back is lower than the way there, so a level that was just entered is not left by the same reading. A jump
from normal to critical, or back, happens in one reading.

Two kinds of steps: standing ones (cache size, tier size, refused publishes) hold until they are undone; passing ones
(flush, drop, shrink, compact) free what is there now and are repeated while the level lasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from qrusty_trio.errors import StartupRefused

REPEAT_SECONDS = 30.0
"""Passing steps are repeated this often while a level lasts."""
COMPACTION_COOLDOWN_SECONDS = 900.0
"""At least this long from the start of one compaction of the whole store to the start of the next."""


class Level(IntEnum):
    """How scarce memory is. Ordered: `level >= Level.WARNING` is what clients see as memory pressure."""

    NORMAL = 0
    WARNING = 1
    CRITICAL = 2


class Step(Enum):
    """One measure. The value is what the log calls it."""

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
    """Shares of the memory limit, 0 to 1. Raises `StartupRefused` when they make no sense together."""

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
        """The shares that are given, and for the others their defaults; a default that does not fit gives way.

        Raises StartupRefused when those given do not fit each other.
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
"""Done on the way up into a level, and every `REPEAT_SECONDS` while it lasts."""

STANDING: dict[tuple[Level, Level], tuple[Step, ...]] = {
    (Level.NORMAL, Level.WARNING): (Step.QUARTER_CACHE,),
    # What lets memory grow is stopped first. The minimal cache is also under a quarter: critical is warning and more.
    (Level.NORMAL, Level.CRITICAL): (Step.REFUSE_PUBLISHES, Step.MINIMAL_CACHE, Step.TRIM_TIERS),
    (Level.WARNING, Level.CRITICAL): (Step.REFUSE_PUBLISHES, Step.MINIMAL_CACHE, Step.TRIM_TIERS),
    (Level.CRITICAL, Level.WARNING): (Step.QUARTER_CACHE, Step.WIDEN_TIERS, Step.ACCEPT_PUBLISHES),
    (Level.CRITICAL, Level.NORMAL): (Step.RESTORE, Step.ACCEPT_PUBLISHES),
    (Level.WARNING, Level.NORMAL): (Step.RESTORE,),
}
"""Done once, when the level changes."""


class PressureMachine:
    """The level, and when what was last done. One instance per server; times are seconds of one monotonic clock."""

    __slots__ = ("_compacted_at", "_repeat_at", "level", "thresholds")

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.level = Level.NORMAL
        self._repeat_at = 0.0
        self._compacted_at: float | None = None

    def observe(self, usage: int, limit: int, now: float) -> tuple[Step, ...]:
        """Take a reading (bytes in use, bytes allowed, more than 0); the steps to take now, in order.

        `level` is the new level when this returns.
        """
        before, self.level = self.level, self._next(usage / limit)
        steps = STANDING.get((before, self.level), ())
        rising = self.level > before
        if self.level and (rising or now >= self._repeat_at):
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
            # Between warning and critical: up from normal, but not yet down from critical.
            return max(self.level, Level.WARNING)
        if share >= bounds.exit:
            return min(self.level, Level.WARNING)
        return Level.NORMAL
