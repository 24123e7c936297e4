"""The sockets that the server listens on.

Rule: an address means what it says. `[::]` is every address of the machine, including IPv4. Addresses are shown in the
form in which they are configured.

Requirements: API-0064
"""

from __future__ import annotations

import socket

import trio

from qrusty_trio.config import Address
from qrusty_trio.errors import StartupRefused

BACKLOG = 1024
"""Connections that the kernel queues until they are accepted."""
EVERY_ADDRESS = "::"


async def listen(address: Address) -> list[trio.SocketListener]:
    """Listen on `address`. A host name means all of its addresses. Raises StartupRefused."""
    try:
        if address.host == EVERY_ADDRESS:
            return [await _listen_everywhere(address.port)]
        return await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    except OSError as error:
        raise StartupRefused(f"BIND_ADDR='{address}' can't be listened on: {error}") from error


async def _listen_everywhere(port: int) -> trio.SocketListener:
    """Listen on `::` for IPv6 and IPv4. Trio's own listener for `::` takes only IPv6. Raises OSError."""
    opened = trio.socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        await opened.bind((EVERY_ADDRESS, port))
        opened.listen(BACKLOG)
        return trio.SocketListener(opened)
    except BaseException:
        opened.close()
        raise


def described(listener: trio.SocketListener) -> str:
    """The address of a listener, for the log."""
    host, port = listener.socket.getsockname()[:2]
    family = listener.socket.family
    if family == socket.AF_INET6 and not listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return f"{Address(host, port)} (IPv4, too)"
    return str(Address(host, port))
