"""Connections for HTTP requests: opened when needed, kept for the next request, never more than a bound.

Rule: a request has a connection for itself until its response is there. A connection whose exchange did not come to its
end, for whatever reason, is closed: the server then takes back what it had handed out on it.
"""

from __future__ import annotations

from contextlib import suppress

import anyio
from anyio.abc import ByteStream

from qrusty_trio.client.addresses import Address
from qrusty_trio.client.errors import ClientClosed, ConnectionLost, NotSent, TimedOut
from qrusty_trio.client.exchange import Exchange
from qrusty_trio.client.operations import Request, Response
from qrusty_trio.client.retries import CONNECT_SECONDS, KEEP_SECONDS
from qrusty_trio.client.streams import (
    READ_BYTES,
    STREAM_ERRORS,
    close_stream,
    is_silent,
    open_stream,
    open_unix_stream,
    reason,
)
from qrusty_trio.client.tls import Tls


class _Open:
    """An open connection."""

    def __init__(self, stream: ByteStream, host: str, authorization: str) -> None:
        self.stream = stream
        self.idle_since = 0.0
        self._exchange = Exchange(host, authorization)

    async def request(self, request: Request) -> tuple[Response, bool]:
        """The response, and whether the connection can be kept. Raises ConnectionLost, ProtocolError."""
        # If it closed the connection, it may have answered before, such as that it has too many.
        with suppress(*STREAM_ERRORS):
            await self.stream.send(self._exchange.send(request))
        while True:
            try:
                data = await self.stream.receive(READ_BYTES)
            except anyio.EndOfStream:
                data = b""
            except STREAM_ERRORS as error:
                raise ConnectionLost(f"the connection broke: {reason(error)}") from error
            response = self._exchange.receive(data)
            if response is not None:
                return response, self._exchange.next()

    def usable(self) -> bool:
        """Whether it is still there: an idle connection has nothing to read, not even its end."""
        return anyio.current_time() - self.idle_since <= KEEP_SECONDS and is_silent(self.stream)


class Pool:
    """At most `size` connections to one address. Requests that find none free wait in turn."""

    def __init__(self, address: Address, size: int, authorization: str, tls: Tls) -> None:
        self._address = address
        self._authorization = authorization
        self._tls = tls
        self._slots = anyio.Semaphore(size)
        self._idle: list[_Open] = []
        self._closed = False

    async def request(self, request: Request, seconds: float) -> Response:
        """Send a request and wait up to `seconds` for its response, from when there is a connection.

        Raises ClientClosed, NotSent, ConnectionLost, TimedOut, ProtocolError. If the caller is cancelled, the
        connection is closed.
        """
        async with self._slots:
            if self._closed:
                raise ClientClosed("the client was closed")
            connection = await self._take()
            kept = False
            try:
                with anyio.fail_after(seconds):
                    response, kept = await connection.request(request)
                    kept = kept and not self._closed
            except TimeoutError as error:
                raise TimedOut(f"no response within {seconds:g} s") from error
            finally:
                if not kept:
                    await close_stream(connection.stream)
            if kept:
                connection.idle_since = anyio.current_time()
                self._idle.append(connection)
            return response

    async def _take(self) -> _Open:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            await close_stream(connection.stream)
        return await self._connect()

    async def _connect(self) -> _Open:
        address = self._address
        try:
            with anyio.fail_after(CONNECT_SECONDS):
                if address.unix_path:
                    stream = await open_unix_stream(address.unix_path)
                else:
                    tls = self._tls.context() if address.tls else None
                    stream = await open_stream(address.host, address.port, tls=tls)
        except OSError as error:
            raise NotSent(f"can't connect to {address.place}: {reason(error)}") from error
        return _Open(stream, address.name, self._authorization)

    async def aclose(self) -> None:
        """Close what is idle. Connections with a request on them are closed by its end or cancellation."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await close_stream(connection.stream)
