"""A real server with a tokens file, and its tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from qrusty_trio.access.grants import Granted
from qrusty_trio.access.tokens_file import entry_of, new_token
from qrusty_trio.config import StorageMode
from qrusty_trio.server.supervisor import Server
from tests.server.running import running, settings_for, until_ready
from tests.wire.http_client import HttpClient, open_client

Headers = Sequence[tuple[str, str]]


class TokenBook:
    """The tokens of a test, and their file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokens: dict[str, str] = {}
        """The secret of each name."""
        # A file without any token is refused.
        self._entries: dict[str, str] = {"": entry_of("nobody", new_token(), [])}
        self.write()

    def add(
        self,
        name: str,
        *grants: str,
        expires: datetime | None = None,
        requests: float | None = None,
        messages: float | None = None,
    ) -> str:
        """Add or replace a token. Returns its secret."""
        token = self.tokens.setdefault(name, new_token())
        self._entries[name] = entry_of(name, token, list(map(Granted.read, grants)), expires, requests, messages)
        self.write()
        return token

    def remove(self, name: str) -> None:
        del self._entries[name], self.tokens[name]
        self.write()

    def write(self) -> None:
        self.path.write_text("\n".join(self._entries.values()))

    def bearer(self, name: str) -> Headers:
        return [("Authorization", f"Bearer {self.tokens[name]}")]


@asynccontextmanager
async def guarded(book: TokenBook, **changes: Any) -> AsyncIterator[Server]:
    """A server in memory with these tokens."""
    values: dict[str, Any] = {"storage_mode": StorageMode.MEMORY, "tokens_file": book.path, **changes}
    async with running(settings_for(book.path.parent / "data", **values)) as server:
        await until_ready(server)
        yield server


@asynccontextmanager
async def client_to(server: Server) -> AsyncIterator[HttpClient]:
    async with open_client(f"http://127.0.0.1:{server.port}") as client:
        yield client


@asynccontextmanager
async def websocket_to(server: Server, headers: Headers = ()) -> AsyncIterator[WebSocketConnection]:
    async with trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            extra = [(name.encode(), value.encode()) for name, value in headers]
            host = f"127.0.0.1:{server.port}"
            yield await wrap_client_stream(nursery, stream, host, "/ws", extra_headers=extra)
            nursery.cancel_scope.cancel()
