"""The catalog of queues: create, find, rename, purge, delete, count.

Rule: a queue is identified by its number. Its name is a label that a single write changes, so a rename keeps
everything. Purge and delete are range deletes. Numbers are never reused. Only a purge that can be undone gives a queue
another number (`trash.py`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import replace

from qrusty_trio.core.deduplication import Deduplication
from qrusty_trio.core.externals import DEAD_LETTER, LIVE
from qrusty_trio.core.hot_tier import Tiers
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import COUNTERS, DEAD_FROM, LOCKS_FROM, NEXT_QUEUE, QUEUE_CONFIG, prefix
from qrusty_trio.core.locks import LockIndex
from qrusty_trio.core.model import MAX_QUEUE_NAME_BYTES, MAX_QUEUES, QueueConfig, QueueStats, Retention
from qrusty_trio.core.nearest import nearest
from qrusty_trio.core.payloads import Payloads
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.rates import Point
from qrusty_trio.errors import (
    InvalidQueueName,
    LimitReached,
    QrustyError,
    QueueExists,
    QueueNotFound,
    QueueProtected,
    Unavailable,
)

QUEUES_PER_STEP = 100


class Catalog:
    """All queues, by name and by number.

    Requirements: PER-0020
    """

    def __init__(
        self, journal: Journal, locks: LockIndex, payloads: Payloads, deduplication: Deduplication, tiers: Tiers
    ) -> None:
        self._journal = journal
        self._locks = locks
        self._payloads = payloads
        self._deduplication = deduplication
        self._tiers = tiers
        self.by_name: dict[str, Queue] = {}
        self.by_number: dict[int, Queue] = {}
        self.by_dead_number: dict[int, Queue] = {}
        """The queue whose dead letters have this number in their keys; one that was deleted and is kept aside, too."""
        self.kept: dict[int, Queue] = {}
        """Queues that are kept aside, by number, in the order in which they were; see `trash.py`."""
        self._names: list[str] = []
        """Sorted."""
        self.next_number = 1
        self.lock_floor = 0
        """Above every lock number that a deleted queue has given out. A queue whose deletion was not stored comes back
        with a load; it then numbers its locks from here."""
        self.refuses_unknown = False
        """Whether a name that no queue has is refused, rather than taken for a queue that is yet to be created."""
        self._loading = False
        self.before: dict[int, Queue] = {}
        """The queues from before a load, by number. Kept until a load completes."""
        self.named: list[tuple[int, str | int | None]] = []
        """What `take_named` would return."""
        self._emptied: dict[int, int] = {}

    # Queues

    def create(self, name: str, config: QueueConfig) -> None:
        """Raises QueueExists, InvalidQueueName, LimitReached.

        Requirements: API-0017
        """
        check_name(name)
        if name in self.by_name:
            raise QueueExists(f"Queue '{name}' already exists")
        self._make(name, config)

    def create_default(self, name: str) -> Queue:
        """Create the queue for a publish to an unknown name. Raises InvalidQueueName, LimitReached.

        Requirements: API-0018
        """
        check_name(name)
        return self._make(name, QueueConfig())

    def _make(self, name: str, config: QueueConfig) -> Queue:
        if len(self.by_name) >= MAX_QUEUES:
            raise LimitReached(f"There are {MAX_QUEUES} queues already, which is the limit")
        queue = Queue(self.new_number(), name, config, self._tiers.limits)
        queue.write_config(self._journal)
        self.enter(queue)
        return queue

    def new_number(self) -> int:
        """A number that no key has. The caller marks something."""
        number = self.next_number
        self.next_number += 1
        journal = self._journal
        journal.put(NEXT_QUEUE, prefix(self.next_number), journal.meta)
        return number

    def forget_all(self) -> list[Queue]:
        """Forget all queues, at the start of a load. Returns them; their locks are still in the index."""
        before = list(self.by_number.values())
        self.before.update(self.by_number)
        self.by_name, self.by_number, self._names = {}, {}, []
        self.by_dead_number, self.kept = {}, {}
        self.named = []
        self._loading = True
        return before

    def loaded(self) -> None:
        """Call when a load is complete."""
        self._loading = False
        oldest_first = sorted(self.kept.values(), key=lambda queue: queue.kept.at if queue.kept is not None else 0)
        self.kept = {queue.number: queue for queue in oldest_first}
        self.before.clear()
        self.named = []

    def take_named(self) -> list[tuple[int, str | int | None]]:
        """(queue number, name) of each queue created or renamed since the last call; the name of a deleted one is None.
        With a number in place of the name, the queue goes on under that. In the order in which it happened."""
        named, self.named = self.named, []
        return named

    def take_emptied(self) -> dict[int, int]:
        """Number in keys -> messages purged since the last call, for at most `MAX_QUEUES` queues."""
        emptied, self._emptied = self._emptied, {}
        return emptied

    def note_emptied(self, number: int, removed: int) -> None:
        """Note that messages or dead letters with this number in their keys were removed, for `take_emptied`."""
        if len(self._emptied) < MAX_QUEUES:
            self._emptied[number] = self._emptied.get(number, 0) + removed

    def enter(self, queue: Queue) -> None:
        """Register a queue that was created or loaded."""
        self.by_name[queue.name] = queue
        self.by_number[queue.number] = queue
        self.by_dead_number[queue.dead_number] = queue
        insort(self._names, queue.name)
        self.named.append((queue.number, queue.name))
        self._tiers.divide(len(self.by_name))

    def leave(self, queue: Queue) -> None:
        """Forget a queue that was deleted, kept aside or given another number. The store is up to the caller."""
        self._leave(queue.name)
        del self.by_number[queue.number]
        self.lock_floor = max(self.lock_floor, queue.next_lock)
        self.named.append((queue.number, None))
        self._deduplication.stop(queue)
        self._tiers.divide(len(self.by_name))

    def keep(self, queue: Queue) -> None:
        """Note a queue that is kept aside. It has left the catalog, or was never in it."""
        assert queue.kept is not None
        self.kept[queue.number] = queue
        if not queue.kept.purged:
            self.by_dead_number[queue.dead_number] = queue
        queue.tier.reset(None)

    def holder(self, number: int, kind: int) -> Queue | None:
        """The queue with this number in the keys of its messages (LIVE) or of its dead letters; None if there is none.

        It may be one that is kept aside.
        """
        if kind == DEAD_LETTER:
            return self.by_dead_number.get(number)
        return self.by_number.get(number) or self.kept.get(number)

    def replace(self, queue: Queue, successor: Queue) -> None:
        """Let a queue go on as `successor`, which has its name and dead letters, and another number."""
        self.leave(queue)
        self.enter(successor)
        self.named[-2:] = [(queue.number, successor.number)]

    def _leave(self, name: str) -> None:
        del self.by_name[name]
        del self._names[bisect_left(self._names, name)]

    def update(
        self,
        name: str,
        new_name: str | None,
        allow_duplicates: bool | None,
        now: int,
        retention: Retention | None = None,
        protected: bool | None = None,
    ) -> Iterator[None]:
        """Rename a queue, allow or refuse duplicates in it, or change its retention. A step takes about a millisecond.

        Refusing duplicates removes those already queued: of equal messages only the first in order stays. The first
        step raises QueueNotFound, QueueExists, InvalidQueueName or QueueProtected. In that case nothing has changed.

        Requirements: SCH-0009
        """
        if not name.strip():
            raise InvalidQueueName("'name' must not be blank")
        queue = self.by_name.get(name)
        if queue is None:
            raise QueueNotFound(f"Queue '{name}' does not exist")
        if new_name is not None and not new_name.strip():
            raise InvalidQueueName("'config.name' must not be blank")
        if retention and protected is not False and _shortens(queue.config, retention):
            check_unprotected(queue, "made to keep fewer dead letters")
        if new_name is not None and new_name != name:
            if protected is not False:
                check_unprotected(queue, "renamed")
            check_name(new_name)
            if new_name in self.by_name:
                raise QueueExists(f"Queue '{new_name}' already exists")
            self._leave(name)
            queue.name = new_name
            queue.write_config(self._journal)
            self.enter(queue)
        if protected is not None and protected != queue.config.protected:
            queue.config = replace(queue.config, protected=protected)
            queue.write_config(self._journal)
        if retention:
            queue.config = replace(queue.config, **retention)
            queue.dead_due = 0
            queue.write_config(self._journal)
        if allow_duplicates is not None and allow_duplicates != queue.config.allow_duplicates:
            queue.config = replace(queue.config, allow_duplicates=allow_duplicates)
            if allow_duplicates:
                self._deduplication.allow(queue)
                queue.write_config(self._journal)
                self._journal.commit()
            else:
                self._deduplication.refuse(queue)
                queue.write_config(self._journal)
                generation = queue.dedup_generation
                yield
                while queue.deduplicating and queue.dedup_generation == generation and self.exists(queue):
                    self._deduplication.search(queue)
                    yield
        yield

    def purge(self, name: str) -> int:
        """Remove all messages, including locked ones; dead letters stay. Returns how many were removed.

        Raises QueueProtected.

        Requirements: DLV-0007
        """
        queue = self.by_name.get(name)
        if queue is None:
            return 0
        check_unprotected(queue, "purged")
        return self.purge_queue(queue)

    def purge_queue(self, queue: Queue) -> int:
        """Like `purge`, for a known queue."""
        removed = self._empty(queue)
        # Until then, lookups would still find digests that the range delete removes, in memory or in the store.
        self._journal.commit()
        return removed

    def _empty(self, queue: Queue) -> int:
        removed = queue.available + queue.locked
        if removed:
            queue.empty(self._journal)
            self.note_emptied(queue.number, removed)
            if self._payloads.index is not None:
                self._payloads.index.free_all(queue, LIVE)
            self._deduplication.emptied(queue)
            self._locks.forget(queue)
        return removed

    def delete(self, name: str) -> int:
        """Remove a queue and everything in it. Returns how many messages were removed, not counting dead letters.

        Raises QueueProtected.
        """
        queue = self.by_name.get(name)
        if queue is None:
            return 0
        check_unprotected(queue, "deleted")
        return self.delete_queue(queue)

    def delete_queue(self, queue: Queue) -> int:
        """Like `delete`, for a known queue."""
        removed = self.erase(queue)
        self.leave(queue)
        return removed

    def erase(self, queue: Queue) -> int:
        """Remove a queue and everything in it from the store. Returns how many messages were removed."""
        removed = self._empty(queue)
        journal = self._journal
        journal.forget(queue)
        if queue.dead:
            journal.delete_range(queue.dead_prefix, queue.dead_end, journal.dead)
            self.note_emptied(queue.dead_number, queue.dead)
        if self._payloads.index is not None and (queue.kept is None or not queue.kept.purged):
            self._payloads.index.free_all(queue, DEAD_LETTER)
        journal.delete(QUEUE_CONFIG + queue.prefix, journal.meta)
        journal.delete(COUNTERS + queue.prefix, journal.meta)
        journal.delete(LOCKS_FROM + queue.prefix, journal.meta)
        journal.delete(DEAD_FROM + queue.prefix, journal.meta)
        journal.touch()
        if self.by_dead_number.get(queue.dead_number) is queue:
            del self.by_dead_number[queue.dead_number]
        return removed

    def everything(self) -> list[Queue]:
        """A list of the current queues, which later changes do not affect."""
        return list(self.by_number.values())

    def exists(self, queue: Queue) -> bool:
        """Whether a queue still exists."""
        return self.by_number.get(queue.number) is queue

    # Queries

    def number_of(self, name: str) -> int:
        """Raises QueueNotFound."""
        queue = self.by_name.get(name)
        if queue is None:
            raise self.not_found(name)
        return queue.number

    def missed(self, name: str) -> None:
        """No queue has this name. Raises QueueNotFound if that is to be refused, and all queues are loaded."""
        if self.refuses_unknown and not self._loading:
            raise self.not_found(name)

    def gone(self, queue: Queue, name: str) -> QrustyError:
        """The refusal to go on with a queue that is not there any more: it was deleted, or goes on under a new number.

        `name`: what it was called.
        """
        successor = self.by_dead_number.get(queue.dead_number)
        if successor is not None and successor.number != queue.number and self.exists(successor):
            return Unavailable(f"Queue '{successor.name}' was purged meanwhile; ask again")
        return QueueNotFound(f"Queue '{name}' was deleted meanwhile")

    def not_found(self, name: str) -> QueueNotFound:
        """The refusal of a name that no queue has. Where it is likely to be misspelt, it names those that come near."""
        near = nearest(name, self.by_name, self._names) if self.refuses_unknown else ()
        return QueueNotFound(f"Queue '{name}' does not exist", near)

    def find_number(self, name: str) -> int | None:
        """The number of a queue; None if there is none of that name."""
        queue = self.by_name.get(name)
        return queue.number if queue is not None else None

    def name_of(self, queue_number: int) -> str | None:
        """The name of a queue; None if it is gone."""
        queue = self.by_number.get(queue_number)
        return queue.name if queue is not None else None

    def names(self) -> list[str]:
        return self._names.copy()

    def stats(self, name: str) -> QueueStats | None:
        queue = self.by_name.get(name)
        return queue.stats() if queue is not None else None

    def all_stats(self) -> Iterator[QueueStats]:
        """Sorted by name. Queues deleted during the iteration are left out."""
        for name in self.names():
            stats = self.stats(name)
            if stats is not None:
                yield stats

    def metrics(self, name: str) -> list[Point]:
        queue = self.by_name.get(name)
        return list(queue.rates.points) if queue is not None else []

    def tier_size(self, name: str) -> int:
        queue = self.by_name.get(name)
        return len(queue.tier) if queue is not None else 0

    # Steps over all of them

    def sample(self, now: int) -> Iterator[None]:
        """Sample the rates of every queue for this second, `QUEUES_PER_STEP` queues a step. `now` is wall ms."""
        for index, queue in enumerate(self.everything(), 1):
            queue.rates.sample(now, queue.available, queue.locked, queue.dead)
            # Every new queue reduces the share of the others.
            queue.tier.trim()
            if index % QUEUES_PER_STEP == 0:
                yield

    def resize_tiers(self, fraction: float) -> Iterator[None]:
        """Limit every hot tier to this fraction of its configured size and bytes from now on."""
        self._tiers.resize(fraction)
        self._tiers.divide(len(self.by_name))
        for index, queue in enumerate(self.everything(), 1):
            queue.tier.trim()
            if index % QUEUES_PER_STEP == 0:
                yield

    def drop_idle(self) -> Iterator[None]:
        """Free the structures that the hot tiers of empty queues keep for reuse."""
        for index, queue in enumerate(self.everything(), 1):
            if not queue.available:
                queue.tier.reset(None)
            if index % QUEUES_PER_STEP == 0:
                yield


def _shortens(config: QueueConfig, retention: Retention) -> bool:
    """Whether a limit of dead letters is new, or lower than before."""
    for old, new in (
        (config.dead_letter_ttl_seconds, retention.get("dead_letter_ttl_seconds")),
        (config.dead_letter_max, retention.get("dead_letter_max")),
    ):
        if new is not None and (old is None or new < old):
            return True
    return False


def check_unprotected(queue: Queue, done: str) -> None:
    """Raises QueueProtected. `done`: what would be done to the queue, such as `purged`."""
    if queue.config.protected:
        raise QueueProtected(
            f"Queue '{queue.name}' is protected and can't be {done}: "
            "lift that first, by 'protected': false in /update-queue"
        )


def check_name(name: str) -> None:
    """Raises InvalidQueueName unless `name` is a valid queue name.

    Requirements: API-0016
    """
    if not name:
        raise InvalidQueueName("A queue name must not be empty")
    if len(name.encode()) > MAX_QUEUE_NAME_BYTES:
        raise InvalidQueueName(f"A queue name may have at most {MAX_QUEUE_NAME_BYTES} bytes of UTF-8")
