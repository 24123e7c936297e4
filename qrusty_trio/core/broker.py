"""The broker: what publish, consume, ack, nack, renew and expiry do to the queues.

Rule: an operation is refused before anything changes, or it changes memory and the pending batch alike; `commit` writes
the batch. No clock, no task, no socket: `now` is wall time in milliseconds. Every operation costs the same however
many messages, locks and queues there are.

A message is in exactly one family: MESSAGES (available), LOCKS (delivered, not settled) or DEAD.
Queues come and go in `registry.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from qrusty_trio.core import records
from qrusty_trio.core.externals import DEAD_LETTER, REFERENCE_BYTES
from qrusty_trio.core.keys import lock_key, mismatch
from qrusty_trio.core.loading import NEVER
from qrusty_trio.core.locks import Lock, valid
from qrusty_trio.core.model import MAX_LOCK_SECONDS, Delivery, Kind, NackOutcome, Priority, is_websocket
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.records import EXTERNAL, PAYLOAD_AT, new_id, pack_lock, pack_message, unpack_message
from qrusty_trio.core.registry import Registry
from qrusty_trio.errors import DuplicatePayload, MessageNotLocked, PayloadNotStored, QueueNotFound
from qrusty_trio.storage.payloads import PayloadBroken
from qrusty_trio.wording import counted

REFILL_PIECE = 128
"""Messages read into a hot tier at once: 0.2 ms."""
REMOVED_PER_CONSUME = 64
"""Messages that one consume removes, as their payload is broken or an equal one is locked, before it answers that there
is none to be had now."""

TIDIED_PER_EXPIRE = 1000

NACKED = "nacked"
EXPIRED = "its lock ended"
CONNECTION_LOST = "its connection was lost"

log = logging.getLogger(__name__)


def _has_left(consumer: str, id: str) -> bool:
    return True


class Broker(Registry):
    """All queues of one store. See `Registry` for how to make one."""

    has_left: Callable[[str, str], bool] = staticmethod(_has_left)
    """Whether the delivery of a message (id) has left for a WebSocket (consumer id): one that never did counts for
    nothing when its lock ends. Set by whoever knows the connections."""

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
        queue.put(journal, key, record)
        if queue.number in self.watched:
            self.ready.add(queue.number)
        return id

    def _put_back(self, queue: Queue, key: bytes, record: bytes) -> None:
        queue.put(self.journal, key, record)
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
                self.miscounted(queue)
                return None
            flags, created, _, deliveries, id_bytes = unpack_message(record)
            id = id_bytes.decode()
            external = digest = b""
            data = record[PAYLOAD_AT:]
            if flags & EXTERNAL:
                external, digest = data[:REFERENCE_BYTES], data[REFERENCE_BYTES:]
                try:
                    data = self.read_external(external)
                except PayloadBroken as broken:
                    queue.take(journal, key)
                    self.drop_broken(queue, key, id, external, digest, broken.reason)
                    continue
            queue.take(journal, key)
            if queue.config.allow_duplicates:
                digest = b""
            else:
                digest = digest or records.digest_of(data)
                if queue.settling and not self._may_leave(queue, id, digest):
                    if external and self.externals is not None:
                        self.externals.free(queue, external)
                    continue
            deliveries += 1
            if lock_seconds > MAX_LOCK_SECONDS:
                lock_seconds = MAX_LOCK_SECONDS
            end = now + lock_seconds * 1000
            value = pack_lock(end, deliveries, consumer, key, digest, record, lock_seconds, self.clock_frame)
            number = queue.lock(journal, value)
            locks.add(Lock(id, queue, number, key, consumer, end, deliveries, digest, external, journal.batch_number))
            if end < self.wake_at:
                self.wake_at = end
            return Delivery(queue.number, id, data.decode(), deliveries, queue.coder.priority(key), created, number)
        self.ready.add(queue.number)
        return None

    def _may_leave(self, queue: Queue, id: str, digest: bytes) -> bool:
        """Whether a message may be handed out while duplicates are looked for: not while an equal one is locked."""
        owner = self.digests.owner(queue, digest)
        if owner != id.encode():
            if owner and queue.locks.get(owner.decode()) is not None:
                return False
            # It is the first in order of those that are available.
            self.digests.own(queue, digest, id)
        return True

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
        return self._return(lock, NACKED)

    def renew(self, name: str, id: str, consumer: str, lock_seconds: int, now: int) -> None:
        """Make the lock end `lock_seconds` from now. Raises MessageNotLocked."""
        lock = self._held(name, id, consumer)
        journal = self.journal
        queue = lock.queue
        record = self._locked_record(lock)
        lock_seconds = min(lock_seconds, MAX_LOCK_SECONDS)
        end = now + lock_seconds * 1000
        self.locks.extend(lock, end)
        self.wake_at = min(self.wake_at, end)
        value = pack_lock(end, lock.deliveries, consumer, lock.key, lock.digest, record, lock_seconds, self.clock_frame)
        journal.put(lock_key(queue.number, lock.number), value, journal.locks)
        lock.batch_number = journal.batch_number
        journal.mark(queue)

    def held(self, consumer: str, id: str) -> tuple[str, int] | None:
        """Present name and number of the queue whose message a WebSocket holds; None when it does not hold it."""
        lock = self.locks.held(consumer, id)
        return (lock.queue.name, lock.queue.number) if lock is not None else None

    def take_back(self, queue_number: int, lock_number: int, id: str) -> None:
        """A delivery that nobody saw: the message is as before. No effect when that lock is over."""
        queue = self.by_number.get(queue_number)
        lock = queue.locks.get(id) if queue is not None else None
        if lock is not None and lock.number == lock_number:
            self._return(lock, None)

    def give_back(self, lock: Lock, counts: bool) -> None:
        """The consumer is gone; no effect when the lock is over. `counts`: the delivery counts as one."""
        if valid(lock):
            self._return(lock, CONNECTION_LOST if counts else None)

    def expire(self, now: int, limit: int) -> int:
        """Take back up to `limit` messages whose locks have ended; returns how many."""
        # Or locks of purged queues, which end as well, would be met again and again.
        self.locks.tidy(TIDIED_PER_EXPIRE)
        due = self.locks.due(now, limit)
        for lock in due:
            counts = not is_websocket(lock.consumer) or self.has_left(lock.consumer, lock.id)
            self._return(lock, EXPIRED if counts else None)
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
        self.locks.remove(lock)
        lock.queue.unlock(self.journal, lock)

    def _return(self, lock: Lock, why: str | None) -> NackOutcome:
        """Take a message back from its consumer. `why`: the delivery counts, for this reason; None: it does not."""
        record = self._locked_record(lock)
        queue = lock.queue
        deliveries = lock.deliveries if why is not None else lock.deliveries - 1
        self._unlock(lock)
        _, _, max_retries, _, _ = records.unpack_message(record)
        record = records.with_deliveries(record, deliveries)
        if why is not None and deliveries >= max_retries:
            self._bury(lock, record, why)
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
        self._put_back(queue, lock.key, record)
        return NackOutcome.UNLOCKED

    def _bury(self, lock: Lock, record: bytes, why: str) -> None:
        queue = lock.queue
        key = queue.bury(self.journal, lock.key, record)
        self.dead_lettered_total += 1
        if lock.external:
            assert self.externals is not None
            self.externals.free(queue, lock.external)
            self.externals.own(queue, lock.external, lock.id, key, DEAD_LETTER)
        if lock.digest:
            self.digests.free(lock.queue, lock.digest, lock.id)
        log.warning(
            "message %s of queue '%s' is a dead letter: %s, delivered %d of at most %s",
            lock.id,
            queue.name,
            why,
            lock.deliveries,
            counted(max(1, records.unpack_message(record)[2]), "time"),
        )


def _not_locked(name: str, id: str) -> MessageNotLocked:
    return MessageNotLocked(f"Message '{id[:64]}' is not locked by this consumer in queue '{name[:255]}'")
