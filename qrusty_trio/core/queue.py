"""One queue: its configuration, counters and hot tier. Also the lock of a message that was delivered from it.

Rule: counters change only in the transitions below. Each puts its changes to the store into the batch and marks the
queue, so that the counters are stored with them. Nothing has to be counted at start-up. The change to the store comes
first, so that `Journal.position` reveals an operation that failed halfway.

    put      a message becomes available             MESSAGES +
    take     the first available one is removed      MESSAGES -
    deliver  it is taken and locked by a consumer    MESSAGES -, LOCKS +
    drop     an available one is removed             MESSAGES -
    unlock   its lock is removed                     LOCKS -
    bury     it becomes a dead letter                DEAD +
    unbury   a dead letter is removed                DEAD -
    exhume   all dead letters are removed            DEAD -

`head` is a lower bound: no available message is before it. Any key before it in the store is a tombstone, so every scan
can start there. `locks_from` is the same for LOCKS, `dead_from` for DEAD.

Requirements: PER-0010
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec

from qrusty_trio.core.configuration import Kept, pack_config, unpack_config
from qrusty_trio.core.hot_tier import HotTier, TierLimits
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import (
    COUNTERS,
    DEAD_FROM,
    DEAD_INDEX,
    LOCKS_FROM,
    QUEUE_CONFIG,
    KeyCoder,
    dead_index_key,
    lock_key,
    prefix,
    prefix_end,
)
from qrusty_trio.core.lock_table import LockTable
from qrusty_trio.core.model import Ordering, QueueConfig, QueueStats
from qrusty_trio.core.rates import NO_RATES, Rates
from qrusty_trio.core.records import StoredLock, unpack_lock, unpack_message

_COUNTERS = struct.Struct(">7Q")
_DEAD_BOUNDS = struct.Struct(">QQ")
TRIM_EVERY = 5_000
"""Messages taken, or locks removed, before the consumed prefix of a queue is trimmed. Otherwise a scan that starts far
back passes every tombstone, at 0.16 µs each. This happens after a restart if messages of a higher priority arrived
later. With this value it costs at most 0.8 ms. A cycle of publish, consume and ack is no slower than with a value ten
times as high."""


class Lock(msgspec.Struct, eq=False, gc=False):
    """One delivered message.

    A Struct, because one is created for every delivery and a class takes five times as long. The cycle collector does
    not track it: with many locks, its pauses would grow.
    """

    id: str
    queue: Queue
    number: int
    """Its key in LOCKS, within the queue. Never reused within a process. Identifies a delivery together with the queue
    number."""
    key: bytes
    """The message's key in MESSAGES, where it goes back to."""
    consumer: str
    expires_at_ms: int
    """End of the lock, wall milliseconds."""
    deliveries: int
    """Deliveries so far, including the one that made this lock."""
    digest: bytes
    """Digest of the payload if the queue refuses duplicates; otherwise empty."""
    external: bytes
    """Reference to the payload if it is in a segment file; otherwise empty."""
    batch_number: int
    """The batch that its record in LOCKS was put in. Every put of that record must set it."""
    made_ms: int = 0
    """When the message was delivered, wall milliseconds; 0 for a lock that was loaded."""
    before: Lock | None = None
    after: Lock | None = None
    """Its neighbours among the locks that end in the same millisecond."""


class Oldest(NamedTuple):
    """The oldest available message of a queue, as it was at a look."""

    created_ms: int
    exact: bool
    """False: there may be an older one."""
    state: tuple[int, int, int, int]
    """What the counters of the queue were; see `ages.py`."""


