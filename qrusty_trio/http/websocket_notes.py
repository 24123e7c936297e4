"""Who is told what was done over a WebSocket, for traces: what `websocket.WsConnection` needs of it.

Rule: it is told after the fact, waits for nothing, and raises nothing. Without traces there is nobody to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from qrusty_trio.api.ws_burst import Burst
from qrusty_trio.api.ws_outbox import HandedOut


class ConnectionNotes(Protocol):
    """Those of one connection. `begun_ns`: wall time in nanoseconds."""

    def served(self, burst: Burst, begun_ns: int) -> None:
        """The burst was run, and its responses may be sent."""

    def delivered(self, frames: Sequence[HandedOut], begun_ns: int) -> None:
        """These deliveries were sent."""


TakeNotes = Callable[[Sequence[str]], ConnectionNotes]
"""Makes the notes of a connection from the headers `traceparent` of its handshake."""
