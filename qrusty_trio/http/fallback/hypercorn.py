"""Runs Hypercorn on a connection whose first bytes have already been read.

Rule: Hypercorn sees the connection only through a `guard.GuardedStream`, and its connections end as soon as those of
the fast path do.

This uses parts of Hypercorn that are not public: `TCPServer`, `WorkerContext`, `ASGIWrapper`, the ASGI state, and the
object that `send` is a method of. tests/http/fallback/test_hypercorn.py fails when they change.

Requirements: API-0045
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.fallback import http2, websocket_stream
from qrusty_trio.http.fallback.app import PAUSE_KEY, REFUSAL_KEY, REPLY_KEY, SHARE_KEY, make_app
from qrusty_trio.http.fallback.guard import GUARD_KEY, GuardedStream, guard_of
from qrusty_trio.http.fallback.share import ConnectionShare, Share
from qrusty_trio.http.fallback.websocket import ACTIVITY_KEY, STREAM_KEY, HypercornStream
from qrusty_trio.http.header_block import IDLE_SECONDS, MAX_HEADER_BYTES
from qrusty_trio.http.lingering import LINGER_SECONDS
from qrusty_trio.http.pauses import EventPause

TASKS_KEY = "qrusty.tasks"
"""The nursery of the connection."""
QUEUED_MESSAGES = 2
"""Pieces of a body, or messages of a WebSocket, that may wait for the app. Further ones wait in the socket."""
MAX_REQUESTS = 2**62
"""Requests before Hypercorn closes a connection: in effect, no limit."""

http2.install()
websocket_stream.install()

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def make_config() -> Config:
    """Hypercorn's settings: the fast path's limits, no access log, errors to `logging`, no pings of its own."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("qrusty_trio.http.hypercorn")
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.keep_alive_timeout = IDLE_SECONDS
    config.keep_alive_max_requests = MAX_REQUESTS
    config.max_app_queue_size = QUEUED_MESSAGES
    config.websocket_max_message_size = MAX_FRAME_BYTES
    return config


class _Context(WorkerContext):
    """Hypercorn's context of one connection."""

    def __init__(self, shared: WorkerContext) -> None:
        super().__init__(None)
        self.terminated = shared.terminated
        self.over = trio.Event()


class _Server(TCPServer):
    """Hypercorn's server of one connection. It ends when the peer has closed.

    That is why a private method is overridden: Hypercorn's task for idle connections goes on after it has read the
    end, and keeps the connection until its next timeout. It has no setting for that, and no public method is
    called at that moment.

    A response may end only then. Hypercorn would take the connection for idle once more, and wait for a next request.

    Requirements: API-0042
    """

    async def protocol_send(self, event: Event) -> None:
        assert isinstance(self.context, _Context)
        if not (isinstance(event, Updated) and self.context.over.is_set()):
            await super().protocol_send(event)

    async def _read_data(self) -> None:
        await super()._read_data()
        assert isinstance(self.context, _Context)
        self.context.over.set()
        await self.idle_task.stop()
        guard = cast(GuardedStream, self.stream)
        if guard.filter.opaque or guard.end.broken:
            # The peer can't take a response. Without a request to cancel, Hypercorn would wait for ever to send one.
            scope = guard.end.scope
            scope.deadline = min(scope.deadline, trio.current_time() + LINGER_SECONDS)


def _take_apart(server: _Server) -> None:
    """Break the reference cycles between a finished server, its protocol and its streams.

    Otherwise what they hold (a message of 2 MiB at four bytes a character) waits for the garbage collector.

    Requirements: API-0042
    """
    wrapper = vars(server).pop("protocol", None)
    protocol = vars(wrapper).pop("protocol", None) if wrapper is not None else None
    if protocol is not None:
        streams = vars(protocol).pop("streams", {})
        for stream in [*streams.values(), vars(protocol).pop("stream", None)]:
            if stream is not None:
                vars(stream).clear()
        for unsent in vars(protocol).pop("stream_buffers", {}).values():
            vars(unsent).clear()
        vars(protocol).clear()


def _note_status(guard: GuardedStream, message: dict[str, Any]) -> None:
    """Tell the stream the status of the response that begins."""
    if message["type"] in {"http.response.start", "websocket.http.response.start"}:
        guard.phrases.response_begins(message["status"])
    elif message["type"] == "websocket.accept":
        guard.phrases.response_begins(101)


def _stream_of(send: Send) -> int:
    """The number of the HTTP/2 stream that `send` responds on."""
    number: int = cast(Any, send).__self__.stream_id
    return number


