"""Where payloads are: in the record of their message, or in a segment file.

Rule: every record with a reference has an entry in the index (`externals`). Both are put and deleted in the same batch.
A message whose payload is lost is removed and noted; it is never delivered with wrong content.

Requirements: PER-0025
"""

from __future__ import annotations

from typing import NamedTuple

from qrusty_trio.core.externals import LIVE, Externals
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.model import NEVER, Priority
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.records import PAYLOAD_AT, reference_of
from qrusty_trio.storage.payloads import PayloadRef, PayloadStore


class Removed(NamedTuple):
    """A message that was removed because its payload is broken."""

    queue: str
    id: str
    priority: Priority
    reason: str
    segment: int
    offset: int
    length: int


class Payloads:
    """The payloads of all messages.

    Requirements: PER-0024
    """

    def __init__(self, journal: Journal, store: PayloadStore | None, min_bytes: int | None) -> None:
        """`store` holds payloads of at least `min_bytes` (None: it takes no new ones)."""
        self.index = Externals(journal, store) if store is not None else None
        """None if every payload is in its record."""
        self.min_bytes = min_bytes if store is not None and min_bytes is not None else NEVER
        self.removed_total = 0
        """Messages removed since the start."""
        self._removed: list[Removed] = []

    @property
    def externals(self) -> Externals:
        """The index. It exists whenever any record has a reference."""
        assert self.index is not None, "a store with references is opened with its payload store"
        return self.index

    def of(self, record: bytes) -> bytes:
        """The payload of a record (UTF-8). Raises PayloadBroken, PayloadUnreadable."""
        reference = reference_of(record)
        return self.externals.read(reference) if reference else record[PAYLOAD_AT:]

    def octets(self, record: bytes) -> int:
        """The length of the payload of a record, in bytes."""
        reference = reference_of(record)
        return PayloadRef.unpack(reference).length if reference else len(record) - PAYLOAD_AT

    def beginning(self, record: bytes, octets: int) -> bytes:
        """Up to so many bytes of a payload, without a look at its checksum. Raises PayloadBroken, PayloadUnreadable."""
        reference = reference_of(record)
        return self.externals.read(reference, octets) if reference else record[PAYLOAD_AT : PAYLOAD_AT + octets]

    def lost(self, queue: Queue, key: bytes, id: str, reference: bytes, reason: str, kind: int = LIVE) -> None:
        """Free the bytes of a message that was removed because its payload is lost, and note it in `take_removed`."""
        self.externals.free(queue, reference, kind)
        ref = PayloadRef.unpack(reference)
        self.removed_total += 1
        self._removed.append(
            Removed(queue.name, id, queue.coder.priority(key), reason, ref.segment, ref.offset, ref.length)
        )

    @property
    def removed(self) -> int:
        """The number of messages that `take_removed` will return."""
        return len(self._removed)

    def take_removed(self) -> list[Removed]:
        """The messages removed since the last call."""
        removed, self._removed = self._removed, []
        return removed
