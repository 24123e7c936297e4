"""Filters a chunked body for another parser: only sizes and data pass, so that it can't be read in two ways.

Rule: extensions and trailers are checked and dropped, as RFC 9112 (7.1.1, 7.1.2) asks. Lines end with CR LF. A body
that would grow too large is refused as soon as a chunk's size shows it.

Requirements: API-0032
"""

from __future__ import annotations

import re
from collections.abc import Callable

from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.errors import BadRequest
from qrusty_trio.http.header_block import HeadersTooLarge
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


class Chunks:
    """The chunks of one body. Does no I/O.

    Requirements: API-0009
    """

    def __init__(self) -> None:
        self._step: Callable[[bytes], tuple[bytes, bytes]] = self._size
        self._left = 0
        """Bytes of the current chunk still to pass."""
        self._total = 0
        self._extra = 0
        self.done = False
        """The whole body has passed."""

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Returns the next bytes to pass on, and the rest of `data`. Nothing passes when more data is needed.

        Raises BadRequest, BodyTooLarge, HeadersTooLarge.
        """
        return self._step(data)

    def broken_off(self) -> bytes:
        """Bytes that complete the body for a parser that received what has passed so far."""
        return (bytes(self._left) + b"\r\n" if self._step == self._data else b"") + b"0\r\n\r\n"

    def _size(self, data: bytes) -> tuple[bytes, bytes]:
        most = _SIZE_BYTES + MAX_EXTRA_BYTES - self._extra
        end = data.find(b"\r\n", 0, most + 2)
        match = None
        if end >= 0:
            match = _SIZE_LINE.fullmatch(data, 0, end)
        elif len(data) > most:
            raise _too_much()
        elif _BEGINS_SIZE_LINE.fullmatch(data):
            return b"", data
        if match is None:
            raise BadRequest("A chunk begins with its size in hexadecimal digits, perhaps with extensions")
        size = int(match[1], 16)
        self._extra += end - len(match[1])
        self._total += size
        if self._total > MAX_BODY_BYTES:
            raise body_too_large()
        rest = data[end + 2 :]
        if not size:
            self._step = self._trailers
            return self._trailers(rest)
        self._left = size
        self._step = self._data
        return match[1] + b"\r\n", rest

    def _data(self, data: bytes) -> tuple[bytes, bytes]:
        passed, rest = data[: self._left], data[self._left :]
        if len(passed) == self._left:
            if rest.startswith(b"\r\n"):
                passed, rest = passed + b"\r\n", rest[2:]
                self._step = self._size
            elif b"\r\n".startswith(rest):
                passed, rest = passed[:-1], passed[-1:] + rest  # Hold back the last byte until the chunk's CR LF.
            else:
                raise BadRequest("A chunk ends with CR LF")
        self._left -= min(len(passed), self._left)
        return passed, rest

    def _trailers(self, data: bytes) -> tuple[bytes, bytes]:
        most = MAX_EXTRA_BYTES - self._extra
        end = 2 if data.startswith(b"\r\n") else data.find(b"\r\n\r\n", 0, most + 4) + 4
        if end == 3 and len(data) > most:
            raise _too_much()
        if not (_BEGINS_TRAILERS if end == 3 else _TRAILERS).fullmatch(data if end == 3 else data[:end]):
            raise BadRequest("Only header fields may follow the last chunk")
        if end == 3:
            return b"", data
        self.done = True
        return b"0\r\n\r\n", data[end:]


def _too_much() -> HeadersTooLarge:
    return HeadersTooLarge(f"Chunk extensions and trailers are limited to {MAX_EXTRA_BYTES} bytes")
