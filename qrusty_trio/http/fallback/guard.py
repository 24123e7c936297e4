"""The stream that Hypercorn reads and writes: it passes only valid requests.

Rule: a request line and header block pass once they are complete and `head` accepts them, so h11 never sees what
another parser might read differently. A refused request is replaced by one that makes the app send the refusal, in
order. The guard limits how long a header block and a slow reader may take, and knows whether a response could be
written.

Requirements: API-0031
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

import trio

from qrusty_trio.api.call import Engine, Reply
from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.errors import BadRequest, QrustyError
from qrusty_trio.http.byte_budget import SMALL_BYTES
from qrusty_trio.http.chunked_reader import Chunks
from qrusty_trio.http.fallback.handed_out import HandedOut
from qrusty_trio.http.fallback.http2_progress import Http2Progress
from qrusty_trio.http.fallback.share import ConnectionShare
from qrusty_trio.http.header_block import (
    HEADER_SECONDS,
    HTTP2_PREFACE,
    MAX_HEADER_BYTES,
    SEND_SECONDS,
    HeaderBlock,
    RequestTimedOut,
    check_beginning,
    headers_too_large,
    read_block,
    read_line,
    skip_empty_lines,
)
from qrusty_trio.http.lingering import LINGER_SECONDS, linger
from qrusty_trio.http.pipe import READ_BYTES, ConnectionLost, give_back_refused, pipe_over, socket_of
from qrusty_trio.http.responses import body_too_large, with_phrase

PAUSE_SECONDS = 0.25
"""How often to check whether a pause is over."""
OPAQUE_BYTES_PER_STEP = 2 * 1024
"""Most bytes passed on in one step once they are no longer HTTP/1.1. They may be frames of six or nine bytes, and
Hypercorn handles at most 100 of those in a millisecond."""
WATCH_SECONDS = 1.0
"""How often a connection is checked: limits hold to within that."""

logger = logging.getLogger(__name__)


class GuardedStream(trio.abc.HalfCloseableStream):
    """A stream for Hypercorn over another stream.

    The app reaches `refusal_of`, `answered` and `last_heard` through the ASGI state.

    Requirements: API-0048
    """

    def __init__(self, stream: trio.abc.Stream, data: bytes, engine: Engine, share: ConnectionShare) -> None:
        self._stream = stream
        self._pipe = pipe_over(stream)
        self._engine = engine
        self.share = share
        """What the connection's requests hold of the byte budgets."""
        self._moved = 0
        """Bytes received and sent so far, without those of the last send."""
        self._data = data
        """Bytes received and not passed on yet."""
        self._pass: Callable[[], bytes] = self._pass_head
        """Takes the next bytes to pass on from `_data`; b"" when more are needed. Raises QrustyError."""
        self._left = 0
        """Bytes of the body still to pass."""
        self._chunks = Chunks()
        """The current chunked body, or the last one."""
        self._empty_lines = 0
        """Empty lines skipped since the last request."""
        self._begun: float | None = None if not data else trio.current_time()
        """When the request in `_data` began, while its header block is incomplete."""
        self._first = True
        """No request has passed yet, so an HTTP/2 preface may come."""
        self._eof = False
        """The peer has closed its side."""
        self._last = False
        """Nothing passes after the current request."""
        self._closing = False
        self._closed = trio.Event()
        self._sent_eof = False
        self._reading = trio.CancelScope()
        self._sending = trio.CancelScope()
        self._read_ended = trio.Event()
        self._read_ended.set()
        self._in_hand = 0
        """Requests passed on and not answered yet."""
        self._upgrading = False
        """An upgrade to h2c was passed on. Frames begin after the first response."""
        self._handshake: trio.Event | None = None
        """Set when an upgrade to WebSocket has been answered. Frames that arrive earlier wait for it: Hypercorn can't
        take them before."""
        self._changed = trio.Event()
        self.handed_out = HandedOut(engine)
        self._refused_path = b"/" + secrets.token_hex(16).encode()
        self._refused_head: QrustyError | None = None
        self._refused_body: QrustyError | None = None
        self.scope = trio.CancelScope()
        """Cancels the whole connection."""
        self.pauses: dict[Callable[[], bool], None] = {}
        """Reading pauses while any of these returns True."""
        self.http2: Http2Progress | None = None
        """The progress of an HTTP/2 connection; None for any other."""
        self._got_on = trio.current_time()
        """When Hypercorn last read or sent something."""
        self.broken = False
        self.answering: int | None = None
        """Status of a response that has begun, until its status line is sent. Hypercorn sends that without a phrase."""
        self._answer_begun = False
        """The status line of the current response was sent."""
        self.last_heard = trio.current_time()
        self.socket = socket_of(stream)

    # For the app.

    def refusal_of(self, path: bytes | None) -> QrustyError | None:
        """Why the request for `path` is refused; None if it is not. If `path` is None: why the current body is."""
        if path is None:
            return self._refused_body
        return self._refused_head if path == self._refused_path else None

    def answered(self, reply: Reply | None, written: bool, stream: int) -> None:
        """The app has finished a request."""
        self._in_hand -= 1
        self._answer_begun = False
        self._changed.set()
        self.handed_out.answered(reply, written, stream, self.http2)

    # For Hypercorn.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self._read_ended = trio.Event()
        try:
            with trio.CancelScope() as self._reading:
                if not self._closing:
                    return await self._receive()
        finally:
            self._got_on = trio.current_time()
            self._read_ended.set()
        raise trio.ClosedResourceError

    async def _receive(self) -> bytes:
        while True:
            try:
                if self._handshake is not None:
                    await self._handshake.wait()
                    self._handshake = None
                passed = self._pass()
                if passed:
                    return passed
                if self._eof or (self._last and self._pass == self._pass_head):
                    return await self._at_end()
                await self._read()
            except QrustyError as error:
                return self._refuse(error)
            except ConnectionLost as error:
                self.broken = True
                raise trio.BrokenResourceError from error

    async def _read(self) -> None:
        while self.pauses and any([pause() for pause in list(self.pauses)]):  # noqa: C419, ASYNC110  # call each: it also counts
            await trio.sleep(PAUSE_SECONDS)
        deadline = float("inf") if self._begun is None else self._begun + HEADER_SECONDS
        data = None
        with trio.move_on_at(deadline):
            short = self.share.received.short or self.share.unsent.short
            data = await self._pipe.receive(SMALL_BYTES if short else READ_BYTES)
        if data is None:
            raise RequestTimedOut("The request did not arrive in time")
        self.last_heard = trio.current_time()
        self._moved += len(data)
        self._eof = not data
        self._data += data
        if self._begun is None and self._pass == self._pass_head:
            self._begun = self.last_heard

    async def _at_end(self) -> bytes:
        """The peer has closed its side, but may wait for responses: Hypercorn would drop them if it saw the EOF."""
        if self._pass in (self._pass_body, self._pass_chunks):
            # The request is incomplete, so there is nothing to answer, as on the fast path.
            self.scope.cancel()
        while self._in_hand > 0 and self._pass == self._pass_head:
            self._changed = trio.Event()
            await self._changed.wait()
        if self._eof:
            await self._settle()
        await trio.lowlevel.checkpoint_if_cancelled()
        return b""

    async def _settle(self) -> None:
        await give_back_refused(self._pipe, self._engine, self.handed_out.given)
        self.handed_out.given = []

    def _refuse(self, error: QrustyError) -> bytes:
        """Make the app send `error` in order, as the last response."""
        before = self._pass
        self._data = b""
        self._last = True
        self._go(self._pass_head)
        if before == self._pass_head:
            self._refused_head = error
            self._in_hand += 1
            return b"GET %b HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n" % self._refused_path
        # Inside a chunked body: complete it, so that the app runs and finds the refusal.
        self._refused_body = error
        return self._chunks.broken_off()

    def _pass_head(self) -> bytes:
        if self._last:
            return b""
        data = self._data = self._skip_empty_lines()
        if not data:
            return b""
        if self._first and not self._eof and data.startswith(HTTP2_PREFACE[: len(data)]):
            if len(data) >= len(HTTP2_PREFACE):
                self._watch_http2()
                self._go(self._pass_all)
            return self._pass_all() if self._pass == self._pass_all else b""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            check_beginning(data)
            return b""
        if end > MAX_HEADER_BYTES:
            raise headers_too_large()
        line_end = data.find(b"\r\n")
        line = read_line(data[:line_end])
        block = read_block(data[line_end:end], line.http11)
        if block.length > MAX_BODY_BYTES:
            raise body_too_large()
        if block.upgrade == "h2c" and block.settings_fault:
            raise BadRequest(block.settings_fault)
        websocket = line.method == "GET" and block.upgrade == "websocket"
        if websocket and block.handshake_fault:
            raise BadRequest(block.handshake_fault)
        self._first = False
        self._empty_lines = 0
        self._last = not (block.keep_alive and line.http11)  # h11 does not support keep-alive in HTTP/1.0.
        self._after_head(block, websocket)
        self._data = data[end:]
        return data[:end]

    def _skip_empty_lines(self) -> bytes:
        start, self._empty_lines = skip_empty_lines(self._data, 0, self._empty_lines)
        if start:
            self._first = False  # An HTTP/2 connection must begin with the preface.
            if start == len(self._data):
                self._begun = None
        return self._data[start:]

    def _after_head(self, block: HeaderBlock, websocket: bool) -> None:
        if websocket:
            self._handshake = trio.Event()
        if websocket or (block.upgrade == "h2c" and not block.length and not block.chunked):
            if not websocket:
                self._upgrading = True
            self._go(self._pass_all)
            return
        self._in_hand += 1
        self._left = block.length
        if block.chunked:
            self._chunks = Chunks()
        self._go(self._pass_chunks if block.chunked else self._pass_body if block.length else self._pass_head)

    def _go(self, next_pass: Callable[[], bytes]) -> None:
        self._pass = next_pass
        self._begun = None

    def _pass_all(self) -> bytes:
        passed, self._data = self._data[:OPAQUE_BYTES_PER_STEP], self._data[OPAQUE_BYTES_PER_STEP:]
        if self.http2 is not None:
            self.http2.received(passed, trio.current_time())
        return passed

    def _pass_body(self) -> bytes:
        passed, self._data = self._data[: self._left], self._data[self._left :]
        self._left -= len(passed)
        if not self._left:
            self._next_head()
        return passed

    def _next_head(self) -> None:
        self._pass = self._pass_head
        self._begun = trio.current_time() if self._data else None

    def _pass_chunks(self) -> bytes:
        passed, self._data = self._chunks.take(self._data)
        if self._chunks.done:
            self._next_head()
        return passed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.answering is not None:
            data = with_phrase(bytes(data), self.answering)
            self.answering = None
            self._answer_begun = True
        elif not self._answer_begun:
            # Hypercorn itself sends 100 Continue, or 101 for HTTP/2, before the response.
            data = with_phrase(with_phrase(bytes(data), 100), 101)
        with trio.CancelScope(deadline=trio.current_time() + SEND_SECONDS) as scope:
            self._sending = scope

            def progress() -> None:
                scope.deadline = trio.current_time() + SEND_SECONDS

            try:
                self._moved += self._pipe.sent
                await self._pipe.send(bytes(data), progress)
                self._got_on = trio.current_time()
                if self.http2 is not None:
                    self.http2.sent(bytes(data), trio.current_time())
                elif self._upgrading:
                    self._begin_http2(bytes(data))
                if self._handshake is not None:
                    self._answer_handshake(bytes(data[:12]))
                return
            except ConnectionLost as error:
                self._break()
                raise trio.BrokenResourceError from error
        self._break()
        raise trio.BrokenResourceError("the peer reads nothing")

    def _begin_http2(self, data: bytes) -> None:
        """The upgrade to h2c is answered: `data` is HTTP/1.1 up to the empty line, then HTTP/2."""
        self._upgrading = False
        end = data.find(b"\r\n\r\n") + 4
        if data.startswith(b"HTTP/1.1 101") and end >= 4:
            self._watch_http2().sent(data[end:], trio.current_time())

    def _watch_http2(self) -> Http2Progress:
        self.http2 = http2 = Http2Progress(len(HTTP2_PREFACE), trio.current_time())
        http2.on_end = self.handed_out.stream_ended
        return http2

    @property
    def opaque(self) -> bool:
        """Whether the bytes are no longer HTTP/1.1."""
        return self._pass == self._pass_all

    async def watch(self) -> None:
        """Cut off the connection if it stalls, or when this task is cancelled. Never returns."""
        while True:
            try:
                await trio.sleep(WATCH_SECONDS)
            except trio.Cancelled:
                self._break()
                raise
            now = trio.current_time()
            if self.share.lags(now, self._moved + self._pipe.sent):
                logger.info("a connection is cut off: it hardly moves, and others wait for what it holds")
                self._break()
            if self.http2 is not None and (why := self.http2.stuck(now) or self._waits_for_itself(now)) is not None:
                logger.info("an HTTP/2 connection is cut off: %s", why)
                self._break()

    def _waits_for_itself(self, now: float) -> str | None:
        """Detect a deadlock: Hypercorn's reader waits for room in a window that only a frame it reads could open."""
        if self._read_ended.is_set() and now - self._got_on >= SEND_SECONDS:
            return "an answer that is not taken"
        return None

    def _answer_handshake(self, beginning: bytes) -> None:
        assert self._handshake is not None
        if beginning != b"HTTP/1.1 101":
            # The handshake was refused: nobody reads what follows it.
            self._data = b""
            self._last = True
            self._go(self._pass_head)
        self._handshake.set()

    def _break(self) -> None:
        """Nothing can be sent any more: cancel the connection. Hypercorn would wait for ever with unread requests."""
        self.broken = True
        self.scope.cancel()
        self._sending.cancel()  # Hypercorn shields its sends.

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream) and not self._sent_eof:
            self._sent_eof = True
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close. A peer that is still sending may read the response first, within limits."""
        if self._closing:
            # Hypercorn closes from two tasks. The second must not cut the first short.
            await self._closed.wait()
            return
        self._closing = True
        self._reading.cancel()
        try:
            await self._read_ended.wait()
            idle = self._pass == self._pass_head and not self._data and not self._last
            if not idle and not self.broken and not self._eof:
                self._sent_eof = True
                await linger(self._stream)
                with trio.move_on_after(LINGER_SECONDS):
                    await self._settle()
            await self._stream.aclose()
        finally:
            self._closed.set()
