"""Hypercorn on a connection whose first bytes have been read already.

Rule: Hypercorn sees the connection through a GuardedStream and nothing else. The guard lets a request's head pass
when it is whole and `head` finds it good, so h11 never sees what another parser might read differently; it bounds
how long heads and readers may take; and it knows whether an answer could be written.

Uses of Hypercorn that are not its public interface: `TCPServer`, `WorkerContext`, `ASGIWrapper` and the ASGI state.
tests/http/test_handover.py fails when they move.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from qrusty_trio.api.engine import Engine, Reply
from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.errors import BadRequest, QrustyError
from qrusty_trio.http.answers import body_too_large
from qrusty_trio.http.app import REFUSAL_KEY, REPLY_KEY, make_app
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.head import (
    HEAD_SECONDS,
    HTTP2_PREFACE,
    IDLE_SECONDS,
    LINGER_BYTES,
    LINGER_SECONDS,
    MAX_HEAD_BYTES,
    SEND_SECONDS,
    Block,
    RequestTimedOut,
    check_beginning,
    head_too_large,
    read_block,
    read_line,
)
from qrusty_trio.http.pipe import Lost, give_back_refused, pipe_over
from qrusty_trio.http.quart_websocket import ACTIVITY_KEY

GUARD_KEY = "qrusty.guard"
MAX_REQUESTS = 2**62
"""Requests on a connection before Hypercorn closes it: no limit."""

_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_CHUNK_SIZE_BYTES = 10
"""The longest chunk size line with its CR LF. Extensions are refused."""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

logger = logging.getLogger(__name__)


def make_config(ping_interval: float) -> Config:
    """Hypercorn's settings: the limits of the fast lane, no access log, errors into `logging`."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("qrusty_trio.http.hypercorn")
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.keep_alive_timeout = IDLE_SECONDS
    config.keep_alive_max_requests = MAX_REQUESTS
    config.websocket_max_message_size = MAX_FRAME_BYTES
    config.websocket_ping_interval = ping_interval
    return config


class _Context(WorkerContext):
    """Hypercorn's context of one connection. What sleeps between two pings wakes when the connection is over."""

    def __init__(self, shared: WorkerContext) -> None:
        super().__init__(None)
        self.terminated = shared.terminated
        self.over = trio.Event()

    async def sleep(self, wait: float) -> None:  # type: ignore[override]  # a static method there, called as one of ours
        with trio.move_on_after(wait):
            await self.over.wait()


class _Server(TCPServer):
    """Hypercorn's server of one connection, which lets go of a connection when its peer has."""

    async def _read_data(self) -> None:
        await super()._read_data()
        # They would otherwise keep the connection until the idle timeout, or the next ping.
        await self.idle_task.stop()
        assert isinstance(self.context, _Context)
        self.context.over.set()


