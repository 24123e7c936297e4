"""Opening and closing a WebSocket.

Rule: this module owns the stream and always closes it. (trio-websocket's own context manager leaves the socket open if
the handshake is refused, or if the server closed the connection.) An open connection is closed in order, with 1000,
also if its user is cancelled or fails: to the server, one that breaks off counts as a failed delivery of every message
it held. A single exception comes out bare, never as a group of one.

Requirements: WS-0040
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

HANDSHAKE_SECONDS = 10.0
CLOSE_SECONDS = 2.0
"""Limit on the closing handshake."""
RECEIVED_MESSAGES = 64
"""Most received frames that the library queues for us."""
MAX_RECEIVED_BYTES = 4 * 1024 * 1024
"""Twice the limit of a request: a delivery is a little longer than the request that published its message."""
READ_BYTES = 64 * 1024


@asynccontextmanager
async def open_websocket(url: str) -> AsyncIterator[WebSocketConnection]:
    """Connect to a ws:// or wss:// URL. On exit, however it comes about, do the closing handshake in CLOSE_SECONDS.

    Raises ValueError for any other URL, and OSError, TooSlowError or trio_websocket's HandshakeError if it can't
    connect.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"not a WebSocket URL: {url!r}")
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with bare_exceptions():
        with trio.fail_after(HANDSHAKE_SECONDS):
            stream = await _open_stream(parts.hostname, parts.port, tls=parts.scheme == "wss")
        try:
            async with trio.open_nursery() as nursery:
                holder = _Holder(stream, parts.netloc.rpartition("@")[2], resource)
                try:
                    yield await nursery.start(holder.run)
                finally:
                    holder.close()
        finally:
            await trio.aclose_forcefully(stream)


class _Holder:
    """The task that a WebSocket's reader belongs to. A cancellation of the user reaches it only as `close`."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], host: str, resource: str) -> None:
        self._stream = stream
        self._host = host
        self._resource = resource
        self._closing = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[WebSocketConnection]) -> None:
        with self._scope, bare_exceptions():
            async with trio.open_nursery() as nursery:
                with trio.fail_after(HANDSHAKE_SECONDS):
                    websocket = await wrap_client_stream(
                        nursery,
                        self._stream,
                        self._host,
                        self._resource,
                        message_queue_size=RECEIVED_MESSAGES,
                        max_message_size=MAX_RECEIVED_BYTES,
                        receive_buffer_size=READ_BYTES,
                    )
                # From now on `close` will be called, whatever happens, and sets a deadline.
                self._scope.shield = True
                task_status.started(websocket)
                await self._closing.wait()
                await websocket.aclose()
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        self._scope.deadline = trio.current_time() + CLOSE_SECONDS
        self._closing.set()


async def _open_stream(
    host: str, port: int | None, *, tls: bool
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    if tls:
        return await trio.open_ssl_over_tcp_stream(host, port or 443, https_compatible=True)
    return await trio.open_tcp_stream(host, port or 80)


@contextmanager
def bare_exceptions() -> Iterator[None]:
    """Raise a single exception without the group that a nursery wraps it in. Cancellations do not count."""
    try:
        yield
    except BaseExceptionGroup as group:
        _, others = group.split(lambda error: isinstance(error, trio.Cancelled))
        if others is None or len(others.exceptions) != 1:
            raise
        only = others.exceptions[0]
    else:
        return
    raise only
