"""Reads the requests on a connection from the bytes that arrive.

Rule: sans-IO. No socket, no clock, no task: bytes go in, and what they mean comes out. A reader takes what it can from
a `Buffer`. It returns what it read, or None: it needs more. It raises QrustyError as soon as no bytes to come could
make the request valid; nothing after that can be trusted.

    Buffer            what has arrived and was not taken
    HeaderReader      empty lines, then a request line and header block; or the preface of HTTP/2
    LengthReader      a body of known length, piece by piece
    OpaqueReader      whatever is no longer HTTP/1.1
    ChunkedReader     a chunked body, piece by piece (`chunked_reader`)

The fast path wants whole requests: `RequestParser`, or `read_batchable_call` for a request that came alone. Hypercorn
gets the bytes as they arrive, once they are checked: `fallback.request_filter` composes the same readers for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from qrusty_trio.access.access import Access
from qrusty_trio.api.call import Call
from qrusty_trio.api.identity import Identity
from qrusty_trio.api.operations import MAX_BODY_BYTES, check_content_type
from qrusty_trio.errors import BadRequest, QrustyError
from qrusty_trio.http.header_block import (
    HTTP2_PREFACE,
    MAX_EMPTY_LINES,
    MAX_HEADER_BYTES,
    HeaderBlock,
    headers_too_large,
    read_batchable_block,
    read_block,
)
from qrusty_trio.http.request_line import MAX_KEPT_LINE_BYTES, RequestLines, Target
from qrusty_trio.http.responses import body_too_large

OPAQUE_BYTES_PER_STEP = 2 * 1024
"""Most bytes that `OpaqueReader` passes at a time. They may be frames of six or nine bytes, and Hypercorn handles at
most 100 of those in a millisecond."""


class AnyLine(Protocol):
    """A request line that was read, in whatever detail."""

    @property
    def http11(self) -> bool: ...


L = TypeVar("L", bound=AnyLine)


class Buffer:
    """Bytes that have arrived and were not taken yet."""

    __slots__ = ("_later_bytes", "data", "ended", "later", "position")

    def __init__(self) -> None:
        self.data = b""
        """What has arrived, without the pieces that `gather` has not appended yet."""
        self.position = 0
        """Where in `data` the bytes begin that were not taken yet."""
        self.ended = False
        """Nothing more will arrive."""
        self.later: list[bytes] = []
        """Pieces that came after `data`."""
        self._later_bytes = 0

    def __len__(self) -> int:
        return len(self.data) - self.position + self._later_bytes

    def feed(self, data: bytes) -> None:
        """Add bytes that have arrived; b"" if the peer has closed its side."""
        if not data:
            self.ended = True
        elif self.position == len(self.data) and not self.later:
            self.data, self.position = data, 0
        else:
            self.later.append(data)
            self._later_bytes += len(data)

    def gather(self) -> None:
        """Make `data` whole. Pieces of a large body are joined once, and not each time that one arrives."""
        if self.later:
            self.data = b"".join([self.data[self.position :], *self.later])
            self.position = 0
            self.later = []
            self._later_bytes = 0

    def drop_taken(self) -> None:
        """Keep nothing of what was taken, if all was. Otherwise that lasts until more arrives."""
        if self.position == len(self.data):
            self.data, self.position = b"", 0

    def take(self, most: int) -> bytes:
        """Up to `most` bytes."""
        if self.later:
            self.gather()
        data, start = self.data, self.position
        end = start + most
        if end < len(data):
            self.position = end
            return data[start:end]
        self.data, self.position = b"", 0
        return data[start:]

    def take_all(self) -> bytes:
        return self.take(len(self))


class Request(msgspec.Struct, Generic[L], gc=False):
    """A request: its line, its header block, and its body, if that was read as well."""

    line: L
    block: HeaderBlock
    start: int
    """Where the line begins in the buffer's data."""
    body: bytes = b""


class Preface(msgspec.Struct, gc=False):
    """The preface of HTTP/2 has arrived, and is still in the buffer."""


class HeaderReader(Generic[L]):
    """Reads what precedes the body of each request of a connection. `read_line` reads a request line."""

    __slots__ = ("_empty_lines", "_first", "_read_line")

    def __init__(self, read_line: Callable[[bytes], L]) -> None:
        self._read_line = read_line
        self._empty_lines = 0
        """Empty lines skipped since the last request."""
        self._first = True
        """Nothing has been read yet, so that a preface may come."""

    def read(self, buffer: Buffer) -> Request[L] | Preface | None:
        data, start = buffer.data, buffer.position
        if data.startswith(b"\r", start):
            self._skip_empty_lines(buffer)
            start = buffer.position
        if start == len(data):
            return None
        if self._first and not buffer.ended and data.startswith(HTTP2_PREFACE[: len(data)]):
            return Preface() if len(data) >= len(HTTP2_PREFACE) else None
        end = data.find(b"\r\n\r\n", start) + 4
        if end < 4:
            _check_beginning(data[start:])
            return None
        if end - start > MAX_HEADER_BYTES:
            raise headers_too_large()
        line_end = data.find(b"\r\n", start)
        line = self._read_line(data[start:line_end])
        block = read_block(data[line_end:end], line.http11)
        buffer.position = end
        self._first = False
        self._empty_lines = 0
        return Request(line, block, start)

    def request_read(self) -> None:
        """A request of the connection has been read by `read_batchable_call`."""
        self._first = False
        self._empty_lines = 0

    def _skip_empty_lines(self, buffer: Buffer) -> None:
        """Skip empty lines before a request, as RFC 9112 (2.2) asks."""
        while buffer.data.startswith(b"\r\n", buffer.position):
            self._first = False  # An HTTP/2 connection must begin with the preface.
            buffer.position += 2
            self._empty_lines += 1
            if self._empty_lines > MAX_EMPTY_LINES:
                raise BadRequest(f"At most {MAX_EMPTY_LINES} empty lines may come before a request")


