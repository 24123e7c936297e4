"""The sums of payloads in segment files, as a store has them three times: in records, in EXTERNAL and in META.

Rule: the verifier notes each reference of a record here. What is kept grows with segments and queues only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

from qrusty_trio.core.externals import DEAD_LETTER
from qrusty_trio.core.keys import SEGMENT_SUMS
from qrusty_trio.errors import StorageFault
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.payload_format import PayloadRef

PAIRS_PER_STEP = 500
GROUP_BYTES = 9
"""Segment, queue and kind: how a key of EXTERNAL begins."""
_SUMS_END = SEGMENT_SUMS + b"\xff" * (GROUP_BYTES + 1)
_AFTER_OFFSETS = b"\xff" * 9
_GROUP = struct.Struct(">IIB")
_SUMS = struct.Struct(">QQQ")

Difference = tuple[str, int | None, str]
"""A code, the number of a queue, a sentence."""


class Source(Protocol):
    """An open store. Both methods raise StorageFault for what can't be read."""

    def get(self, family: Family, key: bytes) -> bytes | None: ...

    def scan(self, family: Family, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]: ...


class PayloadSums:
    """What records refer to."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._sums: dict[bytes, list[int]] = {}
        """Segment, queue and kind -> payloads, bytes, end."""

    def note(self, group: bytes, ref: PayloadRef) -> None:
        """A record refers to this payload."""
        sums = self._sums.setdefault(group, [0, 0, 0])
        sums[0] += 1
        sums[1] += ref.length
        sums[2] = max(sums[2], ref.offset + ref.length)

    def differences(self) -> Iterator[Difference]:
        """Compare the three, once all records were noted."""
        try:
            stored = self._stored_sums()
            entries = {group: self._entries(group) for group in stored.keys() | self._sums.keys()}
        except StorageFault:
            return  # it was said where these were read
        except struct.error as error:
            yield "unreadable", None, f"the sums of segments can't be read: {error}"
            return
        for group in sorted(entries):
            yield from self._compared(group, stored.get(group, (0, 0, 0)), entries[group])

    def _compared(self, group: bytes, stored: tuple[int, int, int], entries: int) -> Iterator[Difference]:
        segment, number, kind = _GROUP.unpack(group)
        count, octets, end = stored
        found = self._sums.get(group, [0, 0, 0])
        where = f"of {'dead letters' if kind == DEAD_LETTER else 'messages'} in segment {segment}"
        if [count, octets] != found[:2]:
            here = f"{count} payloads with {octets:,} octets {where}"
            yield "sums", number, f"META has {here}, records have {found[0]} with {found[1]:,}"
        if end < found[2]:
            yield "sums", number, f"META says that payloads {where} end at {end}, but one ends at {found[2]}"
        if entries != found[0]:
            yield "external", number, f"EXTERNAL has {entries} payloads {where}, records have {found[0]}"

    def _stored_sums(self) -> dict[bytes, tuple[int, int, int]]:
        found = {}
        begin, end = SEGMENT_SUMS, _SUMS_END
        while pairs := self._source.scan(Family.META, begin, end, PAIRS_PER_STEP):
            for key, value in pairs:
                if len(key) == GROUP_BYTES + 1:
                    found[key[1:]] = _SUMS.unpack(value)
            begin = pairs[-1][0] + b"\0"
        return found

    def _entries(self, group: bytes) -> int:
        count = 0
        begin, end = group, group + _AFTER_OFFSETS
        while pairs := self._source.scan(Family.EXTERNAL, begin, end, PAIRS_PER_STEP):
            count += len(pairs)
            begin = pairs[-1][0] + b"\0"
        return count
