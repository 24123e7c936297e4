"""The broker: what publish, consume, ack, nack, renew and expiry do to the queues.

Rule: an operation is either refused before anything changes, or it changes both memory and the pending batch. `commit`
writes the batch. There is no clock, task or socket here: `now` is wall time in milliseconds. The cost of an operation
does not depend on the number of messages, locks or queues.

A message is in exactly one family: MESSAGES (available), LOCKS (delivered, not settled) or DEAD.
Queues are created and deleted in `catalog.py`. Side effects are collected with `take_ready` and similar methods. Each
of these has exactly one caller.

Requirements: SCH-0020
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from qrusty_trio.core import records
from qrusty_trio.core.catalog import Catalog
from qrusty_trio.core.dead_letter_moves import DeadLetterMoves
from qrusty_trio.core.dead_letters import DeadLetters
from qrusty_trio.core.deduplication import Deduplication
from qrusty_trio.core.externals import LIVE
from qrusty_trio.core.hot_tier import Tiers
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import mismatch
from qrusty_trio.core.loading import Loader
from qrusty_trio.core.locks import LockIndex, valid
from qrusty_trio.core.model import MAX_LOCK_SECONDS, DeathReason, Delivery, Kind, NackOutcome, Priority, is_websocket
from qrusty_trio.core.payloads import Payloads
from qrusty_trio.core.queue import Lock, Queue
from qrusty_trio.core.records import (
    EXTERNAL,
    NO_CLOCK,
    PAYLOAD_AT,
    ClockFrame,
    external_digest,
    new_id,
    pack_lock,
    pack_message,
    reference_of,
    unpack_message,
)
from qrusty_trio.core.trash import Trash
from qrusty_trio.errors import DuplicatePayload, MessageNotLocked, PayloadNotStored
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.payloads import PayloadBroken, PayloadStore
from qrusty_trio.wording import counted

REFILL_PIECE = 128
"""Messages read into a hot tier at once, which takes 0.2 ms."""
REMOVED_PER_CONSUME = 64
"""Messages that one consume removes before it reports that none is available. A message is removed when its payload is
broken or an equal one is locked."""

TIDIED_PER_EXPIRE = 1000

log = logging.getLogger(__name__)


def _has_left(consumer: str, id: str) -> bool:
    return True


class Broker:
    """The messages of all queues of one store. Call `load` first unless the store is empty.

    Requirements: SYS-0004, DLV-0010
    """

    has_left: Callable[[str, str], bool] = staticmethod(_has_left)
    """has_left(consumer, id): whether the delivery of message `id` was sent to the WebSocket `consumer`. When a lock
    expires, a delivery that was never sent does not count. Set by the owner of the connections."""

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
        """`payloads` stores payloads of at least `externalize_min_bytes` (None: it stores no new ones)."""
        self.journal = Journal(storage)
        self.locks = LockIndex(max_locked_index)
        self.payloads = Payloads(self.journal, payloads, externalize_min_bytes)
        self.deduplication = Deduplication(self.journal, self.payloads)
        tiers = Tiers(hot_tier_size, refill_threshold)
        self.catalog = Catalog(self.journal, self.locks, self.payloads, self.deduplication, tiers)
        self.dead_letters = DeadLetters(self.journal, self.catalog, self.payloads, self.deduplication)
        self.dead_letter_moves = DeadLetterMoves(
            self.journal, self.catalog, self.payloads, self.deduplication, self.dead_letters, self._put_back
        )
        self.trash = Trash(
            self.journal, self.catalog, self.locks, self.payloads, self.deduplication, tiers, self._put_back
        )
        self._loader = Loader(self.journal, self.catalog, self.locks, self.payloads, self.deduplication, tiers)
        self.clock_frame = NO_CLOCK.pack()
        """The clock that `now` is read from, packed for the records of locks."""
        self.watched: set[int] = set()
        """Queues with waiting subscribers; maintained by the dispatcher."""
        self.ready: set[int] = set()
        """What `take_ready` would return."""
        self.refused_for_locks = 0
        """Consumes since the start that got nothing because the lock index was full."""

    # Side effects

    def take_ready(self) -> set[int]:
        """The queues in `watched` in which a message became available since the last call."""
        ready, self.ready = self.ready, set()
        return ready

    # Operations

    def publish(
        self, name: str, priority: Priority, payload: str, max_retries: int, now: int, create: bool = True
    ) -> str:
        """Add a message; returns its id (UUID text).

        An unknown queue is created with the defaults; with `create=False` it raises QueueNotFound. Also raises
        PriorityKindMismatch, InvalidPriority, DuplicatePayload, InvalidQueueName and LimitReached, and PayloadNotStored
        when a segment file has no room for the payload.
        """
        known = queue = self.catalog.by_name.get(name)
        if queue is None:
            if not create or self.catalog.refuses_unknown:
                raise self.catalog.not_found(name)
            if type(priority) is not int:
                raise mismatch(Kind.NUMERIC)
            queue = self.catalog.create_default(name)
        journal = self.journal
        sequence = queue.next_sequence
        key = queue.encode(priority, sequence)
        data = payload.encode()
        id = new_id()
        digest = b""
        if not queue.config.allow_duplicates:
            digest = records.digest_of(data)
            if self.deduplication.owner(queue, digest):
                raise DuplicatePayload("Duplicate payload rejected")
        if len(data) >= self.payloads.min_bytes:
            externals = self.payloads.externals
            try:
                reference = externals.append(data)
            except PayloadNotStored:
                if known is None:
                    self.catalog.delete(name)
                raise
            record = pack_message(EXTERNAL, now, max_retries, 0, id.encode()) + reference + digest
            externals.own(queue, reference, id, key)
        else:
            record = pack_message(0, now, max_retries, 0, id.encode()) + data
        if digest:
            self.deduplication.own(queue, digest, id)
        queue.next_sequence = sequence + 1
        queue.rates.published += 1
        queue.put(journal, key, record)
        if queue.number in self.watched:
            self.ready.add(queue.number)
        return id

    def _put_back(self, queue: Queue, key: bytes, record: bytes) -> None:
        queue.put(self.journal, key, record)
        if queue.number in self.watched:
            self.ready.add(queue.number)

    def consume(self, name: str, consumer: str, lock_seconds: int, now: int) -> Delivery | None:
        """Lock the first available message; None when there is none or the lock index is full.

        Raises QueueNotFound if unknown queues are refused.

        Requirements: DLV-0001, API-0019
        """
        queue = self.catalog.by_name.get(name)
        if queue is None:
            self.catalog.missed(name)
            return None
        return self._consume(queue, consumer, lock_seconds, now)

    def consume_number(self, queue_number: int, consumer: str, lock_seconds: int, now: int) -> Delivery | None:
        """Like `consume`, for a queue number.

        Requirements: DLV-0034
        """
        queue = self.catalog.by_number.get(queue_number)
        return self._consume(queue, consumer, lock_seconds, now) if queue is not None else None

    def _consume(self, queue: Queue, consumer: str, lock_seconds: int, now: int) -> Delivery | None:
        if not queue.available:
            return None
        locks = self.locks
        if locks.count >= locks.limit:
            self.refused_for_locks += 1
            return None
        journal = self.journal
        tier = queue.tier
        for _ in range(REMOVED_PER_CONSUME):
            if not queue.available:
                return None
            if tier.frontier is not None and tier.low():
                self._refill(queue)
            try:
                key, record = tier.first()
            except IndexError:
                self._miscounted(queue)
                return None
            flags, created, _, deliveries, id_bytes = unpack_message(record)
            id = id_bytes.decode()
            external = digest = b""
            if flags & EXTERNAL:
                external, digest = reference_of(record), external_digest(record)
                try:
                    data = self.payloads.externals.read(external)
                except PayloadBroken as broken:
                    queue.take(journal, key)
                    self.payload_lost(queue, key, id, external, digest, broken.reason)
                    continue
            else:
                data = record[PAYLOAD_AT:]
            if queue.config.allow_duplicates:
                digest = b""
            else:
                digest = digest or records.digest_of(data)
                if queue.deduplicating and not self.deduplication.may_leave(queue, id, digest):
                    queue.take(journal, key)
                    if external:
                        self.payloads.externals.free(queue, external)
                    continue
            deliveries += 1
            if lock_seconds > MAX_LOCK_SECONDS:
                lock_seconds = MAX_LOCK_SECONDS
            end = now + lock_seconds * 1000
            value = pack_lock(end, deliveries, consumer, key, digest, record, lock_seconds, self.clock_frame)
            number = queue.deliver(journal, key, value)
            batch = journal.batch_number
            locks.add(Lock(id, queue, number, key, consumer, end, deliveries, digest, external, batch, now))
            priority = queue.coder.priority(key)
            return Delivery(queue.number, id, data.decode(), deliveries, priority, created, number, end)
        self.ready.add(queue.number)
        return None

    def _refill(self, queue: Queue) -> None:
        """Read more messages into the hot tier, starting at the frontier.

        Requirements: SCH-0013
        """
        tier = queue.tier
        frontier = tier.frontier
        assert frontier is not None
        if queue.available == len(tier):
            # Every message is before the frontier, so there is nothing to read.
            tier.frontier = None
            return
        limit = min(REFILL_PIECE, tier.room())
        journal = self.journal
        pairs = journal.scan(journal.messages, frontier, queue.end, limit)
        tier.extend(pairs, end=len(pairs) < limit)

    def ack(self, name: str, id: str, consumer: str, now: int) -> None:
        """Settle a message for good. Raises MessageNotLocked when `consumer` does not hold it.

        Requirements: DLV-0002, DLV-0003
        """
        queue = self.catalog.by_name.get(name)
        lock = queue.locks.get(id) if queue is not None else None
        if lock is None or lock.consumer != consumer:
            raise _not_locked(name, id)
        queue = lock.queue
        queue.rates.acked += 1
        self.unlock(lock)
        if lock.external:
            self.payloads.externals.free(queue, lock.external)
        if lock.digest:
            self.deduplication.free(queue, lock.digest, lock.id)

    def nack(self, name: str, id: str, consumer: str, now: int, error: str = "") -> NackOutcome:
        """Return a message to its old place, or dead-letter it when its deliveries are used up.

        `error`: the consumer's own reason, at most MAX_ERROR_BYTES, which a dead letter keeps.

        It is dropped when the queue has come to refuse duplicates and an equal message owns the payload
        (`deduplication.py`). Raises MessageNotLocked.

        Requirements: SCH-0008, DLV-0004
        """
        lock = self._held(name, id, consumer)
        lock.queue.rates.nacked += 1
        return self._return(lock, DeathReason.NACKED, now, error)

    def renew(self, name: str, id: str, consumer: str, lock_seconds: int, now: int) -> int:
        """Make the lock end `lock_seconds` from now. Returns its end, wall milliseconds. Raises MessageNotLocked.

        Requirements: WS-0005, DLV-0041
        """
        lock = self._held(name, id, consumer)
        queue = lock.queue
        record = queue.read_lock(self.journal, lock).record
        lock_seconds = min(lock_seconds, MAX_LOCK_SECONDS)
        end = now + lock_seconds * 1000
        self.locks.extend(lock, end)
        value = pack_lock(end, lock.deliveries, consumer, lock.key, lock.digest, record, lock_seconds, self.clock_frame)
        queue.rewrite_lock(self.journal, lock, value)
        return end

    def held(self, consumer: str, id: str) -> tuple[str, int] | None:
        """Current name and number of the queue of a message that a WebSocket holds; None when it does not hold it."""
        lock = self.locks.held(consumer, id)
        return (lock.queue.name, lock.queue.number) if lock is not None else None

    def take_back(self, queue_number: int, lock_number: int, id: str) -> None:
        """Undo a delivery that no consumer saw. The message is as before. No effect when that lock is gone.

        Requirements: DLV-0005
        """
        queue = self.catalog.by_number.get(queue_number)
        lock = queue.locks.get(id) if queue is not None else None
        if lock is not None and lock.number == lock_number:
            self._return(lock, None, 0)

    def give_back(self, lock: Lock, counts: bool, now: int) -> None:
        """Return a message whose consumer is gone. `counts`: the delivery counts. No effect when the lock is gone."""
        if valid(lock):
            self._return(lock, DeathReason.CONNECTION_LOST if counts else None, now)

    def expire(self, now: int, limit: int) -> int:
        """Return messages with expired locks to their queues, up to `limit`. Returns how many.

        Requirements: SCH-0016, DLV-0012
        """
        # Locks of purged queues expire as well; without this, `due` would pass the same ones again and again.
        self.locks.tidy(TIDIED_PER_EXPIRE)
        due = self.locks.due(now, limit)
        for lock in due:
            counts = not is_websocket(lock.consumer) or self.has_left(lock.consumer, lock.id)
            self._return(lock, DeathReason.EXPIRED if counts else None, now)
        self.locks.look_again()
        return len(due)

    def _held(self, name: str, id: str, consumer: str) -> Lock:
        queue = self.catalog.by_name.get(name)
        lock = queue.locks.get(id) if queue is not None else None
        if lock is None or lock.consumer != consumer:
            raise _not_locked(name, id)
        return lock

    def unlock(self, lock: Lock) -> None:
        """Remove a lock. What becomes of its message is up to the caller."""
        lock.queue.unlock(self.journal, lock)
        self.locks.remove(lock)

    def _return(self, lock: Lock, why: DeathReason | None, now: int, error: str = "") -> NackOutcome:
        """Take a message back from its consumer. `why`: the reason why the delivery counts; None: it does not count.

        Requirements: DLV-0011
        """
        queue = lock.queue
        record = queue.read_lock(self.journal, lock).record
        deliveries = lock.deliveries if why is not None else lock.deliveries - 1
        self.unlock(lock)
        _, _, max_retries, _, _ = records.unpack_message(record)
        record = records.with_deliveries(record, deliveries)
        if why is not None and deliveries >= max_retries:
            self.dead_letters.bury(lock, record, why, error, now)
            return NackOutcome.DEAD_LETTERED
        if lock.digest and not queue.config.allow_duplicates:
            owner = self.deduplication.owner(queue, lock.digest)
            if not owner:
                self.deduplication.own(queue, lock.digest, lock.id)
            elif owner != lock.id.encode():
                if lock.external:
                    self.payloads.externals.free(queue, lock.external)
                return NackOutcome.DROPPED
            if lock.external and not external_digest(record):
                # The record must hold the digest in case the payload is lost.
                record += lock.digest
        self._put_back(queue, lock.key, record)
        return NackOutcome.UNLOCKED

    def payload_lost(
        self, queue: Queue, key: bytes, id: str, reference: bytes, digest: bytes, reason: str, kind: int = LIVE
    ) -> None:
        """Clean up after a message that was removed from its family because its payload is lost.

        Requirements: PER-0028
        """
        self.payloads.lost(queue, key, id, reference, reason, kind)
        if digest:
            self.deduplication.free(queue, digest, id)

    def _miscounted(self, queue: Queue) -> None:
        """Correct the counter of a queue: it counts messages, but the store has none.

        Requirements: PER-0019
        """
        log.error(
            "queue '%s' counted %s, but the store holds none; the count is now 0",
            queue.name,
            counted(queue.available, "available message"),
        )
        queue.available = 0
        self.journal.mark(queue)

    # The store

    def commit(self) -> None:
        """Write all pending changes as one batch. Raises StorageFault; then call `load` to restore memory."""
        self.journal.commit()

    def load(self, clock: ClockFrame = NO_CLOCK, now: int = 0) -> Iterator[None]:
        """Read the store into memory; see `Loader.load`.

        Requirements: PER-0020
        """
        return self._loader.load(clock, now)


def _not_locked(name: str, id: str) -> MessageNotLocked:
    return MessageNotLocked(f"Message '{id[:64]}' is not locked by this consumer in queue '{name[:255]}'")
