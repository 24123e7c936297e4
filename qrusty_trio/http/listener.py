"""The listener: accepts connections, counts them, and passes each to the fast path or to Hypercorn.

Rule: one nursery holds a task per connection and ends after the last of them, so nothing is left when `serve` returns.
A connection beyond the limit gets a response and is closed; it never hangs.

Requirements: API-0066, API-0162, WS-0028
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from time import perf_counter

import trio

from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import QrustyError
from qrusty_trio.http import peers
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.fallback.hypercorn import Fallback
from qrusty_trio.http.fast_path import FastPath
from qrusty_trio.http.fast_websocket import serve_fast_websocket
from qrusty_trio.http.handshakes import Handshakes
from qrusty_trio.http.header_block import MAX_HEADER_BYTES, read_block
from qrusty_trio.http.lingering import linger
from qrusty_trio.http.peers import Peer
from qrusty_trio.http.proxy_header import BadProxyHeader
from qrusty_trio.http.request_line import NOT_KNOWN, WEBSOCKET_PATH, read_line
from qrusty_trio.http.responses import CLOSE, too_many_connections, too_many_from_there
from qrusty_trio.http.tls import TlsStream
from qrusty_trio.http.websocket_auth import watch_tokens
from qrusty_trio.http.websocket_watch import watch_budget
from qrusty_trio.wording import counted

STOP_SECONDS = 10.0
"""When the server stops, requests in hand may take this long."""
TURN_AWAY_SECONDS = 1.0
"""Time to read the first request of a surplus connection, and again for the peer to read the response."""
ACCEPTS_PER_STEP = 32
"""Most connections accepted in one step of the loop. A busy loop has few steps, so one connection each is too few."""
ACCEPT_PAUSE_SECONDS = 0.1
"""Pause after the system had no file descriptor or memory for a connection."""
TELL_SECONDS = 10.0
"""Least time between two log lines about that."""
CLOSED_ERRNOS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
NO_CAPACITY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

logger = logging.getLogger(__name__)

__all__ = ["HttpContext", "serve"]


async def serve(
    listeners: list[trio.SocketListener],
    context: HttpContext,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `context.stopping`. Then close the listeners, finish the requests in hand and return.

    Requirements: API-0037
    """
    await _Server(context).run(listeners, task_status)


