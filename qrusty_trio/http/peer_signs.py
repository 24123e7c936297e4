"""Signs that a peer is alive although nothing has been read from it.

Rule: ask only when a connection has long been quiet; each sign costs a system call of a microsecond. A stream without a
socket gives none. This is for Linux; other systems give fewer signs, so a live connection may be closed there.

Requirements: WS-0024
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios

import trio

from qrusty_trio.http.tls import TlsStream

_BYTES_ACKED = 120
"""Offset of tcpi_bytes_acked (64 bits) in Linux's struct tcp_info (linux/tcp.h)."""


AnySocket = trio.socket.SocketType | socket.socket


def socket_of(stream: object) -> AnySocket | None:
    """The socket under a stream; None if there is none."""
    return stream.socket if isinstance(stream, trio.SocketStream | TlsStream) else None


def unread_bytes(sock: AnySocket | None) -> int:
    """Bytes that wait in the socket to be read."""
    if sock is None:
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0])
    except (OSError, ValueError):
        return 0  # The socket was closed meanwhile.


def acked_bytes(sock: AnySocket | None) -> int:
    """Bytes of ours that the peer's kernel has acknowledged since the connection began."""
    option = getattr(socket, "TCP_INFO", None)
    if sock is None or option is None:
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _BYTES_ACKED + 8)
    except OSError:
        return 0  # The socket was closed meanwhile, or is not TCP.
    return int.from_bytes(info[_BYTES_ACKED:], sys.byteorder) if len(info) == _BYTES_ACKED + 8 else 0


def shut_down(sock: AnySocket) -> None:
    """End both directions at once, without a farewell. Raises OSError."""
    sock.shutdown(socket.SHUT_RDWR)
