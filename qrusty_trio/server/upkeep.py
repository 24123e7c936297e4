"""Upkeep: keeps the use of memory and disk from creeping up over hours.

Rule: upkeep delays no request. What would block the loop for more than `LONG_SECONDS` waits until the server has been
idle for a second. On a server that is never idle it is not done until memory is short; see `server/pressure.py`.

    garbage in reference cycles, which automatic collections may not reach for an hour
    memory that was freed but is kept by the C allocator
    entries that range deletes removed from a store in memory
    disk space of purged messages, which RocksDB frees only when more is written

Requirements: SCH-0036
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Awaitable, Callable

import trio

from qrusty_trio.core.keys import prefix
from qrusty_trio.core.model import MAX_QUEUES
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.memory_usage import return_freed
from qrusty_trio.server.trouble import Trouble
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.reclaim import Span
from qrusty_trio.wording import counted

MIB = 1024 * 1024
LOOK_SECONDS = 1.0
MEMORY_SECONDS = 30.0
"""Interval between two collections, and between two returns of freed memory. Returning memory takes 5 to 20 ms with
120 MiB in use, however little there is to return, and mostly holds the allocator's lock. So it waits for a quiet
moment."""
LONG_SECONDS = 0.002
YOUNG_COLLECTIONS = 1
"""Up to this many automatic collections of the youngest generation (10,000 objects each), the next generation is small
enough to be collected at any time. That takes up to 2 ms."""
DISK_SECONDS = 10.0
"""Interval for checking whether purged messages still use disk space."""
RETRY_SECONDS = 300.0
"""Interval between attempts when that space could not be freed."""
DEAD_BYTES = 32 * MIB
"""A compaction is worth it from this many dead bytes on."""
DEAD_MESSAGES = 64
"""With fewer purged messages, their bytes are not estimated at all."""
MAX_SPANS = 64
"""Runs of adjacent queues compacted at a time, those with the most messages first. The rest is left to the compactions
that writes cause."""
QUEUES_PER_STEP = 1000

log = logging.getLogger(__name__)


class Collector:
    """Collects garbage in cycles. It does so on the loop, because a collection stops all threads anyway.

    Requirements: SCH-0036
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        """Estimated CPU time of a full collection."""
        self._middle: int | None = None
        """Collections of the middle generation since the last full one, as far as known here."""
        self._frozen = False

    def collect(self, quiet: bool) -> bool:
        """Collect everything, unless that would take long and the server is busy. Returns whether it was done."""
        _, young, middle = gc.get_count()
        if not quiet:
            # After collections that were not measured here, there may be any number of objects.
            unknown = young > YOUNG_COLLECTIONS or middle != (self._middle or 0)
            if unknown or self._seconds > LONG_SECONDS:
                return False
            self._seconds += _timed(1)
            self._middle = gc.get_count()[2]
            if self._seconds > LONG_SECONDS:
                return False
        self._seconds = _timed(2)
        self._middle = 0
        if self._seconds > LONG_SECONDS:
            # Freeze, so that only one collection takes long: later ones skip what has survived this one, such as
            # thousands of new queues.
            gc.freeze()
            self._frozen = True
            self._seconds = 0.0
        return True

    def collect_frozen(self) -> None:
        """Collect frozen objects as well. May take 20 ms or more, so it is only for when memory is short."""
        if self._frozen:
            self._frozen = False
            gc.unfreeze()
            gc.collect()
            gc.freeze()


def _timed(generation: int) -> float:
    began = time.thread_time()
    gc.collect(generation)
    return time.thread_time() - began


class Upkeep:
    """The upkeep tasks. `trim` returns freed memory to the system; it blocks."""

    def __init__(
        self, engine: Engine, storage: Storage, collector: Collector, trim: Callable[[], None] = return_freed
    ) -> None:
        self._engine = engine
        self._storage = storage
        self._collector = collector
        self._trim = trim
        self._threads = trio.CapacityLimiter(2)
        self._trouble = Trouble(log, "upkeep failed, will try again")
        self._purged: dict[int, int] = {}
        """Queue number -> purged messages that may still use disk space."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep memory and disk small until cancelled. A running compaction is abandoned; closing the store ends it.

        Requirements: PER-0051
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._memory)
            if self._storage.persistent:
                nursery.start_soon(self._disk)
            task_status.started()

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Run a step; an error ends only this step. Returns whether it succeeded."""
        try:
            await step()
        except Exception as error:  # noqa: BLE001  # logged there
            self._trouble.note(error)
            return False
        return True

    # Memory

    async def _memory(self) -> None:
        engine = self._engine
        seen = engine.transactions
        # -1, because loading the store also leaves memory to collect and return.
        collected = trimmed = -1
        collect_at = trim_at = trio.current_time() + MEMORY_SECONDS
        while True:
            await trio.sleep(LOOK_SECONDS)
            while self._storage.tidy():
                await trio.lowlevel.checkpoint()
            quiet, seen = engine.transactions == seen, engine.transactions
            now = trio.current_time()
            if now >= collect_at and seen != collected and self._collector.collect(quiet):
                collected, collect_at = seen, now + MEMORY_SECONDS
            if now >= trim_at and seen != trimmed and quiet:
                await self._guarded(self._return_freed)
                trimmed, trim_at = seen, now + MEMORY_SECONDS

    async def _return_freed(self) -> None:
        await trio.to_thread.run_sync(self._trim, limiter=self._threads)

    # Disk

    async def _disk(self) -> None:
        broker = self._engine.broker
        look, look_at = False, 0.0
        while True:
            await trio.sleep(DISK_SECONDS)
            # Purges since the last check wait for the next one, because they may not be written yet.
            fresh = broker.catalog.take_emptied()
            if look and trio.current_time() >= look_at and self._engine.fault is None:
                look = not await self._guarded(self._give_back)
                look_at = trio.current_time() + RETRY_SECONDS if look else 0.0
            for number, messages in fresh.items():
                if number in self._purged or len(self._purged) < MAX_QUEUES:
                    self._purged[number] = self._purged.get(number, 0) + messages
                    look = True

    async def _give_back(self) -> None:
        """Compact the ranges of purged messages if that frees enough space.

        Requirements: PER-0050
        """
        runs: list[tuple[int, int, int]] = []
        for index, number in enumerate(sorted(self._purged), 1):
            messages = self._purged[number]
            if runs and runs[-1][2] == number:
                before, first, _ = runs[-1]
                runs[-1] = before + messages, first, number + 1
            else:
                runs.append((messages, number, number + 1))
            if index % QUEUES_PER_STEP == 0:
                await trio.lowlevel.checkpoint()
        runs.sort(reverse=True)
        spans = [Span(prefix(first), prefix(behind), messages) for messages, first, behind in runs[:MAX_SPANS]]
        messages = sum(span.keys for span in spans)
        if messages < DEAD_MESSAGES:
            return
        began = trio.current_time()
        freed = await trio.to_thread.run_sync(
            self._reclaim_in_thread, spans, abandon_on_cancel=True, limiter=self._threads
        )
        if freed is not None:
            self._purged.clear()
            what = counted(messages, "message")
            log.info("%s purged: %.1f MiB of disk given back in %.1f s", what, freed / MIB, trio.current_time() - began)

    def _reclaim_in_thread(self, spans: list[Span]) -> int | None:
        """Compact the ranges. Returns the bytes of disk space freed; None when it was not worth a compaction."""
        before = self._storage.disk_bytes()
        return before - self._storage.disk_bytes() if self._storage.reclaim(spans, DEAD_BYTES) else None