class Queue:
    """A new queue; `Queue.stored` restores one from the store. Changed by the broker only.

    Requirements: SYS-0005
    """

    __slots__ = (
        "available",
        "coder",
        "config",
        "dead",
        "dead_due",
        "dead_end",
        "dead_from",
        "dead_number",
        "dead_prefix",
        "dead_purged",
        "dead_trimmed",
        "dedup_generation",
        "deduplicating",
        "dirty",
        "encode",
        "end",
        "head",
        "kept",
        "locked",
        "locks",
        "locks_from",
        "name",
        "next_dead",
        "next_lock",
        "next_sequence",
        "number",
        "oldest",
        "prefix",
        "purged_lock",
        "purged_sequence",
        "rates",
        "taken",
        "tier",
        "trimmed_to",
        "unlocked",
    )

    def __init__(self, number: int, name: str, config: QueueConfig, limits: TierLimits) -> None:
        self.number = number
        self.name = name
        self.config = config
        self.deduplicating = False
        self.dedup_generation = 0
        """Counts the changes of `allow_duplicates`. A search from before the last change is void."""
        self.coder = KeyCoder(number, config)
        self.encode = self.coder.encode
        self.prefix = prefix(number)
        self.end = prefix_end(number)
        self.keep_dead_under(number)
        self.kept: Kept | None = None
        """Set while it is kept aside (`trash.py`)."""
        self.available = 0
        self.locked = 0
        self.locks: LockTable[Lock] = LockTable()
        """Maintained by `LockIndex`."""
        self.dead = 0
        self.next_sequence = 0
        self.next_lock = 0
        self.next_dead = 0
        self.dead_from = 0
        """No dead letter has a lower number. May be higher than what is stored."""
        self.dead_trimmed = 0
        """Every dead letter with a lower number has been range-deleted. This is stored."""
        self.dead_purged = 0
        """The next dead-letter number when all were purged the last time."""
        self.dead_due = 0
        """No dead letter is older than `dead_letter_ttl_seconds` before this time, wall milliseconds. A lower bound."""
        self.head = self.prefix
        self.trimmed_to = self.prefix
        """Every key below this one has been range-deleted."""
        self.taken = 0
        """Messages taken since the last trim."""
        self.locks_from = 0
        """Every lock with a lower number has been range-deleted."""
        self.unlocked = 0
        """Locks removed since the last trim."""
        self.purged_sequence = self.purged_lock = 0
        """Lists of messages and of locks that were begun since the last purge had at least these next numbers. Not
        stored."""
        self.rates = Rates()
        self.oldest: Oldest | None = None
        """The oldest available message at the last look (`ages.py`); None if there was none yet."""
        self.tier = HotTier(limits, None)
        self.dirty = False

    @classmethod
    def stored(
        cls,
        number: int,
        config: bytes,
        counters: bytes,
        limits: TierLimits,
        locks_from: int,
        dead_bounds: bytes | None,
    ) -> Queue:
        """Restore a queue from what `write_config` and `write_state` wrote. The first consume fills its empty tier.

        `dead_bounds`: what META has under DEAD_FROM.

        Requirements: PER-0019
        """
        restored = unpack_config(config)
        queue = cls(number, restored.name, restored.config, limits)
        queue.deduplicating = restored.deduplicating
        queue.kept = restored.kept
        if restored.dead_number is not None:
            queue.keep_dead_under(restored.dead_number)
        (
            queue.available,
            queue.locked,
            queue.dead,
            queue.next_sequence,
            queue.next_lock,
            queue.next_dead,
            head_bytes,
        ) = _COUNTERS.unpack_from(counters)
        head_at = _COUNTERS.size
        queue.head = counters[head_at : head_at + head_bytes]
        queue.trimmed_to = counters[head_at + head_bytes :]
        queue.locks_from = locks_from
        if dead_bounds is not None:
            queue.dead_from, queue.dead_purged = _DEAD_BOUNDS.unpack(dead_bounds)
            queue.dead_trimmed = queue.dead_from
        queue.unload()
        return queue

    def write_state(self, journal: Journal) -> None:
        counters = _COUNTERS.pack(
            self.available,
            self.locked,
            self.dead,
            self.next_sequence,
            self.next_lock,
            self.next_dead,
            len(self.head),
        )
        journal.put(COUNTERS + self.prefix, b"%b%b%b" % (counters, self.head, self.trimmed_to), journal.meta)

    def write_config(self, journal: Journal) -> None:
        dead_number = self.dead_number if self.dead_number != self.number else None
        config = pack_config(self.name, self.config, self.deduplicating, dead_number, self.kept)
        journal.put(QUEUE_CONFIG + self.prefix, config, journal.meta)
        journal.mark(self)

    def keep_dead_under(self, number: int) -> None:
        """Set the number in the keys of its dead letters. It stays when the queue gets a new one (`trash.py`)."""
        self.dead_number = number
        self.dead_prefix = prefix(number)
        self.dead_end = prefix_end(number)

    def write_dead_bounds(self, journal: Journal) -> None:
        bounds = _DEAD_BOUNDS.pack(self.dead_trimmed, self.dead_purged)
        journal.put(DEAD_FROM + self.prefix, bounds, journal.meta)

    def unload(self) -> None:
        """Empty the tier. Available messages will be read again, starting at `head`."""
        self.tier.reset(self.head if self.available else None)

    # Transitions

    def put(self, journal: Journal, key: bytes, record: bytes) -> None:
        """Make a message available: published, or returned by a consumer.

        Requirements: SCH-0008
        """
        journal.put(key, record, journal.messages)
        self.available += 1
        if key < self.head:
            self.head = key
            if key < self.trimmed_to:
                self.trimmed_to = key
        self.tier.add(key, record)
        if not self.dirty:
            self.dirty = True
            journal.dirty.append(self)

    def take(self, journal: Journal, key: bytes) -> None:
        """Remove the first available message, the one that `tier.first` returned."""
        journal.delete(key, journal.messages)
        self.tier.pop()
        self.head = key
        self.available -= 1
        if not self.dirty:
            self.dirty = True
            journal.dirty.append(self)
        self.taken += 1
        if self.taken >= TRIM_EVERY:
            self._trim(journal)

    def drop(self, journal: Journal, key: bytes) -> None:
        """Remove an available message from anywhere in the queue."""
        journal.delete(key, journal.messages)
        self.tier.discard(key)
        self.available -= 1
        journal.mark(self)

    def deliver(self, journal: Journal, key: bytes, value: bytes) -> int:
        """Take the first available message and lock it. `value` is its value in LOCKS. Returns the lock number.

        Requirements: SYS-0002, DLV-0001
        """
        # `take` and the rest in one, without a call: once for every delivery.
        number = self.next_lock
        journal.delete(key, journal.messages)
        journal.put(lock_key(self.number, number), value, journal.locks)
        self.next_lock = number + 1
        self.locked += 1
        self.tier.pop()
        self.head = key
        self.available -= 1
        if not self.dirty:
            self.dirty = True
            journal.dirty.append(self)
        self.taken += 1
        if self.taken >= TRIM_EVERY:
            self._trim(journal)
        return number

    def rewrite_lock(self, journal: Journal, lock: Lock, value: bytes) -> None:
        """Store the changed value of a lock."""
        journal.put(lock_key(self.number, lock.number), value, journal.locks)
        lock.batch_number = journal.batch_number
        journal.mark(self)

    def read_lock(self, journal: Journal, lock: Lock) -> StoredLock:
        """Read a lock from the store. Commits first if its record is still pending. Raises StorageFault."""
        if lock.batch_number == journal.batch_number:
            journal.commit()
        value = journal.get(journal.locks, lock_key(self.number, lock.number))
        if value is None:
            raise journal.damaged(f"the lock of message {lock.id} in queue '{self.name}' is not in the store")
        return unpack_lock(value)

    def unlock(self, journal: Journal, lock: Lock) -> None:
        """Remove a lock. Its message is in no family until it is put back or buried."""
        journal.delete(lock_key(self.number, lock.number), journal.locks)
        self.locked -= 1
        if not self.dirty:
            self.dirty = True
            journal.dirty.append(self)
        self.unlocked += 1
        if self.unlocked >= TRIM_EVERY:
            self._trim_locks(journal)

    def bury(self, journal: Journal, id: bytes, value: bytes) -> bytes:
        """Make a message (`id`: ASCII) a dead letter. `value` is its value in DEAD. Returns its key there.

        Requirements: DLV-0010
        """
        dead_key = lock_key(self.dead_number, self.next_dead)
        self.next_dead += 1
        self.dead += 1
        journal.put(dead_key, value, journal.dead)
        journal.put(b"%b%b%b" % (self.dead_prefix, DEAD_INDEX, id), dead_key[4:], journal.dead)
        journal.mark(self)
        return dead_key

    def unbury(self, journal: Journal, dead_key: bytes, id: str) -> None:
        """Remove a dead letter."""
        journal.delete(dead_key, journal.dead)
        journal.delete(dead_index_key(self.dead_prefix, id), journal.dead)
        self.dead -= 1
        journal.mark(self)

    def exhume(self, journal: Journal) -> None:
        """Remove all dead letters. Their payloads are up to the caller."""
        journal.delete_range(lock_key(self.dead_number, self.dead_trimmed), self.dead_end, journal.dead)
        self.dead = 0
        self.dead_from = self.dead_purged = self.next_dead
        self.dead_trimmed = self.dead_from
        self.write_dead_bounds(journal)
        journal.mark(self)

    def trim_dead(self, journal: Journal) -> None:
        """Range-delete the prefix of removed dead letters if it is long. Call this when nothing is half done."""
        if self.dead_from - self.dead_trimmed >= TRIM_EVERY:
            begin, end = lock_key(self.dead_number, self.dead_trimmed), lock_key(self.dead_number, self.dead_from)
            journal.delete_range(begin, end, journal.dead)
            self.dead_trimmed = self.dead_from
            self.write_dead_bounds(journal)
            journal.mark(self)

    def empty(self, journal: Journal) -> None:
        """Remove all messages, including locked ones but not dead letters. The caller voids their locks in the index.

        A range delete slows later reads, so a family that can't hold anything of the queue is not touched.

        Requirements: PER-0021
        """
        if self.available:
            journal.delete_range(self.trimmed_to, self.end, journal.messages)
            self.head = self.trimmed_to = self.end
        if self.locked:
            journal.delete_range(lock_key(self.number, self.locks_from), self.end, journal.locks)
        self.available = self.locked = self.taken = 0
        self.purged_sequence, self.purged_lock = self.next_sequence + 1, self.next_lock + 1
        self.tier.reset(None)
        journal.mark(self)

    def _trim(self, journal: Journal) -> None:
        """Range-delete the consumed prefix, so that no scan has to pass its tombstones one by one.

        Requirements: SYS-0005, PER-0022
        """
        self.taken = 0
        if self.trimmed_to < self.head:
            journal.delete_range(self.trimmed_to, self.head, journal.messages)
            self.trimmed_to = self.head

    def _trim_locks(self, journal: Journal) -> None:
        """Range-delete the prefix of removed locks."""
        self.unlocked = 0
        oldest = self.locks.oldest_number()
        bound = self.next_lock if oldest is None else oldest
        if bound > self.locks_from:
            journal.delete_range(lock_key(self.number, self.locks_from), lock_key(self.number, bound), journal.locks)
            journal.put(LOCKS_FROM + self.prefix, bound.to_bytes(8, "big"), journal.meta)
            self.locks_from = bound

    def stats(self) -> QueueStats:
        points = self.rates.points
        last = points[-1] if points else NO_RATES
        return QueueStats(
            self.name,
            self.config,
            self.available,
            self.locked,
            self.dead,
            last.publish_rate,
            last.ack_rate,
            last.nack_rate,
            *self.oldest_now(),
        )

    def oldest_now(self) -> tuple[int | None, bool]:
        """When the oldest available message was published, if known; and whether there can't be an older one."""
        if not self.available:
            return None, True
        fifo = self.config.ordering is Ordering.FIFO
        if len(self.tier) and (fifo or self.oldest is None):
            return unpack_message(self.tier.first()[1])[1], fifo
        return (self.oldest.created_ms, self.oldest.exact) if self.oldest is not None else (None, False)
