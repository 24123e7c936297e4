"""The real server for tests: inside the test process or as a child process, on a free port of the loopback.

Rule: what is started here has ended when the `async with` has, whatever happens inside.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from qrusty_trio.addresses import Address
from qrusty_trio.config import Settings
from qrusty_trio.logs import LogRing
from qrusty_trio.server.supervisor import Server, serve
from tests.server.collector import collector_of_tests
from tests.wire.http_client import HttpClient, open_client

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
"""A child that does not listen by then never will."""
LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")


def settings_for(path: Path, **changes: Any) -> Settings:
    """Settings for a server in a test: small caches, a free port, everything else as it is by default."""
    values: dict[str, Any] = {
        "data_path": path,
        "bind_addr": (Address("127.0.0.1", 0),),
        "rocksdb_cache_mb": 16,
        "rocksdb_write_buffer_mb": 8,
    }
    return Settings(**{**values, **changes})


@asynccontextmanager
async def running(settings: Settings, **options: Any) -> AsyncIterator[Server]:
    """A server in this process, stopped as SIGTERM stops it. `options` go to `serve`."""
    with collector_of_tests():
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(partial(serve, settings, LogRing(), **options))
            try:
                yield server
            finally:
                server.stopping.set()


async def until_ready(server: Server) -> None:
    """Wait until the gate is open."""
    while server.engine.services.gate.starting:  # noqa: ASYNC110  # the gate is a flag
        await trio.sleep(0.001)


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def child_environment(path: Path, **variables: str) -> dict[str, str]:
    """The environment of a child: nothing of the server's own is inherited."""
    own = ("QRUSTY_", "ROCKSDB_", "WS_", "DATA_PATH", "BIND_ADDR", "STORAGE_MODE", "MAX_CONNECTIONS", "WEBUI_DIR")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    fixed = {
        "DATA_PATH": str(path),
        "BIND_ADDR": "127.0.0.1:0",
        "ROCKSDB_CACHE_MB": "16",
        "ROCKSDB_WRITE_BUFFER_MB": "8",
        "PYTHONUNBUFFERED": "1",
    }
    return {**inherited, **fixed, **variables}


class Child:
    """A server in a process of its own."""

    def __init__(self, process: trio.Process, traced: bool = False) -> None:
        self.process = process
        self.traced = traced
        self.port = 0
        self.log = ""
        """What it has written to stderr."""
        self.listening = trio.Event()
        """Set when it listens, or will no more."""
        self.log_ended = trio.Event()

    @property
    def url(self) -> str:
        return url(self.port)

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self.log += data.decode(errors="replace")
            if not self.listening.is_set() and (found := LISTENING.search(self.log)):
                self.port = int(found[1])
                self.listening.set()
        self.listening.set()
        self.log_ended.set()

    async def logged(self, text: str) -> None:
        """Wait until `text` was logged."""
        while text not in self.log:
            assert not self.log_ended.is_set(), self.log
            await trio.sleep(0.005)

    async def ready(self) -> None:
        """Wait until the gate is open."""
        await self.logged("ready after")

    async def ended(self) -> int:
        """Wait for its end. The exit status; the log is then complete."""
        with trio.fail_after(START_SECONDS):
            status: int = await self.process.wait()
            await self.log_ended.wait()
        return status

    async def kill(self) -> None:
        """kill -9."""
        self.kill_now()
        await self.ended()

    def kill_now(self) -> None:
        """kill -9, without waiting. No effect when it has ended."""
        with suppress(ProcessLookupError):
            # The session is its own: a tracer and what it traces end together.
            os.killpg(self.process.pid, signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """To the server, not to a tracer around it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(children[0]) if self.traced else self.process.pid, number)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.send_signal(signal.SIGTERM)
        return await self.ended()


@asynccontextmanager
async def child_process(
    environment: dict[str, str],
    prefix: Sequence[str] = (),
    arguments: Sequence[str] = ("-m", "qrusty_trio"),
    pass_fds: Sequence[int] = (),
    stdout: IO[bytes] | int = subprocess.DEVNULL,
) -> AsyncIterator[Child]:
    """Start a child, whether it will serve or not; `prefix` is put before the command. Killed at the end.

    `pass_fds`: descriptors that it inherits.
    """
    command = [*prefix, sys.executable, *arguments]
    process = await trio.lowlevel.open_process(
        command,
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    child = Child(process, traced=bool(prefix))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.read_log)
            yield child
            child.kill_now()
    finally:
        child.kill_now()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + START_SECONDS):
            await process.wait()
        if process.stderr is not None:
            await process.stderr.aclose()


@asynccontextmanager
async def child_server(path: Path, prefix: Sequence[str] = (), **variables: str) -> AsyncIterator[Child]:
    """A child that listens and whose gate is open."""
    async with child_process(child_environment(path, **variables), prefix) as child:
        with trio.fail_after(START_SECONDS):
            await child.listening.wait()
            assert child.port, child.log
            await child.ready()
        yield child


@asynccontextmanager
async def client_of(server: Server | Child) -> AsyncIterator[HttpClient]:
    """An HTTP client with one connection."""
    async with open_client(url(server.port)) as client:
        yield client


@asynccontextmanager
async def websocket_of(
    server: Server | Child, headers: Sequence[tuple[bytes, bytes]] = ()
) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket on a stream of our own: the library leaves that of a peer that closes first open."""
    async with trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            host = f"127.0.0.1:{server.port}"
            yield await wrap_client_stream(nursery, stream, host, "/ws", extra_headers=list(headers))
            nursery.cancel_scope.cancel()
