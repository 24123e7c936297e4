"""Keys: the place of a message in the order of the store.

Rule: keys compare bytewise in the order that the queue promises. A message key is the queue number, then what the
queue's ordering sorts by, then the sequence number (first in, first out within a priority). The key holds the exact
priority, which is stored nowhere else:

    MaxFirst, MinFirst   number (4) | order key | sequence (8)
    Fifo                 number (4) | sequence (8) | priority

The order key of a number is its 8 bytes, big-endian. The order key of a text is its UTF-8 bytes with 00 escaped as
00 FF and 00 00 at the end, so that no key is a prefix of another. MaxFirst complements every byte of the order key.

Requirements: SYS-0003
"""

from __future__ import annotations

import struct

from qrusty_trio.core.model import MAX_TEXT_PRIORITY_BYTES, U64_MAX, Kind, Ordering, Priority, QueueConfig
from qrusty_trio.errors import InvalidPriority, PriorityKindMismatch

_U64 = struct.Struct(">Q")
_NUMERIC = struct.Struct(">IQQ")
_COMPLEMENT = bytes(255 - value for value in range(256))
PREFIX_BYTES = 4
SEQUENCE_BYTES = 8

NEXT_QUEUE = b"N"
"""META: the number of the next queue (4 bytes)."""
QUEUE_CONFIG = b"Q"
"""META: QUEUE_CONFIG + queue number (4) -> `configuration.StoredConfig` as JSON."""
COUNTERS = b"C"
"""META: COUNTERS + queue number (4) -> available, locked, dead, next sequence, next lock, next dead letter, length of
`head` (each a u64), then `head`, then `trimmed_to`."""
LOCKS_FROM = b"L"
"""META: LOCKS_FROM + queue number (4) -> lock number (8); every lower one has been deleted. Missing means 0."""
DEAD_FROM = b"D"
"""META: DEAD_FROM + queue number (4) -> dead-letter number (8), below which every one has been deleted; and the next
number at the last purge (8). Missing means 0 and 0."""
DEAD_INDEX = b"\xff"
"""DEAD: queue number (4), DEAD_INDEX, message id (36) -> dead-letter number (8). These keys stand after all letters of
the queue, because no number begins with FF."""
SEGMENT_SUMS = b"S"
"""META: SEGMENT_SUMS + segment (4), queue number (4), kind (1) -> see `externals`."""
SEGMENTS_SYNCED = b"P"
"""META: segment (4), offset (8): all that was appended before had been synced when the batch was written."""

lock_key = struct.Struct(">IQ").pack
"""(queue number, lock number) -> key in LOCKS, or (queue number, dead-letter sequence) -> key in DEAD."""


def dead_index_key(queue_prefix: bytes, id: str) -> bytes:
    """The key in DEAD under which the number of a dead letter is found by its message id (ASCII)."""
    return b"%b%b%b" % (queue_prefix, DEAD_INDEX, id.encode())


def prefix(queue_number: int) -> bytes:
    """The prefix of every key of a queue."""
    return queue_number.to_bytes(PREFIX_BYTES, "big")


def prefix_end(queue_number: int) -> bytes:
    """The end of a queue's key range, exclusive."""
    return (queue_number + 1).to_bytes(PREFIX_BYTES, "big")


class KeyCoder:
    """The keys of one queue.

    Requirements: SCH-0004
    """

    __slots__ = ("_fifo", "_flip", "_number", "_numeric", "_prefix")

    def __init__(self, queue_number: int, config: QueueConfig) -> None:
        self._number = queue_number
        self._prefix = prefix(queue_number)
        self._numeric = config.kind is Kind.NUMERIC
        self._fifo = config.ordering is Ordering.FIFO
        self._flip = config.ordering is Ordering.MAX_FIRST

    def encode(self, priority: Priority, sequence: int) -> bytes:
        """The key of a message.

        `priority` is a u64 (checked by the schema) or a text. Raises PriorityKindMismatch, InvalidPriority.

        Requirements: SCH-0001, SCH-0002, SCH-0003
        """
        if self._numeric:
            if type(priority) is not int:
                raise mismatch(Kind.NUMERIC)
            if self._fifo:
                return _NUMERIC.pack(self._number, sequence, priority)
            return _NUMERIC.pack(self._number, U64_MAX - priority if self._flip else priority, sequence)
        text = text_bytes(priority)
        if self._fifo:
            return self._prefix + _U64.pack(sequence) + text
        order = text.replace(b"\x00", b"\x00\xff") + b"\x00\x00"
        if self._flip:
            order = order.translate(_COMPLEMENT)
        return self._prefix + order + _U64.pack(sequence)

    def priority(self, key: bytes) -> Priority:
        """The priority that a key was made from.

        Requirements: SCH-0006
        """
        if self._numeric:
            if self._fifo:
                return int.from_bytes(key[-8:], "big")
            number = int.from_bytes(key[PREFIX_BYTES:-SEQUENCE_BYTES], "big")
            return U64_MAX - number if self._flip else number
        if self._fifo:
            return key[PREFIX_BYTES + SEQUENCE_BYTES :].decode()
        order = key[PREFIX_BYTES:-SEQUENCE_BYTES]
        if self._flip:
            order = order.translate(_COMPLEMENT)
        return order[:-2].replace(b"\x00\xff", b"\x00").decode()

    def sequence(self, key: bytes) -> int:
        """The sequence number that a key was made from."""
        if self._fifo:
            return int.from_bytes(key[PREFIX_BYTES : PREFIX_BYTES + SEQUENCE_BYTES], "big")
        return int.from_bytes(key[-SEQUENCE_BYTES:], "big")


def mismatch(expected: Kind) -> PriorityKindMismatch:
    """The error for the wrong kind of priority. Clients rely on its exact text.

    Requirements: SCH-0007
    """
    got = Kind.TEXT if expected is Kind.NUMERIC else Kind.NUMERIC
    return PriorityKindMismatch(f"Priority kind mismatch: queue expects {expected.value} but got {got.value}")


def text_bytes(priority: Priority) -> bytes:
    """A text priority as UTF-8. Raises PriorityKindMismatch for a number, InvalidPriority for a bad length.

    Requirements: SCH-0005
    """
    if not isinstance(priority, str):
        raise mismatch(Kind.TEXT)
    if not priority:
        raise InvalidPriority("Text priority must not be empty")
    text = priority.encode()
    if len(text) > MAX_TEXT_PRIORITY_BYTES:
        raise InvalidPriority(
            f"'priority' has {len(text)} bytes of UTF-8; a text priority may have {MAX_TEXT_PRIORITY_BYTES}"
        )
    return text
