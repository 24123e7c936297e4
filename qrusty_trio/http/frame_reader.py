"""What a peer sends over a WebSocket, a piece at a time, read into messages.

Rule: sans-IO. A step's work has a bound in frames, as each costs about as much, be it six bytes or a thousand.
"""

from __future__ import annotations

import sys
from typing import cast

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from qrusty_trio.api.ws_session import INVALID_DATA
from qrusty_trio.http.text_frames import FIN, frame_size, take_texts

TEXTS_AT_ONCE = 128
"""Plain texts that are read as soon as they have arrived, and BYTES_AT_ONCE of other frames. The rest waits for its
turn."""
TEXTS_PER_STEP, BYTES_PER_STEP = 256, 1024
"""The same for each turn: about 1 ms. A frame may be as small as six bytes."""
BYTES_OF_LARGE_PER_STEP = 16 * 1024
"""Bytes of a single larger frame that are read in one step."""
HEAD_BYTES = 10
"""Bytes of a frame that tell its size, at most."""
JUDGED = FIN | Opcode.TEXT, FIN | Opcode.CONT
"""First bytes of frames after which a text is complete. It may turn out not to be UTF-8, which ends the connection."""
NOT_UTF8 = "a text frame is not UTF-8"


class FrameReader:
    """Reads the frames of one connection."""

    def __init__(self, protocol: ServerProtocol) -> None:
        """`protocol`: has answered the handshake. It answers control frames, and judges all that is not plain text."""
        self._protocol = protocol
        self.messages: list[str | bytes] = []
        """Those that are complete, for the caller to take."""
        self.control = bytearray()
        """Control frames to be sent. The one that ends the connection stays with the protocol."""
        self._partial = bytearray()
        """The fragments so far of an incomplete message."""
        self._partial_opcode = Opcode.TEXT
        self._head = b""
        """The start of a frame that does not tell its size yet. The protocol has it as well."""
        self._rest = 0
        """Bytes still to come of a frame whose start the protocol has. With 0 and no `_head` it expects a new frame."""

    @property
    def in_frame(self) -> bool:
        """Whether a frame is incomplete."""
        return self._rest > 0 or bool(self._head)

    @property
    def held(self) -> int:
        """Bytes that incomplete messages and unsent control frames take."""
        return len(self._protocol.reader.buffer) + len(self._partial) + len(self.control)

    def read(self, data: bytes | bytearray, begin: int, texts: int, octets: int) -> int:
        """Read up to `texts` plain texts from `begin` on, then up to about `octets` of other frames. Returns their end.

        Requirements: API-0201, WS-0026
        """
        protocol = self._protocol
        if protocol.state is not OPEN:
            return len(data)
        if not self.in_frame and protocol.current_size is None:
            taken = len(self.messages)
            begin = take_texts(data, begin, self.messages, texts)
            if begin == len(data) or len(self.messages) == taken + texts:
                return begin
        piece = data[begin : begin + self._next_piece(data, begin, octets)]
        protocol.receive_data(piece)
        # All events are frames: the handshake's request came before.
        events = cast("list[Frame]", protocol.events_received())
        for event in events:
            if event.opcode is Opcode.TEXT and event.fin:
                # The library's parser keeps a frame until the next one arrives: detach its data.
                text, event.data = event.data, b""
                try:
                    self.messages.append(str(text, "utf-8"))
                except UnicodeDecodeError:
                    protocol.fail(INVALID_DATA, NOT_UTF8)
                    break
            elif not self._take_frame(event):
                break
        if protocol.writes:
            self.queue_control()
        return begin + len(piece)

    def _next_piece(self, data: bytes | bytearray, begin: int, octets: int) -> int:
        """How many bytes from `begin` on are next for the protocol, which has them from now on: whole frames of up to
        `octets` in all, or a piece of one that is larger or incomplete.

        What comes after a frame that may end the connection stays for the next step: none of it is answered then.
        """
        here = len(data) - begin
        if not self._rest:
            known = len(self._head)
            size = frame_size(self._head + data[begin : begin + HEAD_BYTES], 0)
            if size is None:
                self._head += data[begin:]
                return here
            self._head = b""
            most = min(octets, here)
            if not known and 0 < size <= most:
                return self._whole_frames(data, begin, most, size)
            # All that follows a close frame, or what is no frame of a client, is passed to the protocol.
            self._rest = size - known if size else sys.maxsize
        piece = min(self._rest, here, BYTES_OF_LARGE_PER_STEP)
        self._rest -= piece
        return piece

    def _whole_frames(self, data: bytes | bytearray, begin: int, most: int, size: int) -> int:
        """How many bytes the frames at `begin` take which are read together: the first one takes `size`."""
        last = begin
        while data[last] not in JUDGED:
            last = begin + size
            more = frame_size(data, last)
            if not more or size + more > most:
                break
            size += more
        return size

    def _take_frame(self, frame: Frame) -> bool:
        """Take any frame but an unfragmented text. Returns False if it ends the connection."""
        opcode = frame.opcode
        data: bytes | bytearray | memoryview = frame.data
        frame.data = b""
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._partial_opcode = opcode
            self._partial += data
        elif opcode is Opcode.CONT:
            self._partial += data
        else:
            return True  # The library handles control frames and refuses all other opcodes.
        if frame.fin:
            whole, self._partial = self._partial, bytearray()
            if self._partial_opcode is Opcode.BINARY:
                self.messages.append(bytes(whole))
            else:
                try:
                    self.messages.append(str(whole, "utf-8"))
                except UnicodeDecodeError:
                    self._protocol.fail(INVALID_DATA, NOT_UTF8)
                    return False
        return True

    def queue_control(self) -> None:
        """Take the control frames that the protocol has to send."""
        if self._protocol.state is OPEN:
            for chunk in self._protocol.data_to_send():
                self.control += chunk

    def let_go(self) -> None:
        """The connection has ended: nothing is read any more."""
        self.messages = []
        self._partial = bytearray()
