"""A connection that speaks TLS: a stream for whoever waits, and calls that never wait for request batching.

Rule: OpenSSL gets one record at a time. Left to itself it reads on until there is data, and a peer that sends nothing
but new keys (KeyUpdate, 90 µs each) would hold up the loop for as long as it likes. A read takes whole records, and
leaves the others in the socket, so nothing that has arrived is hidden from whoever polls it. A write takes pieces of
one record. A piece counts as sent once its whole record is with the kernel, because a peer can't read a part of one.

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
MAX_WITHOUT_DATA = 16
"""Records without data that may follow each other, such as new keys. A peer changes its keys once in many gigabytes."""
MAX_OWED_BYTES = 16 * 1024
"""Most bytes of TLS's own that a peer may leave unread, such as the answers to its new keys."""
PIECE_BYTES = 4 * 1024
"""Most bytes that OpenSSL is given at once. A buffer of OpenSSL keeps its largest size as long as the connection."""
_HEADER_BYTES = 5


class TlsStream(trio.abc.HalfCloseableStream):
    """The server's side of a connection over TLS.

    Until `handshake` has returned, only that and `aclose` may be called.
    """

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        """Take over the socket of `stream`. Raises OSError if it has already broken; then it is closed."""
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._header = b""
        """The header of the record that is arriving, as far as it is there."""
        self._missing = 0
        """Bytes of that record that are still to come."""
        self._without_data = 0
        """Records without data since the last one that had some."""
        self._unsent = b""
        """Encrypted bytes that the socket did not take yet."""
        self._held = 0
        """How many bytes of what is written are in `_unsent`."""
        self._cut = False
        """What was written last left in part."""
        self._ended = False
        """Our side is closed."""

    @property
    def socket(self) -> socket.socket:
        """For questions about the connection. Only this class reads and writes."""
        return self._socket

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
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush_in_handshake()
                try:
                    self._take_piece()
                except BlockingIOError:
                    raise ssl.SSLWantReadError from None
            except ssl.SSLError:
                with suppress(OSError):
                    self._flush()  # the alert that says why
                raise
            else:
                self._flush_in_handshake()
                return

    def _flush_in_handshake(self) -> None:
        if not self._flush():
            raise ssl.SSLWantWriteError

    # Between OpenSSL and the socket

    def _take_piece(self) -> bool:
        """Give OpenSSL what has arrived of one record. Returns whether that is complete. Raises OSError."""
        if not self._missing:
            piece = self._socket.recv(_HEADER_BYTES - len(self._header))
            self._header += piece
            if len(self._header) == _HEADER_BYTES:
                self._missing = int.from_bytes(self._header[3:])
                self._header = b""
        else:
            piece = self._socket.recv(min(self._missing, PIECE_BYTES))
            self._missing -= len(piece)
        if not piece:
            self._in.write_eof()
            return True
        self._in.write(piece)
        return not (self._missing or self._header)

    def _flush(self) -> bool:
        """Send what OpenSSL has encrypted. Returns whether the socket took it all. Raises OSError."""
        while self._unsent or self._out.pending:
            data = self._unsent or self._out.read()
            try:
                taken = self._socket.send(data)
            except BlockingIOError:
                taken = 0
            self._unsent = data[taken:]
            if self._unsent:
                return False
        return True

    # Without waiting, for request batching and `pipe`

    def read_now(self, most: int) -> bytes:
        """What has arrived, about `most` bytes, but always whole records; b"" if the peer has closed its side.

        Raises BlockingIOError if there is no whole record, and OSError.
        """
        parts: list[bytes] = []
        left = most
        for _ in range(RECORDS_PER_READ):
            try:
                while not self._take_piece():
                    if self._in.pending >= PIECE_BYTES:
                        self._decrypt()
            except BlockingIOError:
                break  # The next record is incomplete.
            data = self._decrypt()
            if data is None:
                continue
            if not data:
                self._note_end()
                return b"".join(parts)
            parts.append(data)
            left -= len(data)
            if left <= 0 or not self._unread():
                break
        if not parts:
            raise BlockingIOError
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _decrypt(self) -> bytes | None:
        """The data of the record that was given to OpenSSL; None if it has none, b"" if it is the last one."""
        try:
            data = self._tls.read(RECORD_BYTES)
        except ssl.SSLWantReadError:
            if self._missing:
                return None  # OpenSSL has only taken what there is of the record.
            self._without_data += 1
            if self._without_data > MAX_WITHOUT_DATA:
                raise ConnectionAbortedError(errno.ECONNABORTED, "too many records without data") from None
            self._flush()
            if self._out.pending > MAX_OWED_BYTES:
                raise ConnectionAbortedError(errno.ECONNABORTED, "it reads no answers") from None
            return None
        except ssl.SSLEOFError:
            return b""
        except ssl.SSLError:
            self._flush()  # the alert that says why
            raise
        self._without_data = 0
        return data

    def _note_end(self) -> None:
        """The peer has closed its side with `close_notify`. Whoever polls the socket sees that only from here on."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def _unread(self) -> int:
        return int(struct.unpack("i", fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, bytes(4)))[0])

    def write_now(self, data: bytes | memoryview) -> int:
        """Send what the socket takes now. Returns how many bytes were sent; the next call has to go on after them.

        Raises OSError.
        """
        if self._ended:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        view = memoryview(data)
        sent = 0
        if self._flush():
            sent, self._held = self._held, 0
            while sent < len(view) and sent < WRITE_BYTES:
                piece = view[sent : sent + RECORD_BYTES]
                self._tls.write(piece)
                if not self._flush():
                    self._held = len(piece)
                    break
                sent += len(piece)
        self._cut = sent < len(view)
        return sent

    # As a stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """After `send_eof` nothing is decrypted any more: returns what arrives as it is, to be discarded."""
        most = READ_BYTES if max_bytes is None else max_bytes
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(most) if self._ended else self.read_now(most)
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
                await trio.lowlevel.wait_writable(self._socket)
                self._check_open()

    async def wait_send_all_might_not_block(self) -> None:
        self._check_open()
        await trio.lowlevel.wait_writable(self._socket)

    async def send_eof(self) -> None:
        """Close our side: `close_notify`, then the end of the TCP stream."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        self._take_leave()
        if not self._ended:
            self._ended = True
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise trio.BrokenResourceError(f"TLS: {error}") from error

    def _take_leave(self) -> None:
        """Send `close_notify`, if the peer takes it at once and nothing was broken off."""
        if self._ended or self._cut:
            return
        # It raises when the peer has not said the same yet, or is gone.
        with suppress(OSError, ValueError):
            self._tls.unwrap()
        with suppress(OSError):
            self._flush()

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError

    async def aclose(self) -> None:
        """Close, without waiting for the peer."""
        if self._socket.fileno() >= 0:
            self._take_leave()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()