class Handover:
    """Serves connections by Hypercorn and the Quart app."""

    def __init__(self, context: HttpContext) -> None:
        self._engine = context.engine
        self._config = make_config(context.websocket.ping_interval)
        self._worker = WorkerContext(None)
        self._app = make_app(context)
        self._wrapped = ASGIWrapper(cast(Any, self._asgi))

    async def serve(self, stream: trio.abc.Stream, data: bytes = b"") -> None:
        """Serve one connection to its end. Closes the stream. `data`: bytes that were read already."""
        guarded = GuardedStream(stream, data, self._engine)
        state = {GUARD_KEY: guarded, ACTIVITY_KEY: guarded, REFUSAL_KEY: guarded.refusal_of}
        try:
            server = _Server(
                self._wrapped,
                self._config,
                _Context(self._worker),
                cast(LifespanState, ConnectionState(state)),
                cast(Any, guarded),
            )
            with guarded.scope:
                await server.run()
        finally:
            await trio.aclose_forcefully(stream)

    async def stop(self) -> None:
        """Close idle connections now, the others after the answer they are at."""
        await self._worker.terminated.set()

    async def _asgi(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """The app, with an eye on whether its answer could be written."""
        if scope["type"] != "http":
            await self._app(cast(Any, scope), cast(Any, receive), cast(Any, send))
            return
        guard: GuardedStream = scope["state"][GUARD_KEY]
        last: dict[str, Any] | None = None
        written = False

        async def hold_last(message: dict[str, Any]) -> None:
            nonlocal last, written
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                # The body went before it, it only says so.
                last = message
                written = not guard.broken
            else:
                await send(message)

        try:
            await self._app(cast(Any, scope), cast(Any, receive), cast(Any, hold_last))
        finally:
            guard.answered(scope.get(REPLY_KEY), written)
        if last is not None:
            await _finish(receive, send, last)


async def _finish(receive: Receive, send: Send, last: dict[str, Any]) -> None:
    """Send the last message of an answer, after the app has ended.

    Hypercorn then tells the app that the client is done with and closes or goes on. Told inside the app, Quart would
    cancel just that; told while nobody receives, Hypercorn would wait for ever behind what is left of the body.
    """

    async def drain() -> None:
        while True:
            await receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await send(last)
        nursery.cancel_scope.cancel()


class GuardedStream(trio.abc.HalfCloseableStream):
    """A stream for Hypercorn over another one.

    `refusal_of`, `answered` and `last_heard` are for the app, by way of the ASGI state.
    """

    def __init__(self, stream: trio.abc.Stream, data: bytes, engine: Engine) -> None:
        self._stream = stream
        self._pipe = pipe_over(stream)
        self._engine = engine
        self._data = data
        """Received and not passed on."""
        self._pass: Callable[[], bytes] = self._pass_head
        """What to pass on next of `_data`; b"" when more is needed. Raises QrustyError."""
        self._left = 0
        """Bytes of the body or chunk that may still pass."""
        self._begun: float | None = None if not data else trio.current_time()
        """When the head in `_data` began."""
        self._first = True
        self._eof = False
        """The peer sends no more."""
        self._last = False
        """Nothing is passed on after the current request."""
        self._closing = False
        self._closed = trio.Event()
        self._sent_eof = False
        self._reading = trio.CancelScope()
        self._read_ended = trio.Event()
        self._read_ended.set()
        self._in_hand = 0
        """Requests passed on and not answered."""
        self._changed = trio.Event()
        self._given: list[Reply] = []
        self._refused_path = b"/" + secrets.token_hex(16).encode()
        self._refused_head: QrustyError | None = None
        self._refused_body: QrustyError | None = None
        self.scope = trio.CancelScope()
        """Of the whole connection."""
        self.broken = False
        self.last_heard = trio.current_time()
        self.socket = _socket_of(stream)

    # What the app asks.

    def refusal_of(self, path: bytes | None) -> QrustyError | None:
        """What is wrong with the request for `path`, or (None) with the body of the current request."""
        if path is None:
            return self._refused_body
        return self._refused_head if path == self._refused_path else None

    def answered(self, reply: Reply | None, written: bool) -> None:
        """The app has ended with a request."""
        self._in_hand -= 1
        self._changed.set()
        self._given = []
        if reply is not None and reply.delivery is not None:
            if written:
                self._given = [reply]
            else:
                self._engine.give_back(reply)

    # What Hypercorn asks.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._read_ended = trio.Event()
        try:
            with trio.CancelScope() as self._reading:
                if not self._closing:
                    return await self._receive()
        finally:
            self._read_ended.set()
        raise trio.ClosedResourceError

    async def _receive(self) -> bytes:
        while True:
            try:
                passed = self._pass()
                if passed:
                    return passed
                if self._eof or (self._last and self._pass == self._pass_head):
                    return await self._at_end()
                await self._read()
            except QrustyError as error:
                return self._refuse(error)
            except Lost as error:
                self.broken = True
                raise trio.BrokenResourceError from error

    async def _read(self) -> None:
        deadline = float("inf") if self._begun is None else self._begun + HEAD_SECONDS
        data = None
        with trio.move_on_at(deadline):
            data = await self._pipe.receive()
        if data is None:
            raise RequestTimedOut("The request did not arrive in time")
        self.last_heard = trio.current_time()
        self._eof = not data
        self._data += data
        if self._begun is None and self._pass == self._pass_head:
            self._begun = self.last_heard

    async def _at_end(self) -> bytes:
        """The peer sends no more, but may wait for answers: Hypercorn, told of the end, would drop them."""
        if self._pass in (self._pass_body, self._pass_chunk_size, self._pass_chunk):
            # Inside a request: there is nothing to answer, as in the fast lane.
            self.scope.cancel()
        while self._in_hand > 0 and self._pass == self._pass_head:
            self._changed = trio.Event()
            await self._changed.wait()
        if self._eof:
            await self._settle()
        await trio.lowlevel.checkpoint_if_cancelled()
        return b""

    async def _settle(self) -> None:
        await give_back_refused(self._pipe, self._engine, self._given)
        self._given = []

    def _refuse(self, error: QrustyError) -> bytes:
        """Make the app answer `error` in its turn, as the last answer."""
        before = self._pass
        self._data = b""
        self._last = True
        self._go(self._pass_head)
        if before == self._pass_head:
            self._refused_head = error
            self._in_hand += 1
            return b"GET %b HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n" % self._refused_path
        # In a chunked body: bring it to an end, for the app to see that it is none.
        self._refused_body = error
        return (bytes(self._left) + b"\r\n" if before == self._pass_chunk else b"") + b"0\r\n\r\n"

    def _pass_head(self) -> bytes:
        data = self._data
        if not data or self._last:
            return b""
        if self._first and not self._eof and data.startswith(HTTP2_PREFACE[: len(data)]):
            if len(data) >= len(HTTP2_PREFACE):
                self._go(self._pass_all)
            return self._pass_all() if self._pass == self._pass_all else b""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            check_beginning(data)
            return b""
        if end > MAX_HEAD_BYTES:
            raise head_too_large()
        line_end = data.find(b"\r\n")
        line = read_line(data[:line_end])
        block = read_block(data[line_end:end], line.http11)
        if block.length > MAX_BODY_BYTES:
            raise body_too_large()
        self._first = False
        self._last = not (block.keep_alive and line.http11)  # h11 knows no keep-alive in HTTP/1.0.
        self._after_head(block)
        self._data = data[end:]
        return data[:end]

    def _after_head(self, block: Block) -> None:
        if block.upgrade == "websocket" or (block.upgrade == "h2c" and not block.length and not block.chunked):
            self._go(self._pass_all)
            return
        self._in_hand += 1
        self._left = block.length
        self._go(self._pass_chunk_size if block.chunked else self._pass_body if block.length else self._pass_head)

    def _go(self, next_pass: Callable[[], bytes]) -> None:
        self._pass = next_pass
        self._begun = None

    def _pass_all(self) -> bytes:
        passed, self._data = self._data, b""
        return passed

    def _pass_body(self) -> bytes:
        passed, self._data = self._data[: self._left], self._data[self._left :]
        self._left -= len(passed)
        if not self._left:
            self._next_head()
        return passed

    def _next_head(self) -> None:
        self._pass = self._pass_head
        self._begun = trio.current_time() if self._data else None

    def _pass_chunk_size(self) -> bytes:
        end = self._data.find(b"\r\n", 0, _CHUNK_SIZE_BYTES)
        if end < 0 and len(self._data) < _CHUNK_SIZE_BYTES:
            return b""
        if end < 0 or not _CHUNK_SIZE.fullmatch(self._data[:end]):
            raise BadRequest("A chunk begins with its size in hexadecimal digits, and nothing else")
        size = int(self._data[:end], 16)
        passed = self._data[: end + 2]
        if size:
            self._left = size
            self._pass = self._pass_chunk
        else:
            last = self._data[end + 2 : end + 4]
            if len(last) < 2 and b"\r\n".startswith(last):
                return b""
            if last != b"\r\n":
                raise BadRequest("Nothing may follow the last chunk")
            passed += last
            self._pass = self._pass_head
        self._data = self._data[len(passed) :]
        if self._pass == self._pass_head:
            self._next_head()
        return passed

    def _pass_chunk(self) -> bytes:
        passed = self._data[: self._left]
        if len(passed) == self._left:
            footer = self._data[self._left : self._left + 2]
            if len(footer) < 2 and b"\r\n".startswith(footer):
                passed = passed[:-1]  # The last byte waits for what ends the chunk.
            elif footer != b"\r\n":
                raise BadRequest("A chunk ends with CR LF")
            else:
                passed += footer
                self._pass = self._pass_chunk_size
        self._left -= len(passed)
        self._data = self._data[len(passed) :]
        return passed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with trio.CancelScope(deadline=trio.current_time() + SEND_SECONDS) as scope:

            def progress() -> None:
                scope.deadline = trio.current_time() + SEND_SECONDS

            try:
                await self._pipe.send(bytes(data), progress)
                return
            except Lost as error:
                self._break()
                raise trio.BrokenResourceError from error
        self._break()
        raise trio.BrokenResourceError("the peer reads nothing")

    def _break(self) -> None:
        """Nothing can be sent any more. Hypercorn by itself would wait for ever with requests not yet looked at."""
        self.broken = True
        self.scope.cancel()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream) and not self._sent_eof:
            self._sent_eof = True
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close, but let a peer that is still sending read the answer first, within bounds."""
        if self._closing:
            # Hypercorn closes from two tasks; the second is not to cut the first one short.
            await self._closed.wait()
            return
        self._closing = True
        self._reading.cancel()
        try:
            await self._read_ended.wait()
            if not self.broken and not self._eof:
                with trio.move_on_after(LINGER_SECONDS):
                    await self._linger()
            await self._stream.aclose()
        finally:
            self._closed.set()

    async def _linger(self) -> None:
        try:
            await self.send_eof()
            left = LINGER_BYTES
            while left > 0 and (data := await self._pipe.receive()):
                left -= len(data)
        except (Lost, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Reset, perhaps by the answer itself.
        await self._settle()


class _NoSocket:
    """What Hypercorn learns of a stream that is not over a socket."""

    family = 0

    def getpeername(self) -> tuple[()]:
        return ()

    def getsockname(self) -> tuple[()]:
        return ()


def _socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | _NoSocket:
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else _NoSocket()