class _Server:
    def __init__(self, context: HttpContext) -> None:
        self._context = context
        self._fallback = Fallback(context)
        self._fast_path = FastPath(context, self._fallback.serve)
        self._handshakes = Handshakes(context.tls) if context.tls is not None else None
        self._bulkheads = context.bulkheads
        self._responses = self._fast_path.shared.responses
        self._open = context.connections
        self._turned_away = 0
        self._refused = 0
        self._tell_at = 0.0

    async def run(self, listeners: list[trio.SocketListener], task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as background:
            background.start_soon(self._fast_path.watch)
            background.start_soon(self._fast_path.batching.run)
            background.start_soon(watch_budget, self._context.websocket)
            if self._context.tokens is not None:
                background.start_soon(watch_tokens, self._context.tokens, self._context.websocket.connections)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener, connections)
                    task_status.started()
                    await self._context.stopping.wait()
                    accepting.cancel_scope.cancel()
                connections.cancel_scope.deadline = trio.current_time() + STOP_SECONDS
                self._context.admission.stop()
                self._fast_path.stop()
                if self._handshakes is not None:
                    self._handshakes.stop()
                await self._context.engine.end_waits()
                await self._fallback.stop()
            background.cancel_scope.cancel()

    async def _accept(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        async with listener:
            with closing(_Backlog(listener)) as backlog:
                await self._accept_all(listener, backlog, connections)

    async def _accept_all(self, listener: trio.SocketListener, backlog: _Backlog, connections: trio.Nursery) -> None:
        while True:
            try:
                self._take_in(await listener.accept(), connections)
                for stream in backlog.at_once():
                    self._take_in(stream, connections)
            except OSError as error:
                if error.errno in CLOSED_ERRNOS:
                    raise  # the listener itself is gone
                # Any other error concerns one connection or is transient. Pause, because it may recur at once.
                self._note_refused(error)
                await trio.sleep(ACCEPT_PAUSE_SECONDS if error.errno in NO_CAPACITY else 0)

    def _take_in(self, stream: trio.SocketStream, connections: trio.Nursery) -> None:
        # No checkpoint between counting and starting, so the counts are exact.
        admission = self._context.admission
        peer = peers.peer_of(stream)
        proxied = admission.trusts(peer)
        refusal = None
        if self._open.value >= self._context.max_connections:
            refusal = too_many_connections()
        elif not proxied and not admission.enter(peer):
            refusal = too_many_from_there(admission.limit)
        if refusal is None:
            self._open.value += 1
            connections.start_soon(self._serve, stream, peer, proxied)
        elif self._turned_away < self._context.max_turned_away:
            self._turned_away += 1
            connections.start_soon(self._turn_away, stream, peer, refusal)
        else:
            stream.socket.close()

    async def _serve(self, stream: trio.SocketStream, peer: Peer, proxied: bool) -> None:
        admitted = None if proxied else peer
        try:
            with self._bulkheads.around("a connection"):
                if proxied:
                    admitted = await self._announced(stream, peer)
                if admitted is None:
                    return
                peers.enter(admitted)
                secured = await self._secured(stream, admitted)
                if secured is None:
                    return
                if self._context.tokens is not None and isinstance(secured, TlsStream):
                    peers.enter(admitted._replace(certificate=secured.subject or ""))
                if self._context.fast_path:
                    await self._fast_path.serve(secured)
                else:
                    await self._fallback.serve(secured)
        finally:
            if admitted is not None:
                self._context.admission.leave(admitted)
            self._open.value -= 1

    async def _secured(self, stream: trio.SocketStream, peer: Peer) -> trio.SocketStream | TlsStream | None:
        """What the connection speaks through. None if that came to nothing, and it is closed.

        A Unix socket stays as it is: what passes through it does not leave the machine.
        """
        if self._handshakes is None or stream.socket.family == socket.AF_UNIX:
            return stream
        return await self._handshakes.secure(stream, peer.name)

    async def _announced(self, stream: trio.SocketStream, proxy: Peer) -> Peer | None:
        """For whom a proxy opened this connection. None if it is not served, and closed."""
        admission = self._context.admission
        refusal: QrustyError
        try:
            peer = await admission.announced(stream, proxy)
            if admission.enter(peer):
                return peer
            refusal = too_many_from_there(admission.limit)
        except BadProxyHeader as wrong:
            refusal = BadProxyHeader(f"A connection from this address has to begin with a PROXY header: {wrong}")
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        await self._tell(stream, proxy, refusal)
        return None

    def _note_refused(self, error: OSError) -> None:
        self._refused += 1
        now = trio.current_time()
        if now >= self._tell_at:
            logger.error(  # a traceback would add nothing
                "%s could not be accepted: %s. Trying again; with 'Too many open files', raise the limit of "
                "descriptors (ulimit -n) or lower MAX_CONNECTIONS",
                counted(self._refused, "connection"),
                error,
            )
            self._refused = 0
            self._tell_at = now + TELL_SECONDS

    async def _turn_away(self, stream: trio.SocketStream, peer: Peer, refusal: QrustyError) -> None:
        """Respond to a surplus connection: 503 to a request, close code 1013 to a WebSocket."""
        try:
            with self._bulkheads.around("a connection too many"):
                if self._context.admission.trusts(peer):
                    with suppress(BadProxyHeader), trio.move_on_after(TURN_AWAY_SECONDS):
                        await self._context.admission.announced(stream, peer)
                await self._tell(stream, peer, refusal)
        finally:
            self._turned_away -= 1

    async def _tell(self, accepted: trio.SocketStream, peer: Peer, refusal: QrustyError) -> None:
        """Respond to the first request with a refusal, and close."""
        stream = None
        with trio.move_on_after(TURN_AWAY_SECONDS):
            stream = await self._secured(accepted, peer)
        if stream is None:
            return
        try:
            data = b""
            if not isinstance(refusal, BadProxyHeader):
                with trio.move_on_after(TURN_AWAY_SECONDS):
                    data = await _read_headers(stream)
            if _is_websocket(data):
                await serve_fast_websocket(stream, data, self._context.websocket, overloaded=True)
                return
            reply = error_reply(refusal)
            if self._context.access is not None:
                self._context.access.note(peer, *NOT_KNOWN, reply.status, len(reply.body), perf_counter())
            with trio.move_on_after(TURN_AWAY_SECONDS):
                await stream.send_all(self._responses.response(reply, CLOSE))
                await linger(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The peer left before the response.
        finally:
            await trio.aclose_forcefully(stream)


class _Backlog:
    """Accepts the connections that wait at a listener without taking a step of the loop for each."""

    def __init__(self, listener: trio.abc.Listener[trio.SocketStream]) -> None:
        self._twin: socket.socket | None = None
        if isinstance(listener, trio.SocketListener):
            self._twin = socket.socket(fileno=os.dup(listener.socket.fileno()))
            self._twin.setblocking(False)

    def close(self) -> None:
        """Close the duplicate descriptor. The listener stays open."""
        if self._twin is not None:
            self._twin.close()

    def at_once(self) -> Iterator[trio.SocketStream]:
        """The waiting connections, up to ACCEPTS_PER_STEP with the one already accepted. Raises OSError."""
        for _ in range(ACCEPTS_PER_STEP - 1 if self._twin is not None else 0):
            assert self._twin is not None
            try:
                accepted, _ = self._twin.accept()
            except BlockingIOError:
                return
            yield trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


async def _read_headers(stream: trio.abc.Stream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and len(data) < MAX_HEADER_BYTES:
        more = await stream.receive_some()
        if not more:
            break
        data = (data + more).lstrip(b"\r\n")
    return data


def _is_websocket(data: bytes) -> bool:
    line_end = data.find(b"\r\n")
    end = data.find(b"\r\n\r\n") + 4
    try:
        line = read_line(data[:line_end])
        return line.path == WEBSOCKET_PATH and read_block(data[line_end:end], line.http11).upgrade == "websocket"
    except QrustyError:
        return False
