"""The bytes of a segment file, and the reference that a record keeps to a payload in one.

Rule: a payload is believed only when the checksum in its reference fits. The headers in the file serve those who have
no reference: the check at start-up and `frames`, which lists a segment without any index.

A segment, all numbers big-endian:

    file     0000000042.payloads: the number in ten digits, so that names sort like numbers
    header   16 bytes: b"QPAY", version (u32, 1), number of the segment (u32), CRC-32 of those 12 bytes (u32)
    frames   one after the other: length (u32), CRC-32 of the payload (u32), the payload

The offset in a reference is that of the payload itself, eight bytes behind the start of its frame. After a crash the
last frame may be torn or its bytes be missing; nothing is ever written behind it, because a new process begins a new
segment.

    file     0000000042.highest: empty; says that segment 42 has been, though no file of a higher number may be left
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
"""What a payload takes in its segment besides its own bytes."""
REFERENCE_BYTES = _REFERENCE.size

MISSING_SEGMENT = "missing segment"
SHORT_SEGMENT = "short segment"
CHECKSUM = "checksum"
UNREADABLE = "unreadable"
DAMAGED_HEADER = "damaged header"

_FILE_NAME = re.compile(r"(\d{10})\.(payloads|highest)")


class PayloadRef(NamedTuple):
    """Where a payload is: number of the segment, offset and length in bytes, CRC-32 (as `zlib.crc32` gives it)."""

    segment: int
    offset: int
    length: int
    checksum: int

    def pack(self) -> bytes:
        """`REFERENCE_BYTES` bytes; they sort by segment, then offset."""
        return _REFERENCE.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Raises `struct.error` unless there are exactly `REFERENCE_BYTES` bytes."""
        return cls._make(_REFERENCE.unpack(data))


class PayloadBroken(Exception):
    """The payload cannot be had any more.

    `reason` is `MISSING_SEGMENT`, `SHORT_SEGMENT`, `CHECKSUM` or `UNREADABLE`.
    """

    def __init__(self, reason: str, reference: PayloadRef) -> None:
        super().__init__(f"Payload at {reference.offset} of segment {reference.segment}: {reason}")
        self.reason = reason
        self.reference = reference


class Frame(NamedTuple):
    """One payload as `frames` finds it; `whole` is False when its bytes do not have the checksum in its frame."""

    reference: PayloadRef
    whole: bool


def segment_name(number: int) -> str:
    return f"{number:010d}.payloads"


def mark_name(number: int) -> str:
    return f"{number:010d}.highest"


def parse_name(name: str) -> tuple[int, bool] | None:
    """Number and whether it is a segment (not a mark), or None for a file that is not ours."""
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

    Raises `StartupRefused` for a sound header of another version: its payloads are not damaged, only not for us.
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
    """All frames of a segment file, in order, up to the first that the file is too short for.

    Behind a damaged frame header there is no telling where the next frame starts; what is found there is not whole.
    Reads one payload at a time. Blocks; raises `OSError`.
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
    """Sizes of all segments, and the highest mark (0: none)."""
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
