"""The WebSocket carrier of the Quart-Trio app: `/ws` when Hypercorn holds the connection.

Rule: ASGI shows messages, not frames. Fragments, control frames, masks and the closing handshake are Hypercorn's, and
so is sending pings (its `websocket_ping_interval`). What ASGI does not show is whether the peer ever answers one:
whoever hands the connection to Hypercorn can put an object with `last_heard` (see `PeerActivity`) into the ASGI state
under ACTIVITY_KEY; a peer that stays silent through a ping is then closed with 1001, as on the fast carrier.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import trio
from quart import Response, websocket

from qrusty_trio.http.websocket import WebSocketServices, origin_allowed, serve_connection

ACTIVITY_KEY = "qrusty.activity"
RECEIVED_FRAMES = 256
RECEIVED_CHARACTERS = 256 * 1024
"""Frames and their length taken over from Hypercorn and not looked at yet; what is beyond that waits in the socket."""


class PeerActivity(Protocol):
    """What is known of the transport under Hypercorn."""

    last_heard: float
    """`trio.current_time()` when bytes last came from the peer."""


async def serve_quart_websocket(services: WebSocketServices) -> Response | None:
    """Serve the WebSocket of the current Quart context to the end of the connection.

    Returns a response when the upgrade is refused.
    """
    headers = websocket.headers
    if not origin_allowed(headers.get("Origin"), headers.get("Host"), services.allowed_origins):
        body = b'{"error":"This origin may not connect","code":"origin_not_allowed"}'
        return Response(body, 403, content_type="application/json")
    await websocket.accept()
    state = cast(dict[str, Any], websocket.scope.get("state") or {})
    carrier = QuartCarrier(state.get(ACTIVITY_KEY))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carrier.collect)
        await serve_connection(carrier, services)
        nursery.cancel_scope.cancel()
    return None


class QuartCarrier:
    """See `websocket.Carrier`. Runs in a Quart WebSocket context; `collect` runs beside it."""

    def __init__(self, activity: PeerActivity | None) -> None:
        self._activity = activity
        self._frames: list[str | bytes] = []
        self._characters = 0
        self._came = trio.Event()
        self._taken = trio.Event()

    @property
    def last_heard(self) -> float:
        return self._activity.last_heard if self._activity is not None else math.inf

    async def collect(self) -> None:
        """Take over frames as they come, so that `receive` can give those that came together. Never returns."""
        while True:
            received = cast("str | bytes | None", await websocket.receive())
            # None is what Quart makes of an empty binary frame.
            frame = b"" if received is None else received
            self._frames.append(frame)
            self._characters += len(frame)
            self._came.set()
            while len(self._frames) >= RECEIVED_FRAMES or self._characters >= RECEIVED_CHARACTERS:
                self._taken = trio.Event()
                await self._taken.wait()

    async def receive(self) -> list[str | bytes]:
        if not self._frames:
            self._came = trio.Event()
            await self._came.wait()
        frames, self._frames = self._frames, []
        self._characters = 0
        self._taken.set()
        return frames

    async def send(self, frames: list[bytes]) -> None:
        for frame in frames:
            await websocket.send(frame.decode())

    def control_bytes(self) -> int:
        return 0

    def ping(self) -> None:
        """Hypercorn sends them."""

    async def close(self, code: int, reason: str) -> None:
        await websocket.close(code, reason)
