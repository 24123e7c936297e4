"""A server for the tests of the HTTP layer: the real engine over the memory store, real sockets on a free port."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from qrusty_trio.api.call import Services
from qrusty_trio.api.gate import Gate
from qrusty_trio.config import Fsync
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.pressure import Level
from qrusty_trio.core.timings import Timings
from qrusty_trio.http.access_log import AccessLog
from qrusty_trio.http.admission import Admission
from qrusty_trio.http.context import HttpContext, TlsContexts
from qrusty_trio.http.listener import serve
from qrusty_trio.http.websocket import WebSocketServices
from qrusty_trio.http.webui import Files
from qrusty_trio.logs import LogRing
from qrusty_trio.server.clock import Clock
from qrusty_trio.server.committer import Committer
from qrusty_trio.server.engine import Engine
from qrusty_trio.storage.memory import MemoryStorage
from tests.certificates import client_context

HOST = b"Host: test\r\n"
JSON = b"Content-Type: application/json\r\n"
PATHS = [True, False]
"""The fast path on and off."""


class Memory:
    level = Level.NORMAL
    under_pressure = False
    usage_bytes = 1
    limit_bytes = 2


def make_engine() -> Engine:
    """An engine over an empty memory store. To be called inside a Trio run."""
    storage = MemoryStorage()
    services = Services(Broker(storage), Gate(), Timings(), Memory(), lambda: 0)
    engine = Engine(services, Dispatcher(), Clock())
    engine.committer = Committer(storage, None, Fsync.ALWAYS, engine.write, engine.fail)
    return engine


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection: bytes out, answers in."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self._data = b""

    async def send(self, data: bytes | memoryview) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> bool:
        more = await self.stream.receive_some(65536)
        self._data += more
        return bool(more)

    async def response(self, *, head: bool = False) -> Response:
        """The next response. Raises EOFError when the connection ends before it does."""
        while b"\r\n\r\n" not in self._data:
            if not await self._more():
                raise EOFError(self._data)
        text, _, self._data = self._data.partition(b"\r\n\r\n")
        lines = text.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if status == 100:
            return await self.response(head=head)
        length = 0 if head or status in {101, 204, 304} else int(headers["content-length"])
        while len(self._data) < length:
            if not await self._more():
                raise EOFError(self._data)
        body, self._data = self._data[:length], self._data[length:]
        return Response(status, headers, body)

    async def ended(self) -> bool:
        """Whether the server closes without another byte."""
        try:
            return not self._data and not await self._more()
        except trio.BrokenResourceError:
            return True

    async def ask(self, method: str, path: str, body: Any = None, headers: bytes = b"") -> Response:
        """A well-formed request and its response."""
        await self.send(request(method, path, body, headers))
        return await self.response(head=method == "HEAD")


def request(method: str, path: str, body: Any = None, headers: bytes = b"") -> bytes:
    """The bytes of a well-formed request."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    described = b"" if body is None else JSON + b"Content-Length: %d\r\n" % len(data)
    return f"{method} {path} HTTP/1.1\r\n".encode() + HOST + described + headers + b"\r\n" + data


@dataclass
class Web:
    """A running server."""

    engine: Engine
    context: HttpContext
    port: int
    nursery: trio.Nursery

    async def connect(self) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        if self.context.tls is None:
            return Client(stream)
        secured = trio.SSLStream(stream, client_context(), server_hostname="localhost", https_compatible=True)
        return Client(secured)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = await self.connect()
        try:
            yield client
        finally:
            await trio.aclose_forcefully(client.stream)

    async def ask(self, method: str, path: str, body: Any = None, headers: bytes = b"") -> Response:
        """One request on a connection of its own."""
        async with self.client() as client:
            return await client.ask(method, path, body, headers)


def context_for(
    engine: Engine,
    fast_path: bool,
    *,
    webui_dir: Path = Path("webui"),
    files: Files | None = None,
    max_connections: int = 100,
    allowed_origins: Collection[str] = (),
    allowed_hosts: Collection[str] = ("test",),
    tls: TlsContexts | None = None,
) -> HttpContext:
    """What the paths are given."""
    stopping = trio.Event()
    websocket = WebSocketServices(
        engine=engine,
        dispatcher=engine.dispatcher,
        gate=engine.services.gate,
        logs=LogRing(),
        ping_interval=30,
        ping_timeout=10,
        allowed_origins=allowed_origins,
        allowed_hosts=allowed_hosts,
        stopping=stopping,
    )
    return HttpContext(
        engine,
        websocket,
        webui_dir,
        max_connections,
        fast_path,
        allowed_origins,
        stopping,
        allowed_hosts,
        tls=tls,
        files=files or {},
    )


@asynccontextmanager
async def running(
    fast_path: bool,
    *,
    webui_dir: Path = Path("webui"),
    files: Files | None = None,
    max_connections: int = 100,
    max_turned_away: int | None = None,
    allowed_origins: Collection[str] = (),
    allowed_hosts: Collection[str] = ("test",),
    engine: Engine | None = None,
    send_buffer: int | None = None,
    admission: Admission | None = None,
    access: AccessLog | None = None,
    tls: TlsContexts | None = None,
) -> AsyncIterator[Web]:
    """A server that is stopped in order at the end."""
    engine = engine or make_engine()
    context = context_for(
        engine,
        fast_path,
        webui_dir=webui_dir,
        files=files,
        max_connections=max_connections,
        allowed_origins=allowed_origins,
        allowed_hosts=allowed_hosts,
        tls=tls,
    )
    if max_turned_away is not None:
        context = replace(context, max_turned_away=max_turned_away)
    if admission is not None:
        context = replace(context, admission=admission)
    if access is not None:
        context = replace(context, access=access)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    if send_buffer is not None:
        # Accepted sockets have it from the one that listens.
        listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as background:
        background.start_soon(engine.committer.run)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, listeners, context)
            yield Web(engine, context, port, nursery)
            context.stopping.set()
        background.cancel_scope.cancel()
