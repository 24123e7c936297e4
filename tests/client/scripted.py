"""A server that does what a test says, over memory streams, so that a test clock has nothing else to wait for."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from qrusty_trio.client import transport
from tests.client.memory_streams import MemoryStream

Frame = dict[str, Any]
URL = "ws://broker.test:6784/ws"


class Peer:
    """The server's end of one connection."""

    def __init__(self, websocket: WebSocketConnection, go_deaf: Callable[[], None]) -> None:
        self.websocket = websocket
        self.go_deaf = go_deaf
        """Read nothing any more, and so answer no ping."""

    async def read(self) -> Frame:
        frame = json.loads(await self.websocket.get_message())
        assert isinstance(frame, dict)
        return frame

    async def expect(self, kind: str) -> Frame:
        """The next frame, which is of this type."""
        frame = await self.read()
        assert frame["type"] == kind, frame
        return frame

    async def send(self, **fields: object) -> None:
        await self.websocket.send_message(json.dumps(fields))

    async def ok(self, request: Frame, **fields: object) -> None:
        await self.send(type="ok", req_id=request["req_id"], **fields)

    async def refuse(self, request: Frame, code: str) -> None:
        await self.send(type="error", req_id=request["req_id"], code=code, message="no")

    async def subscribed(self) -> Frame:
        """Take and confirm a subscription."""
        request = await self.expect("subscribe")
        await self.ok(request)
        return request

    async def deliver(self, id: str, queue: str = "jobs", payload: str = "p") -> None:
        await self.send(
            type="deliver", queue=queue, id=id, payload=payload, priority=7, created_at="2026-01-02T03:04:05.006Z"
        )

    async def serve(self) -> None:
        """Say ok to everything, until the client leaves."""
        while True:
            try:
                request = await self.read()
            except ConnectionClosed:
                return
            if "req_id" in request:
                await self.ok(request, id="id")

    async def until_closed(self) -> tuple[int, list[tuple[str, str]]]:
        """Say ok to everything. Returns the client's close code, and its requests: type and id."""
        requests: list[tuple[str, str]] = []
        while True:
            try:
                frame = await self.read()
            except ConnectionClosed:
                reason = self.websocket.closed
                assert reason is not None
                return reason.code, requests
            if "req_id" in frame:
                requests.append((frame["type"], frame.get("id", "")))
                await self.ok(frame)

    async def close(self, code: int) -> None:
        await self.websocket.aclose(code, "because")


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """Each connection that is opened runs the next script; None refuses it, a number answers with that HTTP status."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.scripts: list[Script | int | None] = []
        self.opened: list[float] = []
        """When a connection was tried."""
        self._nursery = nursery
        self._another = trio.Event()

    async def attempts(self, count: int) -> None:
        """Wait until that many connections were tried."""
        while len(self.opened) < count:
            await self._another.wait()

    async def open_stream(self, host: str, port: int, *, tls: ssl.SSLContext | None) -> MemoryStream:
        assert (host, port, tls) == ("broker.test", 6784, None)
        self.opened.append(trio.current_time())
        self._another.set()
        self._another = trio.Event()
        script = self.scripts.pop(0) if self.scripts else None
        if script is None:
            raise ConnectionRefusedError("nobody listens")
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, ours, script)
        return MemoryStream(theirs)

    async def _serve(self, stream: trio.abc.Stream, script: Script | int) -> None:
        async with trio.open_nursery() as whole, trio.open_nursery() as reading:

            async def run() -> None:
                if isinstance(script, int):
                    await request.reject(script)
                else:
                    await script(Peer(await request.accept(), reading.cancel_scope.cancel))
                await stream.aclose()
                whole.cancel_scope.cancel()

            request: WebSocketRequest = await wrap_server_stream(reading, stream)
            whole.start_soon(run)


@asynccontextmanager
async def scripted(monkeypatch: pytest.MonkeyPatch, *scripts: Script | int | None) -> AsyncIterator[ScriptedServer]:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        server.scripts += scripts
        monkeypatch.setattr(transport, "open_stream", server.open_stream)
        yield server
        nursery.cancel_scope.cancel()
