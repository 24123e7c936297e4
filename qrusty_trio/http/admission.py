"""Which connections are served: how many of an address, and what a trusted proxy has to say first.

Rule: a header of the PROXY protocol counts only from an address in QRUSTY_TRUSTED_PROXIES, which must send one. From
any other it is a request that can't be read. What a proxy opens on its own behalf is not counted. Its clients are, also
one whose address is that of a proxy. Whoever is refused loses this connection only.

Requirements: API-0162, API-0163
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address

import trio

from qrusty_trio.http.peers import Peer, peer_at
from qrusty_trio.http.proxy_header import MAX_BYTES, BadProxyHeader, HeaderReader
from qrusty_trio.wording import counted

HEADER_SECONDS = 5.0
"""How long a trusted proxy may take for its header."""
TELL_SECONDS = 10.0
"""Least time between two log lines about refused connections."""
UNIX = "unix"
"""Stands in QRUSTY_TRUSTED_PROXIES for every Unix socket."""

Network = IPv4Network | IPv6Network

log = logging.getLogger(__name__)


class Admission:
    """Counts the connections of each address, and reads what trusted proxies say.

    `limit`: most connections of an address; 0 for no limit. `trusted`: networks, and UNIX.
    """

    def __init__(self, limit: int = 0, trusted: Collection[Network | str] = ()) -> None:
        self.limit = limit
        self.refused = 0
        """Connections refused since the start, for their address or for what a proxy said."""
        self._networks = [each for each in trusted if not isinstance(each, str)]
        self._trusts_unix = UNIX in trusted
        self._open: dict[str, int] = {}
        """By `Peer.counts_as`: connections that are open."""
        self._reading: set[trio.CancelScope] = set()
        self._stopping = False
        self._untold = 0
        self._tell_at = 0.0

    def trusts(self, peer: Peer) -> bool:
        """Whether the peer is a proxy that says first for whom it speaks."""
        if not self._networks and not self._trusts_unix:
            return False
        if not peer.host:
            return self._trusts_unix and peer.name.startswith(UNIX)
        address = ip_address(peer.host)
        return any(address in network for network in self._networks)

    def enter(self, peer: Peer) -> bool:
        """Count a connection of the peer. False if it has too many. If True, `leave` must follow."""
        key = self._key(peer)
        if not key:
            return True
        held = self._open.get(key, 0)
        if held >= self.limit:
            self._note(f"{key} has {held} already (QRUSTY_MAX_CONNECTIONS_PER_ADDRESS)")
            return False
        self._open[key] = held + 1
        return True

    def leave(self, peer: Peer) -> None:
        """The connection has ended."""
        key = self._key(peer)
        if key:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    def _key(self, peer: Peer) -> str:
        """Under which name connections of the peer are counted; '' if they are not."""
        return peer.counts_as if self.limit else ""

    async def announced(self, stream: trio.SocketStream, proxy: Peer) -> Peer:
        """For whom a trusted proxy opened this connection; the proxy itself, not counted, if it says so.

        Raises BadProxyHeader.

        Takes the header from the socket and nothing else.
        """
        reader = HeaderReader()
        with trio.CancelScope(deadline=trio.current_time() + HEADER_SECONDS) as scope:
            if self._stopping:
                scope.cancel()
            self._reading.add(scope)
            try:
                await _read(stream, reader)
                return proxy._replace(counted=False) if reader.source is None else peer_at(*reader.source)
            except BadProxyHeader as refusal:
                self._note(f"{proxy.name} is in QRUSTY_TRUSTED_PROXIES, but what it sent first is refused: {refusal}")
                raise
            finally:
                self._reading.discard(scope)
        if not self._stopping:
            self._note(f"{proxy.name} is in QRUSTY_TRUSTED_PROXIES, but sent no PROXY header in {HEADER_SECONDS:g} s")
        raise BadProxyHeader("it did not arrive in time")

    def stop(self) -> None:
        """Wait for no header any more."""
        self._stopping = True
        for scope in self._reading:
            scope.cancel()

    def _note(self, why: str) -> None:
        """Count a refused connection, and log it unless one was logged a moment ago."""
        self.refused += 1
        self._untold += 1
        now = trio.current_time()
        if now >= self._tell_at:
            log.warning(
                "%s refused, the last because %s", counted(self._untold, "connection was", "connections were"), why
            )
            self._untold = 0
            self._tell_at = now + TELL_SECONDS


async def _read(stream: trio.SocketStream, reader: HeaderReader) -> None:
    """Read a header. Raises BadProxyHeader, also if the connection ends."""
    try:
        while not reader.complete:
            arrived = await stream.socket.recv(MAX_BYTES, socket.MSG_PEEK)
            if not arrived:
                raise BadProxyHeader("the connection ended")
            # Those bytes are there: this does not wait.
            await stream.socket.recv(reader.take(arrived))
    except OSError as error:
        raise BadProxyHeader(f"the connection broke: {error}") from error
