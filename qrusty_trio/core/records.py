"""Records: what is stored of a message, and of its lock.

Rule: a record never changes but for its count of deliveries, and moves as it is between the families.

    message  flags (1) | created, ms (8) | max retries (4) | deliveries (4) | id (36, ASCII) | payload
    lock     end, ms (8) | deliveries (4) | lengths of consumer (2), message key (2), digest (1) | those three | message

The payload is UTF-8, or with flag EXTERNAL a reference into a segment file. `deliveries` of a lock counts the one that
made it; the message inside still has the number from before. All integers are big-endian.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

EXTERNAL = 1
_MESSAGE = struct.Struct(">BQII36s")
_LOCK = struct.Struct(">QIHHB")
_DELIVERIES_AT = 13
PAYLOAD_AT = _MESSAGE.size

pack_message = _MESSAGE.pack
unpack_message = _MESSAGE.unpack_from
"""-> flags, created (ms), max retries, deliveries, id (ASCII)."""


def with_deliveries(record: bytes, deliveries: int) -> bytes:
    """The same message, delivered `deliveries` times."""
    return b"%b%b%b" % (record[:_DELIVERIES_AT], deliveries.to_bytes(4, "big"), record[_DELIVERIES_AT + 4 :])


def pack_lock(until: int, deliveries: int, consumer: bytes, key: bytes, digest: bytes, record: bytes) -> bytes:
    header = _LOCK.pack(until, deliveries, len(consumer), len(key), len(digest))
    return b"".join((header, consumer, key, digest, record))


class StoredLock(NamedTuple):
    """A lock as it is read back."""

    until: int
    """End of the lock, wall milliseconds."""
    deliveries: int
    consumer: bytes
    key: bytes
    """The key of the message in MESSAGES: its place in the order."""
    digest: bytes
    """Of the payload, when the queue refuses duplicates; else empty."""
    record: bytes


def unpack_lock(value: bytes) -> StoredLock:
    until, deliveries, consumer, key, digest = _LOCK.unpack_from(value)
    key_at = _LOCK.size + consumer
    digest_at = key_at + key
    record_at = digest_at + digest
    return StoredLock(
        until,
        deliveries,
        value[_LOCK.size : key_at],
        value[key_at:digest_at],
        value[digest_at:record_at],
        value[record_at:],
    )


def digest_of(payload: bytes) -> bytes:
    """128 bits of BLAKE2b: equal digests are taken for equal payloads."""
    return hashlib.blake2b(payload, digest_size=16).digest()


def _ids() -> Iterator[str]:
    while True:
        # A random start, then a count: three times as fast as random bits for each.
        start = os.urandom(15).hex()
        first = f"{start[:8]}-{start[8:12]}-4{start[12:15]}-{'89ab'[int(start[15], 16) & 3]}{start[16:19]}-"
        for count in range(int(start[19:], 16) >> 1, 2**44):
            yield f"{first}{count:012x}"


new_id: Callable[[], str] = _ids().__next__
"""A new UUID as text, in the form of version 4 (RFC 9562). Those of one process differ in their last 12 digits only."""
