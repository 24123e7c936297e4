"""Records: the stored form of a message and of its lock.

Rule: a record moves between the families unchanged, except for its count of deliveries.

    message  flags (1) | created, ms (8) | max retries (4) | deliveries (4) | id (36, ASCII) | payload
    dead     length of the message key and flag (2) | message key | died, ms (8) | reason (1)
             | lengths of consumer (2) and error (2) | consumer | error | message
    lock     end, ms (8) | deliveries (4) | lengths of consumer (2), message key (2), digest and flags (1)
             | seconds (4) | clock: boot (4), offset, ms (8) | consumer | message key | digest | message

The flags of a message are EXTERNAL (bit 0) and, in bits 2 to 7, how often it was requeued from the dead letters. The
flag of a dead letter is the upper bit of its first length. Without it (dead letters of earlier versions) the message
follows the message key. The two flags of a lock, TIMED and WEBSOCKET, are the upper bits of the byte with the length of
the digest. Without TIMED (locks of earlier versions) there are no seconds and no clock. The payload is UTF-8. With flag
EXTERNAL it is a reference into a segment file, which the digest may follow. `deliveries` of a lock includes the
delivery that made it. The message inside still has the count from before. All integers are big-endian.

Requirements: PER-0011, PER-0012, API-0023
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from qrusty_trio.core.model import WS_MARK, DeathReason
from qrusty_trio.storage.payload_format import REFERENCE_BYTES

EXTERNAL = 1
MAX_REQUEUES = 63
"""The count of requeues stops here: it has six bits."""
_REQUEUE = 1 << 2
_REQUEUES = 0xFC
_MESSAGE = struct.Struct(">BQII36s")
_DEATH = struct.Struct(">QBHH")
_DIED = 0x8000
"""No message key is this long, so the bit was never set before."""
_REASONS = tuple(DeathReason)
_LOCK = struct.Struct(">QIHHB")
_TIMED_LOCK = struct.Struct(">QIHHBI")
"""The same, then the length of the lock in seconds."""
_TIMED = 0x80
_WEBSOCKET = 0x40
_DIGEST_BYTES = 0x3F
_SECONDS_BYTES = 4
_FRAME = struct.Struct(">Iq")
NO_FRAME = bytes(_FRAME.size)
CLOCK_STEP_MS = 1000
"""A smaller difference does not mean that the clock was set: it may be slewed, or was read a little later."""
_DELIVERIES_AT = 13
ID_AT = 17
PAYLOAD_AT = _MESSAGE.size

pack_message = _MESSAGE.pack
unpack_message = _MESSAGE.unpack_from
"""-> flags, created (ms), max retries, deliveries, id (ASCII)."""


def reference_of(record: bytes) -> bytes:
    """The reference to the payload in a segment file; b"" when the record holds the payload itself."""
    return record[PAYLOAD_AT : PAYLOAD_AT + REFERENCE_BYTES] if record[0] & EXTERNAL else b""


def with_reference(record: bytes, reference: bytes) -> bytes:
    """The same message with another reference to its payload."""
    return record[:PAYLOAD_AT] + reference + record[PAYLOAD_AT + REFERENCE_BYTES :]


def external_digest(record: bytes) -> bytes:
    """The digest in a record with a reference, which outlives a lost payload; b"" for none."""
    return record[PAYLOAD_AT + REFERENCE_BYTES :]


class StoredDeadLetter(NamedTuple):
    """A dead letter as it is stored."""

    key: bytes
    """The message's key in MESSAGES, where it can be requeued to."""
    record: bytes
    died_ms: int | None = None
    """When it died, wall milliseconds; None in those of earlier versions, which have no entry in the index either."""
    reason: DeathReason = DeathReason.UNKNOWN
    consumer: bytes = b""
    """The consumer that had it last, UTF-8; for a WebSocket without `WS_MARK`."""
    error: bytes = b""
    """What the consumer gave as its reason, UTF-8."""


def pack_dead_letter(key: bytes, record: bytes, died_ms: int, reason: DeathReason, consumer: str, error: str) -> bytes:
    """The value of a dead letter in DEAD. The fields are those of `StoredDeadLetter`, the consumer with its mark."""
    name = (consumer[1:] if consumer[:1] == WS_MARK else consumer).encode()
    said = error.encode()
    return b"%b%b%b%b%b%b" % (
        (len(key) | _DIED).to_bytes(2, "big"),
        key,
        _DEATH.pack(died_ms, reason.code, len(name), len(said)),
        name,
        said,
        record,
    )


def repack_dead_letter(letter: StoredDeadLetter) -> bytes:
    """The value of a dead letter that was read and changed, in the form that it had."""
    key, record, died_ms, reason, consumer, error = letter
    if died_ms is None:
        return len(key).to_bytes(2, "big") + key + record
    return pack_dead_letter(key, record, died_ms, reason, consumer.decode(), error.decode())


def unpack_dead_letter(value: bytes) -> StoredDeadLetter:
    length = int.from_bytes(value[:2], "big")
    at = 2 + (length & ~_DIED)
    key = value[2:at]
    if not length & _DIED:
        return StoredDeadLetter(key, value[at:])
    died_ms, code, consumer, error = _DEATH.unpack_from(value, at)
    consumer_at = at + _DEATH.size
    error_at = consumer_at + consumer
    record_at = error_at + error
    return StoredDeadLetter(
        key, value[record_at:], died_ms, _REASONS[code], value[consumer_at:error_at], value[error_at:record_at]
    )


