"""Reads a chunked body for another parser: only sizes and data pass, so that it can't be read in two ways.

Rule: extensions and trailers are checked and dropped, as RFC 9112 (7.1.1, 7.1.2) asks. Lines end with CR LF. A body
that would grow too large is refused as soon as a chunk's size shows it.

Requirements: API-0032
"""

from __future__ import annotations

import enum
import re

from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.errors import BadRequest
from qrusty_trio.http.header_block import HeadersTooLarge
from qrusty_trio.http.request_parser import Buffer
from qrusty_trio.http.responses import body_too_large

MAX_EXTRA_BYTES = 16 * 1024
"""Limit on the extensions and trailers of a body together."""
_SIZE_BYTES = 8
"""Most digits in a chunk size."""
_EXTENSIONS = rb"[ \t]*+(?:;[^\x00-\x08\x0a-\x1f\x7f]*+)"
_NAME = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++"
_VALUE = rb":[^\x00-\x08\x0a-\x1f\x7f]*+"
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:" + _EXTENSIONS + rb")?")
_BEGINS_SIZE_LINE = re.compile(rb"(?:[0-9A-Fa-f]{1,8}(?:" + _EXTENSIONS + rb"?)?)?\r?")
_TRAILERS = re.compile(rb"(?:" + _NAME + _VALUE + rb"\r\n)*+\r\n")
_BEGINS_TRAILERS = re.compile(rb"(?:" + _NAME + _VALUE + rb"\r\n)*+(?:" + _NAME + rb"(?:" + _VALUE + rb")?)?\r?")


class Part(enum.Enum):
    """Where in a chunked body a reader is."""

    SIZE = "before the size of a chunk"
    DATA = "in the data of a chunk"
    TRAILERS = "behind the last chunk"
    END = "at its end"


class ChunkedReader:
    """Passes one chunked body; see `request_parser`. Raises BadRequest, BodyTooLarge, HeadersTooLarge.

    Requirements: API-0009
    """

    def __init__(self) -> None:
        self._part = Part.SIZE
        self._left = 0
        """Bytes of the current chunk still to pass."""
        self._total = 0
        self._extra = 0

    @property
    def done(self) -> bool:
        return self._part is Part.END

    def read(self, buffer: Buffer) -> bytes | None:
        buffer.gather()
        if self._part is Part.SIZE:
            return self._size(buffer)
        if self._part is Part.DATA:
            return self._data(buffer)
        return self._trailers(buffer)

    def broken_off(self) -> bytes:
        """Bytes that complete the body for a parser that received what has passed so far."""
        return (bytes(self._left) + b"\r\n" if self._part is Part.DATA else b"") + b"0\r\n\r\n"

    def _size(self, buffer: Buffer) -> bytes | None:
        data, start = buffer.data, buffer.position
        most = _SIZE_BYTES + MAX_EXTRA_BYTES - self._extra
        end = data.find(b"\r\n", start, start + most + 2)
        match = None
        if end >= 0:
            match = _SIZE_LINE.fullmatch(data, start, end)
        elif len(data) - start > most + 1:
            raise _too_much()
        elif _BEGINS_SIZE_LINE.fullmatch(data, start):
            return None
        if match is None:
            raise BadRequest("A chunk begins with its size in hexadecimal digits, perhaps with extensions")
        size = int(match[1], 16)
        self._extra += end - start - len(match[1])
        if self._extra > MAX_EXTRA_BYTES:
            raise _too_much()
        self._total += size
        if self._total > MAX_BODY_BYTES:
            raise body_too_large()
        buffer.position = end + 2
        if not size:
            self._part = Part.TRAILERS
            return self._trailers(buffer)
        self._left = size
        self._part = Part.DATA
        return match[1] + b"\r\n"

    def _data(self, buffer: Buffer) -> bytes | None:
        start, end = buffer.position, buffer.position + self._left
        follows = buffer.data[end : end + 2]
        if not b"\r\n".startswith(follows):
            raise BadRequest("A chunk ends with CR LF")
        if len(follows) == 2:
            self._part = Part.SIZE
            return buffer.take(end + 2 - start)
        # Hold back the last byte until the chunk's CR LF.
        passed = buffer.take(min(len(buffer), self._left - 1))
        self._left -= len(passed)
        return passed or None

    def _trailers(self, buffer: Buffer) -> bytes | None:
        data, start = buffer.data, buffer.position
        most = MAX_EXTRA_BYTES - self._extra
        end = start + 2 if data.startswith(b"\r\n", start) else data.find(b"\r\n\r\n", start, start + most + 4) + 4
        complete = end != 3
        if not complete and len(data) - start > most + 3:
            raise _too_much()
        if not (_TRAILERS.fullmatch(data, start, end) if complete else _BEGINS_TRAILERS.fullmatch(data, start)):
            raise BadRequest("Only header fields may follow the last chunk")
        if not complete:
            return None
        self._part = Part.END
        buffer.take(end - start)
        return b"0\r\n\r\n"


def _too_much() -> HeadersTooLarge:
    return HeadersTooLarge(f"Chunk extensions and trailers are limited to {MAX_EXTRA_BYTES} bytes")
