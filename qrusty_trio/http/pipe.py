"""Bytes in and out of a connection, for both lanes.

Rule: `sent` says how much of the last `send` has left, whatever became of it: a message that was handed out in an
answer that never left goes back to its queue.

On a socket the system calls are made directly: a Trio stream tries once before it waits, and gives up its turn after
each success, which a connection that answers one burst at a time does not need (10 µs a request less). Any other
stream (TLS, memory) is used as it is.
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
from typing import Protocol

import trio

from qrusty_trio.api.call import Engine, Reply

READ_BYTES = 64 * 1024
SEND_BYTES = 64 * 1024
"""Bytes sent in one go where a stream does not say how far it got."""
REFUSAL_SECONDS = 1.0
"""How long to wait for the peer's kernel to take or refuse the last answer, when the peer has closed."""


class ConnectionLost(Exception):
    """The connection is broken."""


class Pipe(Protocol):
    """One connection."""

    sent: int
    """Bytes of the last `send` that have left."""

    async def receive(self, most: int = READ_BYTES) -> bytes:
        """What has arrived; b"" when the peer sends no more. Raises ConnectionLost."""

    async def send(self, data: bytes, progress: Callable[[], None], sent: int = 0) -> None:
        """Send all but the first `sent` bytes, which have left already. Raises ConnectionLost.

        `progress` is called whenever some of it left after a wait.
        """

    def refused(self) -> bool | None:
        """Whether the peer's kernel refused the last bytes because its socket was closed. None: not known yet."""

    def gone(self) -> bool:
        """Whether the peer has reset the connection."""


class SocketPipe:
    """See `Pipe`. Over a socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self.fd = stream.socket.fileno()
        self.sent = 0

    async def receive(self, most: int = READ_BYTES) -> bytes:
        while True:
            try:
                await trio.lowlevel.wait_readable(self.fd)
                return os.read(self.fd, most)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise ConnectionLost from error

    async def send(self, data: bytes, progress: Callable[[], None], sent: int = 0) -> None:
        self.sent = sent
        if not sent:
            try:
                self.sent = os.write(self.fd, data)
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
                self.sent += os.write(self.fd, data[self.sent :])
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise ConnectionLost from error
            progress()

    def gone(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, 0)
        return bool(poll.poll(0))

    def refused(self) -> bool | None:
        # EPIPE: the peer's FIN came, and later a reset. A reset without a FIN before it (ECONNRESET) does not say what
        # the peer has read.
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            return error == errno.EPIPE
        unacknowledged: int = struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCOUTQ, bytes(4)))[0]
        return None if unacknowledged else False


class StreamPipe:
    """See `Pipe`. Over any other stream."""

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

    def refused(self) -> bool | None:
        return False


def pipe_over(stream: trio.abc.Stream) -> Pipe:
    """The pipe for a stream."""
    return SocketPipe(stream) if isinstance(stream, trio.SocketStream) else StreamPipe(stream)


async def give_back_refused(pipe: Pipe, engine: Engine, given: Iterable[Reply]) -> None:
    """The peer has closed: give back what the last answers handed out, when they found its socket gone.

    A peer that has only closed its sending half takes the answers, and keeps what it got.
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
    """What Hypercorn learns of a stream that is not over a socket."""

    family = 0

    def getpeername(self) -> tuple[()]:
        return ()

    def getsockname(self) -> tuple[()]:
        return ()


def socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | NoSocket:
    """The socket under a stream."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else NoSocket()
