"""A connection that speaks TLS: a stream for whoever waits, and calls that never wait for request batching.

Rule: OpenSSL works on the socket itself, without a buffer of ours in between. A read takes whole records, so nothing
that has arrived is hidden from whoever polls the socket. A write takes pieces of one record. A piece counts as sent
once its whole record is with the kernel, because a peer can't read a part of one.

Two ends are told apart. In order: `close_notify` goes out before the socket is closed. Broken off: when a response
left in part, the peer must be able to see that, so nothing is said.

Requirements: SYS-0040, API-0185
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import ssl
import struct
import termios
from contextlib import suppress
from typing import Any

import trio

RECORD_BYTES = 16 * 1024
"""Most plaintext of a record (RFC 8446, 5.1)."""
READ_BYTES = 64 * 1024
RECORDS_PER_READ = 64
"""Most records of one read: a record of one byte takes as long as one of a kilobyte, 2 µs."""
WRITE_BYTES = 256 * 1024
"""Most bytes that one write encrypts: 0.4 ms."""


class TlsStream(trio.abc.HalfCloseableStream):
    """The server's side of a connection over TLS.

    Until `handshake` has returned, only that and `aclose` may be called.
    """

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        """Take over the socket of `stream`. Raises OSError if it has already broken; then it is closed."""
        plain = socket.socket(fileno=stream.socket.detach())
        plain.setblocking(False)
        self._tls = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._cut = False
        """What was written last left in part."""
        self._ended = False
        """Our side is closed."""

    @property
    def socket(self) -> ssl.SSLSocket:
        """For questions about the connection. Only this class reads and writes."""
        return self._tls

    @property
    def subject(self) -> str | None:
        """The common name of the client's certificate, which was verified; None without a certificate."""
        certificate: dict[str, Any] = self._tls.getpeercert() or {}
        names = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
        return str(names[-1]) if names else None

    def step(self) -> None:
        """Go on with the handshake. May compute for milliseconds, so it runs in a thread.

        Raises SSLWantReadError and SSLWantWriteError if more must arrive or leave, and OSError if it failed.
        """
        self._tls.do_handshake()

    # Without waiting, for request batching and `pipe`

    def read_now(self, most: int) -> bytes:
        """What has arrived, about `most` bytes, but always whole records; b"" if the peer has closed its side.

        Raises BlockingIOError if there is no whole record, and OSError.
        """
        try:
            data = self._tls.read(RECORD_BYTES)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        if not data:
            self._note_end()
        if not data or len(data) >= most or not self._unread():
            return data
        parts = [data]
        left = most - len(data)
        try:
            while left > 0 and len(parts) < RECORDS_PER_READ and self._unread():
                data = self._tls.read(RECORD_BYTES)
                if not data:
                    self._note_end()
                    break
                parts.append(data)
                left -= len(data)
        except ssl.SSLWantReadError:
            pass  # The next record is incomplete.
        return b"".join(parts)

    def _note_end(self) -> None:
        """The peer has closed its side with `close_notify`. Whoever polls the socket sees that only from here on."""
        with suppress(OSError):
            socket.socket.shutdown(self._tls, socket.SHUT_RD)

    def _unread(self) -> int:
        return int(struct.unpack("i", fcntl.ioctl(self._tls.fileno(), termios.FIONREAD, bytes(4)))[0])

    def write_now(self, data: bytes | memoryview) -> int:
        """Send what the socket takes now. Returns how many bytes were sent; the next call has to go on after them.

        Raises OSError.
        """
        if self._ended:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(view) and sent < WRITE_BYTES:
                sent += self._tls.write(view[sent : sent + RECORD_BYTES])
        except ssl.SSLWantWriteError:
            pass
        self._cut = sent < len(view)
        return sent

    # As a stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """After `send_eof` nothing is decrypted any more: returns what arrives as it is, to be discarded."""
        most = READ_BYTES if max_bytes is None else max_bytes
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self._tls)
            try:
                return socket.socket.recv(self._tls, most) if self._ended else self.read_now(most)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"TLS: {error}") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check_open()
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            try:
                sent = self.write_now(view)
            except OSError as error:
                raise trio.BrokenResourceError(f"TLS: {error}") from error
            view = view[sent:]
            if view:
                await trio.lowlevel.wait_writable(self._tls)
                self._check_open()

    async def wait_send_all_might_not_block(self) -> None:
        self._check_open()
        await trio.lowlevel.wait_writable(self._tls)

    async def send_eof(self) -> None:
        """Close our side: `close_notify`, then the end of the TCP stream."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        self._take_leave()
        if not self._ended:
            self._ended = True
            try:
                socket.socket.shutdown(self._tls, socket.SHUT_WR)
            except OSError as error:
                raise trio.BrokenResourceError(f"TLS: {error}") from error

    def _take_leave(self) -> None:
        """Send `close_notify`, if the peer takes it at once and nothing was broken off."""
        if self._ended or self._cut:
            return
        # It raises when the peer has not said the same yet, or is gone.
        with suppress(OSError, ValueError):
            self._tls.unwrap()

    def _check_open(self) -> None:
        if self._tls.fileno() < 0:
            raise trio.ClosedResourceError

    async def aclose(self) -> None:
        """Close, without waiting for the peer."""
        if self._tls.fileno() >= 0:
            self._take_leave()
            trio.lowlevel.notify_closing(self._tls)
            self._tls.close()
        await trio.lowlevel.checkpoint()
