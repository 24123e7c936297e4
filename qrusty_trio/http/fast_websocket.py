"""The fast WebSocket carrier: `websockets`' sans-IO protocol on a raw Trio stream.

Rule: incoming bytes go through the library's protocol, which keeps the rules of RFC 6455 (masks, fragments, control
frames, sizes, the closing handshake). Outgoing text frames are framed here: a server's frame is a header of two to ten
bytes and the text. No extensions are offered, so no frame is compressed.

Whatever the protocol itself wants to say at the end (echo a close frame, or fail with 1002, 1007, 1009) waits until
the requests that came before have been answered.
"""

from __future__ import annotations

import logging
import re
import struct
from typing import cast

import msgspec
import trio
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.api.ws_session import INVALID_DATA, MAX_FRAME_BYTES, TRY_AGAIN_LATER
from qrusty_trio.errors import QrustyError
from qrusty_trio.http.carrier import Finished
from qrusty_trio.http.lingering import linger
from qrusty_trio.http.origins import read_browser
from qrusty_trio.http.peer_signs import acked_bytes, socket_of, unread_bytes
from qrusty_trio.http.pipe import ConnectionLost
from qrusty_trio.http.websocket import (
    CLOSE_SECONDS,
    WebSocketServices,
    check_handshake,
    serve_connection,
)
from qrusty_trio.wording import shortened

READ_BYTES = 64 * 1024
PARSE_BYTES = 16 * 1024
"""Bytes parsed in one step of the event loop, at most."""
FIRST_PARSE_BYTES = 2 * 1024
"""In the first step, when it is not known how small the frames are. Six bytes are enough for one."""
PARSE_FRAMES = 300
"""Frames to be parsed in one step: about 1 ms."""
BURST_FRAMES = 256
"""Frames given at once: decoding them takes under 1 ms. Their bytes need no bound: they came with one read, but for
the start of the first one, which is bounded by itself."""
SEND_BYTES = 64 * 1024
"""Bytes sent in one go."""
NOT_UTF8 = "a text frame is not UTF-8"
FRAME_OVERHEAD = 64
"""Bytes that a received frame takes besides those that came, about."""
NAMED_FROM_BYTES = 1024
"""Size of a frame from which on it is remembered as the largest one sent, should the peer say that it was too big."""
NAMED_BYTES = 600
"""So much of its start: it holds the queue's name and the id of the message."""
HANDSHAKE_SECONDS = 10
MAX_HANDSHAKE_BYTES = 64 * 1024

logger = logging.getLogger(__name__)
logger.setLevel(logging.WARNING)
"""The library tells of every connection opened and closed."""


async def serve_fast_websocket(
    stream: trio.abc.Stream, data: bytes, services: WebSocketServices, *, overloaded: bool = False
) -> None:
    """Serve the WebSocket upgrade whose first bytes are `data`, to the end of the connection. Closes the stream.

    The path is not looked at. `overloaded`: answer the handshake and close with 1013, try again later.
    """
    protocol = ServerProtocol(max_size=MAX_FRAME_BYTES, logger=logger)
    try:
        rest = b""
        with trio.move_on_after(HANDSHAKE_SECONDS):
            rest = await _handshake(stream, data, protocol, services)
        if protocol.state is not OPEN:
            return
        carrier = FastCarrier(stream, protocol, services.budget)
        if overloaded:
            with trio.move_on_after(CLOSE_SECONDS):
                await carrier.close(TRY_AGAIN_LATER, "too many connections")
            return
        carrier.first = rest
        del data, rest  # They would be kept as long as the connection.
        await serve_connection(carrier, services)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # The peer went away during the handshake: there is nobody left to tell.
    finally:
        _take_apart(protocol)
        await trio.aclose_forcefully(stream)


async def _handshake(
    stream: trio.abc.Stream, data: bytes, protocol: ServerProtocol, services: WebSocketServices
) -> bytes:
    """Answer the upgrade request. Returns what came after it."""
    while (end := data.find(b"\r\n\r\n")) < 0:
        more = await stream.receive_some(READ_BYTES)
        if not more or len(data) > MAX_HANDSHAKE_BYTES:
            return b""
        data += more
    protocol.receive_data(data[: end + 4])
    response = _refusal(400, "Bad Request", "bad_request", "The request can't be read")
    for event in protocol.events_received():
        if not isinstance(event, Request):
            break
        response = _answer(event, protocol, services)
        protocol.send_response(response)
    await stream.send_all(response.serialize())
    protocol.data_to_send()  # The response once more.
    if protocol.state is not OPEN:
        await linger(stream)
    return data[end + 4 :]


