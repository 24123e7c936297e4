"""Connections for HTTP requests of threads: opened when needed, kept for the next request, never more than a bound.

Rule: a request has a connection for itself until its response is there. A connection whose exchange did not come to its
end, for whatever reason, is closed: the server then takes back what it had handed out on it.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time

from qrusty_trio.client.addresses import Address
from qrusty_trio.client.errors import ClientClosed, ConnectionLost, NotSent, TimedOut
from qrusty_trio.client.exchange import Exchange
from qrusty_trio.client.operations import Request, Response
from qrusty_trio.client.retries import CONNECT_SECONDS, KEEP_SECONDS
from qrusty_trio.client.streams import READ_BYTES
from qrusty_trio.client.tls import Tls, explained


class _Open:
    """An open connection."""

    def __init__(self, peer: socket.socket, host: str, authorization: str) -> None:
        self.peer = peer
        self.idle_since = 0.0
        self._exchange = Exchange(host, authorization)

    def request(self, request: Request, deadline: float) -> tuple[Response, bool]:
        """The response, and whether the connection can be kept. Raises TimeoutError, ConnectionLost, ProtocolError."""
        try:
            self._limit(deadline)
            self.peer.sendall(self._exchange.send(request))
        except TimeoutError:
            raise
        except OSError:
            pass  # If it closed the connection, it may have answered before, such as that it has too many.
        while True:
            self._limit(deadline)
            try:
                data = self.peer.recv(READ_BYTES)
            except TimeoutError:
                raise
            except ssl.SSLEOFError:
                data = b""
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {explained(error)}") from error
            response = self._exchange.receive(data)
            if response is not None:
                return response, self._exchange.next()

    def _limit(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.peer.settimeout(left)

    def usable(self) -> bool:
        """Whether it is still there: an idle connection has nothing to read, not even its end."""
        if time.monotonic() - self.idle_since > KEEP_SECONDS:
            return False
        poll = select.poll()
        poll.register(self.peer.fileno(), select.POLLIN)
        return not poll.poll(0)


class Pool:
    """At most `size` connections to one address. Threads that find none free wait in turn."""

    def __init__(self, address: Address, size: int, authorization: str, tls: Tls) -> None:
        self._address = address
        self._authorization = authorization
        self._tls = tls
        self._slots = threading.Semaphore(size)
        self._lock = threading.Lock()
        """Held for the two below, never while waiting."""
        self._idle: list[_Open] = []
        self._closed = False

    def request(self, request: Request, seconds: float) -> Response:
        """Send a request and wait up to `seconds` for its response, from when there is a connection.

        Raises ClientClosed, NotSent, ConnectionLost, TimedOut, ProtocolError.
        """
        with self._slots:
            if self._closed:
                raise ClientClosed("the client was closed")
            connection = self._take()
            kept = False
            try:
                response, kept = connection.request(request, time.monotonic() + seconds)
            except TimeoutError as error:
                raise TimedOut(f"no response within {seconds:g} s") from error
            finally:
                if not (kept and self._keep(connection)):
                    connection.peer.close()
            return response

    def _keep(self, connection: _Open) -> bool:
        with self._lock:
            if not self._closed:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
            return not self._closed

    def _take(self) -> _Open:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            if connection.usable():
                return connection
            connection.peer.close()

    def _connect(self) -> _Open:
        address = self._address
        try:
            peer = _connected(address)
            try:
                if address.tls:
                    peer = self._tls.context().wrap_socket(peer, server_hostname=address.host)
            except BaseException:
                peer.close()
                raise
        except OSError as error:
            raise NotSent(f"can't connect to {address.place}: {explained(error)}") from error
        return _Open(peer, address.name, self._authorization)

    def close(self) -> None:
        """Close what is idle. A connection with a request on it is closed when that has ended."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.peer.close()


def _connected(address: Address) -> socket.socket:
    """A socket, without TLS. Raises OSError."""
    if not address.unix_path:
        peer = socket.create_connection((address.host, address.port), CONNECT_SECONDS)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return peer
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.settimeout(CONNECT_SECONDS)
        peer.connect(address.unix_path)
    except BaseException:
        peer.close()
        raise
    return peer
