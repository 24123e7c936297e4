"""An HTTP server that does what a test says, over memory streams, so that a test clock has nothing else to wait for."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.client import pool
from tests.client.memory_streams import MemoryStream

URL = "http://broker.test:6784"


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: trio.abc.Stream, signal: socket.socket) -> None:
        self._stream = stream
        self._signal = signal
        self._received = b""

    async def read(self) -> tuple[str, Any]:
        """The next request: its line without the version, and its JSON; None without a body."""
        while b"\r\n\r\n" not in self._received:
            await self._more()
        header, _, self._received = self._received.partition(b"\r\n\r\n")
        line, *headers = header.decode().split("\r\n")
        named = dict(each.split(": ") for each in headers)
        assert named["Host"] == "broker.test:6784"
        assert line.endswith(" HTTP/1.1")
        size = int(named.get("Content-Length", "0"))
        while len(self._received) < size:
            await self._more()
        body, self._received = self._received[:size], self._received[size:]
        assert ("Content-Type" in named) == bool(body)
        return line.removesuffix(" HTTP/1.1"), json.loads(body) if body else None

    async def _more(self) -> None:
        data = await self._stream.receive_some()
        if not data:
            raise trio.EndOfChannel
        self._received += data

    async def expect(self, line: str) -> Any:
        """The JSON of the next request, which is this one."""
        found, body = await self.read()
        assert found == line
        return body

    async def send(self, text: str | bytes) -> None:
        await self._stream.send_all(text.encode() if isinstance(text, str) else text)

    async def response(self, status: int, body: object = None, *headers: str) -> None:
        text = "" if body is None else json.dumps(body)
        lines = (f"HTTP/1.1 {status} Because", f"Content-Length: {len(text)}", *headers)
        await self.send("\r\n".join(lines) + "\r\n\r\n" + text)

    def signal_end(self) -> None:
        """Make the idle connection look closed, as a real one does."""
        self._signal.send(b"x")


Script = Callable[[Peer], Awaitable[None]]


class ScriptedHttp:
    """Each connection that is opened runs the next script; for None nobody listens."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.scripts: list[Script | None] = []
        self.opened: list[float] = []
        """When a connection was tried."""
        self.gone = 0
        """Connections that the client has closed."""
        self.sockets: list[socket.socket] = []
        self._nursery = nursery

    async def open_stream(self, host: str, port: int, *, tls: ssl.SSLContext | None) -> MemoryStream:
        assert (host, port, tls) == ("broker.test", 6784, None)
        self.opened.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        script = self.scripts.pop(0) if self.scripts else None
        if script is None:
            raise ConnectionRefusedError("nobody listens")
        ours, theirs = trio.testing.memory_stream_pair()
        signal, readable = socket.socketpair()
        self.sockets += signal, readable
        self._nursery.start_soon(self._serve, Peer(ours, signal), ours, script)
        return MemoryStream(theirs, readable)

    async def _serve(self, peer: Peer, stream: trio.abc.Stream, script: Script) -> None:
        try:
            await script(peer)
        except (trio.EndOfChannel, trio.BrokenResourceError):
            self.gone += 1
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def scripted(monkeypatch: pytest.MonkeyPatch, *scripts: Script | None) -> AsyncIterator[ScriptedHttp]:
    async with trio.open_nursery() as nursery:
        server = ScriptedHttp(nursery)
        server.scripts += scripts
        monkeypatch.setattr(pool, "open_stream", server.open_stream)
        try:
            yield server
        finally:
            for each in server.sockets:
                each.close()
        nursery.cancel_scope.cancel()
