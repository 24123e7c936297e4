"""What may pass to Hypercorn of the bytes that a peer sends.

Rule: sans-IO. A request line and header block pass once they are complete and accepted; a body passes as it arrives.
So Hypercorn's parser never sees what another parser might read differently. A refused request is replaced by one that
makes the app send the refusal, in order. Nothing passes after that, or after a request that asks to close.

Requirements: API-0031
"""

from __future__ import annotations

import enum
import secrets

import msgspec

from qrusty_trio.api.identity import Identity
from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.errors import BadRequest, QrustyError
from qrusty_trio.http.chunked_reader import ChunkedReader
from qrusty_trio.http.header_block import HeaderBlock
from qrusty_trio.http.request_line import RequestLine, read_line
from qrusty_trio.http.request_parser import Buffer, HeaderReader, LengthReader, OpaqueReader, Preface
from qrusty_trio.http.responses import body_too_large


class Begins(enum.Enum):
    """What begins with bytes that pass."""

    REQUEST = "a request that the app answers"
    WEBSOCKET = "an upgrade to WebSocket: frames follow"
    H2C = "an upgrade to HTTP/2: frames follow"
    HTTP2 = "HTTP/2, with its preface"


class Passed(msgspec.Struct):
    """Bytes for Hypercorn. `begins`: set if these are the first ones of something."""

    data: bytes
    begins: Begins | None = None


class RequestFilter:
    """The requests of one connection of the fallback."""

    def __init__(self, data: bytes) -> None:
        """`data`: what has arrived already."""
        self._buffer = Buffer()
        if data:
            self._buffer.feed(data)
        self._headers = HeaderReader(read_line)
        self._body: LengthReader | ChunkedReader | OpaqueReader | None = None
        """Reads the rest of the current request; None between requests."""
        self.last = False
        """Nothing passes after the current request."""
        self._refused_path = b"/" + secrets.token_hex(16).encode()
        self._refused_headers: QrustyError | None = None
        self._refused_body: QrustyError | None = None
        self._identity: Identity | None = None
        """Who the current request is; None if it did not say, or its headers were not read."""

    @property
    def between_requests(self) -> bool:
        return self._body is None

    @property
    def opaque(self) -> bool:
        """Whether the bytes are no longer HTTP/1.1."""
        return isinstance(self._body, OpaqueReader)

    @property
    def waiting(self) -> int:
        """Bytes that have arrived and did not pass yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes that have arrived; b"" if the peer has closed its side."""
        self._buffer.feed(data)

    def next(self) -> Passed | None:
        """The next bytes to pass; None if more must arrive. Raises QrustyError; then call `refuse`."""
        if self._body is None:
            return None if self.last else self._pass_headers()
        passed = self._body.read(self._buffer)
        if self._body.done:
            self._body = None
        return None if passed is None else Passed(passed)

    def _pass_headers(self) -> Passed | None:
        buffer, self._identity = self._buffer, None
        buffer.gather()
        found = self._headers.read(buffer)
        if found is None:
            return None
        if isinstance(found, Preface):
            self._body = reader = OpaqueReader()
            return Passed(reader.read(buffer) or b"", Begins.HTTP2)
        line, block = found.line, found.block
        self._identity = block.identity
        begins = _what_begins(line, block)
        self.last = not (block.keep_alive and line.http11)  # h11 does not support keep-alive in HTTP/1.0.
        if begins is not Begins.REQUEST:
            self._body = OpaqueReader()
        elif block.chunked:
            self._body = ChunkedReader()
        elif block.length:
            self._body = LengthReader(block.length)
        end, buffer.position = buffer.position, found.start
        return Passed(buffer.take(end - found.start), begins)

    def refuse(self, error: QrustyError) -> Passed:
        """What passes instead of a request that is refused. It makes the app ask `refusal_of`, and is the last."""
        reader = self._body
        self.end()
        if isinstance(reader, ChunkedReader):
            # Complete the body, so that the app runs and finds the refusal.
            self._refused_body = error
            return Passed(reader.broken_off())
        self._refused_headers = error
        name = self._identity.header if self._identity is not None else b""
        request = b"GET %b HTTP/1.1\r\nhost: refused\r\nconnection: close%b\r\n\r\n" % (self._refused_path, name)
        return Passed(request, Begins.REQUEST)

    def end(self) -> None:
        """Drop what has arrived, and let nothing more pass."""
        self._buffer.take_all()
        self._body = None
        self.last = True

    def refusal_of(self, path: bytes | None) -> QrustyError | None:
        """Why the request for `path` is refused; None if it is not. If `path` is None: why the current body is."""
        if path is None:
            return self._refused_body
        return self._refused_headers if path == self._refused_path else None


def _what_begins(line: RequestLine, block: HeaderBlock) -> Begins:
    """Raises BadRequest or BodyTooLarge if the request is refused."""
    if block.length > MAX_BODY_BYTES:
        raise body_too_large()
    if block.upgrade == "h2c" and block.settings_fault:
        raise BadRequest(block.settings_fault)
    if line.method == "GET" and block.upgrade == "websocket":
        if block.handshake_fault:
            raise BadRequest(block.handshake_fault)
        return Begins.WEBSOCKET
    if block.upgrade == "h2c" and not block.length and not block.chunked:
        return Begins.H2C
    return Begins.REQUEST
