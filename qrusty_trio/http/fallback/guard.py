"""The stream that Hypercorn reads and writes: only what `request_filter` lets pass reaches it.

Rule: Hypercorn parses what passes once more, with h11 or h2, and runs the app. The guard does what Hypercorn and its
parsers don't do:

- The parsers read leniently. So the filter decides, and its refusals are answered by the app, as JSON and in order.
- Hypercorn has no time limit for a header block, for a peer that takes nothing, or for half a frame of HTTP/2. Here
  every read and every send has a deadline, and `watch` looks for what is stuck otherwise.
- Hypercorn drops its responses when it sees that the peer has closed its side. So the end is held back until they are
  sent.
- Hypercorn does not read while a request waits behind another one. So `watch` looks whether the peer is still there.
- Hypercorn takes frames of a WebSocket only after it has answered the handshake. So the frames wait here.
- Hypercorn shields its sends, closes from two tasks, and closes at once, so that the peer can lose the last response.
  So the guard cancels sends, closes once, and lingers.
- ASGI does not say whether a response was written. `broken`, `too_late` and `deliveries` do.
- Hypercorn sends no reason phrases. `phrases` adds them, so that both paths answer alike.

Requirements: API-0031
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import trio

from qrusty_trio.api.call import Reply
from qrusty_trio.errors import QrustyError
from qrusty_trio.http.byte_budget import SMALL_BYTES
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.fallback.connection_end import ConnectionEnd
from qrusty_trio.http.fallback.peer_progress import PeerProgress
from qrusty_trio.http.fallback.reason_phrases import ReasonPhrases
from qrusty_trio.http.fallback.request_filter import Begins, Passed, RequestFilter
from qrusty_trio.http.fallback.requests_in_hand import RequestsInHand
from qrusty_trio.http.fallback.response_deliveries import ResponseDeliveries
from qrusty_trio.http.fallback.share import ConnectionShare
from qrusty_trio.http.header_block import RequestTimedOut
from qrusty_trio.http.lingering import LINGER_SECONDS, linger
from qrusty_trio.http.pauses import EventPause
from qrusty_trio.http.pipe import READ_BYTES, ConnectionLost, give_back_refused, pipe_over, socket_of
from qrusty_trio.http.turns import BYTES_AT_ONCE

PAUSE_SECONDS = 0.25
"""How often to check whether a pause is over."""
WATCH_SECONDS = 1.0
"""How often a connection is checked: limits hold to within that."""

STOP_GRACE_SECONDS = 1.0
"""While the server stops, a request that is incomplete ends with its connection after so long without a byte."""

GUARD_KEY = "qrusty.guard"
"""Key in the ASGI state: the `GuardedStream` under the connection."""

logger = logging.getLogger(__name__)


def guard_of(state: Mapping[str, Any]) -> GuardedStream:
    """The stream under a connection, from its ASGI state."""
    guard: GuardedStream = state[GUARD_KEY]
    return guard


class GuardedStream(trio.abc.HalfCloseableStream):
    """A stream for Hypercorn over another stream. The app reaches parts of it through the ASGI state.

    Requirements: API-0048
    """

    def __init__(self, stream: trio.abc.Stream, data: bytes, context: HttpContext, share: ConnectionShare) -> None:
        """`data`: bytes that were already read."""
        self._stream = stream
        self._pipe = pipe_over(stream)
        self._engine = context.engine
        self.turns = context.websocket.turns
        self.socket = socket_of(stream)
        """Hypercorn asks for it."""
        self.share = share
        """What the connection's requests hold of the byte budgets."""
        self.filter = RequestFilter(data)
        self.phrases = ReasonPhrases()
        self.deliveries = ResponseDeliveries(context.engine)
        self.requests = RequestsInHand()
        self.progress = PeerProgress(self.socket, share, self.deliveries.stream_ended, trio.current_time())
        self.end = ConnectionEnd()
        self.stopping = context.stopping
        """Set when the server stops: the rest of a request is not waited for."""
        self._sent_eof = False
        self._handshake: trio.Event | None = None
        """Set when an upgrade to WebSocket has been answered; what follows it waits for that."""

    # For the app.

    def answered(self, reply: Reply | None, written: bool, stream: int) -> None:
        """The app has finished a request."""
        self.requests.answered()
        self.phrases.response_ended()
        self.deliveries.answered(reply, written, stream, self.progress.http2)

    def watch_end(self, pause: EventPause) -> None:
        """Let a call that waits give up once the peer has closed its side."""
        self.requests.waits(pause)
        if self.end.peer_closed:
            pause.give_up()

    # For Hypercorn: reading.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        with self.end.reading():
            try:
                if not self.end.closing:
                    return await self._receive()
            finally:
                self.progress.read_ended(trio.current_time())
        raise trio.ClosedResourceError

    async def _receive(self) -> bytes:
        while True:
            try:
                if self._handshake is not None:
                    await self._handshake.wait()
                    self._handshake = None
                # Hypercorn gets the rest in pieces, each in its turn.
                if self.filter.waiting > BYTES_AT_ONCE:
                    await self.turns.next()
                if (passed := self.filter.next()) is not None:
                    return self._pass(passed)
                if self.end.peer_closed or (self.filter.last and self.filter.between_requests):
                    return await self._at_end()
                await self._read()
            except QrustyError as error:
                return self._pass(self.filter.refuse(error))
            except ConnectionLost as error:
                self.end.broken = True
                await self.turns.change()
                raise trio.BrokenResourceError from error

    def _pass(self, passed: Passed) -> bytes:
        now = trio.current_time()
        if passed.begins is Begins.REQUEST:
            self.requests.begins()
        elif passed.begins is Begins.WEBSOCKET:
            self._handshake = trio.Event()
        elif passed.begins is Begins.H2C:
            self.progress.upgrade_to_h2c()
        elif passed.begins is Begins.HTTP2:
            self.progress.watch_http2(now)
        self.progress.passed(passed.data, now)
        return passed.data

    async def _read(self) -> None:
        while self.progress.paused:  # noqa: ASYNC110  # each pause counts when it is asked
            await trio.sleep(PAUSE_SECONDS)
        in_headers = self.filter.between_requests and bool(self.filter.waiting)
        data = None
        with trio.move_on_at(self.progress.header_deadline if in_headers else float("inf")):
            short = self.share.received.short or self.share.unsent.short
            data = await self._pipe.receive(SMALL_BYTES if short else READ_BYTES)
        if data is None:
            raise RequestTimedOut("The request did not arrive in time")
        self.progress.received(data, in_headers, trio.current_time())
        self.end.peer_closed = not data
        self.filter.feed(data)
        await self.turns.change()

    async def _at_end(self) -> bytes:
        """The peer has closed its side, but may wait for responses: Hypercorn would drop them if it saw the EOF."""
        if not (self.filter.between_requests or self.filter.opaque):
            # The request is incomplete, so there is nothing to answer, as on the fast path.
            self.end.scope.cancel()
        if self.end.peer_closed:
            self.requests.give_up()
        while self.requests and self.filter.between_requests:
            await self.requests.next_answered()
        if self.end.peer_closed:
            await self._settle()
        await trio.lowlevel.checkpoint_if_cancelled()
        return b""

    async def _settle(self) -> None:
        """The peer has closed: give back what it was handed out last, if its kernel refused that."""
        await give_back_refused(self._pipe, self._engine, self.deliveries.given)
        self.deliveries.given = []

    # For Hypercorn: writing.

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.end.closing:
            # The descriptor may be that of another connection by now.
            self.end.too_late = True
            raise trio.ClosedResourceError
        data = self.phrases.complete(bytes(data))
        whole = False
        try:
            with self.end.sending() as progress:
                self.progress.send_begins(self._pipe.sent)
                await self._pipe.send(data, progress)
                self._sent(data)
                whole = True
        except ConnectionLost as error:
            self.end.break_off()
            raise trio.BrokenResourceError from error
        if not whole:
            self.end.break_off()
            raise trio.BrokenResourceError("the peer reads nothing")

    def _sent(self, data: bytes) -> None:
        self.progress.sent(data, trio.current_time())
        # The responses to requests before the handshake come first. Frames may come after it before this reads on.
        if self._handshake is not None and not self.requests and data.startswith(b"HTTP/1.1 "):
            if not data.startswith(b"HTTP/1.1 101"):
                self.filter.end()  # The handshake was refused: nobody reads what follows it.
            self._handshake.set()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    # Cutting off, and closing.

    async def watch(self) -> None:
        """Cut off the connection if it stalls, or when this task is cancelled. Never returns.

        Requirements: DLV-0057
        """
        while True:
            try:
                await trio.sleep(WATCH_SECONDS)
            except trio.Cancelled:
                self.end.break_off()
                raise
            if (why := self.progress.stalled(trio.current_time(), self._pipe.sent, self.end.is_reading)) is not None:
                logger.info(why)
                self.end.break_off()
            elif self.stopping.is_set() and self._stands_still():
                self.end.break_off()
            elif not (self.end.is_reading or self.end.closing) and self._pipe.left():
                # A request behind another one keeps Hypercorn from reading. To answer shows whether the peer is there.
                self.requests.give_up()

    def _stands_still(self) -> bool:
        """Whether the rest of an HTTP/1.1 request is waited for, and nothing of it came for a while."""
        in_headers = self.filter.between_requests and bool(self.filter.waiting) and not self.requests
        in_body = not (self.filter.between_requests or self.filter.opaque)
        return (
            (in_headers or in_body)
            and self.end.is_reading
            and trio.current_time() - self.progress.last_heard >= STOP_GRACE_SECONDS
        )

    async def send_eof(self) -> None:
        if self.end.closing:
            return  # The close does that, and only one task at a time may.
        if isinstance(self._stream, trio.abc.HalfCloseableStream) and not self._sent_eof:
            self._sent_eof = True
            with self.end.sending():
                await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close. A peer that is still sending may read the response first, within limits."""
        await self.end.close_once(self._close)

    async def _close(self) -> None:
        idle = self.filter.between_requests and not self.filter.waiting and not self.filter.last
        if not idle and not self.end.broken and not self.end.peer_closed:
            self._sent_eof = True
            await linger(self._stream)
            with trio.move_on_after(LINGER_SECONDS):
                await self._settle()
        await self._stream.aclose()
