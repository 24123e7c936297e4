"""For the tests of /ws: the whole server in this process on a free port, and plain connections to it."""

from __future__ import annotations

import gc
import json
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from qrusty_trio.addresses import Address
from qrusty_trio.config import Settings, StorageMode
from qrusty_trio.logs import OWN_LOGGER, LogRing
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.supervisor import Server, serve
from tests.server.collector import collector_of_tests

Frame = dict[str, Any]

both_paths = pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "hypercorn"])
PATIENCE = 120
"""Seconds after which a test gives up waiting. Nothing is measured against it."""


class Socket:
    """One WebSocket connection. Answers and pushes are told apart; pushes that come in between are kept."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self.websocket = websocket
        self.pushes: deque[Frame] = deque()

    async def send(self, **fields: object) -> None:
        await self.websocket.send_message(json.dumps(fields))

    async def _read(self) -> Frame:
        with trio.fail_after(PATIENCE):
            frame = json.loads(await self.websocket.get_message())
        assert isinstance(frame, dict)
        return frame

    async def response(self) -> Frame:
        while True:
            frame = await self._read()
            if frame["type"] in ("ok", "error"):
                return frame
            self.pushes.append(frame)

    async def ask(self, **fields: object) -> Frame:
        await self.send(**fields)
        return await self.response()

    async def push(self) -> Frame:
        """The next delivery, warning or log record."""
        while not self.pushes:
            frame = await self._read()
            assert frame["type"] in ("deliver", "log", "deadline-soon"), frame
            self.pushes.append(frame)
        return self.pushes.popleft()

    async def subscribe(self, queue: str = "jobs", **fields: object) -> None:
        assert (await self.ask(type="subscribe", queue=queue, **fields)) == {"type": "ok"}

    async def publish(self, payload: str = "p", queue: str = "jobs", **fields: object) -> str:
        response = await self.ask(type="publish", queue=queue, payload=payload, **fields)
        assert response["type"] == "ok", response
        return str(response["id"])

    async def ack(self, delivery: Frame) -> None:
        response = await self.ask(type="ack", queue=delivery["queue"], id=delivery["id"])
        assert response == {"type": "ok"}

    async def closed(self) -> int:
        """The code with which the server closes; pushes that come before are kept."""
        with pytest.raises(ConnectionClosed) as end:
            while True:
                self.pushes.append(await self._read())
        reason = end.value.reason
        assert reason is not None
        return int(reason.code)

    def socket(self) -> trio.socket.SocketType:
        stream = self.websocket._stream
        assert isinstance(stream, trio.SocketStream)
        return stream.socket

    async def vanish(self) -> None:
        """The connection breaks: no close frame, nothing more is read or sent."""
        await trio.aclose_forcefully(self.websocket._stream)


class Running:
    """A running server."""

    def __init__(self, server: Server, ring: LogRing) -> None:
        self.port = server.port
        self.engine: Engine = server.engine
        self.stopping = server.stopping
        self.ring = ring
        self.url = f"ws://127.0.0.1:{server.port}/ws"

    @asynccontextmanager
    async def socket(self, *, message_queue_size: int = 100_000, **options: Any) -> AsyncIterator[Socket]:
        """By default its messages are read at once; with `message_queue_size=1` when the test reads them."""
        async with open_websocket_url(
            self.url, message_queue_size=message_queue_size, max_message_size=2**22, disconnect_timeout=5, **options
        ) as websocket:
            try:
                yield Socket(websocket)
            finally:
                # The library leaves the socket open when it was the server that closed the connection.
                if websocket.closed is not None:
                    await trio.aclose_forcefully(websocket._stream)

    async def http(self, method: str, path: str, body: object = None) -> Any:
        """A request on a connection of its own. It has to be answered 200. Returns the JSON, or None."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        response = b""
        with trio.fail_after(PATIENCE):
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                await stream.send_all(head.encode() + b"\r\n" + data)
                async for part in stream:
                    response += part
        begin, _, rest = response.partition(b"\r\n\r\n")
        assert begin.startswith(b"HTTP/1.1 200 "), response
        return json.loads(rest) if rest else None

    async def create(self, queue: str = "jobs") -> None:
        await self.http("POST", "/create-queue", {"name": queue, "config": {"ordering": "Fifo"}})

    async def publish(self, payload: str = "p", queue: str = "jobs", **fields: object) -> str:
        """Over HTTP."""
        response = await self.http("POST", "/publish", {"queue": queue, "priority": 0, "payload": payload, **fields})
        return str(response["id"])

    def counts(self, queue: str = "jobs") -> tuple[int, int, int]:
        """Available, locked, dead letters."""
        stats = self.engine.broker.catalog.stats(queue)
        assert stats is not None
        return stats.available, stats.locked, stats.dead

    async def settle_down(self, *counts: int, queue: str = "jobs") -> None:
        """Wait until a queue has these counts."""
        with trio.fail_after(PATIENCE):
            while self.counts(queue) != counts:  # noqa: ASYNC110  # the server announces no such thing
                await trio.sleep(0.002)


@asynccontextmanager
async def running(
    fast_path: bool, *, data_path: Path | None = None, port: int = 0, **settings: Any
) -> AsyncIterator[Running]:
    """A server, in memory or with its store in `data_path`; stopped in order at the end."""
    mode = StorageMode.MEMORY if data_path is None else StorageMode.ROCKSDB
    settings = {"data_path": data_path or Path("/nonexistent"), "storage_mode": mode, **settings}
    ring = LogRing()
    logger = logging.getLogger(OWN_LOGGER)
    logger.addHandler(ring)
    try:
        with collector_of_tests():
            async with trio.open_nursery() as nursery:
                server = await nursery.start(
                    serve, Settings(bind_addr=(Address("127.0.0.1", port),), fast_path=fast_path, **settings), ring
                )
                with trio.fail_after(PATIENCE):
                    while server.engine.services.gate.starting:  # noqa: ASYNC110  # a flag
                        await trio.sleep(0.002)
                handle = Running(server, ring)
                yield handle
                server.stopping.set()
    finally:
        logger.removeHandler(ring)
    # A store that nothing refers to any more can be opened once more in this process.
    vars(handle).clear()
    del server
    gc.collect()
