"""Equal payloads in queues that refuse duplicates.

Rule: a digest is owned by one message, from its publish until it is acked, dead-lettered or removed. What the pending
batch changes is seen at once.

A queue may hold duplicates when they are turned off. A search removes them. Of equal payloads one stays: the locked
one, or else the first in order. Of several locked ones, the one locked first keeps equal payloads out, and the others
are removed when they come back unsettled. Meanwhile (`Queue.deduplicating`, stored, so that a restart goes on with it)
the queue serves everybody:

- a publish is checked against what has been indexed so far;
- a duplicate that slips in behind the search is found by it later;
- a consume that meets an equal of a locked message removes it.

There is one search for each queue, whoever asked for it.
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
"""Messages looked at in one step."""
STEP_BYTES = 512 * 1024
"""Payload bytes read in one step, or one payload: at most 2 MiB, about 1.5 ms."""
TRIM_EVERY = 4_000
"""Messages removed one after the other between two range deletes over their place: a refill would pass every one."""
MAX_TRIM_PIECES = 8
"""Range deletes in one step; what messages in between keep from being covered stays as it is."""


class Deduplication:
    """The family DEDUP (queue number and digest of the payload -> message id), and the searches for duplicates."""

    def __init__(self, journal: Journal, payloads: Payloads) -> None:
        self._journal = journal
        self._payloads = payloads
        self._searches: dict[Queue, Iterator[None]] = {}

    # Owners

    def owner(self, queue: Queue, digest: bytes) -> bytes:
        """The id (ASCII) of the message that holds a payload; b"" for none."""
        key = queue.prefix + digest
        journal = self._journal
        fresh = journal.fresh_digests.get(key)
        return fresh if fresh is not None else journal.get(journal.dedup, key) or b""

    def own(self, queue: Queue, digest: bytes, id: str) -> None:
        """The message holds the payload from now on."""
        journal = self._journal
        key, value = queue.prefix + digest, id.encode()
        journal.put(key, value, journal.dedup)
        journal.fresh_digests[key] = value
        journal.mark(queue)

    def free(self, queue: Queue, digest: bytes, id: str) -> None:
        """The message is gone. No effect when another one holds the payload."""
        if self.owner(queue, digest) == id.encode():
            journal = self._journal
            key = queue.prefix + digest
            journal.delete(key, journal.dedup)
            journal.fresh_digests[key] = b""
            journal.mark(queue)

    def may_leave(self, queue: Queue, id: str, digest: bytes) -> bool:
        """Whether a message may be handed out while duplicates are looked for: not while an equal one is locked."""
        owner = self.owner(queue, digest)
        if owner != id.encode():
            if owner and queue.locks.get(owner.decode()) is not None:
                return False
            # It is the first in order of those that are available.
            self.own(queue, digest, id)
        return True

    # Searches

    def refuse(self, queue: Queue) -> None:
        """Begin the search in a queue that refuses duplicates from now on. The caller writes its configuration."""
        queue.deduplicating = True
        queue.dedup_generation += 1
        self._searches[queue] = self._search(queue)

    def allow(self, queue: Queue) -> None:
        """A queue allows duplicates from now on. The caller writes its configuration, and commits: see `_free_all`."""
        queue.deduplicating = False
        queue.dedup_generation += 1
        self.stop(queue)
        self._free_all(queue)

    def resume(self, queue: Queue) -> None:
        """Begin the search anew that a stop of the server has cut short."""
        self._searches[queue] = self._search(queue)

    def emptied(self, queue: Queue) -> None:
        """All messages of a queue were removed. The caller commits: see `_free_all`."""
        self.stop(queue)
        if queue.deduplicating:
            queue.deduplicating = False
            queue.write_config(self._journal)
        if not queue.config.allow_duplicates:
            self._free_all(queue)

    def _free_all(self, queue: Queue) -> None:
        """Until it is committed, `owner` would find what the range delete covers."""
        journal = self._journal
        journal.delete_range(queue.prefix, queue.end, journal.dedup)
        journal.mark(queue)

    def stop(self, queue: Queue) -> None:
        """The queue is gone, or has nothing to look for."""
        self._searches.pop(queue, None)

    def stop_all(self) -> None:
        """Everything is read anew."""
        self._searches.clear()

    @property
    def searching(self) -> bool:
        """Whether duplicates are looked for in some queue: `search_on` is to be called."""
        return bool(self._searches)

    def search_on(self) -> None:
        """Take a step of some search. Whoever asked for it may be gone. Raises PayloadUnreadable."""
        self.search(next(iter(self._searches)))

    def search(self, queue: Queue) -> None:
        """Take a step of the search in a queue. Raises PayloadUnreadable."""
        search = self._searches.pop(queue, None) or self._search(queue)
        try:
            next(search)
        except StopIteration:
            if queue.deduplicating:
                # Turned on and off again meanwhile: that search was void.
                self.resume(queue)
            return
        except Exception:
            # A payload that can't be read for now, or no memory: what it has indexed stays, and it begins anew.
            self.resume(queue)
            raise
        self._searches[queue] = search

    def _search(self, queue: Queue) -> Iterator[None]:
        """Index the payloads of a queue and remove duplicates; a step is about a millisecond."""
        generation = queue.dedup_generation
        for page in queue.locks.pages(PER_STEP):
            octets = 0
            for lock in page:
                if not _at_work(queue, generation):
                    return
                if queue.locks.get(lock.id) is lock:
                    octets += self._index_lock(queue, lock)
                    if octets >= STEP_BYTES:
                        octets = 0
                        yield
            yield
        begin = queue.head
        removed_from = begin
        """No message before `begin` and from here on was kept."""
        removed = 0
        journal = self._journal
        while _at_work(queue, generation):
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
        """Delete a stretch of removed messages as a range, around those that were published into it meanwhile.

        As long as they are in memory tables a search has to pass them one by one all the same: 3 ms for 40,000.
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
        """Returns how many bytes of payload had to be read."""
        if lock.digest:
            # From an earlier time without duplicates.
            if not self.owner(queue, lock.digest):
                self.own(queue, lock.digest, lock.id)
            return 0
        stored = queue.read_lock(self._journal, lock)
        try:
            payload = self._payloads.of(stored.record)
        except PayloadBroken:
            return 0  # its consumer has the payload, and nobody else will get it
        digest = records.digest_of(payload)
        if not self.owner(queue, digest):
            self.own(queue, digest, lock.id)
        lock.digest = digest
        queue.rewrite_lock(self._journal, lock, records.repack_lock(stored._replace(digest=digest)))
        return len(payload)

    def _index_message(self, queue: Queue, key: bytes, record: bytes) -> tuple[int, bool]:
        """Returns how many bytes of payload had to be read, and whether the message stays."""
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
            # From now on the record has to tell its digest even when the payload is lost.
            journal.put(key, record + digest, journal.messages)
            queue.tier.replace(key, record + digest)
        return len(payload), True


def _at_work(queue: Queue, generation: int) -> bool:
    return queue.deduplicating and queue.dedup_generation == generation
