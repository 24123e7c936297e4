"""Equal payloads in queues that refuse duplicates.

Rule: a digest is owned by one message, from its publish until the message is acked, dead-lettered or removed. Changes
in the pending batch are visible at once.

A queue may hold duplicates at the moment it starts to refuse them. A search removes these. Of equal messages one stays:
the locked one, or else the first in order. If several are locked, the one locked first owns the payload. The others
are removed when they come back unsettled. The search is noted in `Queue.deduplicating`, which is stored, so that it
resumes after a restart. During the search the queue works as usual:

- a publish is checked against the payloads indexed so far;
- a duplicate that still gets in is found later, when the search reaches it or its equal;
- a consume that comes across an equal of a locked message removes it.

A queue has at most one search, however many requests asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from qrusty_trio.core import records
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.payloads import Payloads
from qrusty_trio.core.queue import Lock, Queue
from qrusty_trio.core.records import external_digest, reference_of
from qrusty_trio.storage.payloads import PayloadBroken

PER_STEP = 64
"""Messages checked in one step."""
STEP_BYTES = 512 * 1024
"""Payload bytes read in one step, or a single larger payload: at most 2 MiB, about 1.5 ms."""
TRIM_EVERY = 4_000
"""Consecutive messages removed before their range is trimmed. Otherwise a refill would pass every tombstone."""
MAX_TRIM_PIECES = 8
"""Range deletes in one step. If messages in between would need more, the rest is not trimmed."""


class Deduplication:
    """The family DEDUP (queue number and digest of the payload -> message id), and the searches for duplicates.

    Requirements: DLV-0030
    """

    def __init__(self, journal: Journal, payloads: Payloads) -> None:
        self._journal = journal
        self._payloads = payloads
        self.searching: dict[Queue, Iterator[None]] = {}
        """The searches under way: one for each queue that is `deduplicating`. While there are any, `search_on` must be
        called."""

    # Owners

    def owner(self, queue: Queue, digest: bytes) -> bytes:
        """The id (ASCII) of the message that owns a digest; b"" for none."""
        key = queue.prefix + digest
        journal = self._journal
        fresh = journal.fresh_digests.get(key)
        return fresh if fresh is not None else journal.get(journal.dedup, key) or b""

    def own(self, queue: Queue, digest: bytes, id: str) -> None:
        """Make the message the owner of the digest."""
        journal = self._journal
        key, value = queue.prefix + digest, id.encode()
        journal.put(key, value, journal.dedup)
        journal.fresh_digests[key] = value
        journal.mark(queue)

    def free(self, queue: Queue, digest: bytes, id: str) -> None:
        """Release the digest of a message that is gone. No effect when another message owns it.

        Requirements: DLV-0031
        """
        if self.owner(queue, digest) == id.encode():
            journal = self._journal
            key = queue.prefix + digest
            journal.delete(key, journal.dedup)
            journal.fresh_digests[key] = b""
            journal.mark(queue)

    def may_leave(self, queue: Queue, id: str, digest: bytes) -> bool:
        """Whether a message may be delivered during the search: not while an equal one is locked."""
        owner = self.owner(queue, digest)
        if owner != id.encode():
            if queue.locks.get(owner.decode()) is not None:
                return False
            # Of the equal messages available, this is the first in order.
            self.own(queue, digest, id)
        return True

    # Searches

    def refuse(self, queue: Queue) -> None:
        """Start the search in a queue that refuses duplicates from now on. The caller writes its configuration.

        Requirements: DLV-0032
        """
        queue.deduplicating = True
        queue.dedup_generation += 1
        self.searching[queue] = self._search(queue)

    def allow(self, queue: Queue) -> None:
        """Allow duplicates in a queue from now on. The caller writes its configuration and commits: see `_free_all`."""
        queue.deduplicating = False
        queue.dedup_generation += 1
        self.stop(queue)
        self._free_all(queue)

    def resume(self, queue: Queue) -> None:
        """Restart a search that was interrupted, for example by a restart of the server.

        Requirements: DLV-0033
        """
        self.searching[queue] = self._search(queue)

    def emptied(self, queue: Queue) -> None:
        """Free the digests of a queue that was emptied. The caller commits: see `_free_all`."""
        self.stop(queue)
        if queue.deduplicating:
            queue.deduplicating = False
            queue.write_config(self._journal)
        if not queue.config.allow_duplicates:
            self._free_all(queue)

    def _free_all(self, queue: Queue) -> None:
        """Free all digests of a queue. Until the commit, `owner` still finds what the range delete removes."""
        journal = self._journal
        journal.delete_range(queue.prefix, queue.end, journal.dedup)
        journal.mark(queue)

    def stop(self, queue: Queue) -> None:
        """End the search in a queue that is gone or has no duplicates."""
        self.searching.pop(queue, None)

    def stop_all(self) -> None:
        """End all searches; a load resumes them."""
        self.searching.clear()

    def search_on(self) -> None:
        """Run one step of any search; the client that asked for it may be gone. Raises PayloadUnreadable.

        Requirements: SCH-0033
        """
        self.search(next(iter(self.searching)))

    def search(self, queue: Queue) -> None:
        """Run one step of the search in a queue, which has one. Raises PayloadUnreadable."""
        search = self.searching.pop(queue)
        try:
            next(search)
        except StopIteration:
            return
        except Exception:
            # A payload is unreadable for now, or memory is short. What was indexed stays; the search starts over.
            self.resume(queue)
            raise
        self.searching[queue] = search

    def _search(self, queue: Queue) -> Iterator[None]:
        """Index the payloads of a queue and remove duplicates. One step takes about a millisecond."""
        for page in queue.locks.pages(PER_STEP):
            octets = 0
            for lock in page:
                if queue.locks.get(lock.id) is lock:
                    octets += self._index_lock(queue, lock)
                    if octets >= STEP_BYTES:
                        octets = 0
                        yield
            yield
        begin = queue.head
        removed_from = begin
        """No message from here up to `begin` was kept."""
        removed = 0
        journal = self._journal
        while True:
            pairs = journal.scan(journal.messages, begin, queue.end, PER_STEP, STEP_BYTES)
            octets = 0
            for key, record in pairs:
                size, kept = self._index_message(queue, key, record)
                begin = key + b"\x00"
                octets += size
                removed += not kept
                if kept or removed >= TRIM_EVERY:
                    if removed >= PER_STEP:
                        self._trim(queue, removed_from, key if kept else begin)
                    removed = 0
                    removed_from = begin
                if octets >= STEP_BYTES:
                    break
            if not pairs:
                if removed >= PER_STEP:
                    self._trim(queue, removed_from, begin)
                queue.deduplicating = False
                queue.write_config(journal)
                return
            yield

    def _trim(self, queue: Queue, begin: bytes, end: bytes) -> None:
        """Range-delete a stretch of removed messages, sparing any that were published into it meanwhile.

        While the tombstones are in memtables, a scan still passes them one by one: 3 ms for 40,000.
        """
        journal = self._journal
        for _ in range(MAX_TRIM_PIECES):
            if begin >= end:
                return
            found = journal.scan(journal.messages, begin, end, 1)
            live = found[0][0] if found else end
            if begin < live:
                journal.delete_range(begin, live, journal.messages)
                journal.touch()
                queue.tier.pass_over(begin, live)
            begin = live + b"\x00"

    def _index_lock(self, queue: Queue, lock: Lock) -> int:
        """Index the payload of a locked message. Returns how many bytes of payload had to be read."""
        if lock.digest:
            # It was set when the queue refused duplicates earlier.
            if not self.owner(queue, lock.digest):
                self.own(queue, lock.digest, lock.id)
            return 0
        stored = queue.read_lock(self._journal, lock)
        try:
            payload = self._payloads.of(stored.record)
        except PayloadBroken:
            return 0  # its consumer already has the payload, and nobody else will get it
        digest = records.digest_of(payload)
        if not self.owner(queue, digest):
            self.own(queue, digest, lock.id)
        lock.digest = digest
        queue.rewrite_lock(self._journal, lock, records.repack_lock(stored._replace(digest=digest)))
        return len(payload)

    def _index_message(self, queue: Queue, key: bytes, record: bytes) -> tuple[int, bool]:
        """Index an available message, or remove it. Returns the payload bytes read, and whether it was kept."""
        _, _, _, _, id_bytes = records.unpack_message(record)
        id = id_bytes.decode()
        reference = reference_of(record)
        journal = self._journal
        try:
            payload = self._payloads.of(record)
        except PayloadBroken as broken:
            queue.drop(journal, key)
            self._payloads.lost(queue, key, id, reference, broken.reason)
            if digest := external_digest(record):
                self.free(queue, digest, id)
            return 0, False
        digest = records.digest_of(payload)
        owner = self.owner(queue, digest)
        if owner and owner != id_bytes:
            queue.drop(journal, key)
            if reference:
                self._payloads.externals.free(queue, reference)
            return len(payload), False
        self.own(queue, digest, id)
        if reference and not external_digest(record):
            # From now on the record must hold its digest in case the payload is lost.
            journal.put(key, record + digest, journal.messages)
            queue.tier.replace(key, record + digest)
        return len(payload), True