class Fallback:
    """Serves connections through Hypercorn and the Quart app."""

    def __init__(self, context: HttpContext) -> None:
        self._context = context
        self._engine = context.engine
        self._config = make_config()
        self._worker = WorkerContext(None)
        self._app = make_app(context)
        self._wrapped = ASGIWrapper(cast(Any, self._asgi))

    async def serve(self, stream: trio.abc.Stream, data: bytes = b"") -> None:
        """Serve one connection to its end. Closes the stream. `data`: bytes that were already read."""
        share = ConnectionShare(self._context.received, self._context.unsent)
        guarded = GuardedStream(stream, data, self._context, share)
        state: dict[str, Any] = {
            GUARD_KEY: guarded,
            ACTIVITY_KEY: guarded.progress,
            REFUSAL_KEY: guarded.filter.refusal_of,
        }
        server = None
        try:
            with guarded.end.scope:
                async with trio.open_nursery() as nursery:
                    state[TASKS_KEY] = nursery
                    server = _Server(
                        self._wrapped,
                        self._config,
                        _Context(self._worker),
                        cast(LifespanState, ConnectionState(state)),
                        cast(Any, guarded),
                    )
                    nursery.start_soon(guarded.watch)
                    await server.run()
                    nursery.cancel_scope.cancel()
        finally:
            guarded.deliveries.give_back_unsent()
            if server is not None:
                _take_apart(server)
            await trio.aclose_forcefully(stream)

    async def stop(self) -> None:
        """Close idle connections now, and the others after their current response.

        Requirements: API-0055
        """
        await self._worker.terminated.set()

    async def _asgi(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Run the app, and record whether its response could be written."""
        guard = guard_of(scope["state"])
        if scope["type"] != "http":
            scope["state"][STREAM_KEY] = HypercornStream(send)

            ended = False

            async def receive_websocket() -> dict[str, Any]:
                nonlocal ended
                message = cast(dict[str, Any], await receive())
                ended = ended or message["type"] == "websocket.disconnect"
                return message

            async def send_websocket(message: dict[str, Any]) -> None:
                _note_status(guard, message)
                await send(message)

            try:
                await self._run_app(scope, receive_websocket, send_websocket)
            finally:
                scope["state"][TASKS_KEY].start_soon(_discard, receive, ended)
            return
        last: dict[str, Any] | None = None
        written = False

        async def hold_last(message: dict[str, Any]) -> None:
            nonlocal last, written
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                # The body has already been sent; this message only ends it.
                last = message
                written = not (guard.end.broken or guard.end.too_late)
            else:
                _note_status(guard, message)
                await send(message)

        share = scope[SHARE_KEY] = Share(guard.share, scope["http_version"] == "2")
        pause = scope[PAUSE_KEY] = EventPause(share.unsent)
        guard.watch_end(pause)
        try:
            await self._run_app(scope, partial(share.receive, receive), hold_last)
        finally:
            guard.requests.waits_no_more(pause)
            # Hypercorn keeps the scope until the next request, so take the reply out of it.
            guard.answered(scope.pop(REPLY_KEY, None), written, _stream_of(send))
            share.close()
        if last is not None:
            await _finish(receive, send, last)

    async def _run_app(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Run the app and raise what it raises, but a cancellation as a single exception, never as a group.

        Hypercorn ties a group to its own frames in a cycle. What the request held would then wait for the garbage
        collector.
        """
        try:
            await self._app(cast(Any, scope), cast(Any, receive), cast(Any, send))
            return
        except BaseExceptionGroup as group:
            if group.split(trio.Cancelled)[1] is not None:
                raise
            cancelled: BaseException = group
            while isinstance(cancelled, BaseExceptionGroup):
                cancelled = cancelled.exceptions[0]
        try:
            raise cancelled
        finally:
            del cancelled


async def _discard(receive: Receive, ended: bool) -> None:
    """Take what Hypercorn still has for the app of a WebSocket that has ended.

    With its queue full, it would wait for ever to hand over more, even the end of the connection. That end may be
    followed by frames that it had already read. `ended`: the app has seen that end, and there is no other.
    """
    with trio.CancelScope() as patience:
        if ended:
            patience.deadline = trio.current_time() + LINGER_SECONDS
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                patience.deadline = trio.current_time() + LINGER_SECONDS


async def _finish(receive: Receive, send: Send, last: dict[str, Any]) -> None:
    """Send the last message of a response after the app has returned.

    Hypercorn then tells the app that the client has disconnected, and closes or reuses the connection. If the app were
    still running, Quart would cancel that. If nobody received, Hypercorn would wait for ever behind the unread body.
    """

    async def drain() -> None:
        while True:
            await receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await send(last)
        nursery.cancel_scope.cancel()
