"""Opening and closing a WebSocket.

Rule: the stream is ours, so it is closed whatever happens. (trio-websocket's own context manager leaves the socket open
when the handshake is refused, and when it was the server that closed the connection.) One exception comes out of it,
never a group of one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

HANDSHAKE_SECONDS = 10.0
CLOSE_SECONDS = 2.0
"""Bound on the closing handshake."""
RECEIVED_MESSAGES = 64
"""Frames that the library may hold for us."""
MAX_RECEIVED_BYTES = 4 * 1024 * 1024
"""Twice what a request may have: a delivery is a little longer than the request that published its message."""
READ_BYTES = 64 * 1024


@asynccontextmanager
async def open_websocket(url: str) -> AsyncIterator[WebSocketConnection]:
    """Connect to a ws:// or wss:// URL; on leaving, close in order, within CLOSE_SECONDS.

    Raises ValueError for another URL; OSError, TooSlowError and trio_websocket's HandshakeError when it can't connect.
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
                with trio.fail_after(HANDSHAKE_SECONDS):
                    websocket = await wrap_client_stream(
                        nursery,
                        stream,
                        parts.netloc.rpartition("@")[2],
                        resource,
                        message_queue_size=RECEIVED_MESSAGES,
                        max_message_size=MAX_RECEIVED_BYTES,
                        receive_buffer_size=READ_BYTES,
                    )
                yield websocket
                with trio.move_on_after(CLOSE_SECONDS):
                    await websocket.aclose()
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)


async def _open_stream(
    host: str, port: int | None, *, tls: bool
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    if tls:
        return await trio.open_ssl_over_tcp_stream(host, port or 443, https_compatible=True)
    return await trio.open_tcp_stream(host, port or 80)


@contextmanager
def bare_exceptions() -> Iterator[None]:
    """Take the one exception that is not a cancellation out of the group that a nursery makes of it."""
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
