"""The WebSocket transport of the Quart-Trio app: `/ws` when Hypercorn serves the connection.

Rule: ASGI shows messages, not frames. Hypercorn handles fragments, control frames, masks and the closing handshake.
ASGI does not show whether the peer shows a sign of life. So the caller that hands the connection to Hypercorn can put a
`PeerActivity` into the ASGI state under ACTIVITY_KEY. A peer that stays silent after a ping is then closed with 1001,
as on the fast transport. The pings are ours: Hypercorn's come when its clock says so, and may leave a peer no time to
answer. Over HTTP/1.1, the last message that the app receives is a `websocket_stream.LastMessage`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, cast

import trio
from quart import Response, websocket
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIWebsocketConnection
from wsproto.connection import ConnectionState

from qrusty_trio.access.grants import Principal
from qrusty_trio.api.operations import error_reply
from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.errors import QrustyError
from qrusty_trio.http.authenticating import find_for_headers, hold
from qrusty_trio.http.fallback.websocket_stream import LastMessage, send_ping
from qrusty_trio.http.origins import read_browser
from qrusty_trio.http.peer_signs import AnySocket, acked_bytes, shut_down, unread_bytes
from qrusty_trio.http.peers import current
from qrusty_trio.http.pipe import ConnectionLost
from qrusty_trio.http.websocket import WebSocketServices, check_handshake, serve_connection
from qrusty_trio.http.websocket_auth import admitted
from qrusty_trio.http.websocket_transport import Finished

ACTIVITY_KEY = "qrusty.activity"
STREAM_KEY = "qrusty.stream"
"""Key in the ASGI state of a WebSocket: its `HypercornStream`."""
RECEIVED_FRAMES = 256
RECEIVED_CHARACTERS = 256 * 1024
"""Limits on the frames, and their total length, that wait for `receive`. Further ones wait in the socket."""
UNSEEN_COPIES = 2
"""Copies of an incomplete message: Hypercorn's buffer grows by half at a time, and is copied at the end."""
PING_BYTES = 2
"""Size of an empty ping."""
COPIES = 3
"""Copies of a frame being sent, besides the one in the outbox: the text, the frame, and what the stream sends."""


class PeerActivity(Protocol):
    """What is known about the stream under Hypercorn."""

    last_heard: float
    """`trio.current_time()` when bytes last arrived from the peer."""
    socket: Any
    """The socket under it, or a stand-in."""
    pauses: dict[Callable[[], bool], None]
    """Reading pauses while any of these returns True."""


class HypercornStream:
    """What ASGI does not show of a WebSocket. `send` is Hypercorn's callable for the app: a method of its stream."""

    def __init__(self, send: object) -> None:
        self._stream: Any = getattr(send, "__self__", None)

    def farewell(self) -> Ending | None:
        """How the peer ended the connection, even if the app did not receive that yet."""
        last: LastMessage | None = getattr(self._stream, "last", None)
        if last is not None:
            return last.ending
        connection = getattr(self._stream, "connection", None)
        if connection is not None and connection.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
            return Ending.CLOSED
        return Ending.LOST if getattr(self._stream, "closed", True) else None

    async def ping(self) -> None:
        """Send a ping, unless the connection is ending."""
        if self._stream is not None:
            await send_ping(self._stream)

    def unseen(self) -> int:
        """Approximate bytes received and not passed to the app: those of an incomplete message."""
        buffer = getattr(self._stream, "buffer", None)
        return UNSEEN_COPIES * buffer.length if buffer is not None else 0


class AsgiWebsocketConnection(TrioASGIWebsocketConnection):
    """Quart's side of a WebSocket, without its queue: that holds ten messages of up to 2 MiB besides Hypercorn's."""

    def __init__(self, app: QuartTrio, scope: Any) -> None:
        super().__init__(app, scope)
        self.send_channel, self.receive_channel = trio.open_memory_channel[str | bytes](0)


async def serve_quart_websocket(services: WebSocketServices) -> Response | None:
    """Serve the WebSocket of the current Quart context to the end of the connection.

    Returns a response if the upgrade is refused.
    """
    headers = list(websocket.headers.items())
    try:
        browser = read_browser(headers)
        check_handshake(browser, services)
        principal = None
        if services.tokens is not None:
            found = find_for_headers(services.tokens, headers, browser, current())
            await hold(found.wait, services.stopping)
            principal = admitted(services.tokens, found)
    except QrustyError as error:
        refusal = error_reply(error)
        response = Response(refusal.body, refusal.status, content_type="application/json")
        if refusal.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response
    await websocket.accept()
    await _serve(services, principal)
    # If a cancellation ended `_serve`, raise it again here; see there.
    await trio.lowlevel.checkpoint_if_cancelled()
    return None


