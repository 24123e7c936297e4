"""Whether the store agrees with itself on who owns which bytes of which segment.

Rule: three things say it, and all three are read from the store: the records (in MESSAGES, LOCKS and DEAD), the entries
of EXTERNAL, the sums in META. Unlike tests/core/stored.py it looks at nothing else, so payloads may be lost.
"""

from __future__ import annotations

import struct

from qrusty_trio.core import records
from qrusty_trio.core.externals import DEAD_LETTER, LIVE
from qrusty_trio.core.keys import prefix
from qrusty_trio.core.records import EXTERNAL, PAYLOAD_AT
from qrusty_trio.storage.base import Family, Storage
from qrusty_trio.storage.payload_format import REFERENCE_BYTES
from qrusty_trio.storage.payloads import PayloadRef

ALL = 1_000_000
_KEY = struct.Struct(">IIBQ")


def check_ownership(storage: Storage) -> dict[int, int]:
    """Segment -> bytes of it that messages own. Fails when the store contradicts itself."""
    entries: dict[bytes, bytes] = {}
    sums: dict[bytes, list[int]] = {}
    owned: dict[int, int] = {}
    for queue_number, kind, key, record in _records(storage):
        flags, _, _, _, id = records.unpack_message(record)
        if not flags & EXTERNAL:
            continue
        ref = PayloadRef.unpack(record[PAYLOAD_AT : PAYLOAD_AT + REFERENCE_BYTES])
        index_key = _KEY.pack(ref.segment, queue_number, kind, ref.offset)
        assert index_key not in entries, f"two messages own {ref}"
        entries[index_key] = id + key
        group = sums.setdefault(index_key[:9], [0, 0, 0])
        group[0] += 1
        group[1] += ref.length
        group[2] = max(group[2], ref.offset + ref.length)
        owned[ref.segment] = owned.get(ref.segment, 0) + ref.length
    assert dict(_all(storage, Family.EXTERNAL)) == entries
    stored = {
        key[1:]: struct.unpack(">QQQ", value)
        for key, value in _all(storage, Family.META)
        if key[:1] == b"S" and len(key) == 10
    }
    assert {group: each[:2] for group, each in stored.items()} == {
        group: tuple(each[:2]) for group, each in sums.items()
    }
    assert all(stored[group][2] >= each[2] for group, each in sums.items())
    return owned


def _all(storage: Storage, family: Family) -> list[tuple[bytes, bytes]]:
    return storage.scan(storage.families[family], b"", b"\xff" * 3000, ALL)


def _records(storage: Storage) -> list[tuple[int, int, bytes, bytes]]:
    """(queue number, kind, key in EXTERNAL's value, record) of all messages."""
    found = [(int.from_bytes(key[:4], "big"), LIVE, key, record) for key, record in _all(storage, Family.MESSAGES)]
    for key, value in _all(storage, Family.LOCKS):
        lock = records.unpack_lock(value)
        found.append((int.from_bytes(key[:4], "big"), LIVE, lock.key, lock.record))
    for key, value in _all(storage, Family.DEAD):
        if len(key) == len(prefix(0)) + 8:  # the others are the index by id
            record = records.unpack_dead_letter(value).record
            found.append((int.from_bytes(key[:4], "big"), DEAD_LETTER, key, record))
    return found
