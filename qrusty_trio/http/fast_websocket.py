"""The fast WebSocket carrier: `websockets`' sans-IO protocol on a raw Trio stream.

Rule: incoming bytes go through the library's protocol, which keeps the rules of RFC 6455 (masks, fragments, control
frames, sizes, the closing handshake). Outgoing text frames are framed here: a server's frame is a header of two to ten
bytes and the text. No extensions are offered, so no frame is compressed.

Whatever the protocol itself wants to say at the end (echo a close frame, or fail with 1002, 1007, 1009) waits until
the requests that came before have been answered.
"""

from __future__ import annotations

import logging
import struct

import msgspec
import trio
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from qrusty_trio.api.ws_session import INVALID_DATA, MAX_FRAME_BYTES, TRY_AGAIN_LATER
from qrusty_trio.http.websocket import (
    CLOSE_SECONDS,
    Finished,
    Lost,
    WebSocketServices,
    origin_allowed,
    serve_connection,
)

READ_BYTES = 64 * 1024
PARSE_BYTES = 16 * 1024
"""Bytes parsed in one step of the event loop: 1 to 2 ms when the frames are small."""
BURST_FRAMES = 256
"""Frames given at once: decoding them takes under 1 ms. Their bytes need no bound: they came with one read, but for
the start of the first one, which is bounded by itself."""
SEND_BYTES = 64 * 1024
"""Bytes sent in one go. Each further piece that went out is a sign of life of the peer."""
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
    try:
        protocol = ServerProtocol(max_size=MAX_FRAME_BYTES, logger=logger)
        rest = b""
        with trio.move_on_after(HANDSHAKE_SECONDS):
            rest = await _handshake(stream, data, protocol, services)
        if protocol.state is not OPEN:
            return
        carrier = FastCarrier(stream, protocol)
        if overloaded:
            with trio.move_on_after(CLOSE_SECONDS):
                await carrier.close(TRY_AGAIN_LATER, "too many connections")
            return
        await carrier.feed(rest)
        await serve_connection(carrier, services)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # The peer went away during the handshake: there is nobody left to tell.
    finally:
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
        assert isinstance(event, Request)
        response = _answer(event, protocol, services)
        protocol.send_response(response)
    await stream.send_all(response.serialize())
    protocol.data_to_send()  # The response once more.
    if protocol.state is not OPEN:
        await _linger(stream)
    return data[end + 4 :]


def _answer(request: Request, protocol: ServerProtocol, services: WebSocketServices) -> Response:
    origins = request.headers.get_all("Origin")
    hosts = request.headers.get_all("Host")
    if len(hosts) != 1 or len(origins) > 1:
        return _refusal(400, "Bad Request", "bad_request", "One Host and at most one Origin are needed")
    if not origin_allowed(origins[0] if origins else None, hosts[0], services.allowed_origins):
        return _refusal(403, "Forbidden", "origin_not_allowed", "This origin may not connect")
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


async def _linger(stream: trio.abc.Stream) -> None:
    """Close our half and read until the peer closes its own.

    A socket that is closed with unread bytes is reset, and the peer might never see what was sent last.
    """
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
        while await stream.receive_some(READ_BYTES):
            pass


def text_frame_header(length: int) -> bytes:
    """The header of an unmasked, unfragmented text frame of `length` bytes (RFC 6455, 5.2)."""
    if length < 126:
        return b"\x81%c" % length
    if length < 65536:
        return struct.pack("!BBH", 0x81, 126, length)
    return struct.pack("!BBQ", 0x81, 127, length)


class FastCarrier:
    """See `websocket.Carrier`."""

    def __init__(self, stream: trio.abc.Stream, protocol: ServerProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._control: list[bytes] = []
        self._control_bytes = 0
        self._partial = bytearray()
        """The fragments so far of a message that is not complete."""
        self._partial_opcode = Opcode.TEXT
        self._frames: list[str | bytes] = []
        self._eof = False
        self._torn = False
        """A send was cut off, perhaps in the middle of a frame: nothing sensible can follow."""
        self.last_heard = trio.current_time()

    async def receive(self) -> list[str | bytes]:
        if not self._frames:
            if self._protocol.state is not OPEN:
                raise Finished
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Lost from error
            if not data:
                # Without a close frame; a peer that has only closed its half of the stream is not waiting for us.
                raise Lost
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
        self._parse(data[:PARSE_BYTES])
        for start in range(PARSE_BYTES, len(data), PARSE_BYTES):
            await trio.lowlevel.checkpoint()
            self._parse(data[start : start + PARSE_BYTES])

    def _parse(self, data: bytes | bytearray) -> None:
        protocol = self._protocol
        if protocol.state is not OPEN or not data:
            return
        protocol.receive_data(data)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            opcode = event.opcode
            if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
                if not event.fin:
                    self._partial_opcode = opcode
                    self._partial += event.data
                elif not self._add(opcode, event.data):
                    return
            elif opcode is Opcode.CONT:
                self._partial += event.data
                if event.fin:
                    whole, self._partial = self._partial, bytearray()
                    if not self._add(self._partial_opcode, whole):
                        return
        self._queue_control()

    def _add(self, opcode: Opcode, data: bytes | bytearray | memoryview) -> bool:
        if opcode is Opcode.BINARY:
            self._frames.append(bytes(data))
            return True
        try:
            self._frames.append(str(data, "utf-8"))
        except UnicodeDecodeError:
            self._protocol.fail(INVALID_DATA, "a text frame is not UTF-8")
            return False
        return True

    def _queue_control(self) -> None:
        # The last words of a protocol that has ended stay with it until `close`.
        if self._protocol.state is OPEN:
            for chunk in self._protocol.data_to_send():
                self._control.append(chunk)
                self._control_bytes += len(chunk)

    async def send(self, frames: list[bytes]) -> None:
        parts, self._control = self._control, []
        self._control_bytes = 0
        for frame in frames:
            parts.append(text_frame_header(len(frame)))
            parts.append(frame)
        await self._send_all(b"".join(parts))

    async def _send_all(self, data: bytes) -> None:
        self._torn = True
        try:
            if len(data) <= SEND_BYTES:
                await self._stream.send_all(data)
            else:
                view = memoryview(data)
                for start in range(0, len(data), SEND_BYTES):
                    await self._stream.send_all(view[start : start + SEND_BYTES])
                    if start:
                        self.last_heard = trio.current_time()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Lost from error
        self._torn = False

    def control_bytes(self) -> int:
        return self._control_bytes

    def ping(self) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._queue_control()

    async def close(self, code: int, reason: str) -> None:
        if self._torn:
            return
        protocol = self._protocol
        if protocol.state is OPEN:
            protocol.send_close(code, reason)
        try:
            await self._send_all(b"".join([*self._control, *protocol.data_to_send()]))
            while not protocol.eof_sent:
                # It was us who began: the peer's close frame is still to come.
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    return
                protocol.receive_data(data)
                protocol.events_received()
                protocol.data_to_send()
            await _linger(self._stream)
        except (Lost, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Gone before the handshake was over: as closed as it can be.
