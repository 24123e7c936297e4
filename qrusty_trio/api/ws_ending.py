"""How a WebSocket connection ended, and what that means for the messages it held.

Rule: they go back at once, whatever the ending. Only a broken connection counts towards `max_retries`, because the
message itself may have crashed its worker. Any other ending says nothing about the message: the peer or the server
closed in order. docs/operating.md has the whole table.

Requirements: DLV-0014
"""

from __future__ import annotations

from enum import Enum


class Ending(Enum):
    """Why a connection ended. The first reason stands.

    Requirements: DLV-0013
    """

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
        """Whether deliveries that were sent and not settled count towards `max_retries`."""
        return self is Ending.LOST
