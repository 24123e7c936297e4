"""How a WebSocket connection ended: what it means for the messages that it held.

Rule: they go back at once, whatever happened. Only a connection that broke counts towards `max_retries`, for the
message itself may have brought its worker down. All other endings say nothing about the message: the peer or the server
closed in order. docs/operating.md has the whole table.
"""

from __future__ import annotations

from enum import Enum


class Ending(Enum):
    """Why a connection is over. The first reason stands."""

    LOST = "it broke: reset, or at its end without a close frame"
    CLOSED = "the client sent a close frame, whatever its code"
    REFUSED = "the client broke the rules of the protocol"
    SILENT = "the client answered no ping"
    STALLED = "the client took nothing while memory for WebSockets was short"
    STOPPED = "the server stops"
    FAULT = "the store failed"
    FAILED = "the server failed to serve it"

    @property
    def counts(self) -> bool:
        """Whether deliveries that left and were not settled count."""
        return self is Ending.LOST
