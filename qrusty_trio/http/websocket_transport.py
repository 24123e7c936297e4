"""The transport of a WebSocket: what `websocket.WsConnection` needs beneath it.

Rule: a transport moves frames and does not know what they mean. There are two:
`fast_websocket.FastWebSocketTransport` on a raw stream, and `fallback.websocket.QuartWebSocketTransport` on Hypercorn.
"""

from __future__ import annotations

from typing import Protocol

from qrusty_trio.api.ws_ending import Ending


class Finished(Exception):
    """Nothing more will be received, but pending responses can still be sent."""

    def __init__(self, refused: int | None = None) -> None:
        """`refused`: the code that the connection closes with, if the peer broke the protocol."""
        super().__init__()
        self.refused = refused


class WebSocketTransport(Protocol):
    """Moves frames. One task calls `receive`, another `send`. `close` is called when both have ended."""

    sends: int
    """Pieces that the peer has taken so far."""
    sending: bool
    """Whether a piece is being sent."""
    held: int
    """Bytes received and not served yet, as counted in the budget of all connections."""

    @property
    def last_heard(self) -> float:
        """`trio.current_time()` when bytes last arrived from the peer; infinity if that can't be known."""

    def unread(self) -> int:
        """Bytes that wait in the socket to be read."""

    def acked(self) -> int:
        """Bytes of ours that the peer's kernel has acknowledged."""

    def farewell(self) -> Ending | None:
        """How the peer ended the connection; None if that is not known."""

    def too_big(self) -> str | None:
        """If the peer closed with 1009 (message too big): a description of the largest frame it was sent."""

    async def receive(self) -> list[str | bytes]:
        """The data frames that arrived together; may be empty. Raises Finished or ConnectionLost."""

    async def send(self, frames: list[bytes]) -> None:
        """Send text frames (UTF-8) and any control frames that wait. Raises ConnectionLost."""

    def control_bytes(self) -> int:
        """Bytes of the control frames that wait for `send`."""

    def ping(self) -> None:
        """Queue a ping for the next `send`."""

    def let_go(self) -> None:
        """Drop what was received: `receive` will not be called again."""

    def abort(self) -> None:
        """Break off a send that can't be cancelled."""

    async def close(self, code: int, reason: str) -> None:
        """Do the closing handshake. Raises nothing if the peer is gone. Has no timeout of its own."""
