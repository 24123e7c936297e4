"""The queues of a store: made, found, renamed, emptied, deleted, counted; and read back at start-up.

Rule: a queue is its number. The name is a label that one write changes, so a rename keeps everything; purge and
delete are range deletes. Numbers are never used again.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple

from qrusty_trio.core import duplicates, loading
from qrusty_trio.core.digests import Digests
from qrusty_trio.core.externals import DEAD_LETTER, LIVE, REFERENCE_BYTES, Externals
from qrusty_trio.core.hot_tier import TIERS_BYTES, TierLimits
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import prefix
from qrusty_trio.core.loading import NEVER, NEXT_QUEUE, NO_CLOCK
from qrusty_trio.core.locks import LockIndex
from qrusty_trio.core.model import MAX_QUEUE_NAME_BYTES, MAX_QUEUES, Priority, QueueConfig, QueueStats
from qrusty_trio.core.queue import CONFIG, COUNTERS, LOCKS_FROM, Queue
from qrusty_trio.core.rates import Point
from qrusty_trio.core.records import EXTERNAL, PAYLOAD_AT, ClockFrame
from qrusty_trio.errors import (
    InvalidQueueName,
    LimitReached,
    PayloadUnreadable,
    QueueExists,
    QueueNotFound,
    StorageFault,
)
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.payloads import PayloadRef, PayloadStore
from qrusty_trio.wording import counted

QUEUES_PER_STEP = 100

log = logging.getLogger(__name__)


class Removed(NamedTuple):
    """A message that was removed because its payload is broken."""

    queue: str
    id: str
    priority: Priority
    reason: str
    segment: int
    offset: int
    length: int


class Registry:
    """The state behind the broker. A non-empty store is read by `load` before anything else."""

    def __init__(
        self,
        storage: Storage,
        *,
        hot_tier_size: int = 1000,
        refill_threshold: int = 250,
        max_locked_index: int = 500_000,
        payloads: PayloadStore | None = None,
        externalize_min_bytes: int | None = 4096,
    ) -> None:
        """`payloads` keeps payloads of `externalize_min_bytes` and more (None: keeps none that are new)."""
        self.journal = Journal(storage)
        self.digests = Digests(self.journal)
        self.externals = Externals(self.journal, payloads) if payloads is not None else None
        self.externalize_min_bytes = externalize_min_bytes if externalize_min_bytes is not None else NEVER
        self.max_locked_index = max_locked_index
        self.hot_tier_size = hot_tier_size
        self.refill_threshold = refill_threshold
        self.limits = TierLimits(hot_tier_size, refill_threshold)
        self._tier_share = 1.0
        self.clock_frame = NO_CLOCK.pack()
        """The clock that `now` is taken from, for the records of locks."""
        self.queues: dict[str, Queue] = {}
        self.by_number: dict[int, Queue] = {}
        self._names: list[str] = []
        self.next_number = 1
        self.lock_floor = 0
        """No queue that was deleted has given a lock a number that is not lower: should it come back, as its deletion
        was not stored, it goes on from there."""
        self.unread: dict[int, Queue] = {}
        """Queues from before a load, by number, until one has come to its end."""
        self.locks = LockIndex()
        self.wake_at = NEVER
        """No lock ends before this, wall milliseconds."""
        self.ready: set[int] = set()
        """Queues in `watched` in which something became available; the dispatcher clears it."""
        self.watched: set[int] = set()
        """Queues with waiting subscribers; the dispatcher keeps it."""
        self.unreadable: set[int] = set()
        """Queues whose first payload could not be read for now: looked at again with the next sample."""
        self.named: list[tuple[int, str | None]] = []
        """Queues (by number) that were made or renamed, with their name, or deleted (None), in order; the dispatcher
        clears it."""
        self.searches: dict[int, Iterator[None]] = {}
        """Queue number -> its search for duplicates."""
        self.removed: list[Removed] = []
        """Messages removed since the owner of the broker last looked (and cleared the list)."""
        self.removed_total = 0
        self.emptied: dict[int, int] = {}
        """Queue number -> messages that were removed with a range delete since the owner last looked (and cleared it).
        Of at most `MAX_QUEUES` queues."""
        self.refused_for_locks = 0
        """Consumes that got nothing since the owner last looked, because the index of locks is full."""
        self.dead_lettered_total = 0
        """Messages that became dead letters since the start."""

    # Queues

    def create_queue(self, name: str, config: QueueConfig) -> None:
        """Raises QueueExists, InvalidQueueName, LimitReached."""
        check_name(name)
        if name in self.queues:
            raise QueueExists(f"Queue '{name}' already exists")
        self._create(name, config)

    def create_default(self, name: str) -> Queue:
        """The queue that a publish to an unknown name makes. Raises InvalidQueueName, LimitReached."""
        check_name(name)
        return self._create(name, QueueConfig())

    def _create(self, name: str, config: QueueConfig) -> Queue:
        if len(self.queues) >= MAX_QUEUES:
            raise LimitReached(f"There are {MAX_QUEUES} queues already, which is the limit")
        queue = Queue(self.next_number, name, config, self.limits)
        self.next_number += 1
        journal = self.journal
        journal.put(NEXT_QUEUE, prefix(self.next_number), journal.meta)
        queue.write_config(journal)
        self.enter(queue)
        return queue

    def forget_queues(self) -> list[Queue]:
        """Everything is read anew. Returns the queues there were; their locks are still in the index."""
        before = list(self.by_number.values())
        self.unread.update(self.by_number)
        self.queues, self.by_number, self._names = {}, {}, []
        self.searches.clear()
        self.ready.clear()
        self.unreadable.clear()
        self.named.clear()
        self.locks.forget_connections()
        return before

    def enter(self, queue: Queue) -> None:
        """A queue was made or read."""
        self.queues[queue.name] = queue
        self.by_number[queue.number] = queue
        insort(self._names, queue.name)
        self.named.append((queue.number, queue.name))
        self._share_tiers()

    def _leave(self, name: str) -> None:
        del self.queues[name]
        del self._names[bisect_left(self._names, name)]

    def _share_tiers(self) -> None:
        self.limits.octets = int(TIERS_BYTES * self._tier_share) // max(1, len(self.queues))

    def update_queue(self, name: str, new_name: str | None, allow_duplicates: bool | None, now: int) -> Iterator[None]:
        """Rename a queue, allow or refuse duplicates in it; a step is about a millisecond.

        Refusing them removes those already queued, all but the first in order. The first step raises QueueNotFound,
        QueueExists and InvalidQueueName; until it has returned nothing has changed.
        """
        if not name.strip():
            raise InvalidQueueName("'name' must not be blank")
        queue = self.queues.get(name)
        if queue is None:
            raise QueueNotFound(f"Queue '{name}' does not exist")
        if new_name is not None and not new_name.strip():
            raise InvalidQueueName("'config.name' must not be blank")
        if new_name is not None and new_name != name:
            check_name(new_name)
            if new_name in self.queues:
                raise QueueExists(f"Queue '{new_name}' already exists")
            self._leave(name)
            queue.name = new_name
            queue.write_config(self.journal)
            self.enter(queue)
        if allow_duplicates is not None and allow_duplicates != queue.config.allow_duplicates:
            queue.config = QueueConfig(queue.config.ordering, allow_duplicates, queue.config.kind)
            queue.settling = not allow_duplicates
            queue.settle_run += 1
            queue.write_config(self.journal)
            self.searches.pop(queue.number, None)
            if allow_duplicates:
                self.journal.delete_range(queue.prefix, queue.end, self.journal.dedup)
                self.journal.commit()
            else:
                self.searches[queue.number] = duplicates.settle(self, queue)
                run = queue.settle_run
                yield
                while queue.settling and queue.settle_run == run and self.by_number.get(queue.number) is queue:
                    self.search(queue)
                    yield
        yield

    @property
    def searching(self) -> bool:
        """Whether duplicates are looked for in some queue: `search_on` is to be called."""
        return bool(self.searches)

    def search_on(self) -> None:
        """Take a step of some search for duplicates. Whoever asked for it may be gone."""
        number = next(iter(self.searches))
        queue = self.by_number.get(number)
        if queue is None:
            del self.searches[number]
        else:
            self.search(queue)

    def search(self, queue: Queue) -> None:
        """Take a step of the search for duplicates in a queue. Raises PayloadUnreadable."""
        search = self.searches.pop(queue.number, None)
        if search is None:
            search = duplicates.settle(self, queue)
        try:
            next(search)
        except PayloadUnreadable:
            # For now: what it has indexed stays, and it begins anew.
            self.searches[queue.number] = duplicates.settle(self, queue)
            raise
        except StopIteration:
            if queue.settling:
                # Turned on and off again meanwhile: that search was void.
                self.searches[queue.number] = duplicates.settle(self, queue)
            return
        self.searches[queue.number] = search

    def purge(self, name: str) -> int:
        """Remove all messages, locked ones too; dead letters stay. Returns how many were removed."""
        queue = self.queues.get(name)
        return self.purge_queue(queue) if queue is not None else 0

    def purge_queue(self, queue: Queue) -> int:
        """The same of a queue that was found before."""
        removed = self._empty(queue)
        # Digests that are pending would be found in memory although the range delete has them.
        self.journal.commit()
        return removed

    def _empty(self, queue: Queue) -> int:
        removed = queue.available + queue.locked
        if removed:
            queue.empty(self.journal)
            self._note_emptied(queue, removed)
            if queue.settling:
                queue.settling = False
                queue.write_config(self.journal)
            if self.externals is not None:
                self.externals.free_all(queue, LIVE)
            self.locks.forget(queue)
        return removed

    def _note_emptied(self, queue: Queue, removed: int) -> None:
        if len(self.emptied) < MAX_QUEUES:
            self.emptied[queue.number] = self.emptied.get(queue.number, 0) + removed

    def delete(self, name: str) -> int:
        """Remove a queue with all it holds. Returns how many messages were removed, dead letters not counted."""
        queue = self.queues.get(name)
        return self.delete_queue(queue) if queue is not None else 0

    def delete_queue(self, queue: Queue) -> int:
        """The same of a queue that was found before."""
        removed = self._empty(queue)
        journal = self.journal
        journal.forget(queue)
        if queue.dead:
            journal.delete_range(queue.prefix, queue.end, journal.dead)
            self._note_emptied(queue, queue.dead)
        journal.delete(CONFIG + queue.prefix, journal.meta)
        journal.delete(COUNTERS + queue.prefix, journal.meta)
        journal.delete(LOCKS_FROM + queue.prefix, journal.meta)
        if self.externals is not None:
            self.externals.free_all(queue, DEAD_LETTER)
        journal.touch()
        self._leave(queue.name)
        del self.by_number[queue.number]
        self.lock_floor = max(self.lock_floor, queue.next_lock)
        self.named.append((queue.number, None))
        self.searches.pop(queue.number, None)
        self.ready.discard(queue.number)
        self.unreadable.discard(queue.number)
        self._share_tiers()
        return removed

    def everything(self) -> list[Queue]:
        """The queues there are now, whatever becomes of their names."""
        return list(self.by_number.values())

    def exists(self, queue: Queue) -> bool:
        """Whether a queue is still there."""
        return self.by_number.get(queue.number) is queue

    @property
    def locks_full(self) -> bool:
        """Whether no message can be locked before some lock is over."""
        return self.locks.count >= self.max_locked_index

    # Questions

    def queue_number(self, name: str) -> int:
        """Raises QueueNotFound."""
        queue = self.queues.get(name)
        if queue is None:
            raise QueueNotFound(f"Queue '{name}' does not exist")
        return queue.number

    def available(self, queue_number: int) -> int:
        queue = self.by_number.get(queue_number)
        return queue.available if queue is not None else 0

    def names(self) -> list[str]:
        return self._names.copy()

    def stats(self, name: str) -> QueueStats | None:
        queue = self.queues.get(name)
        return queue.stats() if queue is not None else None

    def all_stats(self) -> Iterator[QueueStats]:
        """Sorted by name; queues deleted meanwhile are left out."""
        for name in self.names():
            stats = self.stats(name)
            if stats is not None:
                yield stats

    def metrics(self, name: str) -> list[Point]:
        queue = self.queues.get(name)
        return list(queue.rates.points) if queue is not None else []

    def tier_size(self, name: str) -> int:
        queue = self.queues.get(name)
        return len(queue.tier) if queue is not None else 0

    @property
    def locked_index_size(self) -> int:
        return self.locks.count

    def sample(self, now: int) -> Iterator[None]:
        """Take the sample of this second of every queue, some at each step."""
        if self.unreadable:
            self.ready |= self.unreadable & self.watched
            self.unreadable.clear()
        for index, queue in enumerate(list(self.by_number.values()), 1):
            queue.rates.sample(now, queue.available, queue.locked)
            # The more queues there are, the smaller is the share of those that were there before.
            queue.tier.trim()
            if index % QUEUES_PER_STEP == 0:
                yield

    # Less memory

    def resize_tiers(self, fraction: float) -> Iterator[None]:
        """Every hot tier holds at most this fraction of its configured size, and of its bytes, from now on."""
        self._tier_share = fraction
        self._share_tiers()
        self.limits.resize(max(1, int(self.hot_tier_size * fraction)), int(self.refill_threshold * fraction))
        for index, queue in enumerate(list(self.by_number.values()), 1):
            queue.tier.trim()
            if index % QUEUES_PER_STEP == 0:
                yield

    def drop_idle(self) -> Iterator[None]:
        """Let go of what the tiers of empty queues keep for reuse."""
        for index, queue in enumerate(list(self.by_number.values()), 1):
            if not queue.available:
                queue.tier.reset(None)
            if index % QUEUES_PER_STEP == 0:
                yield

    # Payloads in segment files

    def read_external(self, reference: bytes) -> bytes:
        """Raises PayloadBroken."""
        assert self.externals is not None, "a store with external payloads is opened with its payload store"
        return self.externals.read(reference)

    def payload_of(self, record: bytes) -> bytes:
        """The payload of a record (UTF-8). Raises PayloadBroken."""
        if record[0] & EXTERNAL:
            return self.read_external(record[PAYLOAD_AT : PAYLOAD_AT + REFERENCE_BYTES])
        return record[PAYLOAD_AT:]

    def drop_broken(
        self, queue: Queue, key: bytes, id: str, reference: bytes, digest: bytes, reason: str, kind: int = LIVE
    ) -> None:
        """A message whose payload is lost has been taken out of its family: see to the rest, note who it was."""
        assert self.externals is not None
        self.externals.free(queue, reference, kind)
        if digest:
            self.digests.free(queue, digest, id)
        ref = PayloadRef.unpack(reference)
        self.removed_total += 1
        self.removed.append(
            Removed(queue.name, id, queue.coder.priority(key), reason, ref.segment, ref.offset, ref.length)
        )

    # The store

    def commit(self) -> None:
        """Write what has changed, as one batch. Raises StorageFault; then `load` has to put memory right."""
        self.journal.commit()

    def load(self, clock: ClockFrame = NO_CLOCK, now: int = 0) -> Iterator[None]:
        """Read what is stored into memory; see `loading.load`."""
        return loading.load(self, clock, now)

    def damaged(self, what: str) -> StorageFault:
        """The fault to raise when the store contradicts itself."""
        fault = StorageFault(f"The store contradicts itself: {what}. Stop the server and put back a backup.")
        self.journal.fault = fault
        return fault

    def miscounted(self, queue: Queue) -> None:
        """The counter says that there are messages and the store has none: believe the store."""
        log.error(
            "queue '%s' counted %s, but the store holds none; the count is now 0",
            queue.name,
            counted(queue.available, "available message"),
        )
        queue.available = 0
        self.journal.mark(queue)


def check_name(name: str) -> None:
    """Raises InvalidQueueName unless a queue may be called that."""
    if not name:
        raise InvalidQueueName("A queue name must not be empty")
    if len(name.encode()) > MAX_QUEUE_NAME_BYTES:
        raise InvalidQueueName(f"A queue name may have at most {MAX_QUEUE_NAME_BYTES} bytes of UTF-8")
