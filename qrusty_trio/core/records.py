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
        # 64 ids from one call: the system call costs as much as making the text.
        pool = os.urandom(1024).hex()
        for at in range(0, 2048, 32):
            yield (
                f"{pool[at : at + 8]}-{pool[at + 8 : at + 12]}-4{pool[at + 13 : at + 16]}"
                f"-{'89ab'[int(pool[at + 16], 16) & 3]}{pool[at + 17 : at + 20]}-{pool[at + 20 : at + 32]}"
            )


new_id: Callable[[], str] = _ids().__next__
"""A random UUID, version 4 (RFC 9562), as text."""
