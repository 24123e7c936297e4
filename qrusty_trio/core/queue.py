"""One queue: its configuration, its counters, its hot tier; and the lock of a message that it has handed out.

Rule: every change of a counter is one of the transitions below, which puts the change of the store into the same batch
and marks the queue, so that its counters are stored with it. Nothing has to be counted at start-up. The change of the
store comes first: what breaks off behind it is known by the batch to be half done.

    put      a message becomes available             MESSAGES +
    take     the first available one is handed out   MESSAGES -, then `lock`
    drop     an available one is removed             MESSAGES -
    lock     it is with a consumer                   LOCKS +
    unlock   it is not any more                      LOCKS -
    bury     it is a dead letter                     DEAD +
    unbury   the dead letter is removed              DEAD -

`head` is a bound: no available message stands before it, so everything there in the store is dead and every search may
start at it. `locks_from` is the same for LOCKS.
"""

from __future__ import annotations

import struct

import msgspec

from qrusty_trio.core.hot_tier import HotTier, TierLimits
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import COUNTERS, LOCKS_FROM, QUEUE_CONFIG, KeyCoder, lock_key, prefix, prefix_end
from qrusty_trio.core.lock_table import LockTable
from qrusty_trio.core.model import Kind, Ordering, QueueConfig, QueueStats
from qrusty_trio.core.rates import NO_RATES, Rates
from qrusty_trio.core.records import StoredLock, pack_dead_letter, unpack_lock

_COUNTERS = struct.Struct(">7Q")
TRIM_EVERY = 5_000
"""Messages taken from a queue, or locks ended in it, between two range deletes over what is dead at its front. Without
them a search that has to start far back (behind messages of a higher priority that came later, after a restart) passes
every one: 0.16 µs each, 0.8 ms at most. A cycle costs the same as with ten times as many."""


class StoredConfig(msgspec.Struct):
    """What META keeps of a queue besides its counters."""

    name: str
    ordering: Ordering
    kind: Kind
    allow_duplicates: bool
    deduplicating: bool = msgspec.field(default=False, name="settling")
    """True while duplicates from before `allow_duplicates` was turned off are being looked for."""


_decode_config = msgspec.json.Decoder(StoredConfig).decode


class Lock(msgspec.Struct, eq=False, gc=False):
    """One delivered message.

    A Struct because one is made for every delivery (a class takes five times as long), and unknown to the cycle
    collector, which would stop the loop for longer the more there are.
    """

    id: str
    queue: Queue
    number: int
    """Its place in LOCKS, within the queue. Never used again within a process: with the queue's number, the identity of
    a delivery."""
    key: bytes
    """The key of the message in MESSAGES: where it goes back to."""
    consumer: str
    expires_at_ms: int
    """End of the lock, wall milliseconds."""
    deliveries: int
    """The one that made the lock included."""
    digest: bytes
    """Of the payload, when the queue refuses duplicates; else empty."""
    external: bytes
    """The reference of a payload in a segment file; else empty."""
    batch_number: int
    """The batch that its record in LOCKS was put in."""
    before: Lock | None = None
    after: Lock | None = None
    """Its neighbours among those that end in the same millisecond."""


