"""Payloads outside the store: which message owns which bytes of which segment file.

Rule: EXTERNAL has one entry for each reference in a record. It is put and deleted in the same batch as the record. META
has the sums per segment and queue. Dead space is therefore known without reading messages or files, and so are the
messages of a lost segment.

    EXTERNAL   segment (4) | queue number (4) | kind (1) | offset (8)  ->  message id (36) | key of the message
    META       "S" | segment (4) | queue number (4) | kind (1)         ->  count (8) | bytes (8) | end (8)
               "P"                                                     ->  segment (4) | offset (8)

Kind is LIVE for messages in MESSAGES and LOCKS, whose key is the one in MESSAGES. It is DEAD_LETTER for those in DEAD.
`end` is the end of the last payload ever owned. A file that is shorter has lost something.

The log and the segments are synced at the same time. So a power cut may leave a record whose payload was not synced
yet. "P", the mark, tells where such payloads are: all before it had been synced when the batch was written. It is there
only while every response waits for a sync.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import SEGMENT_SUMS, SEGMENTS_SYNCED, prefix
from qrusty_trio.core.queue import Queue
from qrusty_trio.errors import PayloadNotStored, PayloadUnreadable, StorageFault
from qrusty_trio.storage.payloads import PayloadRef, PayloadStore

LIVE = 0
DEAD_LETTER = 1
ID_BYTES = 36
_OFFSET_BYTES = 8
"""At the end of an index key."""
_KEY = struct.Struct(">IIBQ")
_GROUP = struct.Struct(">IIB")
_SUMS = struct.Struct(">QQQ")
_PLACE = struct.Struct(">IQ")
_GROUPS_PER_STEP = 1000


class Sums:
    """What one queue owns in one segment: number of payloads, their bytes, and the end of the last one."""

    __slots__ = ("count", "dirty", "end", "group", "octets")

    def __init__(self, group: bytes, count: int = 0, octets: int = 0, end: int = 0) -> None:
        self.group = group
        self.count = count
        self.octets = octets
        self.end = end
        self.dirty = False

    def write_state(self, journal: Journal) -> None:
        if self.count:
            journal.put(SEGMENT_SUMS + self.group, _SUMS.pack(self.count, self.octets, self.end), journal.meta)
        else:
            journal.delete(SEGMENT_SUMS + self.group, journal.meta)


class Owned(NamedTuple):
    """An entry of EXTERNAL."""

    index_key: bytes
    segment: int
    queue_number: int
    kind: int
    offset: int
    id: str
    key: bytes
    """Key of the message: in MESSAGES (LIVE, even while it is locked) or in DEAD."""

    @property
    def place(self) -> tuple[int, int]:
        """Segment and offset: the first two fields of the reference."""
        return self.segment, self.offset


class Tail(NamedTuple):
    """What a queue owns of a segment from an offset on."""

    segment: int
    group: bytes
    """The beginning of its index keys."""
    offset: int

    @property
    def begin(self) -> bytes:
        """The first index key that it may have."""
        return self.group + self.offset.to_bytes(_OFFSET_BYTES, "big")

    @property
    def end(self) -> bytes:
        """An index key behind all of them."""
        return self.group + b"\xff" * _OFFSET_BYTES


class Externals:
    """The index of payloads in segment files."""

    def __init__(self, journal: Journal, store: PayloadStore) -> None:
        self._journal = journal
        self.store = store
        self._sums: dict[int, dict[tuple[int, int], Sums]] = {}
        """Segment -> (queue number, kind) -> sums. Sums with a count of 0 and empty segments are removed."""
        self.mark = 0, 0
        """Segment and offset of the mark in META; (0, 0) for none."""
        self.marks = False
        """Whether there is to be one."""
        self.dirty = False
        """Whether the mark is to be written with the batch."""
        self.failures = 0
        """Failed reads and writes of payloads since the start."""
        self.last_failure = ""

    def load(self) -> Iterator[None]:
        """Read META. One step takes about a millisecond."""
        self._sums.clear()
        self.dirty = False  # what was not written is gone
        synced = self._journal.get(self._journal.meta, SEGMENTS_SYNCED)
        self.mark = _PLACE.unpack(synced) if synced is not None else (0, 0)
        begin, end = SEGMENT_SUMS, SEGMENT_SUMS + b"\xff" * (_GROUP.size + 1)
        while pairs := self._journal.scan(self._journal.meta, begin, end, _GROUPS_PER_STEP):
            for key, value in pairs:
                group = key[len(SEGMENT_SUMS) :]
                segment, queue_number, kind = _GROUP.unpack(group)
                self._sums.setdefault(segment, {})[queue_number, kind] = Sums(group, *_SUMS.unpack(value))
            begin = pairs[-1][0] + b"\x00"
            yield

    def note_mark(self) -> None:
        """Bring the mark to where the store is, if there is to be one."""
        synced = self.store.synced
        if self.marks and synced != self.mark and synced[0]:
            self.mark = synced
            self._journal.mark(self)

    def drop_mark(self) -> None:
        """There is to be none."""
        if self.mark[0]:
            self.mark = 0, 0
            self._journal.mark(self)

    def write_state(self, journal: Journal) -> None:
        """Write the mark, as the journal asks for."""
        if self.mark[0]:
            journal.put(SEGMENTS_SYNCED, _PLACE.pack(*self.mark), journal.meta)
        else:
            journal.delete(SEGMENTS_SYNCED, journal.meta)

    def append(self, payload: bytes) -> bytes:
        """Append a payload to a segment file; returns its packed reference. Raises PayloadNotStored."""
        try:
            return self.store.append(payload).pack()
        except StorageFault as fault:
            self._note(fault)
            raise PayloadNotStored(fault) from fault

    def own(self, queue: Queue, packed: bytes, id: str, key: bytes, kind: int = LIVE) -> None:
        """Note a new record with this reference."""
        ref = PayloadRef.unpack(packed)
        journal = self._journal
        number = _number(queue, kind)
        index_key = _KEY.pack(ref.segment, number, kind, ref.offset)
        journal.put(index_key, id.encode() + key, journal.external)
        sums = self._of(ref.segment, number, kind)
        sums.count += 1
        sums.octets += ref.length
        sums.end = max(sums.end, ref.offset + ref.length)
        journal.mark(sums)
        self.note_mark()

    def free(self, queue: Queue, packed: bytes, kind: int = LIVE) -> None:
        """Note that the record with this reference is gone."""
        ref = PayloadRef.unpack(packed)
        journal = self._journal
        number = _number(queue, kind)
        journal.delete(_KEY.pack(ref.segment, number, kind, ref.offset), journal.external)
        self._less(ref.segment, number, kind, ref.length)

    def forget(self, owned: Owned) -> None:
        """Delete an entry without a record. The length of its payload is unknown, so no bytes are subtracted."""
        self._journal.delete(owned.index_key, self._journal.external)
        self._less(owned.segment, owned.queue_number, owned.kind, 0)

    def free_all(self, queue: Queue, kind: int) -> None:
        """Note that all records of a queue are gone. Costs one range delete for each segment with its payloads."""
        journal = self._journal
        number = _number(queue, kind)
        for segment in [segment for segment, groups in self._sums.items() if (number, kind) in groups]:
            sums = self._sums[segment][number, kind]
            sums.count = 0
            self._remove(segment, number, kind)
            journal.mark(sums)
            journal.delete_range(sums.group, sums.group + b"\xff" * 9, journal.external)

    def read(self, packed: bytes, octets: int | None = None) -> bytes:
        """Read a payload; with `octets`, only its beginning. Raises PayloadBroken, PayloadUnreadable.

        Requirements: PER-0038
        """
        try:
            return self.store.read(PayloadRef.unpack(packed), octets)
        except PayloadUnreadable as error:
            self._note(error)
            raise

    def _note(self, error: Exception) -> None:
        self.failures += 1
        self.last_failure = str(error)

    def _of(self, segment: int, queue_number: int, kind: int) -> Sums:
        groups = self._sums.get(segment)
        if groups is None:
            groups = self._sums[segment] = {}
        sums = groups.get((queue_number, kind))
        if sums is None:
            sums = groups[queue_number, kind] = Sums(_GROUP.pack(segment, queue_number, kind))
        return sums

    def _less(self, segment: int, queue_number: int, kind: int, octets: int) -> None:
        sums = self._of(segment, queue_number, kind)
        sums.count -= 1
        sums.octets -= octets
        self._journal.mark(sums)
        if not sums.count:
            self._remove(segment, queue_number, kind)

    def _remove(self, segment: int, queue_number: int, kind: int) -> None:
        groups = self._sums[segment]
        del groups[queue_number, kind]
        if not groups:
            del self._sums[segment]

    # For compaction and start-up

    def owned(self, segment: int) -> bool:
        """Whether any record refers to this segment."""
        return segment in self._sums

    def owned_bytes(self, segment: int) -> int:
        """Bytes of a segment that records refer to. Takes 0.1 µs for each queue that owns some."""
        return sum(sums.octets for sums in self._sums.get(segment, {}).values())

    def least_sizes(self) -> dict[int, int]:
        """Segment -> minimum size of its file in bytes; a smaller file has lost payloads. Only segments in use."""
        return {segment: max(sums.end for sums in groups.values()) for segment, groups in self._sums.items()}

    def tails(self) -> Iterator[Tail | None]:
        """What lies behind the mark, by segment and queue; None after each step of about a millisecond.

        Empty if there is no mark.
        """
        since, offset = self.mark
        for segment in sorted(self._sums) if since else ():
            for number, sums in enumerate(list(self._sums[segment].values()), 1):
                if segment > since:
                    yield Tail(segment, sums.group, 0)
                elif segment == since and sums.end > offset:
                    yield Tail(segment, sums.group, offset)
                if number % _GROUPS_PER_STEP == 0:
                    yield None

    def cut(self, tail: Tail, end: int, count: int) -> None:
        """Note that of a tail nothing is left behind the offset `end`, if there are `count` entries and no more."""
        left = len(self.entries(tail.segment, tail.begin, count + 1, tail.end))
        segment, queue_number, kind = _GROUP.unpack(tail.group)
        sums = self._sums.get(segment, {}).get((queue_number, kind))
        if sums is not None and left == count and sums.end > end:
            sums.end = end
            self._journal.mark(sums)

    def entries(self, segment: int, begin: bytes, limit: int, end: bytes = b"") -> list[Owned]:
        """Up to `limit` entries of a segment with an index key from `begin` to before `end` (b"": all of them)."""
        first = prefix(segment)
        pairs = self._journal.scan(self._journal.external, max(begin, first), end or prefix(segment + 1), limit)
        found = []
        for index_key, value in pairs:
            _, queue_number, kind, offset = _KEY.unpack(index_key)
            id = value[:ID_BYTES].decode()
            found.append(Owned(index_key, segment, queue_number, kind, offset, id, value[ID_BYTES:]))
        return found


def _number(queue: Queue, kind: int) -> int:
    """The number in the keys of the queue's messages or of its dead letters."""
    return queue.number if kind == LIVE else queue.dead_number
