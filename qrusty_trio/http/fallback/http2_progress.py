"""Detects stalled HTTP/2 connections from the frames that pass in both directions.

Rule: sans-IO. Only frame headers are read (RFC 9113, 4.1): length, type, flags and stream. Hypercorn sets no such
limits. Without them a peer could keep its connection for ever: with half a frame or header block, with no window for a
response, or with no request at all.

Requirements: API-0047
"""

from __future__ import annotations

from collections.abc import Callable

from qrusty_trio.http.header_block import BODY_SECONDS, HEADER_SECONDS, IDLE_SECONDS, SEND_SECONDS

_HEADER_BYTES = 9
_DATA, _HEADERS, _RST_STREAM, _CONTINUATION = 0, 1, 3, 9
_END_STREAM, _END_HEADERS = 1, 4
MAX_STREAMS = 1000
"""Most unfinished streams that are tracked: far more than Hypercorn lets a peer open (100)."""


class _Frames:
    """Splits a stream of bytes into the headers of its frames."""

    __slots__ = ("_header", "_skip")

    def __init__(self, skip: int) -> None:
        self._skip = skip
        """Bytes to skip before the next frame header: the preface, or the rest of a payload."""
        self._header = b""

    @property
    def inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._header or self._skip)

    def feed(self, data: bytes) -> list[tuple[int, int, int, int]]:
        """(length, type, flags, stream) of each frame whose header ends in `data`."""
        found = []
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            step = _HEADER_BYTES - len(self._header)
            self._header += data[at : at + step]
            at += step
            if len(self._header) == _HEADER_BYTES:
                header, self._header = self._header, b""
                length = int.from_bytes(header[:3], "big")
                found.append((length, header[3], header[4], int.from_bytes(header[5:], "big") & 0x7FFFFFFF))
                self._skip = length
        return found


class _Stream:
    """A request whose response is not complete."""

    __slots__ = ("asked", "responding", "since")

    def __init__(self, now: float) -> None:
        self.asked = False
        """The request is complete."""
        self.responding = False
        """The response has begun."""
        self.since = now
        """When the request or response last progressed."""


class Http2Progress:
    """The progress of one connection. All times are seconds of the same clock."""

    def __init__(self, preface_bytes: int, now: float) -> None:
        self._received = _Frames(preface_bytes)
        self._sent = _Frames(0)
        self._streams: dict[int, _Stream] = {}
        self._in_block = False
        self._part_since: float | None = None
        """When the frame or header block began that is incomplete; None if none is."""
        self._idle_since = now
        self.on_end: Callable[[int, bool], None] = lambda stream, whole: None
        """Called with each stream that ends, and whether its response was sent whole."""

    def upgraded(self, now: float) -> None:
        """The connection began with a request of HTTP/1.1, which is answered on stream 1 (RFC 7540, 3.2)."""
        self._streams[1] = stream = _Stream(now)
        stream.asked = True

    def unfinished(self, stream: int) -> bool:
        """Whether the stream's response is incomplete and the stream was not reset."""
        return stream in self._streams

    def received(self, data: bytes, now: float) -> None:
        """Record bytes received from the peer."""
        for length, kind, flags, stream in self._received.feed(data):
            self._part_since = None
            if kind in (_HEADERS, _CONTINUATION):
                self._in_block = not flags & _END_HEADERS
            if kind == _HEADERS and stream not in self._streams and len(self._streams) < MAX_STREAMS:
                self._streams[stream] = _Stream(now)
            known = self._streams.get(stream)
            if known is not None and (kind == _HEADERS or (kind == _DATA and length)):
                known.since = now
            if known is not None and kind in (_HEADERS, _DATA) and flags & _END_STREAM:
                known.asked = True
            if kind == _RST_STREAM:
                self._end(stream, now, whole=False)
        if not (self._received.inside or self._in_block):
            self._part_since = None
        elif self._part_since is None:
            self._part_since = now

    def sent(self, data: bytes, now: float) -> None:
        """Record bytes sent to the peer."""
        for length, kind, flags, stream in self._sent.feed(data):
            known = self._streams.get(stream)
            if known is None:
                continue
            if kind == _HEADERS or (kind == _DATA and length):
                known.since = now
                known.responding = True
            if kind == _RST_STREAM or (kind in (_HEADERS, _DATA) and flags & _END_STREAM):
                self._end(stream, now, whole=kind != _RST_STREAM)

    def _end(self, stream: int, now: float, *, whole: bool) -> None:
        if self._streams.pop(stream, None) is None:
            return
        if not self._streams:
            self._idle_since = now
        self.on_end(stream, whole)

    def stuck(self, now: float) -> str | None:
        """Why the connection must be cut off; None if it need not be."""
        if self._part_since is not None and now - self._part_since >= HEADER_SECONDS:
            return "half a frame or header block"
        if not self._streams:
            return "no request" if now - self._idle_since >= IDLE_SECONDS else None
        for stream in self._streams.values():
            # A stream open in both directions is a WebSocket; its pings detect silence.
            limit = SEND_SECONDS if stream.asked else None if stream.responding else BODY_SECONDS + SEND_SECONDS
            if limit is not None and now - stream.since >= limit:
                return "a response that is not taken"
        return None
