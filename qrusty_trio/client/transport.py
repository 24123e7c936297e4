"""A WebSocket: opening it, frames in and out, closing it. `websockets` knows the protocol; the stream is anyio's.

Rule: a connection is closed in order, with 1000, also if its user is cancelled or fails: to the server, one that breaks
off counts as a failed delivery of every message it held. So a frame that has begun to leave is never cut short by a
cancellation, and what waits is bounded by a deadline instead. The stream is always closed at the end.

Requirements: WS-0040
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.abc import ByteStream
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from qrusty_trio.client.addresses import websocket_address_of
from qrusty_trio.client.errors import InvalidUrl, ProtocolError
from qrusty_trio.client.streams import READ_BYTES, STREAM_ERRORS, close_stream, open_stream, open_unix_stream
from qrusty_trio.client.tls import Tls

HANDSHAKE_SECONDS = 10.0
CLOSE_SECONDS = 2.0
"""Limit on the closing handshake, and on a frame that is leaving when the connection is to end."""
MAX_RECEIVED_BYTES = 4 * 1024 * 1024
"""Twice the limit of a request: a delivery is a little longer than the request that published its message."""
ABNORMAL = 1006

_logger = logging.getLogger(f"{__name__}.protocol")
_logger.setLevel(logging.WARNING)
"""Below WARNING the library logs every frame."""


class Refused(Exception):
    """The server did not open a WebSocket. `status` is its HTTP status; None if it did not speak HTTP."""

    def __init__(self, status: int | None, text: str) -> None:
        super().__init__(text)
        self.status = status


class Closed(Exception):
    """The connection has ended. `code` and `reason` are those of RFC 6455, 7.4.1; ABNORMAL if it broke off."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


@asynccontextmanager
async def open_websocket(url: str, tls: Tls, authorization: str = "") -> AsyncIterator[WebSocket]:
    """Connect to a ws:// or wss:// URL, or to unix: and the path of a socket.

    `authorization`: what goes into the header Authorization; '' for none.

    On exit, however it comes about, do the closing handshake in CLOSE_SECONDS.

    Raises InvalidUrl for any other URL, OSError (TimeoutError is one) if it can't connect, and Refused.
    """
    address = websocket_address_of(url)
    try:
        uri = parse_uri(f"ws://{address.name}{address.prefix}" if address.unix_path else url)
    except InvalidURI:
        raise InvalidUrl("not a WebSocket URL") from None
    protocol = ClientProtocol(uri, max_size=MAX_RECEIVED_BYTES, logger=_logger)
    with anyio.fail_after(HANDSHAKE_SECONDS):
        if address.unix_path:
            stream = await open_unix_stream(address.unix_path)
        else:
            stream = await open_stream(address.host, address.port, tls=tls.context() if address.tls else None)
    websocket = WebSocket(stream, protocol)
    try:
        with anyio.fail_after(HANDSHAKE_SECONDS):
            await websocket.shake_hands(authorization)
        try:
            yield websocket
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await websocket.close()
    finally:
        await close_stream(stream)


