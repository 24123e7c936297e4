"""The fast WebSocket transport: `websockets`' sans-IO protocol on a raw Trio stream.

Rule: the library's protocol enforces RFC 6455 (masks, fragments, control frames, sizes, the closing handshake). Only
the plainest frames are read past it (text_frames.py), and only between two messages of it. Outgoing text frames are
built here: a server's frame is a header of two to ten bytes and the text. No extensions are offered, so no frame is
compressed.

The protocol's own last frame (an echoed close, or a failure with 1002, 1007 or 1009) waits until the requests received
before it have been answered.

Requirements: WS-0033
"""

from __future__ import annotations

import logging
import re

import msgspec
import trio
from websockets.datastructures import Headers
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from qrusty_trio.access.grants import Principal
from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.api.ws_session import MAX_FRAME_BYTES, TRY_AGAIN_LATER
from qrusty_trio.errors import QrustyError
from qrusty_trio.http.authenticating import find_for_headers, hold
from qrusty_trio.http.closing_frames import pass_to_close
from qrusty_trio.http.frame_reader import BYTES_PER_STEP, TEXTS_AT_ONCE, TEXTS_PER_STEP, FrameReader
from qrusty_trio.http.lingering import linger
from qrusty_trio.http.origins import read_browser
from qrusty_trio.http.peer_signs import acked_bytes, socket_of, unread_bytes
from qrusty_trio.http.peers import Peer, current
from qrusty_trio.http.pipe import ConnectionLost
from qrusty_trio.http.responses import reason_phrase
from qrusty_trio.http.text_frames import text_frame_header
from qrusty_trio.http.turns import BYTES_AT_ONCE, Turns
from qrusty_trio.http.websocket import (
    CLOSE_SECONDS,
    WebSocketServices,
    check_handshake,
    serve_connection,
)
from qrusty_trio.http.websocket_auth import admitted
from qrusty_trio.http.websocket_transport import Finished
from qrusty_trio.wording import shortened

READ_BYTES = 64 * 1024
FRAMES_PER_STEP = 256
"""Most frames that `receive` returns at once: decoding them takes under 1 ms. Their bytes need no bound: they came with
one read, except the start of the first frame, which has a limit of its own."""
SEND_BYTES = 64 * 1024
"""Most bytes passed to one send."""
FRAME_OVERHEAD = 64
"""Approximate memory in bytes that a received frame takes besides its data."""
NAMED_FROM_BYTES = 1024
"""Larger frames than this are candidates for the largest one sent, in case the peer says that a frame was too big."""
NAMED_BYTES = 600
"""Bytes kept of its start: they hold the queue's name and the message id."""
HANDSHAKE_SECONDS = 10

logger = logging.getLogger(__name__)
logger.setLevel(logging.WARNING)
"""Below WARNING the library logs every connection that opens or closes."""


async def serve_fast_websocket(
    stream: trio.abc.Stream, data: bytes, services: WebSocketServices, *, overloaded: bool = False
) -> None:
    """Serve a WebSocket upgrade to the end of the connection. Closes the stream.

    `data`: what has arrived of it, at least its header block, which was checked by `header_block.read_block`. The path
    is not checked. `overloaded`: answer the handshake, then close with 1013 (try again later).

    Requirements: WS-0030
    """
    peer = current()
    protocol = ServerProtocol(max_size=MAX_FRAME_BYTES, logger=logger)
    try:
        rest, traceparents = b"", list[str]()
        principal = None
        await services.turns.change()
        with trio.move_on_after(HANDSHAKE_SECONDS) as scope:
            rest, principal, traceparents = await _handshake(stream, data, protocol, services, peer)
        if scope.cancelled_caught or protocol.state is not OPEN:
            return
        transport = FastWebSocketTransport(stream, protocol, services.budget, services.turns)
        transport.first = rest
        if overloaded:
            with trio.move_on_after(CLOSE_SECONDS):
                await transport.close(TRY_AGAIN_LATER, "too many connections")
            return
        del data, rest  # else they are kept as long as the connection
        await serve_connection(transport, services, principal, traceparents)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # The peer left during the handshake: there is nobody to respond to.
    finally:
        _take_apart(protocol)
        await trio.aclose_forcefully(stream)