class Queue:
    """A new queue, or with `Queue.stored` one that was read; changed by the broker only."""

    __slots__ = (
        "available",
        "coder",
        "config",
        "dead",
        "dedup_generation",
        "deduplicating",
        "dirty",
        "encode",
        "end",
        "head",
        "locked",
        "locks",
        "locks_from",
        "name",
        "next_dead",
        "next_lock",
        "next_sequence",
        "number",
        "prefix",
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
        """Counts how often duplicates were allowed or refused: a search from before then is void."""
        self.coder = KeyCoder(number, config)
        self.encode = self.coder.encode
        self.prefix = prefix(number)
        self.end = prefix_end(number)
        self.available = 0
        self.locked = 0
        self.locks: LockTable[Lock] = LockTable()
        """Kept by `LockIndex`."""
        self.dead = 0
        self.next_sequence = 0
        self.next_lock = 0
        self.next_dead = 0
        self.head = self.prefix
        self.trimmed_to = self.prefix
        """Every key below this one has been range-deleted."""
        self.taken = 0
        """Messages taken since then."""
        self.locks_from = 0
        """Every lock with a lower number has been range-deleted."""
        self.unlocked = 0
        """Locks that ended since then."""
        self.rates = Rates()
        self.tier = HotTier(limits, None)
        self.dirty = False

    @classmethod
    def stored(cls, number: int, config: bytes, counters: bytes, limits: TierLimits, locks_from: int = 0) -> Queue:
        """A queue as `write_config` and `write_state` left it. Its tier is empty; the first consume fills it."""
        read = _decode_config(config)
        queue = cls(number, read.name, QueueConfig(read.ordering, read.allow_duplicates, read.kind), limits)
        queue.deduplicating = read.deduplicating
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
        config = self.config
        stored = StoredConfig(self.name, config.ordering, config.kind, config.allow_duplicates, self.deduplicating)
        journal.put(QUEUE_CONFIG + self.prefix, msgspec.json.encode(stored), journal.meta)
        journal.mark(self)

    def unload(self) -> None:
        """Empty the tier; what is available will be read again from `head` on."""
        self.tier.reset(self.head if self.available else None)

    # Transitions

    def put(self, journal: Journal, key: bytes, record: bytes) -> None:
        """A message becomes available: published, or back from a consumer."""
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
        """The first available message leaves: the one that `tier.first` gave."""
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
        """An available message is removed, wherever it stands."""
        journal.delete(key, journal.messages)
        self.tier.discard(key)
        self.available -= 1
        journal.mark(self)

    def lock(self, journal: Journal, value: bytes) -> int:
        """A message is with a consumer; `value` is its lock's. Returns the number of the lock."""
        number = self.next_lock
        self.next_lock = number + 1
        self.locked += 1
        journal.put(lock_key(self.number, number), value, journal.locks)
        journal.mark(self)
        return number

    def rewrite_lock(self, journal: Journal, lock: Lock, value: bytes) -> None:
        """Store a lock anew."""
        journal.put(lock_key(self.number, lock.number), value, journal.locks)
        lock.batch_number = journal.batch_number
        journal.mark(self)

    def read_lock(self, journal: Journal, lock: Lock) -> StoredLock:
        """What is stored of a lock. Raises StorageFault."""
        if lock.batch_number == journal.batch_number:
            journal.commit()
        value = journal.get(journal.locks, lock_key(self.number, lock.number))
        if value is None:
            raise journal.damaged(f"the lock of message {lock.id} in queue '{self.name}' is not in the store")
        return unpack_lock(value)

    def unlock(self, journal: Journal, lock: Lock) -> None:
        """A lock is over. Its message is nowhere, until it is put back or buried."""
        journal.delete(lock_key(self.number, lock.number), journal.locks)
        self.locked -= 1
        if not self.dirty:
            self.dirty = True
            journal.dirty.append(self)
        self.unlocked += 1
        if self.unlocked >= TRIM_EVERY:
            self._trim_locks(journal)

    def bury(self, journal: Journal, key: bytes, record: bytes) -> bytes:
        """A message becomes a dead letter. Returns its key in DEAD, which keeps its key in MESSAGES and the record."""
        dead_key = lock_key(self.number, self.next_dead)
        self.next_dead += 1
        self.dead += 1
        journal.put(dead_key, pack_dead_letter(key, record), journal.dead)
        journal.mark(self)
        return dead_key

    def unbury(self, journal: Journal, dead_key: bytes) -> None:
        """A dead letter is removed."""
        journal.delete(dead_key, journal.dead)
        self.dead -= 1
        journal.mark(self)

    def empty(self, journal: Journal) -> None:
        """All messages are removed, locked ones too, dead letters not. Their locks are the caller's business.

        A range delete makes later reads dearer, so no family is touched that can hold nothing of the queue.
        """
        if self.available:
            journal.delete_range(self.trimmed_to, self.end, journal.messages)
            self.head = self.trimmed_to = self.end
        if self.locked:
            journal.delete_range(lock_key(self.number, self.locks_from), self.end, journal.locks)
        self.available = self.locked = self.taken = 0
        self.tier.reset(None)
        journal.mark(self)

    def _trim(self, journal: Journal) -> None:
        """Delete the dead head as a range, so that no search has to pass its messages one by one."""
        self.taken = 0
        if self.trimmed_to < self.head:
            journal.delete_range(self.trimmed_to, self.head, journal.messages)
            self.trimmed_to = self.head

    def _trim_locks(self, journal: Journal) -> None:
        """The same for locks that are over."""
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
        )
