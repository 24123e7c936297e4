"""Reads and writes the bytes of a connection, for the fast path and the fallback.

Rule: `sent` says how much of the last `send` was sent, even if that failed. A message handed out in a response that
was not sent goes back to its queue.

On a socket the system calls are made directly, which saves 10 µs a request. A Trio stream tries once before it waits,
and yields after each success; a connection that answers one burst at a time does not need that. TLS has calls of the
same kind. Any other stream (in memory) is used as it is.

Requirements: API-0036
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import trio

from qrusty_trio.api.call import Engine, Reply
from qrusty_trio.http.tls import TlsStream

ReadNow = Callable[[int], bytes]
WriteNow = Callable[[bytes | memoryview], int]
READ_BYTES = 64 * 1024
SEND_BYTES = 64 * 1024
"""Most bytes passed to one send of a stream that does not report partial progress."""
REFUSAL_SECONDS = 1.0
"""When the peer has closed: how long to wait for its kernel to take or refuse the last response."""

TCP_REFUSALS = (errno.EPIPE,)
"""The peer sent a FIN, and later a reset. A reset without a FIN (ECONNRESET) does not tell what the peer has read."""
UNIX_REFUSALS = (errno.EPIPE, errno.ECONNRESET)
"""On a Unix socket, a reset says that the peer closed while something was left for it to read."""


class ConnectionLost(Exception):
    """The connection is broken."""


class Pipe(Protocol):
    """The bytes of one connection."""

    sent: int
    """Bytes of the last `send` that were sent."""

    async def receive(self, most: int = READ_BYTES) -> bytes:
        """Up to `most` bytes that have arrived; b"" if the peer has closed its side. Raises ConnectionLost."""

    async def send(self, data: bytes, progress: Callable[[], None], sent: int = 0) -> None:
        """Send all but the first `sent` bytes, which were sent before. Raises ConnectionLost.

        `progress` is called whenever bytes are sent after a wait.
        """

    def refused(self) -> bool | None:
        """Whether the peer's kernel refused the last bytes because its socket was closed. None if not known yet."""

    def gone(self) -> bool:
        """Whether the peer has reset the connection."""

    def left(self) -> bool:
        """Whether the peer has reset it, or has closed its side. What it sent before may still wait to be read."""


class SocketPipe:
    """A `Pipe` over a socket, or over TLS on a socket.

    Requirements: DLV-0020
    """

    def __init__(self, stream: trio.SocketStream | TlsStream) -> None:
        self._socket = stream.socket
        self.fd = stream.socket.fileno()
        self.sent = 0
        self._refusals = UNIX_REFUSALS if stream.socket.family == socket.AF_UNIX else TCP_REFUSALS
        self.read_now: ReadNow = partial(os.read, self.fd)
        """What has arrived, up to the given number of bytes or a record of TLS. Raises BlockingIOError and OSError."""
        self.write_now: WriteNow = partial(os.write, self.fd)
        """Send what the socket takes now, and return how much that is. Raises BlockingIOError and OSError."""
        if isinstance(stream, TlsStream):
            self.read_now, self.write_now = stream.read_now, stream.write_now

    async def receive(self, most: int = READ_BYTES) -> bytes:
        while True:
            try:
                await trio.lowlevel.wait_readable(self.fd)
                return self.read_now(most)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise ConnectionLost from error

    async def send(self, data: bytes, progress: Callable[[], None], sent: int = 0) -> None:
        self.sent = sent
        if not sent:
            try:
                self.sent = self.write_now(data)
            except BlockingIOError:
                pass
            except OSError as error:
                raise ConnectionLost from error
        if self.sent < len(data):
            await self._send_rest(memoryview(data), progress)

    async def _send_rest(self, data: memoryview, progress: Callable[[], None]) -> None:
        while self.sent < len(data):
            try:
                await trio.lowlevel.wait_writable(self.fd)
                self.sent += self.write_now(data[self.sent :])
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise ConnectionLost from error
            progress()

    def gone(self) -> bool:
        return self._is(0)

    def left(self) -> bool:
        return self._is(select.POLLRDHUP)

    def _is(self, events: int) -> bool:
        poll = select.poll()
        poll.register(self.fd, events)  # and a reset, always
        return bool(poll.poll(0))

    def refused(self) -> bool | None:
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            return error in self._refusals
        unacknowledged: int = struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCOUTQ, bytes(4)))[0]
        return None if unacknowledged else False


class StreamPipe:
    """A `Pipe` over any other stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.sent = 0

    async def receive(self, most: int = READ_BYTES) -> bytes:
        try:
            return bytes(await self._stream.receive_some(most))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost from error

    async def send(self, data: bytes, progress: Callable[[], None], sent: int = 0) -> None:
        self.sent = sent
        view = memoryview(data)
        while self.sent < len(data):
            piece = view[self.sent : self.sent + SEND_BYTES]
            try:
                await self._stream.send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionLost from error
            self.sent += len(piece)
            progress()

    def gone(self) -> bool:
        return False

    def left(self) -> bool:
        return False

    def refused(self) -> bool | None:
        return False


def pipe_over(stream: trio.abc.Stream) -> Pipe:
    """The pipe for a stream."""
    return SocketPipe(stream) if isinstance(stream, trio.SocketStream | TlsStream) else StreamPipe(stream)


async def give_back_refused(pipe: Pipe, engine: Engine, given: Iterable[Reply]) -> None:
    """After the peer has closed: give back what the last responses handed out, if its kernel refused them.

    A peer that has only closed its sending side still takes the responses, and keeps their messages.

    Requirements: DLV-0019
    """
    pause = 0.001
    waited = 0.0
    while (refused := pipe.refused()) is None and waited < REFUSAL_SECONDS:
        await trio.sleep(pause)
        waited += pause
        pause *= 2
    if refused:
        for reply in given:
            engine.give_back(reply)


class NoSocket:
    """Stands in for the socket when Hypercorn asks a stream that has none."""

    family = 0

    def getpeername(self) -> tuple[()]:
        return ()

    def getsockname(self) -> tuple[()]:
        return ()


def socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | socket.socket | NoSocket:
    """The socket under a stream, or a stand-in."""
    return stream.socket if isinstance(stream, trio.SocketStream | TlsStream) else NoSocket()
