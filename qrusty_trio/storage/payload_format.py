"""The format of a segment file, and of the reference from a record to a payload in one.

Rule: a payload is valid only if it matches the checksum in its reference. The headers in the file are for readers
without a reference: the check at start-up, and `frames`, which lists a segment without any index.

A segment, all numbers big-endian:

    file     0000000042.payloads: the number in ten digits, so that names sort like numbers
    header   16 bytes: b"QPAY", version (u32, 1), number of the segment (u32), CRC-32 of those 12 bytes (u32)
    frames   one after the other: length (u32), CRC-32 of the payload (u32), the payload

The offset in a reference is that of the payload itself, eight bytes after the start of its frame. After a crash the
last frame may be torn or missing. Nothing is ever written after it, because a new process starts a new segment.

    file     0000000042.highest: empty; a mark that number 42 has been used, even if no segment is left from there on

Requirements: PER-0024
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self
from zlib import crc32

from qrusty_trio.errors import StartupRefused

MAGIC = b"QPAY"
VERSION = 1
MAX_SEGMENT = 2**32 - 1
"""Numbers are stored in 4 bytes."""

_HEADER_FIELDS = struct.Struct(">4sII")
_CHECKSUM = struct.Struct(">I")
_FRAME = struct.Struct(">II")
_REFERENCE = struct.Struct(">IQII")
HEADER_BYTES = _HEADER_FIELDS.size + _CHECKSUM.size
FRAME_BYTES = _FRAME.size
"""Overhead of a payload in its segment, in bytes."""
REFERENCE_BYTES = _REFERENCE.size

MISSING_SEGMENT = "missing segment"
SHORT_SEGMENT = "short segment"
CHECKSUM = "checksum"
CUT_OFF = "cut off"
"""Reason: a power cut came before the payload was synced."""
UNREADABLE = "unreadable"
DAMAGED_HEADER = "damaged header"

_FILE_NAME = re.compile(r"(\d{10})\.(payloads|highest)")


class PayloadRef(NamedTuple):
    """Where a payload is: segment number, offset and length in bytes, and its CRC-32 (as from `zlib.crc32`)."""

    segment: int
    offset: int
    length: int
    checksum: int

    def pack(self) -> bytes:
        """The reference as `REFERENCE_BYTES` bytes, which sort by segment, then offset."""
        return _REFERENCE.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Reverse `pack`. Raises `struct.error` unless there are exactly `REFERENCE_BYTES` bytes."""
        return cls._make(_REFERENCE.unpack(data))


class PayloadBroken(Exception):
    """The payload is lost for good.

    `reason` is `MISSING_SEGMENT`, `SHORT_SEGMENT`, `CHECKSUM`, `CUT_OFF` or `UNREADABLE`.
    """

    def __init__(self, reason: str, reference: PayloadRef) -> None:
        super().__init__(f"Payload at {reference.offset} of segment {reference.segment}: {reason}")
        self.reason = reason
        self.reference = reference


class Frame(NamedTuple):
    """One payload as `frames` finds it. `whole` is False if its bytes do not match the checksum in its frame."""

    reference: PayloadRef
    whole: bool


def segment_name(number: int) -> str:
    return f"{number:010d}.payloads"


def mark_name(number: int) -> str:
    return f"{number:010d}.highest"


def parse_name(name: str) -> tuple[int, bool] | None:
    """(number, whether it is a segment rather than a mark); None for a file that is not ours."""
    match = _FILE_NAME.fullmatch(name)
    if match is None or int(match[1]) > MAX_SEGMENT:
        return None
    return int(match[1]), match[2] == "payloads"


def segment_header(number: int) -> bytes:
    fields = _HEADER_FIELDS.pack(MAGIC, VERSION, number)
    return fields + _CHECKSUM.pack(crc32(fields))


def frame_header(length: int, checksum: int) -> bytes:
    return _FRAME.pack(length, checksum)


def header_is_sound(header: bytes, number: int) -> bool:
    """Whether this is the header of segment `number`.

    Raises `StartupRefused` for a sound header of another version: its payloads are not damaged, but we can't read them.
    """
    if len(header) != HEADER_BYTES:
        return False
    fields = header[: _HEADER_FIELDS.size]
    magic, version, found = _HEADER_FIELDS.unpack(fields)
    if magic != MAGIC or header[_HEADER_FIELDS.size :] != _CHECKSUM.pack(crc32(fields)):
        return False
    if version != VERSION:
        raise StartupRefused(
            f"The payload segment {number} was written by another version of the server (format {version}; this one "
            f"knows format {VERSION}): start that version."
        )
    return bool(found == number)


def frames(segment: Path) -> Iterator[Frame]:
    """All frames of a segment file, in order, up to the first that extends past the end of the file.

    After a damaged frame header the start of the next frame is unknown. Frames found there are not `whole`. Reads one
    payload at a time. Blocks; raises `OSError`.
    """
    parsed = parse_name(segment.name)
    if parsed is None:
        return
    number, _ = parsed
    with segment.open("rb") as file:
        end = file.seek(0, 2)
        offset = HEADER_BYTES + FRAME_BYTES
        while offset <= end:
            file.seek(offset - FRAME_BYTES)
            length, checksum = _FRAME.unpack(file.read(FRAME_BYTES))
            if offset + length > end:
                return
            reference = PayloadRef(number, offset, length, checksum)
            yield Frame(reference, crc32(file.read(length)) == checksum)
            offset += length + FRAME_BYTES


def list_segments(directory: Path) -> tuple[dict[int, int], int]:
    """(segment number -> size in bytes, highest mark). The mark is 0 if there is none. Raises `OSError`.

    Requirements: PER-0033
    """
    sizes: dict[int, int] = {}
    highest = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            parsed = parse_name(entry.name)
            if parsed is None or not entry.is_file():
                continue
            number, is_segment = parsed
            if is_segment:
                sizes[number] = entry.stat().st_size
            else:
                highest = max(highest, number)
    return sizes, highest
