"""The trash: purged messages and deleted queues that are kept aside for a while, so that they can be put back.

Rule: what is kept aside stays where it is in the store. So keeping it is a small write, however many messages there
are. A deleted queue is marked in its configuration, and leaves the catalog. A purged queue is marked like that, too,
and goes on empty under a new number, with its name, configuration and dead letters.

A deleted queue is put back by the opposite write. Purged messages move back into their queue, to their old places. That
goes in steps, and a kill between two leaves each message in one of the two places. Locks are not kept: what was locked
is available when it is put back, and that delivery does not count. It is dropped where it would be dropped if it came
back unsettled: the queue has come to refuse duplicates since its delivery, and an equal message owns the payload.

Nothing is kept aside in memory mode, because there it would use the memory that a purge is to free.

Requirements: DLV-0059, DLV-0060, DLV-0062
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qrusty_trio.core import records
from qrusty_trio.core.catalog import Catalog, check_name, check_unprotected
from qrusty_trio.core.configuration import Kept
from qrusty_trio.core.deduplication import Deduplication
from qrusty_trio.core.hot_tier import Tiers
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import PREFIX_BYTES, lock_key
from qrusty_trio.core.locks import LockIndex
from qrusty_trio.core.model import MAX_QUEUES
from qrusty_trio.core.payloads import Payloads
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.rates import Rates
from qrusty_trio.core.records import PAYLOAD_AT, external_digest, reference_of
from qrusty_trio.errors import LimitReached, NotFound, QueueExists, UndoNotPossible
from qrusty_trio.storage.payloads import PayloadBroken

MAX_KEPT = 1000
"""Purges and deletes that are kept aside at a time."""
PER_STEP = 64
"""Messages put back in one step, which takes under a millisecond."""
STEP_BYTES = 256 * 1024
"""Bytes of records moved in one step, and bytes of large payloads read, or one that is larger."""
LOCK_NUMBERS_PER_STEP = 4_000
"""Lock numbers scanned in one step. Those of removed locks cost 0.1 µs each."""

PutBack = Callable[[Queue, bytes, bytes], None]
"""Makes a message available: queue, key in MESSAGES, record."""


@dataclass
class Outcome:
    """What a restore has done so far."""

    queue: str
    """The queue that has the messages now."""
    restored: int = 0
    refused: int = 0
    """Messages that stay in the trash, because the queue has equal ones and refuses duplicates."""


class Trash:
    """What is kept aside: the queues in `Catalog.kept`."""

    def __init__(
        self,
        journal: Journal,
        catalog: Catalog,
        locks: LockIndex,
        payloads: Payloads,
        deduplication: Deduplication,
        tiers: Tiers,
        put_back: PutBack,
    ) -> None:
        self._journal = journal
        self._catalog = catalog
        self._locks = locks
        self._payloads = payloads
        self._deduplication = deduplication
        self._tiers = tiers
        self._put_back = put_back
        self._at_work: list[int] = []
        """Numbers of queues that are being put back: they are not erased meanwhile. One number for each request."""

    # Keeping aside

    def purge(self, name: str, seconds: int, now: int) -> tuple[int, Queue | None]:
        """Like `Catalog.purge`, but the messages are kept aside. Returns how many, and what is kept.

        Raises QueueProtected, UndoNotPossible, LimitReached.
        """
        queue = self._catalog.by_name.get(name)
        if queue is None:
            return 0, None
        check_unprotected(queue, "purged")
        self._check_possible()
        removed = queue.available + queue.locked
        if not removed:
            return 0, None
        self._renumber(queue)
        self._keep(queue, Kept(True, now, now + seconds * 1000))
        return removed, queue

    def delete(self, name: str, seconds: int, now: int) -> tuple[int, Queue | None]:
        """Like `Catalog.delete`, but the queue is kept aside. Returns how many messages it has, and what is kept.

        Raises QueueProtected, UndoNotPossible, LimitReached.
        """
        queue = self._catalog.by_name.get(name)
        if queue is None:
            return 0, None
        check_unprotected(queue, "deleted")
        self._check_possible()
        self._catalog.leave(queue)
        self._keep(queue, Kept(False, now, now + seconds * 1000))
        return queue.available + queue.locked, queue

    def _renumber(self, queue: Queue) -> None:
        """Let a queue go on under another number, without its messages. The dead letters stay where they are."""
        successor = Queue(self._catalog.new_number(), queue.name, queue.config, self._tiers.limits)
        successor.keep_dead_under(queue.dead_number)
        successor.dead, queue.dead = queue.dead, 0
        successor.rates, queue.rates = queue.rates, Rates()
        # Sequence numbers go on, so that each message has its old place when it comes back.
        for name in ("next_sequence", "next_dead", "dead_from", "dead_trimmed", "dead_purged", "dead_due"):
            setattr(successor, name, getattr(queue, name))
        successor.write_config(self._journal)
        successor.write_dead_bounds(self._journal)
        self._catalog.replace(queue, successor)

    def _check_possible(self) -> None:
        if not self._journal.storage.persistent:
            raise UndoNotPossible("Nothing is kept aside in memory mode: ask without 'undo_seconds'")
        if len(self._catalog.kept) >= MAX_KEPT:
            raise LimitReached(
                f"{MAX_KEPT} purges and deletes are kept aside already, which is the limit: erase some, or ask without "
                "'undo_seconds'"
            )

    def _keep(self, queue: Queue, kept: Kept) -> None:
        self._locks.forget(queue)
        queue.kept = kept
        queue.write_config(self._journal)
        self._catalog.keep(queue)

    # Looking

    def everything(self) -> list[Queue]:
        """What is kept aside, the oldest first."""
        return list(self._catalog.kept.values())

    def get(self, number: int) -> Queue:
        """Raises NotFound."""
        queue = self._catalog.kept.get(number)
        if queue is None:
            raise _gone(number)
        return queue

    def goes_back_to(self, queue: Queue) -> Queue | None:
        """The queue whose messages these were; None if a deleted queue is kept aside, or if it is gone."""
        if queue.kept is None or not queue.kept.purged:
            return None
        return self._catalog.by_dead_number.get(queue.dead_number)

    def next_to_erase(self, now: int | None) -> Queue | None:
        """The first one whose time is over at `now` (wall ms), or with None the oldest of all; None for none."""
        for number, queue in self._catalog.kept.items():
            if number not in self._at_work and (now is None or (queue.kept is not None and queue.kept.until <= now)):
                return queue
        return None

    # Erasing

    def erase(self, queue: Queue) -> int:
        """Remove it for good. Returns how many messages it had, dead letters included. No effect if it is gone."""
        if self._catalog.kept.get(queue.number) is not queue:
            return 0
        messages = queue.dead + self._catalog.erase(queue)
        del self._catalog.kept[queue.number]
        return messages

    # Putting back

    def restore(self, queue: Queue, to: str | None, outcome: Outcome) -> Iterator[None]:
        """Put back what is kept aside, in steps. Fills `outcome` as it goes.

        `to`: the name of a new queue for it. None: a deleted queue gets its name back, and purged messages go back into
        their queue. Raises QueueExists, InvalidQueueName, LimitReached, UndoNotPossible in the first step, and these,
        NotFound, StorageFault and PayloadUnreadable in any.
        """
        self._at_work.append(queue.number)
        try:
            self._find_place(queue, to)
            yield from self._release_locks(queue)
            into = self._find_place(queue, to)
            if into is None:
                outcome.queue = to or queue.name
                outcome.restored = queue.available
                self._reenter(queue, outcome.queue)
            else:
                yield from self._move_all(queue, into, outcome)
        finally:
            self._at_work.remove(queue.number)

    def _find_place(self, queue: Queue, to: str | None) -> Queue | None:
        """The queue that its messages go to; None if it becomes a queue of its own again."""
        kept = self.get(queue.number).kept
        catalog = self._catalog
        if to is None and kept is not None and kept.purged:
            into = self.goes_back_to(queue)
            if into is None:
                raise UndoNotPossible(f"Queue '{queue.name}' is gone: give the name of a new one in 'to'")
            if into.kept is not None:
                raise UndoNotPossible(
                    f"Queue '{into.name}' was deleted meanwhile: put that back first, with id {into.number}, or give "
                    "the name of a new queue in 'to'"
                )
            return into
        name = queue.name if to is None else to
        check_name(name)
        if name in catalog.by_name:
            raise QueueExists(f"Queue '{name}' already exists: rename it, or give another name in 'to'")
        if len(catalog.by_name) >= MAX_QUEUES:
            raise LimitReached(f"There are {MAX_QUEUES} queues already, which is the limit")
        return None

    def _reenter(self, queue: Queue, name: str) -> None:
        catalog = self._catalog
        del catalog.kept[queue.number]
        if queue.kept is not None and queue.kept.purged:
            queue.keep_dead_under(catalog.new_number())
        queue.kept = None
        queue.name = name
        queue.oldest = None
        queue.write_config(self._journal)
        queue.unload()
        catalog.enter(queue)
        if queue.deduplicating:
            self._deduplication.resume(queue)

    def _release_locks(self, queue: Queue) -> Iterator[None]:
        """Make what was locked available, still kept aside."""
        journal = self._journal
        number = queue.locks_from
        while queue.locked and number < queue.next_lock:
            self._check_kept(queue)
            end = min(number + LOCK_NUMBERS_PER_STEP, queue.next_lock)
            keys = lock_key(queue.number, number), lock_key(queue.number, end)
            pairs = journal.scan(journal.locks, *keys, PER_STEP, STEP_BYTES)
            for key, value in pairs:
                stored = records.unpack_lock(value)
                record = stored.record
                if reference_of(record) and not external_digest(record):
                    # The record must hold the digest in case the payload is lost.
                    record += stored.digest
                journal.delete(key, journal.locks)
                queue.locked -= 1
                if stored.digest and not self._stays(queue, stored.digest, record):
                    continue
                queue.put(journal, stored.key, record)
            number = int.from_bytes(pairs[-1][0][PREFIX_BYTES:], "big") + 1 if pairs else end
            yield
        self._check_kept(queue)
        if queue.locked:
            queue.locked = 0  # it was miscounted
            journal.mark(queue)
        queue.tier.reset(None)

    def _stays(self, queue: Queue, digest: bytes, record: bytes) -> bool:
        """Whether a message that was locked becomes available: not if an equal one owns the payload."""
        if queue.config.allow_duplicates:
            return True
        id = records.unpack_message(record)[4]
        owner = self._deduplication.owner(queue, digest)
        if owner and owner != id:
            if reference := reference_of(record):
                self._payloads.externals.free(queue, reference)
            self._journal.mark(queue)
            return False
        if not owner:
            self._deduplication.own(queue, digest, id.decode())
        return True

    def _check_kept(self, queue: Queue) -> None:
        """Raise NotFound if it was put back or erased since the last step."""
        if self.get(queue.number) is not queue:
            raise _gone(queue.number)

    def _move_all(self, queue: Queue, into: Queue, outcome: Outcome) -> Iterator[None]:
        journal = self._journal
        begin = queue.head
        while pairs := journal.scan(journal.messages, begin, queue.end, PER_STEP, STEP_BYTES):
            outcome.queue = into.name
            octets = 0
            for key, record in pairs:
                begin = key + b"\x00"
                size, moved = self._move(queue, into, key, record)
                outcome.restored += moved
                outcome.refused += not moved
                if not outcome.refused:
                    queue.head = key
                octets += size
                if octets >= STEP_BYTES:
                    break
            into.oldest = None  # What came back may be older than all that are there.
            yield
            self._check_kept(queue)
            if not self._catalog.exists(into):
                into = self._find_place(queue, None) or into
        if not queue.available:
            self._catalog.note_emptied(queue.number, outcome.restored)
            self._deduplication.emptied(queue)
            self._catalog.erase(queue)
            del self._catalog.kept[queue.number]

    def _move(self, queue: Queue, into: Queue, key: bytes, record: bytes) -> tuple[int, bool]:
        """Move a message to its old place. Returns the payload bytes read, and whether the queue took it."""
        journal, deduplication = self._journal, self._deduplication
        reference = reference_of(record)
        raw = records.unpack_message(record)[4]
        id = raw.decode()
        digest, octets = b"", 0
        if not (into.config.allow_duplicates and queue.config.allow_duplicates):
            digest, octets = self._digest(record, reference)
        refuses = bool(digest) and not into.config.allow_duplicates
        if refuses and deduplication.owner(into, digest):
            return octets, False
        new_key = into.prefix + key[PREFIX_BYTES:]
        queue.drop(journal, key)
        if reference:
            externals = self._payloads.externals
            externals.free(queue, reference)
            externals.own(into, reference, id, new_key)
        if digest and not queue.config.allow_duplicates:
            deduplication.free(queue, digest, id)
        if refuses:
            deduplication.own(into, digest, id)
            if reference and not external_digest(record):
                # The record must hold the digest in case the payload is lost.
                record += digest
        self._put_back(into, new_key, record)
        return octets, True

    def _digest(self, record: bytes, reference: bytes) -> tuple[bytes, int]:
        """The digest of a payload (empty if it is lost, which a consume will notice), and the bytes read for it."""
        if not reference:
            return records.digest_of(record[PAYLOAD_AT:]), 0
        if digest := external_digest(record):
            return digest, 0
        try:
            payload = self._payloads.externals.read(reference)
        except PayloadBroken:
            return b"", 0
        return records.digest_of(payload), len(payload)


def _gone(number: int) -> NotFound:
    return NotFound(f"Nothing with id '{number}' is kept aside: GET /trash lists what is")
