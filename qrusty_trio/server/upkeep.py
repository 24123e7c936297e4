"""What keeps memory and disk from creeping over hours.

Rule: nobody is held up by it. What would hold the loop for more than `LONG_SECONDS` waits until nothing was asked of
the server for a second. A server that is never quiet goes on without until memory is short; see `server/pressure.py`.

    garbage in reference cycles, which no automatic collection may come to see in an hour
    memory that was freed, and that the C allocator keeps
    what range deletes took out of a store in memory
    disk space of what was purged, which RocksDB gives back only when more is written
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
"""Between two collections, and between two returns of freed memory. The latter take 5 to 20 ms with 120 MiB, most of it
with the allocator's lock held and however little there is to give back: so they are for quiet moments only."""
LONG_SECONDS = 0.002
YOUNG_COLLECTIONS = 1
"""Automatic collections of the youngest objects that leave so few for the next generation (10,000 each) that this one
can be collected at any time: up to 2 ms."""
DISK_SECONDS = 10.0
"""Between two looks at what was purged."""
RETRY_SECONDS = 300.0
"""Between two tries when it could not be given back."""
DEAD_BYTES = 32 * MIB
"""From so much on a compaction is worth it."""
DEAD_MESSAGES = 64
"""With fewer nobody looks how many bytes they are."""
MAX_SPANS = 64
"""Runs of queues that are compacted in one go, those with the most messages; the rest is left to the compactions that
writing causes."""
QUEUES_PER_STEP = 1000

log = logging.getLogger(__name__)


class Collector:
    """Collects garbage in cycles, on the loop: there is no other place, as it stops all threads."""

    def __init__(self) -> None:
        self._seconds = 0.0
        """What a full collection would take by now, of processor time."""
        self._middle: int | None = None
        """Collections of the middle generation since the last full one, as far as they are known here."""
        self._frozen = False

    def collect(self, quiet: bool) -> bool:
        """Collect everything, unless it would take long and the server is busy. Whether it was done."""
        _, young, middle = gc.get_count()
        if not quiet:
            # After collections that were not measured here there may be any number of objects.
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
            # So that it is long only once: what has survived, such as thousands of new queues, is not looked at again.
            gc.freeze()
            self._frozen = True
            self._seconds = 0.0
        return True

    def collect_frozen(self) -> None:
        """Collect what was not looked at again, too. May take 20 ms and more: for when memory is short."""
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
    """The tasks. `trim` gives freed memory back to the system; it blocks."""

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
        """Queue number -> messages that may still take up space on disk."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after memory and disk until cancelled. A compaction at work is abandoned to the closing of the store."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._memory)
            if self._storage.persistent:
                nursery.start_soon(self._disk)
            task_status.started()

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Whatever goes wrong ends the step only."""
        try:
            await step()
        except Exception as error:  # noqa: BLE001  # told there
            self._trouble.note(error)
            return False
        return True

    # Memory

    async def _memory(self) -> None:
        engine = self._engine
        seen = engine.transactions
        # Loading leaves something to be given back, too.
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
            # What was purged since the last look waits for the next one: it may not be written yet.
            fresh = broker.catalog.take_emptied()
            if look and trio.current_time() >= look_at and self._engine.fault is None:
                look = not await self._guarded(self._give_back)
                look_at = trio.current_time() + RETRY_SECONDS if look else 0.0
            for number, messages in fresh.items():
                if number in self._purged or len(self._purged) < MAX_QUEUES:
                    self._purged[number] = self._purged.get(number, 0) + messages
                    look = True

    async def _give_back(self) -> None:
        """Compact the ranges of what was purged, if that is enough to be worth it."""
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
        """How many bytes were given back; None when it was not worth it."""
        before = self._storage.disk_bytes()
        return before - self._storage.disk_bytes() if self._storage.reclaim(spans, DEAD_BYTES) else None