async def _handshake(
    stream: trio.abc.Stream, data: bytes, protocol: ServerProtocol, services: WebSocketServices, peer: Peer
) -> tuple[bytes, Principal | None, list[str]]:
    """Answer the upgrade request. Returns the bytes that followed it, whom it speaks for, its headers `traceparent`."""
    traceparents: list[str] = []
    end = data.index(b"\r\n\r\n") + 4
    protocol.receive_data(data[:end])
    response = _refusal(400, "Bad Request", "bad_request", "The request can't be read")
    principal: Principal | None = None
    for event in protocol.events_received():
        if not isinstance(event, Request):
            break
        response, principal, wait = _respond(event, protocol, services, peer)
        traceparents = event.headers.get_all("traceparent")
        await hold(wait, services.stopping)
        protocol.send_response(response)
    await stream.send_all(response.serialize())
    protocol.data_to_send()  # Discard the protocol's own copy of the response.
    if protocol.state is not OPEN:
        await linger(stream)
    return data[end:], principal, traceparents


def _respond(
    request: Request, protocol: ServerProtocol, services: WebSocketServices, peer: Peer
) -> tuple[Response, Principal | None, float]:
    """The response to an upgrade, whom it speaks for, and how many seconds the response has to wait."""
    principal, wait = None, 0.0
    try:
        browser = read_browser(request.headers.raw_items())
        check_handshake(browser, services)
        if services.tokens is not None:
            found = find_for_headers(services.tokens, request.headers.raw_items(), browser, peer)
            wait = found.wait
            principal = admitted(services.tokens, found)
    except QrustyError as error:
        phrase = reason_phrase(error.status).decode()
        return _refusal(error.status, phrase, error.code, shortened(str(error))), None, wait
    response = protocol.accept(request)
    if response.status_code != 101:
        sentence = (response.body or b"").decode().strip()
        return _refusal(response.status_code, response.reason_phrase, "handshake_failed", sentence), None, wait
    return response, principal, wait