def _check_beginning(data: bytes) -> None:
    """Refuse an incomplete request as soon as it can't become valid. Raises BadRequest or HeadersTooLarge."""
    if data == b"\r":
        return  # possibly the start of an empty line
    if len(data) > MAX_HEADER_BYTES:
        raise headers_too_large()
    if not data[:1].isupper():
        raise BadRequest("A request begins with a method in capital letters")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise BadRequest("Lines end with CR LF")


class LengthReader:
    """Passes a body of `length` bytes (at least 1)."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        return not self._left

    def read(self, buffer: Buffer) -> bytes | None:
        passed = buffer.take(self._left)
        self._left -= len(passed)
        return passed or None


class OpaqueReader:
    """Passes whatever arrives, a little at a time."""

    done = False

    def read(self, buffer: Buffer) -> bytes | None:
        return buffer.take(OPAQUE_BYTES_PER_STEP) or None


class ServedElsewhere(msgspec.Struct, gc=False):
    """The next request is not for the operation table: its connection leaves. `data`: all bytes from it on."""

    data: bytes
    websocket: bool
    """It opens a WebSocket, and `fast_websocket` serves it. Otherwise the fallback does."""


class RequestParser:
    """The requests of one connection of the fast path, whole."""

    __slots__ = ("_begun", "_headers", "buffer", "missing", "refused")

    def __init__(self, lines: RequestLines) -> None:
        self.buffer = Buffer()
        self._headers = HeaderReader(lines.read)
        self._begun: Request[Target] | None = None
        """The request whose body is not complete."""
        self.missing = 0
        """Bytes of that body that are still to come; 0 if no body is awaited."""
        self.refused: Identity | None = None
        """Who the request was that `next` refused; None if it did not say, or its headers were not read."""

    def feed(self, data: bytes) -> None:
        """Add bytes that have arrived; b"" if the peer has closed its side."""
        self.buffer.feed(data)

    def next(self) -> Request[Target] | ServedElsewhere | None:
        """The next request, whole; or that its connection is served elsewhere; None if more must arrive.

        The request's path may still be refused (`line.refusal`). Raises QrustyError if the request is refused and
        nothing after it can be trusted. Call it no more after that, or after ServedElsewhere.
        """
        buffer = self.buffer
        request = self._begun
        if request is None:
            if buffer.later:
                buffer.gather()
            found = self._headers.read(buffer)
            if found is None:
                buffer.drop_taken()
                return None
            if isinstance(found, Preface):
                return ServedElsewhere(buffer.take_all(), websocket=False)
            request = found
            if not request.block.plain or request.line.only_for_app:
                return self._served_elsewhere(request)
            if request.block.length > MAX_BODY_BYTES:
                self.refused = request.block.identity
                raise body_too_large()
        self._begun = None
        if length := request.block.length:
            end = buffer.position + length
            if end > len(buffer.data):
                # It is incomplete, or a part of it is among the pieces that came later.
                self.missing = max(0, length - len(buffer))
                if self.missing:
                    self._begun = request
                    return None
                buffer.gather()
                end = length
            request.body = buffer.data[buffer.position : end]
            buffer.position = end
        return request

    def _served_elsewhere(self, request: Request[Target]) -> ServedElsewhere:
        buffer, block = self.buffer, request.block
        buffer.position = request.start
        websocket = request.line.websocket and block.upgrade == "websocket" and not block.handshake_fault
        return ServedElsewhere(buffer.take_all(), websocket)

    def request_read(self) -> None:
        """A request of this connection was read by `read_batchable_call`."""
        self._headers.request_read()


def read_batchable_call(
    data: bytes, lines: RequestLines, access: Access | None = None, certificate: str = ""
) -> Call | None:
    """The call, if `data` is exactly one plain request for a batchable operation, with short headers; else None.

    `access`: the tokens of a server that has some. Then None, too, unless it shows a token that was accepted before, or
    nothing but its `certificate`.
    """
    end = data.find(b"\r\n\r\n") + 4
    line_end = data.find(b"\r\n")
    if end < 4 or line_end > MAX_KEPT_LINE_BYTES:
        return None
    try:
        target = lines.read(data[:line_end])
        operation = target.operation
        if not target.batchable or operation is None:
            return None
        block = read_batchable_block(data[line_end:end])
        if block is None or not block.batchable or block.length != len(data) - end or block.length > MAX_BODY_BYTES:
            return None
        if not block.json:
            check_content_type(operation, block.content_type, not block.length)
    except QrustyError:
        return None  # The connection's own task refuses it.
    principal = None
    if access is not None and operation.needs.token:
        if block.authorization:
            principal = access.known.get(block.authorization)
        elif certificate:
            principal = access.tokens.by_name.get(certificate)
        if principal is None:
            return None  # The connection's own task finds out more.
    return Call(operation, target.params, data[end:], target.query, None, block.identity, principal)
