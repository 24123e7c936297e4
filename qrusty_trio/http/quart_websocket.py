"""The WebSocket carrier of the Quart-Trio app: `/ws` when Hypercorn holds the connection.

Rule: ASGI shows messages, not frames. Fragments, control frames, masks and the closing handshake are Hypercorn's, and
so is sending pings (its `websocket_ping_interval`). What ASGI does not show is whether the peer ever answers one:
whoever hands the connection to Hypercorn can put an object with `last_heard` (see `PeerActivity`) into the ASGI state
under ACTIVITY_KEY; a peer that stays silent through a ping is then closed with 1001, as on the fast carrier.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, cast

import trio
from quart import Response, websocket
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIWebsocketConnection
from wsproto.connection import ConnectionState

from qrusty_trio.api.operations import error_reply
from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.errors import QrustyError
from qrusty_trio.http.origins import read_browser
from qrusty_trio.http.peer_signs import acked_bytes, unread_bytes
from qrusty_trio.http.websocket import WebSocketServices, check_handshake, serve_connection

ACTIVITY_KEY = "qrusty.activity"
STREAM_KEY = "qrusty.stream"
"""Where the ASGI state of a WebSocket holds its `HypercornStream`."""
RECEIVED_FRAMES = 256
RECEIVED_CHARACTERS = 256 * 1024
"""Frames and their length taken over from Hypercorn and not looked at yet; what is beyond that waits in the socket."""
UNSEEN_COPIES = 2
"""Of a message that has not ended: Hypercorn's buffer grows by half at a time, and is copied at the end."""
COPIES = 3
"""Of a frame on its way out: as text, as the frame and as what the stream sends, besides the one in the outbox."""


class PeerActivity(Protocol):
    """What is known of the transport under Hypercorn."""

    last_heard: float
    """`trio.current_time()` when bytes last came from the peer."""
    socket: Any
    """The socket under it, or something else."""
    pauses: dict[Callable[[], bool], None]
    """Nothing more is read while one of these says so."""


class HypercornStream:
    """What ASGI does not show of a WebSocket. `send` is what Hypercorn gives the app: a method of its stream."""

    def __init__(self, send: object) -> None:
        self._stream: Any = getattr(send, "__self__", None)

    def farewell(self) -> Ending | None:
        """How the peer ended it. ASGI does not tell a close frame from a connection that broke."""
        connection = getattr(self._stream, "connection", None)
        if connection is not None and connection.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
            return Ending.CLOSED
        return Ending.LOST if getattr(self._stream, "closed", True) else None

    def unseen(self) -> int:
        """Bytes that came and were not given to the app, about: a message that has not ended."""
        buffer = getattr(self._stream, "buffer", None)
        return UNSEEN_COPIES * buffer.length if buffer is not None else 0


class WebsocketConnection(TrioASGIWebsocketConnection):
    """Quart's side of a WebSocket, which by itself holds ten messages, each of up to 2 MiB, besides Hypercorn's."""

    def __init__(self, app: QuartTrio, scope: Any) -> None:
        super().__init__(app, scope)
        self.send_channel, self.receive_channel = trio.open_memory_channel[str | bytes](0)


async def serve_quart_websocket(services: WebSocketServices) -> Response | None:
    """Serve the WebSocket of the current Quart context to the end of the connection.

    Returns a response when the upgrade is refused.
    """
    try:
        check_handshake(read_browser(websocket.headers.items()), services)
    except QrustyError as error:
        refusal = error_reply(error)
        return Response(refusal.body, refusal.status, content_type="application/json")
    await websocket.accept()
    await _serve(services)
    # A cancellation that ended it is raised here anew: see there.
    await trio.lowlevel.checkpoint_if_cancelled()
    return None


async def _serve(services: WebSocketServices) -> None:
    """Returns when it was cancelled, too.

    What is raised holds the frames that it came through, and with them all that the connection held. Hypercorn and
    Quart keep it in reference cycles, until the collector runs.
    """
    state = cast(dict[str, Any], websocket.scope.get("state") or {})
    carrier = QuartCarrier(state.get(ACTIVITY_KEY), state.get(STREAM_KEY), services.budget)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carrier.collect)
            await serve_connection(carrier, services)
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


class QuartCarrier:
    """See `carrier.Carrier`. Runs in a Quart WebSocket context; `collect` runs beside it."""

    def __init__(self, activity: PeerActivity | None, stream: HypercornStream | None, budget: Budget) -> None:
        self._activity = activity
        under = activity.socket if activity is not None else None
        self._socket = under if isinstance(under, trio.socket.SocketType) else None
        self._stream = stream
        self._budget = budget
        self._frames: list[str | bytes] = []
        self._size = 0
        """Of the frames that wait."""
        self._came = trio.Event()
        self._taken = trio.Event()
        self._unserved = 0
        """The same, with those that were given last."""
        self._copies = 0
        self._unseen = 0
        """What Hypercorn holds, when it was looked at last."""
        self.sends = 0
        self.sending = False
        self.held = 0
        if activity is not None:
            activity.pauses[self.pause] = None

    @property
    def last_heard(self) -> float:
        return self._activity.last_heard if self._activity is not None else math.inf

    async def collect(self) -> None:
        """Take over frames as they come, so that `receive` can give those that came together. Never returns."""
        while True:
            received = cast("str | bytes | None", await websocket.receive())
            # None is what Quart makes of an empty binary frame.
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
        """Count what Hypercorn holds at the moment, before it is given more. Whether that has to wait."""
        if self._stream is not None:
            self._unseen = self._stream.unseen()
            self._count()
        return self._budget.full

    async def receive(self) -> list[str | bytes]:
        # What was given before has been served.
        self._unserved = self._size
        self._count()
        if not self._frames:
            self._came = trio.Event()
            await self._came.wait()
        frames, self._frames = self._frames, []
        self._size = 0
        self._taken.set()
        return frames

    async def send(self, frames: list[bytes]) -> None:
        self.sending = True
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
        return 0

    def ping(self) -> None:
        """Hypercorn sends them."""

    def unread(self) -> int:
        return unread_bytes(self._socket)

    def acked(self) -> int:
        return acked_bytes(self._socket)

    def farewell(self) -> Ending | None:
        return self._stream.farewell() if self._stream is not None else Ending.LOST

    def too_big(self) -> str | None:
        """Hypercorn keeps no close codes."""
        return None

    def abort(self) -> None:
        # Hypercorn shields what it sends. Over HTTP/2 it waits for the stream's window instead, without a shield.
        if self._socket is not None and websocket.scope["http_version"] != "2":
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        if self._activity is not None:
            self._activity.pauses.pop(self.pause, None)
        self._stream = None
        self._frames = []
        self._size = self._unserved = self._copies = self._unseen = 0
        self._count()

    async def close(self, code: int, reason: str) -> None:
        await websocket.close(code, reason)
