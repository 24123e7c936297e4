"""The task that watches memory and sheds load before the kernel kills the process.

Rule: memory is read every `POLL_SECONDS`, and a reading never waits for a slow step. Blocking steps (flush, compaction)
run in threads and child tasks, each at most once at a time. So publishes are accepted again as soon as memory allows,
even if other steps are still running. The policy (levels, thresholds, steps) is in core/pressure.py.

Requirements: SYS-0012
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from qrusty_trio.core.pressure import Level, PressureMachine, Step, Thresholds
from qrusty_trio.errors import QrustyError
from qrusty_trio.server.memory_usage import UsageSource, return_freed
from qrusty_trio.server.trouble import Trouble
from qrusty_trio.storage.files import explained

POLL_SECONDS = 1.0
MIB = 1024 * 1024
MINIMAL_CACHE_BYTES = MIB
TIER_FRACTION = 0.10
CACHE_PIECE_BYTES = 4 * MIB
"""The block cache shrinks in pieces of this size, or in `CACHE_PIECES` pieces if those are larger. Freed memory is
returned to the system after each piece. 127 MiB at once block the loop for 16 ms; pieces of 4 MiB block it for under
4 ms at a time."""
CACHE_PIECES = 32
PIECE_PAUSE_SECONDS = 0.02

log = logging.getLogger(__name__)


class PressureTarget(Protocol):
    """What can free memory. Every method is idempotent, and cheap when repeated.

    The async ones run on the loop in pieces under 2 ms. Any may raise `StorageFault`, which is logged; the other steps
    continue.

    Requirements: SCH-0041
    """

    def refuse_publishes(self, refuse: bool) -> None:
        """True: refuse publishes with `errors.MemoryPressure` from now on. Consume, ack and nack still work."""

    def set_cache_bytes(self, capacity: int) -> None:
        """Resize the block cache to `capacity` bytes. Called in a thread (0.15 ms for each MiB freed)."""

    async def trim_tiers(self, fraction: float) -> None:
        """Limit every hot tier to this fraction of its configured size until the next call."""

    async def drop_idle_structures(self) -> None:
        """Free the structures of empty queues that can be rebuilt on their next use."""

    async def shrink_indexes(self) -> None:
        """Shrink the lock index and dedup caches to what correctness needs. They stay small until `restore`."""

    async def compact_payloads(self) -> None:
        """Compact payload segments once. Cancelled at shutdown."""

    def flush_memtables(self) -> None:
        """Write memtables to disk. Called in a thread; see `compact_range` for shutdown."""

    def compact_range(self) -> None:
        """Compact the whole store. Called in a thread; takes seconds to minutes.

        On cancellation the thread is abandoned. Closing the store must abort the compaction and wait for its end.
        """

    async def restore(self) -> None:
        """Restore hot tiers, lock index and dedup caches to their configured sizes. The caller restores the cache."""


@dataclass(frozen=True, slots=True)
class PressureSettings:
    """The normal size of the block cache, and the thresholds of memory pressure."""

    cache_bytes: int
    """Size of the block cache without pressure."""
    thresholds: Thresholds = field(default_factory=Thresholds)


@dataclass(slots=True)
class PressureStatus:
    """The last reading, for /stats and /health. Written only by `monitor`; valid once that has started."""

    level: Level = Level.NORMAL
    usage_bytes: int = 0
    limit_bytes: int = 0
    source: str = ""
    """Where the two figures come from; see `memory_usage.Usage`."""

    @property
    def under_pressure(self) -> bool:
        """`memory_pressure` of /stats and /health: warning or critical. Publishes are refused at critical only."""
        return self.level >= Level.WARNING


async def monitor(
    source: UsageSource,
    target: PressureTarget,
    settings: PressureSettings,
    status: PressureStatus,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Read memory every `POLL_SECONDS` and take the steps for its level, until cancelled.

    Reports as started after the first reading. On cancellation, tasks end at once and nothing is restored. A flush or
    compaction in a thread is abandoned; closing the store ends it.

    Requirements: SCH-0044
    """
    async with trio.open_nursery() as nursery:
        watch = _Watch(source, target, settings, status, nursery)
        await watch.poll()
        task_status.started()
        while True:
            await trio.sleep(POLL_SECONDS)
            await watch.poll()


