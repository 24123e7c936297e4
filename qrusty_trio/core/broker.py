"""The broker: what publish, consume, ack, nack, renew and expiry do to the queues.

Rule: an operation is refused before anything changes, or it changes memory and the pending batch alike; `commit` writes
the batch. No clock, no task, no socket: `now` is wall time in milliseconds. Every operation costs the same however
many messages, locks and queues there are.

A message is in exactly one family: MESSAGES (available), LOCKS (delivered, not settled) or DEAD.
Queues come and go in `registry.py`.
"""

from __future__ import annotations

from qrusty_trio.core import records
from qrusty_trio.core.externals import DEAD_LETTER, REFERENCE_BYTES
from qrusty_trio.core.keys import lock_key, mismatch
from qrusty_trio.core.locks import Lock
from qrusty_trio.core.model import MAX_LOCK_SECONDS, Delivery, Kind, NackOutcome, Priority
from qrusty_trio.core.queue import COVER_EVERY, Queue
from qrusty_trio.core.records import EXTERNAL, PAYLOAD_AT, new_id, pack_lock, pack_message, unpack_message
from qrusty_trio.core.registry import NEVER, Registry
from qrusty_trio.errors import DuplicatePayload, MessageNotLocked, PayloadNotStored, QueueNotFound
from qrusty_trio.storage.payloads import PayloadBroken

REFILL_PIECE = 128
"""Messages read into a hot tier at once: 0.2 ms."""
BROKEN_PER_CONSUME = 64
"""Messages with a broken payload that one consume removes before it answers that there is none to be had now."""
TIDY_PER_EXPIRE = 1000


