"""A minimal HTTP/1.1 client over Trio streams, for tests that look at what a server really sends.

Rule: it understands responses with Content-Length only, reads exactly one a request, and keeps the connection;
when the server announces its close, the next request opens a new one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import trio

RECEIVE_BYTES = 65_536


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One connection, whatever the stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._received = bytearray()

    async def send(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        content_type: str | None = "application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Write one request. With `body=None` it has neither body nor Content-Type."""
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers)]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
            if content_type is not None:
                lines.append(f"Content-Type: {content_type}")
        await self.stream.send_all("\r\n".join([*lines, "", ""]).encode() + (body or b""))

    async def receive(self, head_only: bool = False) -> Response:
        """Read a response; `head_only` for the one to a HEAD. Raises EOFError when the server closes before its end."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            await self._more()
        status_line, *lines = bytes(self._received[:end]).decode("latin-1").split("\r\n")
        del self._received[: end + 4]
        version, _, rest = status_line.partition(" ")
        assert version == "HTTP/1.1", status_line
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon, line
            assert name.lower() not in headers, f"two headers {name}"
            headers[name.lower()] = value.strip()
        length = 0 if head_only else int(headers["content-length"])
        while len(self._received) < length:
            await self._more()
        body = bytes(self._received[:length])
        del self._received[:length]
        return Response(int(rest[:3]), headers, body)

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        content_type: str | None = "application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> Response:
        await self.send(method, target, body, content_type, headers)
        return await self.receive(head_only=method == "HEAD")

    async def _more(self) -> None:
        data = await self.stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise EOFError(f"the server closed after {bytes(self._received)!r}")
        self._received += data


class HttpClient:
    """Requests to one server, one after the other. Made by `open_client`."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._connection: Connection | None = None

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        content_type: str | None = "application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> Response:
        if self._connection is None:
            self._connection = Connection(await trio.open_tcp_stream(*self._address))
        response = await self._connection.request(method, target, body, content_type, headers)
        if response.headers.get("connection", "").lower() == "close":
            await self.aclose()
        return response

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.stream.aclose()


@asynccontextmanager
async def open_client(base_url: str) -> AsyncIterator[HttpClient]:
    """A client for the server at `http://host:port`; nothing is connected before the first request."""
    parts = urlsplit(base_url)
    assert parts.scheme == "http", base_url
    client = HttpClient(parts.hostname or "127.0.0.1", parts.port or 80)
    try:
        yield client
    finally:
        await client.aclose()