def requeues_of(record: bytes) -> int:
    """How often a message was requeued from the dead letters; MAX_REQUEUES stands for that many or more."""
    return (record[0] & _REQUEUES) // _REQUEUE


def requeued(record: bytes) -> bytes:
    """The same message after one more requeue, with no delivery counted."""
    flags = record[0] if requeues_of(record) == MAX_REQUEUES else record[0] + _REQUEUE
    return with_deliveries(bytes((flags,)) + record[1:], 0)


def with_deliveries(record: bytes, deliveries: int) -> bytes:
    """The same message with `deliveries` as its count of deliveries."""
    return b"%b%b%b" % (record[:_DELIVERIES_AT], deliveries.to_bytes(4, "big"), record[_DELIVERIES_AT + 4 :])


class StoredLock(NamedTuple):
    """A lock as it is stored.

    Requirements: PER-0008
    """

    expires_at_ms: int
    """End of the lock, wall milliseconds by the clock of the process that made it."""
    deliveries: int
    consumer: bytes
    """UTF-8; for a WebSocket without `WS_MARK`."""
    key: bytes
    """The message's key in MESSAGES."""
    digest: bytes
    """Digest of the payload if the queue refuses duplicates; otherwise empty."""
    record: bytes
    websocket: bool = False
    """Whether the consumer is a WebSocket."""
    seconds: int | None = None
    """Length of the lock; None in records of earlier versions, which do not have it."""
    frame: bytes = NO_FRAME
    """The clock of the process that made the lock: see `ClockFrame`."""

    @property
    def consumer_id(self) -> str:
        """The consumer id as used in the core."""
        return WS_MARK + self.consumer.decode() if self.websocket else self.consumer.decode()


class ClockFrame(NamedTuple):
    """The clock of a process: which boot of the machine it ran in, and what its wall clock showed relative to it.

    Requirements: PER-0009
    """

    boot: int
    """Identifies a boot of the machine; 0 when unknown."""
    offset_ms: int
    """Wall time minus the time since boot, milliseconds."""

    def pack(self) -> bytes:
        return _FRAME.pack(self.boot, self.offset_ms)


NO_CLOCK = ClockFrame(0, 0)


def pack_lock(
    expires_at_ms: int,
    deliveries: int,
    consumer: str,
    key: bytes,
    digest: bytes,
    record: bytes,
    seconds: int,
    frame: bytes,
) -> bytes:
    """The value of a lock in LOCKS."""
    flags = _TIMED
    if consumer[:1] == WS_MARK:
        flags |= _WEBSOCKET
        consumer = consumer[1:]
    name = consumer.encode()
    header = _TIMED_LOCK.pack(expires_at_ms, deliveries, len(name), len(key), len(digest) | flags, seconds)
    return b"".join((header, frame, name, key, digest, record))


def repack_lock(lock: StoredLock) -> bytes:
    """The value of a lock that was read and changed."""
    flags = (_WEBSOCKET if lock.websocket else 0) | (_TIMED if lock.seconds is not None else 0)
    timing = lock.seconds.to_bytes(_SECONDS_BYTES, "big") + lock.frame if lock.seconds is not None else b""
    header = _LOCK.pack(
        lock.expires_at_ms, lock.deliveries, len(lock.consumer), len(lock.key), len(lock.digest) | flags
    )
    return b"".join((header, timing, lock.consumer, lock.key, lock.digest, lock.record))


def unpack_lock(value: bytes) -> StoredLock:
    end, deliveries, consumer, key, last = _LOCK.unpack_from(value)
    at = _LOCK.size
    seconds, frame = None, NO_FRAME
    if last & _TIMED:
        seconds = int.from_bytes(value[at : at + _SECONDS_BYTES], "big")
        at += _SECONDS_BYTES
        frame = value[at : at + _FRAME.size]
        at += _FRAME.size
    key_at = at + consumer
    digest_at = key_at + key
    record_at = digest_at + (last & _DIGEST_BYTES)
    return StoredLock(
        end,
        deliveries,
        value[at:key_at],
        value[key_at:digest_at],
        value[digest_at:record_at],
        value[record_at:],
        bool(last & _WEBSOCKET),
        seconds,
        frame,
    )


def end_now(lock: StoredLock, clock: ClockFrame, now: int) -> int:
    """The end of a stored lock by the clock of this process, wall milliseconds.

    The clock may have been set meanwhile. Within one boot of the machine, the offset shows by how much. No lock lasts
    longer than the length it was made with.

    Requirements: PER-0009
    """
    boot, offset = _FRAME.unpack(lock.frame)
    end = lock.expires_at_ms
    if boot and boot == clock.boot and abs(clock.offset_ms - offset) >= CLOCK_STEP_MS:
        end += clock.offset_ms - offset
    return end if lock.seconds is None else min(end, now + lock.seconds * 1000)


def digest_of(payload: bytes) -> bytes:
    """128 bits of BLAKE2b. Equal digests are taken to mean equal payloads."""
    return hashlib.blake2b(payload, digest_size=16).digest()


def _ids() -> Iterator[str]:
    while True:
        # A random start followed by a counter is three times as fast as random bits for every id.
        start = os.urandom(15).hex()
        first = f"{start[:8]}-{start[8:12]}-4{start[12:15]}-{'89ab'[int(start[15], 16) & 3]}{start[16:19]}-"
        for count in range(int(start[19:], 16) >> 1, 2**44):
            yield f"{first}{count:012x}"


new_id: Callable[[], str] = _ids().__next__
"""A new UUID as text, in the form of version 4 (RFC 9562). Ids of one process differ only in their last 12 digits."""