class Broker(Registry):
    """All queues of one store. See `Registry` for how to make one."""

    def publish(
        self, name: str, priority: Priority, payload: str, max_retries: int, now: int, create: bool = True
    ) -> str:
        """Add a message; returns its id (UUID text).

        An unknown queue is made with the defaults, or with `create=False` refused (QueueNotFound). Raises
        PriorityKindMismatch, InvalidPriority, DuplicatePayload, InvalidQueueName, LimitReached; PayloadNotStored
        when a payload that goes to a segment file finds no room.
        """
        known = queue = self.queues.get(name)
        if queue is None:
            if not create:
                raise QueueNotFound(f"Queue '{name}' does not exist")
            if type(priority) is not int:
                raise mismatch(Kind.NUMERIC)
            queue = self.create_default(name)
        journal = self.journal
        sequence = queue.next_sequence
        key = queue.encode(priority, sequence)
        data = payload.encode()
        id = new_id()
        digest = b""
        if not queue.config.allow_duplicates:
            digest = records.digest_of(data)
            if self.digests.owner(queue, digest):
                raise DuplicatePayload("Duplicate payload rejected")
        if len(data) >= self.externalize_min_bytes and self.externals is not None:
            try:
                reference = self.externals.append(data)
            except PayloadNotStored:
                if known is None:
                    self.delete(name)
                raise
            record = pack_message(EXTERNAL, now, max_retries, 0, id.encode()) + reference + digest
            self.externals.own(queue, reference, id, key)
        else:
            record = pack_message(0, now, max_retries, 0, id.encode()) + data
        if digest:
            self.digests.own(queue, digest, id)
        queue.next_sequence = sequence + 1
        queue.rates.published += 1
        journal.put(key, record, journal.messages)
        self._available(queue, key, record)
        return id

    def _available(self, queue: Queue, key: bytes, record: bytes) -> None:
        """A message was put into MESSAGES."""
        queue.available += 1
        if key < queue.head:
            queue.head = key
            if key < queue.covered:
                queue.covered = key
        queue.tier.add(key, record)
        if not queue.dirty:
            queue.dirty = True
            self.journal.dirty.append(queue)
        if queue.number in self.watched:
            self.ready.add(queue.number)

    def consume(self, name: str, consumer: str, lock_seconds: int, now: int) -> Delivery | None:
        """Lock the first available message; None when there is none, or too many are locked already."""
        queue = self.queues.get(name)
        return self._consume(queue, consumer, lock_seconds, now) if queue is not None else None

    def consume_number(self, queue_number: int, consumer: str, lock_seconds: int, now: int) -> Delivery | None:
        """The same by the number of the queue."""
        queue = self.by_number.get(queue_number)
        return self._consume(queue, consumer, lock_seconds, now) if queue is not None else None

    def _consume(self, queue: Queue, consumer: str, lock_seconds: int, now: int) -> Delivery | None:
        if not queue.available:
            return None
        locks = self.locks
        if locks.count >= self.max_locked_index:
            self.refused_for_locks += 1
            self.starved.add(queue.number)
            return None
        journal = self.journal
        for _ in range(BROKEN_PER_CONSUME):
            if not queue.available:
                return None
            tier = queue.tier
            if tier.frontier is not None and tier.low():
                self._refill(queue)
            try:
                key, record = tier.pop()
            except IndexError:
                self.miscounted(queue)
                return None
            queue.head = key
            queue.available -= 1
            journal.delete(key, journal.messages)
            if not queue.dirty:
                queue.dirty = True
                journal.dirty.append(queue)
            queue.taken += 1
            if queue.taken >= COVER_EVERY:
                queue.cover(journal)
            flags, created, _, deliveries, id_bytes = unpack_message(record)
            id = id_bytes.decode()
            external = digest = b""
            data = record[PAYLOAD_AT:]
            if flags & EXTERNAL:
                external, digest = data[:REFERENCE_BYTES], data[REFERENCE_BYTES:]
                try:
                    data = self.read_external(external)
                except PayloadBroken as broken:
                    self.drop_broken(queue, key, id, external, digest, broken.reason)
                    continue
            if queue.config.allow_duplicates:
                digest = b""
            else:
                digest = digest or records.digest_of(data)
                if queue.settling and not self.digests.owner(queue, digest):
                    self.digests.own(queue, digest, id)
            deliveries += 1
            until = now + (lock_seconds if lock_seconds < MAX_LOCK_SECONDS else MAX_LOCK_SECONDS) * 1000
            number = queue.next_lock
            queue.next_lock = number + 1
            queue.locked += 1
            value = pack_lock(until, deliveries, consumer.encode(), key, digest, record)
            journal.put(lock_key(queue.number, number), value, journal.locks)
            locks.add(Lock(id, queue, number, key, consumer, until, deliveries, digest, external, journal.batch_number))
            if until < self.wake_at:
                self.wake_at = until
            return Delivery(queue.number, id, data.decode(), deliveries, queue.coder.priority(key), created)
        self.ready.add(queue.number)
        return None

    def _refill(self, queue: Queue) -> None:
        """Read on from the frontier."""
        tier = queue.tier
        frontier = tier.frontier
        assert frontier is not None
        if queue.available == len(tier):
            # All there is stands before the frontier: nothing to look for behind it.
            tier.frontier = None
            return
        limit = min(REFILL_PIECE, tier.room())
        journal = self.journal
        pairs = journal.scan(journal.messages, frontier, queue.end, limit)
        tier.extend(pairs, end=len(pairs) < limit)

    def ack(self, name: str, id: str, consumer: str, now: int) -> None:
        """Settle a message for good. Raises MessageNotLocked when `consumer` does not hold it."""
        queue = self.queues.get(name)
        lock = queue.locks.get(id) if queue is not None else None
        if queue is None or lock is None or lock.consumer != consumer:
            raise _not_locked(name, id)
        queue.rates.acked += 1
        self._unlock(lock)
        if lock.external:
            assert self.externals is not None
            self.externals.free(queue, lock.external)
        if lock.digest:
            self.digests.free(queue, lock.digest, lock.id)

    def nack(self, name: str, id: str, consumer: str, now: int) -> NackOutcome:
        """Hand a message back: in its old place, or to the dead letters when it was delivered often enough.

        It is dropped when duplicates have been turned off meanwhile and an equal one stands for it (`duplicates.py`).
        """
        lock = self._held(name, id, consumer)
        lock.queue.rates.nacked += 1
        return self._return(lock, lock.deliveries)

    def renew(self, name: str, id: str, consumer: str, lock_seconds: int, now: int) -> None:
        """Make the lock end `lock_seconds` from now. Raises MessageNotLocked."""
        lock = self._held(name, id, consumer)
        journal = self.journal
        queue = lock.queue
        record = self._locked_record(lock)
        until = now + min(lock_seconds, MAX_LOCK_SECONDS) * 1000
        self.locks.extend(lock, until)
        self.wake_at = min(self.wake_at, until)
        value = records.pack_lock(until, lock.deliveries, consumer.encode(), lock.key, lock.digest, record)
        journal.put(lock_key(queue.number, lock.number), value, journal.locks)
        lock.batch_number = journal.batch_number
        journal.mark(queue)

    def give_back(
        self, queue_number: int, id: str, consumer: str, now: int, counted: bool, delivery: int | None = None
    ) -> None:
        """The consumer is gone; no effect when it does not hold the message.

        `counted`: the delivery counts as one. Not counted: it never arrived, the message is as before. `delivery`: only
        if it is that delivery of the message by which the consumer holds it (its `retry_count`).
        """
        queue = self.by_number.get(queue_number)
        lock = queue.locks.get(id) if queue is not None else None
        if lock is not None and lock.consumer == consumer and delivery in (None, lock.deliveries):
            self._return(lock, lock.deliveries if counted else lock.deliveries - 1, may_die=counted)

    def expire(self, now: int, limit: int) -> int:
        """Take back up to about `limit` messages whose locks have ended; returns how many."""
        self.locks.tidy(TIDY_PER_EXPIRE)
        due = self.locks.due(now, limit)
        for lock in due:
            self._return(lock, lock.deliveries)
        end = self.locks.next_end()
        self.wake_at = end if end is not None else NEVER
        return len(due)

    def _held(self, name: str, id: str, consumer: str) -> Lock:
        queue = self.queues.get(name)
        lock = queue.locks.get(id) if queue is not None else None
        if lock is None or lock.consumer != consumer:
            raise _not_locked(name, id)
        return lock

    def _locked_record(self, lock: Lock) -> bytes:
        """The message of a lock, as it was before the delivery."""
        journal = self.journal
        if lock.batch_number == journal.batch_number:
            journal.commit()
        value = journal.get(journal.locks, lock_key(lock.queue.number, lock.number))
        if value is None:
            raise self.damaged(f"the lock of message {lock.id} in queue '{lock.queue.name}' is not in the store")
        return records.unpack_lock(value).record

    def _unlock(self, lock: Lock) -> None:
        queue = lock.queue
        journal = self.journal
        self.locks.remove(lock)
        queue.locked -= 1
        journal.delete(lock_key(queue.number, lock.number), journal.locks)
        if not queue.dirty:
            queue.dirty = True
            journal.dirty.append(queue)
        if self.starved:
            self.wake_starved()

    def _return(self, lock: Lock, deliveries: int, may_die: bool = True) -> NackOutcome:
        record = self._locked_record(lock)
        queue = lock.queue
        self._unlock(lock)
        _, _, max_retries, _, _ = records.unpack_message(record)
        record = records.with_deliveries(record, deliveries)
        if may_die and deliveries >= max_retries:
            self._bury(lock, record)
            return NackOutcome.DEAD_LETTERED
        if lock.digest and not queue.config.allow_duplicates:
            owner = self.digests.owner(queue, lock.digest)
            if not owner:
                self.digests.own(queue, lock.digest, lock.id)
            elif owner != lock.id.encode():
                if lock.external and self.externals is not None:
                    self.externals.free(queue, lock.external)
                return NackOutcome.DROPPED
            if lock.external and len(record) == PAYLOAD_AT + REFERENCE_BYTES:
                # The record has to tell its digest even when the payload is lost.
                record += lock.digest
        self.journal.put(lock.key, record, self.journal.messages)
        self._available(queue, lock.key, record)
        return NackOutcome.UNLOCKED

    def _bury(self, lock: Lock, record: bytes) -> None:
        """To the dead letters: DEAD keeps the message key (its place and priority) and the record."""
        queue = lock.queue
        journal = self.journal
        key = lock_key(queue.number, queue.next_dead)
        queue.next_dead += 1
        queue.dead += 1
        journal.put(key, len(lock.key).to_bytes(2, "big") + lock.key + record, journal.dead)
        if lock.external:
            assert self.externals is not None
            self.externals.free(queue, lock.external)
            self.externals.own(queue, lock.external, lock.id, key, DEAD_LETTER)
        if lock.digest:
            self.digests.free(lock.queue, lock.digest, lock.id)


def _not_locked(name: str, id: str) -> MessageNotLocked:
    return MessageNotLocked(f"Message '{id[:64]}' is not locked by this consumer in queue '{name[:255]}'")
