"""A conversation: what one connection of the fuzzer sends, and when; and how it is played.

Rule: a conversation is data, whole before the first byte is sent, and its literal is enough to play it again. The one
thing that can't be known before is the ids of messages: `IDS` and `FRAME` steps put in those that the connection has
seen.
"""

from __future__ import annotations

import ast
import os
import re
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

SEND: Final = "send"
"""Send these bytes."""
IDS: Final = "ids"
"""Send these bytes, each `ID` in them replaced by an id that was seen."""
FRAME: Final = "frame"
"""Send this text as a masked WebSocket frame, each `ID` replaced."""
PAUSE: Final = "pause"
"""Wait so many seconds."""
UNTIL: Final = "until"
"""Wait until these bytes have been received, but `UNTIL_SECONDS` at most."""
MORE: Final = "more"
"""Wait until anything has been received since the last bytes were sent, but so many seconds at most."""
MUTE: Final = "mute"
"""Read nothing any more."""
LISTEN: Final = "listen"
"""Read again."""
HALF_CLOSE: Final = "half-close"
RESET: Final = "reset"
NARROW: Final = "narrow"
"""First of all: a receive buffer of so many bytes."""
DRAIN: Final = "drain"
"""Wait for the server to close, but so many seconds at most."""

Step = tuple[str, bytes] | tuple[str, float]

ID = b"{id}"
NO_ID = b"00000000-0000-4000-8000-000000000000"
UNTIL_SECONDS = 0.5
PLAY_SECONDS = 4.0
"""A conversation that takes longer is cut off: its bytes went to someone who does not read."""
MAX_KEPT_BYTES = 256 * 1024
"""Of what the server says, the last so many are looked at."""
MAX_IDS = 200

_ID = re.compile(rb'"id":\s*"([0-9a-f-]{36})"')


@dataclass(frozen=True, slots=True)
class Conversation:
    """Everything that one connection does. It ends with a close, if with nothing ruder."""

    seed: int
    fast: bool
    """Whether the server has its fast path on."""
    kind: str
    steps: tuple[Step, ...]

    def literal(self) -> str:
        """Python source that `read_literal` understands."""
        lines = [f"    ({name!r}, {value!r})," for name, value in self.steps]
        return "\n".join([f"({self.seed}, {self.fast}, {self.kind!r}, (", *lines, "))"]) + "\n"


def read_literal(text: str) -> Conversation:
    seed, fast, kind, steps = ast.literal_eval(text)
    return Conversation(seed, fast, kind, tuple(steps))


def masked_frame(opcode: int, data: bytes, *, fin: bool = True, reserved: int = 0, mask: bytes = b"\1\2\3\4") -> bytes:
    """A whole WebSocket frame of a client."""
    return frame_start(opcode, len(data), fin=fin, reserved=reserved, mask=mask) + _mask(data, mask)


def frame_start(opcode: int, length: int, *, fin: bool = True, reserved: int = 0, mask: bytes = b"\1\2\3\4") -> bytes:
    """Its beginning: flags, length, key of the mask."""
    first = (0x80 if fin else 0) | reserved | opcode
    if length < 126:
        start = struct.pack("!BB", first, 0x80 | length)
    elif length < 65536:
        start = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        start = struct.pack("!BBQ", first, 0x80 | 127, length)
    return start + mask


def _mask(data: bytes, mask: bytes) -> bytes:
    key = int.from_bytes((mask * (len(data) // 4 + 1))[: len(data)], "big")
    return (int.from_bytes(data, "big") ^ key).to_bytes(len(data), "big")


class Player:
    """One connection at work."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.received = bytearray()
        self.ids: list[bytes] = []
        self.local_port = 0
        self.began = 0.0
        """Before it connects, seconds of the monotonic clock."""
        self._scanned = 0
        self._arrived = self._arrived_before = 0
        """Bytes received, and those of them before the last bytes were sent."""
        self._listening = trio.Event()
        self._listening.set()
        self._news = trio.Event()
        self._ended = trio.Event()

    async def play(self, port: int) -> None:
        """Connect, do all steps, close. What goes wrong with the connection is no error: that is what is tried."""
        sock = trio.socket.socket()
        try:
            first = self.conversation.steps[0] if self.conversation.steps else (PAUSE, 0.0)
            if first[0] == NARROW:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(first[1]))
            with trio.move_on_after(PLAY_SECONDS), suppress(OSError):
                self.began = time.monotonic()
                await sock.connect(("127.0.0.1", port))
                self.local_port = sock.getsockname()[1]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, sock)
                    await self._steps(sock)
                    nursery.cancel_scope.cancel()
        finally:
            sock.close()

    async def _steps(self, sock: trio.socket.SocketType) -> None:
        for name, value in self.conversation.steps:
            try:
                if not await self._step(sock, name, value):
                    return
            except OSError:
                # The server has closed: what it said before is read, nothing more can be sent.
                with trio.move_on_after(UNTIL_SECONDS):
                    await self._ended.wait()
                return

    async def _step(self, sock: trio.socket.SocketType, name: str, value: bytes | float) -> bool:
        if isinstance(value, bytes):
            if name == UNTIL:
                await self._until(value)
            else:
                self._arrived_before = self._arrived
                await _send_all(sock, self._with_ids(value, name))
        elif name == PAUSE:
            await trio.sleep(value)
        elif name == MORE:
            with trio.move_on_after(value):
                while self._arrived == self._arrived_before and not self._ended.is_set():
                    self._news = trio.Event()
                    await self._news.wait()
        elif name == MUTE:
            self._listening = trio.Event()
        elif name == LISTEN:
            self._listening.set()
        elif name == HALF_CLOSE:
            sock.shutdown(socket.SHUT_WR)
        elif name == DRAIN:
            self._listening.set()
            with trio.move_on_after(value):
                await self._ended.wait()
        elif name == RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        return True

    async def _until(self, wanted: bytes) -> None:
        with trio.move_on_after(UNTIL_SECONDS):
            while wanted not in self.received and not self._ended.is_set():
                self._news = trio.Event()
                await self._news.wait()

    def _with_ids(self, data: bytes, name: str) -> bytes:
        if name == SEND:
            return data
        self._find_ids()
        pieces = data.split(ID)
        filled = pieces[0]
        for number, piece in enumerate(pieces[1:]):
            filled += (self.ids[-1 - number % len(self.ids)] if self.ids else NO_ID) + piece
        return masked_frame(1, filled) if name == FRAME else filled

    def _find_ids(self) -> None:
        self.ids = (self.ids + _ID.findall(self.received, self._scanned))[-MAX_IDS:]
        self._scanned = len(self.received)

    async def _read(self, sock: trio.socket.SocketType) -> None:
        with suppress(OSError):
            while True:
                await self._listening.wait()
                data = await sock.recv(65536)
                if not data:
                    break
                self.received += data
                self._arrived += len(data)
                if len(self.received) > 2 * MAX_KEPT_BYTES:
                    self._find_ids()
                    del self.received[:-MAX_KEPT_BYTES]
                    self._scanned = len(self.received)
                self._news.set()
        self._ended.set()
        self._news.set()


async def _send_all(sock: trio.socket.SocketType, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[await sock.send(view) :]


def random_seed() -> int:
    return int.from_bytes(os.urandom(4), "big")
