"""Servers that end a connection in the middle of the TLS handshake, as a proxy that restarts does; on both loops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from qrusty_trio import client as q
from tests.client.server_process import on_both_loops
from tests.http.ws_server import PATIENCE

TEXT = "connection ended during the TLS handshake|Connection reset by peer"


class Restarting:
    """It speaks no TLS: it ends every connection, at once or after the first bytes."""

    def __init__(self, reads_first: bool) -> None:
        self._reads_first = reads_first
        self.port = 0
        self.asked = 0
        self.third = anyio.Event()

    async def serve(self, stream: ByteStream) -> None:
        async with stream:
            self.asked += 1
            if self.asked == 3:
                self.third.set()
            if self._reads_first:
                await stream.receive()


@asynccontextmanager
async def restarting(reads_first: bool) -> AsyncIterator[Restarting]:
    server = Restarting(reads_first)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        server.port = listener.extra(SocketAttribute.local_port)
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


# Verifies: WS-0036, WS-0047
@on_both_loops
@pytest.mark.parametrize("reads_first", [False, True])
def test_it_is_a_connection_that_could_not_be_opened(reads_first: bool, backend: str) -> None:
    async def main() -> None:
        async with restarting(reads_first) as server:
            with pytest.raises(q.ConnectFailed, match=TEXT):
                async with q.connect(f"wss://127.0.0.1:{server.port}/ws"):
                    pass
            async with q.HttpClient(f"https://127.0.0.1:{server.port}", patience_seconds=0) as client:
                with pytest.raises(q.NotSent, match=TEXT):
                    await client.queues()

    anyio.run(main, backend=backend)


# Verifies: WS-0036, WS-0047
@on_both_loops
def test_a_worker_tries_again(backend: str) -> None:
    async def handle(message: q.Message) -> None:
        raise AssertionError

    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            async with restarting(False) as server:
                await q.worker(f"wss://127.0.0.1:{server.port}/ws", "jobs", handle, stop=server.third)

    anyio.run(main, backend=backend)
