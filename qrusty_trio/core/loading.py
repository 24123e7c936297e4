"""Loading a store into memory: at start-up and after a fault.

Rule: work is done in steps of about a millisecond, and a step reads no more than it needs. No messages are read,
because counters are stored. Of the locks, only those still in force are read.

Requirements: PER-0017
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from qrusty_trio.core import records
from qrusty_trio.core.catalog import Catalog
from qrusty_trio.core.deduplication import Deduplication
from qrusty_trio.core.hot_tier import Tiers
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import COUNTERS, DEAD_FROM, LOCKS_FROM, NEXT_QUEUE, QUEUE_CONFIG, lock_key, prefix
from qrusty_trio.core.locks import LockIndex
from qrusty_trio.core.payloads import Payloads
from qrusty_trio.core.queue import Lock, Queue
from qrusty_trio.core.records import NO_CLOCK, ClockFrame
from qrusty_trio.wording import counted

QUEUES_PER_STEP = 100
LOCKS_PER_STEP = 200
LOCK_NUMBERS_PER_STEP = 4_000
"""Lock numbers that one step scans. Those of deleted locks cost 0.1 µs each."""

log = logging.getLogger(__name__)


class Loader:
    """Reads a store into the parts of a broker.

    Requirements: PER-0008
    """

    def __init__(
        self,
        journal: Journal,
        catalog: Catalog,
        locks: LockIndex,
        payloads: Payloads,
        deduplication: Deduplication,
        tiers: Tiers,
    ) -> None:
        self._journal = journal
        self._catalog = catalog
        self._locks = locks
        self._payloads = payloads
        self._deduplication = deduplication
        self._tiers = tiers

    def load(self, clock: ClockFrame, now: int) -> Iterator[None]:
        """Read queues, their counters and locks into memory, in steps of about a millisecond. Raises StorageFault.

        After a fault, everything in memory is dropped except the next queue and lock numbers: none is used twice within
        a process. `clock` and `now` (wall ms) are those of this process.
        """
        journal = self._journal
        journal.attach()
        self._deduplication.stop_all()
        self._locks.forget_connections()
        for index, queue in enumerate(self._catalog.forget_all(), 1):
            self._locks.forget(queue)
            if index % QUEUES_PER_STEP == 0:
                yield
        number = journal.get(journal.meta, NEXT_QUEUE)
        if number is not None:
            self._catalog.next_number = max(self._catalog.next_number, int.from_bytes(number, "big"))
        begin, end = QUEUE_CONFIG, QUEUE_CONFIG + b"\xff" * 5
        while pairs := journal.scan(journal.meta, begin, end, QUEUES_PER_STEP):
            for key, config in pairs:
                self._load_queue(key[1:], config)
            begin = pairs[-1][0] + b"\x00"
            yield
        if self._payloads.index is not None:
            yield from self._payloads.index.load()
        yield from self._check_orphans()
        for queue in self._catalog.everything():
            if queue.locked:
                yield from self._load_locks(queue, clock, now)
            if queue.deduplicating:
                self._deduplication.resume(queue)
        self._locks.look_again()
        self._catalog.loaded()

    def _load_queue(self, number: bytes, config: bytes) -> None:
        journal = self._journal
        counters = journal.get(journal.meta, COUNTERS + number)
        if counters is None:
            raise journal.damaged(f"the counters of queue number {int.from_bytes(number, 'big')} are missing")
        locks_from = int.from_bytes(journal.get(journal.meta, LOCKS_FROM + number) or b"", "big")
        dead_bounds = journal.get(journal.meta, DEAD_FROM + number)
        limits = self._tiers.limits
        queue = Queue.stored(int.from_bytes(number, "big"), config, counters, limits, locks_from, dead_bounds)
        known = self._catalog.before.get(queue.number)
        queue.next_lock = max(queue.next_lock, known.next_lock if known is not None else self._catalog.lock_floor)
        if queue.kept is not None:
            self._catalog.keep(queue)
            return
        if known is not None:
            queue.rates = known.rates
        self._catalog.enter(queue)

    def _check_orphans(self) -> Iterator[None]:
        """Raise StorageFault if there are locks of a queue that does not exist; their messages would be lost silently.

        Scans LOCKS between the numbers of the queues there are.
        """
        journal = self._journal
        after = 0
        for index, number in enumerate(
            [*sorted(self._catalog.by_number.keys() | self._catalog.kept.keys()), 2**32 - 1], 1
        ):
            if number > after and journal.scan(journal.locks, prefix(after), prefix(number), 1):
                raise journal.damaged(f"there is a lock of a queue before number {number}, but no such queue")
            after = number + 1
            if index % QUEUES_PER_STEP == 0:
                yield

    def _load_locks(self, queue: Queue, clock: ClockFrame, now: int) -> Iterator[None]:
        """Read the locks of a queue.

        A step is bounded by lock numbers as well as by locks, because the numbers of deleted locks also take time.
        """
        journal = self._journal
        number = queue.locks_from
        while len(queue.locks) < queue.locked and number < queue.next_lock:
            end = min(number + LOCK_NUMBERS_PER_STEP, queue.next_lock)
            pairs = journal.scan(
                journal.locks, lock_key(queue.number, number), lock_key(queue.number, end), LOCKS_PER_STEP
            )
            for key, value in pairs:
                self._load_lock(queue, int.from_bytes(key[4:], "big"), value, clock, now)
            number = int.from_bytes(pairs[-1][0][4:], "big") + 1 if len(pairs) == LOCKS_PER_STEP else end
            yield
        if len(queue.locks) != queue.locked:
            log.error(
                "queue '%s' counted %s, but the store holds %d; that is the count now",
                queue.name,
                counted(queue.locked, "locked message"),
                len(queue.locks),
            )
            queue.locked = len(queue.locks)
            journal.mark(queue)

    def _load_lock(self, queue: Queue, number: int, value: bytes, clock: ClockFrame, now: int) -> None:
        stored = records.unpack_lock(value)
        _, _, _, _, id = records.unpack_message(stored.record)
        external = records.reference_of(stored.record)
        end = records.end_now(stored, clock, now) if clock is not NO_CLOCK else stored.expires_at_ms
        consumer = stored.consumer_id
        lock = Lock(
            id.decode(), queue, number, stored.key, consumer, end, stored.deliveries, stored.digest, external, 0
        )
        self._locks.add(lock)
