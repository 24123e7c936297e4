"""Streams in memory for the client, so that a test clock has nothing else to wait for. They stand in for TCP."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import trio
import trio.testing
from anyio.abc import ByteStream, SocketAttribute


class MemoryStream(ByteStream):
    """The client's end. `readable`: what the client looks at to see whether an idle connection has ended."""

    def __init__(self, stream: trio.abc.Stream, readable: socket.socket | None = None) -> None:
        self._stream = stream
        self._readable = readable

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return bytes(data)

    async def send(self, item: bytes) -> None:
        try:
            await self._stream.send_all(item)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.raw_socket: lambda: self._readable}
