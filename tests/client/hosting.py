"""Servers that restart and connections that break, for the tests of the client."""

from __future__ import annotations

import gc
from pathlib import Path

import trio

from tests.http.ws_server import Running, running


def break_connections(server: Running) -> None:
    """As a broken network does it: both ends find the connection ended, without a close frame."""
    for each in gc.get_objects():
        if isinstance(each, trio.SocketStream):
            peer = each.socket
            if peer.fileno() >= 0 and peer.getsockname()[1] == server.port:
                peer.shutdown(trio.socket.SHUT_RDWR)


class Host:
    """A server that can be stopped and started again while a client stays."""

    def __init__(self, nursery: trio.Nursery, fast_path: bool, data_path: Path) -> None:
        self._nursery = nursery
        self._fast_path = fast_path
        self._data_path = data_path
        self._stop = trio.Event()
        self._stopped = trio.Event()

    async def _run(self, port: int, *, task_status: trio.TaskStatus[Running]) -> None:
        async with running(self._fast_path, data_path=self._data_path, port=port) as server:
            task_status.started(server)
            await self._stop.wait()
        self._stopped.set()

    async def start(self, port: int = 0) -> Running:
        self._stop, self._stopped = trio.Event(), trio.Event()
        server: Running = await self._nursery.start(self._run, port)
        return server

    async def stop(self) -> None:
        self._stop.set()
        await self._stopped.wait()
