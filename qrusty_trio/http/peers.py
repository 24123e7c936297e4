"""Who is at the other end of a connection: its address, as far as it is known.

Rule: the task of a connection sets its peer once, before it reads a request. Tasks that it starts inherit it. So
whoever serves a request, on whatever path, asks `current`.

Requirements: API-0162
"""

from __future__ import annotations

import socket
import struct
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

import trio

NEIGHBOURS_PREFIX = 64
"""IPv6 addresses with the same first bits count as one: a single machine has them all."""
_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid of the peer of a Unix socket (SO_PEERCRED in unix(7))."""


class Peer(NamedTuple):
    """The other end of a connection."""

    host: str = ""
    """An IP address; '' on a Unix socket, or if it is not known."""
    port: int = 0
    certificate: str = ""
    """The name of the token that its client certificate stands for; '' if none."""
    name: str = "-"
    """For logs: 192.0.2.1:5000, [2001:db8::1]:5000, unix:uid=1000, or - if it is not known."""
    counted: bool = True
    """Whether its connections are counted. Those that a proxy opens on its own behalf are not."""

    @property
    def counts_as(self) -> str:
        """Under which name its connections are counted; '' if they are not."""
        if not self.counted:
            return ""
        if ":" not in self.host:
            return self.host
        return str(IPv6Network((IPv6Address(self.host.partition("%")[0]), NEIGHBOURS_PREFIX), strict=False))


UNKNOWN = Peer()
_current: ContextVar[Peer] = ContextVar("peer", default=UNKNOWN)


def current() -> Peer:
    """The peer of the connection that this task serves."""
    return _current.get()


def enter(peer: Peer) -> None:
    """This task, and those that it starts from now on, serve `peer`."""
    _current.set(peer)


def peer_at(host: str, port: int) -> Peer:
    """The peer with this IP address. One of IPv4 that came over IPv6 has the form of IPv4."""
    if host.startswith("::ffff:"):
        address: IPv4Address | IPv6Address = ip_address(host)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            host = str(address.ipv4_mapped)
    return Peer(host, port, name=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def peer_of(stream: trio.SocketStream) -> Peer:
    """The peer of an accepted socket."""
    try:
        if stream.socket.family == socket.AF_UNIX:
            _, uid, _ = _CREDENTIALS.unpack(
                stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            return Peer(name=f"unix:uid={uid}")
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return UNKNOWN  # It is gone already.
    return peer_at(host, port)
