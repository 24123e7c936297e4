"""The stream that Hypercorn reads and writes: only what `request_filter` lets pass reaches it.

Rule: Hypercorn parses what passes once more, with h11 or h2, and runs the app. The guard does what those don't do:

- They read leniently. So the filter decides, and its refusals are answered by the app, as JSON and in order.
- They have no time limit for a header block, for a peer that takes nothing, or for half a frame of HTTP/2. Here every
  read and every send has a deadline, and `watch` looks for what is stuck otherwise.
- Hypercorn drops its responses when it sees that the peer has closed its side. So the end is held back until they are
  sent.
- It takes frames of a WebSocket only after it has answered the handshake. So they wait here.
- It shields its sends, closes from two tasks, and closes at once, so that the peer can lose the last response. So the
  guard cancels sends, closes once, and lingers.
- ASGI does not say whether a response was written. `broken` and `handed_out` do.
- It sends no reason phrases. `phrases` adds them, so that both paths answer alike.

Requirements: API-0031
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from qrusty_trio.api.call import Engine, Reply
from qrusty_trio.errors import QrustyError
from qrusty_trio.http.byte_budget import SMALL_BYTES
from qrusty_trio.http.fallback.handed_out import HandedOut
from qrusty_trio.http.fallback.http2_progress import Http2Progress
from qrusty_trio.http.fallback.reason_phrases import ReasonPhrases
from qrusty_trio.http.fallback.request_filter import Begins, Passed, RequestFilter
from qrusty_trio.http.fallback.share import ConnectionShare
from qrusty_trio.http.header_block import HEADER_SECONDS, HTTP2_PREFACE, SEND_SECONDS, RequestTimedOut
from qrusty_trio.http.lingering import LINGER_SECONDS, linger
from qrusty_trio.http.pauses import EventPause
from qrusty_trio.http.pipe import READ_BYTES, ConnectionLost, give_back_refused, pipe_over, socket_of

PAUSE_SECONDS = 0.25
"""How often to check whether a pause is over."""
WATCH_SECONDS = 1.0
"""How often a connection is checked: limits hold to within that."""

logger = logging.getLogger(__name__)


class GuardedStream(trio.abc.HalfCloseableStream):
    """A stream for Hypercorn over another stream. The app reaches parts of it through the ASGI state.

    Requirements: API-0048
    """

    def __init__(self, stream: trio.abc.Stream, data: bytes, engine: Engine, share: ConnectionShare) -> None:
        self._stream = stream
        self._pipe = pipe_over(stream)
        self._engine = engine
        self.socket = socket_of(stream)
        self.share = share
        """What the connection's requests hold of the byte budgets."""
        self.filter = RequestFilter(data)
        self.phrases = ReasonPhrases()
        self.handed_out = HandedOut(engine)
        self.http2: Http2Progress | None = None
        """The progress of an HTTP/2 connection; None for any other."""

        # Requests.
        self._begun = trio.current_time()
        """When the request began whose header block is incomplete."""
        self._in_hand = 0
        """Requests passed on and not answered yet."""
        self._answered = trio.Event()
        """Set when one of them is."""
        self._upgrading = False
        """An upgrade to h2c was passed on. Frames begin after the first response."""
        self._handshake: trio.Event | None = None
        """Set when an upgrade to WebSocket has been answered; what follows it waits for that."""

        self.waiting: dict[EventPause, None] = {}
        """How the requests in hand wait for a message, if they do."""

        # Whether the connection gets on.
        self.pauses: dict[Callable[[], bool], None] = {}
        """Reading pauses while any of these returns True."""
        self.last_heard = trio.current_time()
        """When bytes last arrived."""
        self._got_on = trio.current_time()
        """When Hypercorn last read or sent something."""
        self._moved = 0
        """Bytes received and sent so far, without those of the last send."""

        # Its end.
        self.scope = trio.CancelScope()
        """Cancels the whole connection."""
        self.broken = False
        """Nothing can be sent any more."""
        self._eof = False
        """The peer has closed its side."""
        self._sent_eof = False
        self._closing = False
        self._closed = trio.Event()
        self._reading = trio.CancelScope()
        self._read_ended = trio.Event()
        self._read_ended.set()
        self._sending = trio.CancelScope()

    # For the app.

    def answered(self, reply: Reply | None, written: bool, stream: int) -> None:
        """The app has finished a request."""
        self._in_hand -= 1
        self.phrases.response_ended()
        self._answered.set()
        self.handed_out.answered(reply, written, stream, self.http2)

    def watch_end(self, pause: EventPause) -> None:
        """Let a call that waits give up once the peer has closed its side."""
        self.waiting[pause] = None
        if self._eof:
            pause.give_up()

    # For Hypercorn: reading.

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
                if (passed := self.filter.next()) is not None:
                    return self._pass(passed)
                if self._eof or (self.filter.last and self.filter.between_requests):
                    return await self._at_end()
                await self._read()
            except QrustyError as error:
                return self._pass(self.filter.refuse(error))
            except ConnectionLost as error:
                self.broken = True
                raise trio.BrokenResourceError from error

    def _pass(self, passed: Passed) -> bytes:
        if passed.begins is Begins.REQUEST:
            self._in_hand += 1
        elif passed.begins is Begins.WEBSOCKET:
            self._handshake = trio.Event()
        elif passed.begins is Begins.H2C:
            self._upgrading = True
        elif passed.begins is Begins.HTTP2:
            self._watch_http2()
        if self.http2 is not None:
            self.http2.received(passed.data, trio.current_time())
        self._begun = trio.current_time()
        return passed.data

    async def _read(self) -> None:
        while self.pauses and any([pause() for pause in list(self.pauses)]):  # noqa: C419, ASYNC110  # call each: it also counts
            await trio.sleep(PAUSE_SECONDS)
        in_headers = self.filter.between_requests and self.filter.waiting
        data = None
        with trio.move_on_at(self._begun + HEADER_SECONDS if in_headers else float("inf")):
            short = self.share.received.short or self.share.unsent.short
            data = await self._pipe.receive(SMALL_BYTES if short else READ_BYTES)
        if data is None:
            raise RequestTimedOut("The request did not arrive in time")
        self.last_heard = trio.current_time()
        self._moved += len(data)
        self._eof = not data
        if not in_headers:
            self._begun = self.last_heard
        self.filter.feed(data)

    async def _at_end(self) -> bytes:
        """The peer has closed its side, but may wait for responses: Hypercorn would drop them if it saw the EOF."""
        if not (self.filter.between_requests or self.filter.opaque):
            # The request is incomplete, so there is nothing to answer, as on the fast path.
            self.scope.cancel()
        for pause in self.waiting if self._eof else ():
            pause.give_up()
        while self._in_hand > 0 and self.filter.between_requests:
            self._answered = trio.Event()
            await self._answered.wait()
        if self._eof:
            await self._settle()
        await trio.lowlevel.checkpoint_if_cancelled()
        return b""

    async def _settle(self) -> None:
        """The peer has closed: give back what it was handed out last, if its kernel refused that."""
        await give_back_refused(self._pipe, self._engine, self.handed_out.given)
        self.handed_out.given = []

    # For Hypercorn: writing.

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        data = self.phrases.complete(bytes(data))
        with trio.CancelScope(deadline=trio.current_time() + SEND_SECONDS) as scope:
            self._sending = scope

            def progress() -> None:
                scope.deadline = trio.current_time() + SEND_SECONDS

            try:
                self._moved += self._pipe.sent
                await self._pipe.send(data, progress)
                self._sent(data)
                return
            except ConnectionLost as error:
                self._break()
                raise trio.BrokenResourceError from error
        self._break()
        raise trio.BrokenResourceError("the peer reads nothing")

    def _sent(self, data: bytes) -> None:
        self._got_on = now = trio.current_time()
        if self.http2 is not None:
            self.http2.sent(data, now)
        elif self._upgrading:
            # The upgrade to h2c is answered: HTTP/1.1 up to the empty line, then HTTP/2.
            self._upgrading = False
            end = data.find(b"\r\n\r\n") + 4
            if data.startswith(b"HTTP/1.1 101") and end >= 4:
                self._watch_http2().sent(data[end:], now)
        if self._handshake is not None:
            if not data.startswith(b"HTTP/1.1 101"):
                self.filter.end()  # The handshake was refused: nobody reads what follows it.
            self._handshake.set()

    def _watch_http2(self) -> Http2Progress:
        self.http2 = http2 = Http2Progress(len(HTTP2_PREFACE), trio.current_time())
        http2.on_end = self.handed_out.stream_ended
        return http2

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    # Cutting off, and closing.

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
            return "a response that is not taken"
        return None

    def _break(self) -> None:
        """Nothing can be sent any more: cancel the connection. Hypercorn would wait for ever with unread requests."""
        self.broken = True
        self.scope.cancel()
        self._sending.cancel()

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream) and not self._sent_eof:
            self._sent_eof = True
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close. A peer that is still sending may read the response first, within limits."""
        if self._closing:
            # The second task that closes must not cut the first short.
            await self._closed.wait()
            return
        self._closing = True
        self._reading.cancel()
        try:
            await self._read_ended.wait()
            idle = self.filter.between_requests and not self.filter.waiting and not self.filter.last
            if not idle and not self.broken and not self._eof:
                self._sent_eof = True
                await linger(self._stream)
                with trio.move_on_after(LINGER_SECONDS):
                    await self._settle()
            await self._stream.aclose()
        finally:
            self._closed.set()