class WebSocket:
    """It has no task of its own. One task calls `receive`, one calls `flush`; any may call the rest.

    What the protocol itself wants to say, such as a pong, leaves with the next `flush`: see `owes`.
    """

    def __init__(self, stream: ByteStream, protocol: ClientProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._partial = bytearray()
        """The message whose fragments have begun to arrive."""
        self._received: list[bytes] = []
        self._ponged = anyio.Event()
        self._pings = 0
        self._sending: anyio.CancelScope | None = None
        self._deadline = math.inf
        """When the last frame must have left: infinite until the end has come."""
        self._torn = False
        """Whether a frame has left in part: nothing more can be said."""
        self.owes = False
        """Whether the protocol has something to say, and `flush` should be called."""

    @property
    def is_open(self) -> bool:
        """Whether messages may still be sent."""
        return self._protocol.state is OPEN and not self._torn

    async def shake_hands(self, authorization: str = "") -> None:
        """Raises Refused."""
        protocol = self._protocol
        request = protocol.connect()
        if authorization:
            request.headers["Authorization"] = authorization
        protocol.send_request(request)
        try:
            await self._stream.send(b"".join(protocol.data_to_send()))
            while protocol.state is not OPEN and protocol.handshake_exc is None:
                protocol.receive_data(await self._stream.receive(READ_BYTES))
        except STREAM_ERRORS:
            protocol.receive_eof()
        refusal = protocol.handshake_exc
        if isinstance(refusal, InvalidStatus):
            status = refusal.response.status_code
            raise Refused(status, f"the server answered {status}")
        if protocol.state is not OPEN:
            raise Refused(None, f"no WebSocket was opened: {refusal or 'the connection ended'}")
        self._sort(event for event in protocol.events_received() if isinstance(event, Frame))

    async def receive(self) -> list[bytes]:
        """The next text messages: all that came together, perhaps none, as with a ping.

        Raises Closed, or ProtocolError for a binary message.
        """
        if not self._received:
            if not self.is_open:
                raise self._end()
            try:
                data = await self._stream.receive(READ_BYTES)
            except STREAM_ERRORS:
                raise self._end() from None
            self._protocol.receive_data(data)
            self._sort(self._protocol.events_received())  # type: ignore[arg-type]  # frames, after the handshake
        received, self._received = self._received, []
        return received

    def _sort(self, frames: Iterator[Frame] | list[Frame]) -> None:
        for frame in frames:
            if frame.opcode is Opcode.TEXT and frame.fin:
                self._received.append(bytes(frame.data))
            elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
                self._partial += frame.data
                if frame.fin:
                    self._received.append(bytes(self._partial))
                    self._partial.clear()
            elif frame.opcode is Opcode.PING:
                self.owes = True
            elif frame.opcode is Opcode.PONG:
                self._ponged.set()
            elif frame.opcode is Opcode.BINARY:
                raise ProtocolError("a binary message")

    def _end(self) -> Closed:
        closed = self._protocol.close_rcvd or self._protocol.close_sent
        return Closed(ABNORMAL) if closed is None else Closed(closed.code, closed.reason)

    def put(self, text: bytes) -> None:
        """Take a message for the next `flush`. Only while `is_open`."""
        self._protocol.send_text(text)

    def ping(self) -> anyio.Event:
        """Take a ping for the next `flush`. The event is set when it is answered."""
        self._ponged = anyio.Event()
        if self.is_open:
            self._pings += 1
            self._protocol.send_ping(b"%d" % self._pings)
            self.owes = True
        return self._ponged

    async def flush(self) -> None:
        """Send what was taken. No cancellation cuts it short, but `hurry` does. Raises Closed."""
        self.owes = False
        data = b"".join(self._protocol.data_to_send())
        if not data:
            return
        with anyio.CancelScope(shield=True, deadline=self._deadline) as self._sending:
            try:
                await self._stream.send(data)
            except STREAM_ERRORS:
                self._torn = True
        if self._sending.cancelled_caught:
            self._torn = True
        self._sending = None
        if self._torn:
            raise self._end()

    def hurry(self) -> None:
        """The connection is to end: give a frame that is leaving, or is about to, CLOSE_SECONDS more."""
        self._deadline = anyio.current_time() + CLOSE_SECONDS
        if self._sending is not None:
            self._sending.deadline = self._deadline

    async def close(self) -> None:
        """Do the closing handshake. The caller sets a time limit."""
        protocol = self._protocol
        if self.is_open:
            protocol.send_close(1000)
        try:
            if not self._torn:
                await self._stream.send(b"".join(protocol.data_to_send()))
                while protocol.close_rcvd is None:
                    protocol.receive_data(await self._stream.receive(READ_BYTES))
                    protocol.events_received()
        except STREAM_ERRORS:
            pass  # It has ended already.


@contextmanager
def bare_exceptions() -> Iterator[None]:
    """Raise a single exception without the group that a task group wraps it in. Cancellations do not count."""
    try:
        yield
    except BaseExceptionGroup as group:
        cancelled = anyio.get_cancelled_exc_class()
        _, others = group.split(lambda error: isinstance(error, cancelled))
        if others is None or len(others.exceptions) != 1:
            raise
        only = others.exceptions[0]
    else:
        return
    raise only
