"""A WebSocket client that does as it is told: frames by hand, on a raw socket."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio

from tests.http.ws_server import PATIENCE

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x01\x02\x03\x04"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455, 1.3."""


class Received(NamedTuple):
    """A frame from the server."""

    opcode: int
    data: bytes
    first_byte: int

    def json(self) -> Any:
        assert self.opcode == TEXT
        return json.loads(self.data)

    @property
    def close_code(self) -> int:
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.data[:2], "big")


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, mask: bool = True, reserved: int = 0) -> bytes:
    return head(opcode, len(data), fin=fin, mask=mask, reserved=reserved) + (masked(data) if mask else data)


def head(opcode: int, length: int, *, fin: bool = True, mask: bool = True, reserved: int = 0) -> bytes:
    """The beginning of a frame, with its length and the key of its mask."""
    first = (0x80 if fin else 0) | reserved | opcode
    bit = 0x80 if mask else 0
    if length < 126:
        packed = struct.pack("!BB", first, bit | length)
    elif length < 65536:
        packed = struct.pack("!BBH", first, bit | 126, length)
    else:
        packed = struct.pack("!BBQ", first, bit | 127, length)
    return packed + (MASK if mask else b"")


def masked(data: bytes) -> bytes:
    key = int.from_bytes(MASK * (len(data) // 4 + 1), "big") >> (8 * (4 - len(data) % 4))
    return (int.from_bytes(data, "big") ^ key).to_bytes(len(data), "big")


def request(**fields: object) -> bytes:
    """A text frame with a request."""
    return frame(TEXT, json.dumps(fields).encode())


def upgrade(path: bytes = b"/ws", *, method: bytes = b"GET", **headers: bytes | None) -> bytes:
    """A handshake; `headers` replace or, with None, leave out the usual ones (`_` stands for `-`)."""
    lines: dict[str, bytes | None] = {
        "Host": b"test:80",
        "Connection": b"Upgrade",
        "Upgrade": b"websocket",
        "Sec-WebSocket-Version": b"13",
        "Sec-WebSocket-Key": KEY,
    }
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in lines.items() if value is not None)
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, path, text)


class Raw:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream, patience: float = PATIENCE) -> None:
        self.stream = stream
        self._patience = patience
        self._data = b""

    async def send(self, *parts: bytes) -> None:
        """In one go."""
        await self.stream.send_all(b"".join(parts))

    async def end(self) -> None:
        """Close this side. What the server sends can still be read."""
        assert isinstance(self.stream, trio.abc.HalfCloseableStream)
        await self.stream.send_eof()

    async def _more(self) -> None:
        with trio.fail_after(self._patience):
            data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError(self._data)
        self._data += data

    async def head(self) -> bytes:
        """The response to the handshake, up to its body."""
        while b"\r\n\r\n" not in self._data:
            await self._more()
        response, _, self._data = self._data.partition(b"\r\n\r\n")
        return response

    async def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            await self._more()
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    async def any_frame(self) -> Received:
        """The next frame, whatever it is. Raises EOFError at the end of the connection."""
        first, second = await self._take(2)
        assert not second & 0x80, "a server masks nothing"
        length = second
        if length == 126:
            length = int.from_bytes(await self._take(2), "big")
        elif length == 127:
            length = int.from_bytes(await self._take(8), "big")
        return Received(first & 0x0F, await self._take(length), first)

    async def read(self) -> Received:
        """The next frame that is not a ping of the server's."""
        while (received := await self.any_frame()).opcode == PING:
            await self.send(frame(PONG, received.data))
        return received

    async def body(self, length: int) -> bytes:
        return await self._take(length)

    async def ended(self) -> bool:
        """Whether the server ends the connection without another frame but pings."""
        try:
            while (await self.any_frame()).opcode == PING:
                pass
        except (EOFError, trio.BrokenResourceError):
            return True
        return False


@asynccontextmanager
async def raw(port: int, handshake: bytes | None = None) -> AsyncIterator[Raw]:
    """A connection after its handshake; with `handshake`, after it was sent."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        connection = Raw(stream)
        await connection.send(handshake or upgrade())
        if handshake is None:
            response = await connection.head()
            assert response.startswith(b"HTTP/1.1 101 "), response
            assert ACCEPT in response
        yield connection
    finally:
        await trio.aclose_forcefully(stream)