async def _serve(services: WebSocketServices, principal: Principal | None) -> None:
    """Serve the connection. Returns even when it was cancelled.

    An exception refers to the stack frames it passed through, and so to all that the connection held. Hypercorn and
    Quart would keep it in reference cycles until the garbage collector runs.
    """
    state = cast(dict[str, Any], websocket.scope.get("state") or {})
    transport = QuartWebSocketTransport(state.get(ACTIVITY_KEY), state.get(STREAM_KEY), services.budget)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.collect)
            await serve_connection(transport, services, principal, websocket.headers.getlist("traceparent"))
            nursery.cancel_scope.cancel()
    except trio.Cancelled:
        pass
    except BaseExceptionGroup as group:
        _, others = group.split(trio.Cancelled)
        if others is not None:
            try:
                raise others from None
            finally:
                del others


class QuartWebSocketTransport:
    """A `WebSocketTransport`. Runs in a Quart WebSocket context, with `collect` as a second task."""

    def __init__(self, activity: PeerActivity | None, stream: HypercornStream | None, budget: Budget) -> None:
        self._activity = activity
        under = activity.socket if activity is not None else None
        self._socket = under if isinstance(under, AnySocket) else None
        self._stream = stream
        self._budget = budget
        self._frames: list[str | bytes] = []
        self._size = 0
        """Characters or bytes of the frames that wait for `receive`."""
        self._came = trio.Event()
        self._taken = trio.Event()
        self._unserved = 0
        """The same, including the frames that `receive` returned last."""
        self._copies = 0
        self._last: LastMessage | None = None
        """Received behind the frames: nothing follows."""
        self._unseen = 0
        """Bytes that Hypercorn held when last checked."""
        self._pings = False
        """Whether a ping waits for the next `send`."""
        self._gone = False
        """Nobody takes frames any more, and none is kept."""
        self.sends = 0
        self.sending = False
        self.held = 0
        if activity is not None:
            activity.pauses[self.pause] = None

    @property
    def last_heard(self) -> float:
        return self._activity.last_heard if self._activity is not None else math.inf

    async def collect(self) -> None:
        """Take frames as they arrive, so that `receive` can return those that arrived together.

        Returns after the last one.
        """
        while True:
            received = cast("str | bytes | None", await websocket.receive())
            if isinstance(received, LastMessage):
                self._last = received
                self._came.set()
                return
            if self._gone:
                continue
            # Quart turns an empty binary frame into None.
            frame = b"" if received is None else received
            del received
            self._size += len(frame)
            self._unserved += len(frame)
            self._count()
            self._frames.append(frame)
            del frame
            self._came.set()
            while len(self._frames) >= RECEIVED_FRAMES or self._size >= RECEIVED_CHARACTERS:
                self._taken = trio.Event()
                await self._taken.wait()

    def _count(self) -> None:
        octets = self._unserved + self._copies + self._unseen
        self._budget.change(octets - self.held)
        self.held = octets

    def pause(self) -> bool:
        """Count what Hypercorn holds now. Returns whether it must wait for more."""
        if self._stream is not None:
            self._unseen = self._stream.unseen()
            self._count()
        return self._budget.full

    async def receive(self) -> list[str | bytes]:
        # The frames returned before have been served.
        self._unserved = self._size
        self._count()
        if not self._frames:
            if self._last is None:
                self._came = trio.Event()
                await self._came.wait()
            if self._last is not None and not self._frames:
                # EOF without a close frame: the peer expects nothing more, even if it only half-closed.
                if self._last.ending is Ending.LOST:
                    raise ConnectionLost
                raise Finished(self._last.close.code if self._last.ending is Ending.REFUSED else None)
        frames, self._frames = self._frames, []
        self._size = 0
        self._taken.set()
        return frames

    async def send(self, frames: list[bytes]) -> None:
        self.sending = True
        if self._pings:
            self._pings = False
            if self._stream is not None:
                await self._stream.ping()
        frames.reverse()
        while frames:
            frame = frames.pop().decode()
            self._copies = COPIES * len(frame)
            self._count()
            await websocket.send(frame)
            self.sends += 1
        self._copies = 0
        self._count()
        self.sending = False

    def control_bytes(self) -> int:
        return PING_BYTES if self._pings else 0

    def ping(self) -> None:
        self._pings = True

    def unread(self) -> int:
        return unread_bytes(self._socket)

    def acked(self) -> int:
        return acked_bytes(self._socket)

    def farewell(self) -> Ending | None:
        return self._stream.farewell() if self._stream is not None else Ending.LOST

    def too_big(self) -> str | None:
        """Always None: the largest frame is not remembered here."""
        return None

    def abort(self) -> None:
        # Hypercorn shields its sends. Over HTTP/2 it waits for the stream's window instead, without a shield.
        if self._socket is not None and websocket.scope["http_version"] != "2":
            with suppress(OSError):
                shut_down(self._socket)

    def let_go(self) -> None:
        if self._activity is not None:
            self._activity.pauses.pop(self.pause, None)
        self._stream = None
        self._gone = True
        self._frames = []
        self._size = self._unserved = self._copies = self._unseen = 0
        self._count()

    async def close(self, code: int, reason: str) -> None:
        last = self._last
        if last is not None:
            code, reason = last.close.code, last.close.reason or ""
        await websocket.close(code, reason)