def _answer(request: Request, protocol: ServerProtocol, services: WebSocketServices) -> Response:
    origins = request.headers.get_all("Origin")
    hosts = request.headers.get_all("Host")
    if len(hosts) != 1 or len(origins) > 1:
        return _refusal(400, "Bad Request", "bad_request", "One Host and at most one Origin are needed")
    try:
        check_handshake(read_browser(request.headers.raw_items()), services)
    except QrustyError as error:
        return _refusal(error.status, "Forbidden", error.code, shortened(str(error)))
    response = protocol.accept(request)
    if response.status_code != 101:
        sentence = (response.body or b"").decode().strip()
        return _refusal(response.status_code, response.reason_phrase, "handshake_failed", sentence)
    return response


def _refusal(status: int, phrase: str, code: str, sentence: str) -> Response:
    body = msgspec.json.encode({"error": sentence, "code": code})
    headers = Headers(
        {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        | ({"Upgrade": "websocket", "Sec-WebSocket-Version": "13"} if status == 426 else {})
    )
    return Response(status, phrase, headers, body)


def _take_apart(protocol: ServerProtocol) -> None:
    """A protocol that is done with refers to itself, by its parser and by what that raised: end it here.

    Else what it holds of the peer's, up to 2 MiB, waits for the collector, which seldom runs.
    """
    protocol.parser.close()
    protocol.parser_exc = protocol.handshake_exc = None
    protocol.reader.discard()
    protocol.events = []
    vars(protocol).pop("parser")


def text_frame_header(length: int) -> bytes:
    """The header of an unmasked, unfragmented text frame of `length` bytes (RFC 6455, 5.2)."""
    if length < 126:
        return b"\x81%c" % length
    if length < 65536:
        return struct.pack("!BBH", 0x81, 126, length)
    return struct.pack("!BBQ", 0x81, 127, length)


_DELIVERY = re.compile(rb'\{"type":"deliver","queue":("(?:[^"\\]|\\.)*"),"id":"([^"]*)"').match


class FastCarrier:
    """See `carrier.Carrier`."""

    def __init__(self, stream: trio.abc.Stream, protocol: ServerProtocol, budget: Budget | None = None) -> None:
        self._stream = stream
        self._socket = socket_of(stream)
        self._protocol = protocol
        self._budget = budget if budget is not None else Budget()
        self._control = bytearray()
        self._partial = bytearray()
        """The fragments so far of a message that is not complete."""
        self._partial_opcode = Opcode.TEXT
        self._frames: list[str | bytes] = []
        self._piece = FIRST_PARSE_BYTES
        """Bytes that are parsed in one step, by how many frames the last ones held."""
        self._largest = NAMED_FROM_BYTES
        """Size of the largest frame sent, and its start. Smaller ones do not matter."""
        self._largest_start = b""
        self.first: bytes | bytearray = b""
        """What came with the handshake."""
        self.sends = 0
        self.sending = False
        """Also after a send that was cut off, perhaps in the middle of a frame: nothing sensible can follow."""
        self.held = 0
        self.last_heard = trio.current_time()

    async def receive(self) -> list[str | bytes]:
        if not self._frames:
            # All that came is served, but for what waits for its end.
            self._hold(self._unfinished())
            if self._protocol.state is not OPEN:
                raise Finished
            try:
                data = self.first or await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionLost from error
            self.first = b""
            if not data:
                # Without a close frame; a peer that has only closed its half of the stream is not waiting for us.
                raise ConnectionLost
            self.last_heard = trio.current_time()
            await self.feed(data)
        else:
            # Those before may have been served without a pause.
            await trio.lowlevel.checkpoint()
        frames = self._frames
        self._frames = frames[BURST_FRAMES:]
        del frames[BURST_FRAMES:]
        return frames

    async def feed(self, data: bytes | bytearray) -> None:
        """Parse received bytes; what is complete is given by the next calls of `receive`."""
        self._hold(self.held + len(data))
        size = self._piece
        if len(data) <= size:
            self._parse(data)
        else:
            parsed = frames = 0
            while parsed < len(data):
                if parsed:
                    await trio.lowlevel.checkpoint()
                frames += self._parse(data[parsed : parsed + size])
                parsed = min(parsed + size, len(data))
                size = min(PARSE_BYTES, max(FIRST_PARSE_BYTES, parsed * PARSE_FRAMES // max(frames, 1)))
            self._piece = size
        if len(self._frames) > BURST_FRAMES:
            self._hold(self.held + FRAME_OVERHEAD * len(self._frames))

    def _unfinished(self) -> int:
        return len(self._protocol.reader.buffer) + len(self._partial) + len(self._control)

    def _hold(self, octets: int) -> None:
        if octets != self.held:
            self._budget.change(octets - self.held)
            self.held = octets

    def _parse(self, data: bytes | bytearray) -> int:
        """Parse a piece; returns how many frames ended in it."""
        protocol = self._protocol
        if protocol.state is not OPEN or not data:
            return 0
        protocol.receive_data(data)
        # No requests among them: that was the handshake.
        events = cast("list[Frame]", protocol.events_received())
        for event in events:
            if event.opcode is Opcode.TEXT and event.fin:
                # The library's parser keeps the last frame until the next one has come.
                text, event.data = event.data, b""
                try:
                    self._frames.append(str(text, "utf-8"))
                except UnicodeDecodeError:
                    protocol.fail(INVALID_DATA, NOT_UTF8)
                    break
            elif not self._take_frame(event):
                break
        if protocol.writes:
            self._queue_control()
        return len(events)

    def _take_frame(self, frame: Frame) -> bool:
        """Take a frame that is not all of a text. Returns False when the connection ends with it."""
        opcode = frame.opcode
        data: bytes | bytearray | memoryview = frame.data
        frame.data = b""
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._partial_opcode = opcode
            self._partial += data
        elif opcode is Opcode.CONT:
            self._partial += data
        else:
            return True  # Control frames are the library's business, and it refuses all other opcodes.
        if frame.fin:
            whole, self._partial = self._partial, bytearray()
            if self._partial_opcode is Opcode.BINARY:
                self._frames.append(bytes(whole))
            else:
                try:
                    self._frames.append(str(whole, "utf-8"))
                except UnicodeDecodeError:
                    self._protocol.fail(INVALID_DATA, NOT_UTF8)
                    return False
        return True

    def _queue_control(self) -> None:
        # The last words of a protocol that has ended stay with it until `close`.
        if self._protocol.state is OPEN:
            for chunk in self._protocol.data_to_send():
                self._control += chunk

    async def send(self, frames: list[bytes]) -> None:
        if len(frames) == 1 and len(frames[0]) > SEND_BYTES:
            # Not copied.
            self._remember(frames[0])
            await self._send_all(self._take_control() + text_frame_header(len(frames[0])))
            await self._send_all(frames[0])
            return
        parts = [self._take_control()] if self._control else []
        for frame in frames:
            size = len(frame)
            if size > self._largest:
                self._remember(frame)
            parts.append(text_frame_header(size))
            parts.append(frame)
        await self._send_all(b"".join(parts))

    def _take_control(self) -> bytes:
        if not self._control:
            return b""
        control, self._control = self._control, bytearray()
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
        return len(self._control)

    def ping(self) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._queue_control()

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
        """A cancelled send of ours ends at once."""

    def let_go(self) -> None:
        self._frames = []
        self._partial = bytearray()
        self._largest_start = b""
        self._hold(0)

    async def close(self, code: int, reason: str) -> None:
        if self.sending:
            return
        protocol = self._protocol
        if protocol.state is OPEN:
            if protocol.reader.buffer:
                # In the middle of a frame that may never come to its end.
                protocol.fail(code, reason)
            else:
                protocol.send_close(code, reason)
        try:
            await self._send_all(b"".join([self._take_control(), *protocol.data_to_send()]))
            while not protocol.eof_sent:
                # It was us who began: the peer's close frame is still to come.
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    return
                protocol.receive_data(data)
                protocol.events_received()
                protocol.data_to_send()
            await linger(self._stream)
        except (ConnectionLost, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Gone before the handshake was over: as closed as it can be.


def _named(start: bytes) -> str:
    """The message of a delivery frame by its start: its queue and id come first."""
    found = _DELIVERY(start)
    return f"message {found[2].decode()} of queue {found[1].decode()}" if found else "an answer"