class _Watch:
    """The state of one `monitor`: the state machine, and which child tasks are running."""

    def __init__(
        self,
        source: UsageSource,
        target: PressureTarget,
        settings: PressureSettings,
        status: PressureStatus,
        nursery: trio.Nursery,
    ) -> None:
        self._source = source
        self._target = target
        self._status = status
        self._nursery = nursery
        self._machine = PressureMachine(settings.thresholds)
        self._trouble = Trouble(log, "memory could not be read, trying again every second")
        self._cache_bytes = settings.cache_bytes
        self._cache_now = self._cache_goal = settings.cache_bytes
        # One thread each for flush, compaction, cache and allocator, so that none waits for another.
        self._threads = trio.CapacityLimiter(4)
        self._at_work: set[str] = set()
        self._short: dict[Step, Callable[[], Awaitable[None]]] = {
            Step.REFUSE_PUBLISHES: partial(self._refuse, True),
            Step.ACCEPT_PUBLISHES: partial(self._refuse, False),
            Step.TRIM_TIERS: partial(target.trim_tiers, TIER_FRACTION),
            Step.WIDEN_TIERS: partial(target.trim_tiers, 1.0),
            Step.DROP_IDLE: target.drop_idle_structures,
            Step.SHRINK_INDEXES: target.shrink_indexes,
            Step.RESTORE: target.restore,
        }
        self._long: dict[Step, Callable[[], Awaitable[None]]] = {
            Step.FLUSH_MEMTABLES: partial(self._abandonable, target.flush_memtables),
            Step.COMPACT_STORE: partial(self._abandonable, target.compact_range),
            Step.COMPACT_PAYLOADS: target.compact_payloads,
        }
        self._cache_goals = {
            Step.QUARTER_CACHE: settings.cache_bytes // 4,
            Step.MINIMAL_CACHE: min(MINIMAL_CACHE_BYTES, settings.cache_bytes // 4),
            Step.RESTORE: settings.cache_bytes,
        }

    async def poll(self) -> None:
        """Take one reading and its steps. A reading that fails is logged, and the next poll tries again."""
        try:
            usage = self._source.read()
        except Exception as error:  # noqa: BLE001  # logged there
            self._trouble.note(error)
            return
        before = self._machine.level
        steps = self._machine.observe(usage.usage_bytes, usage.limit_bytes, trio.current_time())
        status, status.level = self._status, self._machine.level
        status.usage_bytes, status.limit_bytes, status.source = usage
        if status.level != before:
            log.log(
                logging.WARNING if status.level > before else logging.INFO,
                "memory pressure: %s, was %s: %.1f of %.1f MiB in use (%.0f %%, %s)",
                status.level.name.lower(),
                before.name.lower(),
                usage.usage_bytes / MIB,
                usage.limit_bytes / MIB,
                100 * usage.usage_bytes / usage.limit_bytes,
                usage.source,
            )
        for step in steps:
            await self._take(step)

    async def _take(self, step: Step) -> None:
        if step in self._cache_goals:
            self._cache_goal = self._cache_goals[step]
            self._start("resize cache", self._resize_cache)
        if step in self._short:
            await self._logged(step.value, self._short[step])
        if step in self._long:
            action = partial(self._and_return_freed, self._long[step])
            self._start(step.value, partial(self._logged, step.value, action))

    def _start(self, name: str, action: Callable[[], Awaitable[object]]) -> None:
        """Run `action` in a child task unless it is already running. A passing step will be repeated anyway."""
        if name not in self._at_work:
            self._at_work.add(name)
            self._nursery.start_soon(self._child, name, action)

    async def _child(self, name: str, action: Callable[[], Awaitable[object]]) -> None:
        try:
            await action()
        finally:
            self._at_work.discard(name)

    async def _logged(self, name: str, action: Callable[[], Awaitable[None]]) -> bool:
        """Take a step and log what it freed. Returns whether it succeeded. An error fails only this step."""
        resident, started = self._resident(), trio.current_time()
        try:
            await action()
        except Exception as error:
            expected = isinstance(error, QrustyError | OSError | MemoryError)
            log.warning("memory step failed: %s: %s", name, explained(error), exc_info=None if expected else error)
            return False
        now = self._resident()
        log.info(
            "memory step: %s: freed %.1f MiB in %.3f s (resident %.1f MiB, was %.1f)",
            name,
            (resident - now) / MIB,
            trio.current_time() - started,
            now / MIB,
            resident / MIB,
        )
        return True

    def _resident(self) -> int:
        """Resident memory in bytes, for the log only. 0 if it can't be read."""
        try:
            return self._source.resident_bytes()
        except Exception as error:  # noqa: BLE001  # logged there
            self._trouble.note(error)
            return 0

    async def _refuse(self, refuse: bool) -> None:
        self._target.refuse_publishes(refuse)

    async def _abandonable(self, blocking: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(blocking, abandon_on_cancel=True, limiter=self._threads)

    async def _and_return_freed(self, action: Callable[[], Awaitable[None]]) -> None:
        await action()
        await trio.to_thread.run_sync(return_freed, limiter=self._threads)

    async def _resize_cache(self) -> None:
        """Resize the block cache to its goal, which may change meanwhile."""
        while self._cache_now != self._cache_goal:
            goal = self._cache_goal
            if not await self._logged(f"block cache to {goal / MIB:.1f} MiB", partial(self._resize_cache_to, goal)):
                return

    async def _resize_cache_to(self, goal: int) -> None:
        """Grow the cache at once or shrink it in pieces. Ends early when the goal changes."""
        piece = max(CACHE_PIECE_BYTES, self._cache_bytes // CACHE_PIECES)
        while self._cache_now != goal == self._cache_goal:
            shrinks = goal < self._cache_now
            capacity = max(goal, self._cache_now - piece) if shrinks else goal
            await trio.to_thread.run_sync(self._target.set_cache_bytes, capacity, limiter=self._threads)
            self._cache_now = capacity
            if shrinks:
                await trio.to_thread.run_sync(return_freed, limiter=self._threads)
                await trio.sleep(PIECE_PAUSE_SECONDS)
