"""How the frames of a WebSocket move: what `websocket.Connection` needs of what is under it.

Rule: a carrier knows frames and bytes, and nothing of what they mean. There are two: `fast_websocket.FastCarrier` on a
raw stream, and `quart_websocket.QuartCarrier` on Hypercorn.
"""

from __future__ import annotations

from typing import Protocol

from qrusty_trio.api.ws_ending import Ending


class Finished(Exception):
    """Nothing more will be received, but what is owed can still be sent."""


class Carrier(Protocol):
    """How frames move. `receive` is called by one task, `send` by another; `close` when both have ended."""

    sends: int
    """Pieces that the peer has taken so far."""
    sending: bool
    """Whether one is on its way."""
    held: int
    """Bytes that came and were not served, as counted in the budget of all connections."""

    @property
    def last_heard(self) -> float:
        """`trio.current_time()` when something last came from the peer; infinity when that can't be known."""

    def unread(self) -> int:
        """Bytes that came and were not read."""

    def acked(self) -> int:
        """Bytes of ours that the peer's system has taken."""

    def farewell(self) -> Ending | None:
        """How the peer ended it, as far as is known."""

    def too_big(self) -> str | None:
        """When the peer closed with 1009, message too big: what the largest frame was that it was sent."""

    async def receive(self) -> list[str | bytes]:
        """The data frames that arrived together; may be empty. Raises Finished and ConnectionLost."""

    async def send(self, frames: list[bytes]) -> None:
        """Send text frames (UTF-8), and what control frames are waiting. Raises ConnectionLost."""

    def control_bytes(self) -> int:
        """Bytes of control frames waiting for `send`."""

    def ping(self) -> None:
        """Make a ping wait for `send`."""

    def let_go(self) -> None:
        """Forget what came: nothing more will be received."""

    def abort(self) -> None:
        """Cut off a send that can't be cancelled."""

    async def close(self, code: int, reason: str) -> None:
        """The closing handshake. Raises nothing when the peer is gone. May take as long as the peer likes."""