def _refusal(status: int, phrase: str, code: str, sentence: str) -> Response:
    body = msgspec.json.encode({"error": sentence, "code": code})
    headers = Headers(
        {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
        | ({"Upgrade": "websocket", "Sec-WebSocket-Version": "13"} if status == 426 else {})
    )
    return Response(status, phrase, headers, body)


def _take_apart(protocol: ServerProtocol) -> None:
    """Break the reference cycles of a finished protocol: its parser, and the exceptions that raised.

    Otherwise up to 2 MiB of the peer's data waits for the garbage collector, which seldom runs.

    Requirements: WS-0032
    """
    protocol.parser.close()
    protocol.parser_exc = protocol.handshake_exc = None


_DELIVERY = re.compile(rb'\{"type":"deliver","queue":("(?:[^"\\]|\\.)*"),"id":"([^"]*)"').match


class FastWebSocketTransport:
    """A `websocket_transport.WebSocketTransport` over a raw stream.

    Requirements: WS-0025
    """

    def __init__(self, stream: trio.abc.Stream, protocol: ServerProtocol, budget: Budget, turns: Turns) -> None:
        self._stream = stream
        self._turns = turns
        self._socket = socket_of(stream)
        self._protocol = protocol
        self._budget = budget
        self._reader = FrameReader(protocol)
        self._torn = False
        """Some bytes were received and not parsed: where a frame begins is not known any more."""
        self._largest = NAMED_FROM_BYTES
        """Size in bytes of the largest frame sent; smaller ones than NAMED_FROM_BYTES do not matter."""
        self._largest_start = b""
        """The start of that frame."""
        self.first: bytes | bytearray = b""
        """Bytes that have arrived and were not read into frames yet, such as those that came with the handshake."""
        self.sends = 0
        self.sending = False
        """Stays true after an interrupted send: that may have stopped inside a frame, so nothing can follow it."""
        self.held = 0
        self.last_heard = trio.current_time()

    async def receive(self) -> list[str | bytes]:
        reader = self._reader
        if not reader.messages:
            # Everything received has been served, except incomplete messages.
            self._hold(reader.held)
            if self._protocol.state is not OPEN:
                refusal = self._protocol.close_sent if self._protocol.close_rcvd is None else None
                raise Finished(None if refusal is None else refusal.code)
            try:
                data = self.first or await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                await self._turns.change()
                raise ConnectionLost from error
            if not data:
                # EOF without a close frame: the peer expects nothing more, even if it only half-closed.
                await self._turns.change()
                raise ConnectionLost
            self.last_heard = trio.current_time()
            self.first = data  # for `close`, which may come first
            self._hold(reader.held + len(data))
            await self._turns.arrive()
            self.first = b""
            await self.feed(data)
        else:
            # The previous frames may have been served without a checkpoint.
            await self._turns.next()
        frames = reader.messages
        reader.messages = frames[FRAMES_PER_STEP:]
        del frames[FRAMES_PER_STEP:]
        return frames

    async def feed(self, data: bytes | bytearray) -> None:
        """Read received bytes. The next calls of `receive` return the complete frames.

        Requirements: API-0201, WS-0026
        """
        reader = self._reader
        self._hold(reader.held + len(data))
        end = reader.read(data, 0, TEXTS_AT_ONCE, BYTES_AT_ONCE)
        if end < len(data):
            self._torn = True
            while end < len(data):
                await self._turns.next()
                end = reader.read(data, end, TEXTS_PER_STEP, BYTES_PER_STEP)
            self._torn = False
        if len(reader.messages) > FRAMES_PER_STEP:
            self._hold(self.held + FRAME_OVERHEAD * len(reader.messages))

    def _hold(self, octets: int) -> None:
        if octets != self.held:
            self._budget.change(octets - self.held)
            self.held = octets

    async def send(self, frames: list[bytes]) -> None:
        if len(frames) == 1 and len(frames[0]) > SEND_BYTES:
            # A separate send avoids copying a large frame.
            self._remember(frames[0])
            await self._send_all(self._take_control() + text_frame_header(len(frames[0])))
            await self._send_all(frames[0])
            return
        parts = [self._take_control()] if self._reader.control else []
        for frame in frames:
            size = len(frame)
            if size > self._largest:
                self._remember(frame)
            parts.append(text_frame_header(size))
            parts.append(frame)
        await self._send_all(b"".join(parts))

    def _take_control(self) -> bytes:
        reader = self._reader
        if not reader.control:
            return b""
        control, reader.control = reader.control, bytearray()
        return bytes(control)

    def _remember(self, frame: bytes) -> None:
        if len(frame) > self._largest:
            self._largest = len(frame)
            self._largest_start = frame[:NAMED_BYTES]

    async def _send_all(self, data: bytes) -> None:
        self.sending = True
        try:
            if len(data) <= SEND_BYTES:
                await self._stream.send_all(data)
                self.sends += 1
            else:
                view = memoryview(data)
                for start in range(0, len(data), SEND_BYTES):
                    await self._stream.send_all(view[start : start + SEND_BYTES])
                    self.sends += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost from error
        self.sending = False

    def control_bytes(self) -> int:
        return len(self._reader.control)

    def ping(self) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._reader.queue_control()

    def unread(self) -> int:
        return unread_bytes(self._socket)

    def acked(self) -> int:
        return acked_bytes(self._socket)

    def farewell(self) -> Ending | None:
        return Ending.CLOSED if self._protocol.close_rcvd is not None else None

    def too_big(self) -> str | None:
        close = self._protocol.close_rcvd
        if close is None or close.code != CloseCode.MESSAGE_TOO_BIG or not self._largest_start:
            return None
        return f"{_named(self._largest_start)}, {self._largest} bytes"

    def abort(self) -> None:
        """Do nothing: a send of this transport can be cancelled."""

    def let_go(self) -> None:
        self._reader.let_go()
        self._largest_start = b""
        self._hold(0)

    async def close(self, code: int, reason: str) -> None:
        if self.sending:
            return
        protocol = self._protocol
        if protocol.state is OPEN:
            if self._reader.in_frame or self._torn:
                # The peer is in the middle of a frame that may never be complete.
                protocol.fail(code, reason)
            else:
                protocol.send_close(code, reason)
        try:
            await self._send_all(b"".join([self._take_control(), *protocol.data_to_send()]))
            # If we began the closing handshake, wait for the peer's close frame.
            if protocol.eof_sent or await pass_to_close(self._stream, self.first):
                await linger(self._stream)
        except (ConnectionLost, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The peer left before the handshake was complete: nothing remains to close.


def _named(start: bytes) -> str:
    """Describe a frame by its start. In a delivery the queue and the message id come first.

    Requirements: DLV-0018
    """
    found = _DELIVERY(start)
    return f"message {found[2].decode()} of queue {found[1].decode()}" if found else "a response"
