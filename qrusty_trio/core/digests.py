"""Which message holds a payload, in queues that refuse duplicates.

Rule: a digest is owned by one message, from its publish until it is acked, dead-lettered or removed. What the pending
batch changes is seen at once.
"""

from __future__ import annotations

from qrusty_trio.core.journal import Journal
from qrusty_trio.core.queue import Queue


class Digests:
    """The family DEDUP: queue number and digest of the payload -> message id."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

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
