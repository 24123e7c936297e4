"""What a socket tells of a peer from which nothing has been read: a sign of life without a byte received.

Rule: only asked when a connection has been quiet for long; each is a system call of a microsecond. A stream that is not
over a socket gives no signs. Linux; elsewhere there are fewer signs, so a connection is closed that might have stayed.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios

import trio

_BYTES_ACKED = 120
"""Where struct tcp_info of Linux has tcpi_bytes_acked, 64 bits (linux/tcp.h)."""


def socket_of(stream: object) -> trio.socket.SocketType | None:
    """The socket under a stream of Trio's; None when there is none."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def unread_bytes(sock: trio.socket.SocketType | None) -> int:
    """Bytes that came and wait to be read."""
    if sock is None:
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0])
    except (OSError, ValueError):
        return 0  # Closed meanwhile.


def acked_bytes(sock: trio.socket.SocketType | None) -> int:
    """Bytes of ours that the peer's system has taken since the connection began."""
    option = getattr(socket, "TCP_INFO", None)
    if sock is None or option is None:
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _BYTES_ACKED + 8)
    except OSError:
        return 0  # Closed meanwhile, or no TCP.
    return int.from_bytes(info[_BYTES_ACKED:], sys.byteorder) if len(info) == _BYTES_ACKED + 8 else 0
