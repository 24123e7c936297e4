"""What the connections of the fast path share."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from qrusty_trio.api.call import Reply
from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import Unavailable
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.header_block import (
    BODY_SECONDS,
    HEADER_SECONDS,
    IDLE_SECONDS,
    SEND_SECONDS,
    RequestTimedOut,
)
from qrusty_trio.http.request_line import RequestLines
from qrusty_trio.http.responses import Responses

IDLE, HEADERS, BODY, WORKING, SENDING = range(5)
"""The phases of a connection. WORKING: the engine, Hypercorn or a WebSocket is at work."""
LIMITS = (IDLE_SECONDS, HEADER_SECONDS, BODY_SECONDS, math.inf, SEND_SECONDS)
"""Seconds that a connection may stay in each phase; in SENDING, seconds without progress."""

RunFallback = Callable[[trio.abc.Stream, bytes], Awaitable[None]]
"""Serves a stream to its end. The bytes are those already read from it."""


class Shared:
    """State shared by all connections of the fast path."""

    def __init__(self, context: HttpContext, run_fallback: RunFallback) -> None:
        self.context = context
        self.run_fallback = run_fallback
        self.lines = RequestLines(context.files)
        self.responses = Responses()
        self.now = trio.current_time()
        """The time of the last tick."""
        self.stopping = False
        """Connections close after their current response."""

    def incomplete(self) -> Reply:
        """The reply to a request whose rest did not come."""
        if self.stopping:
            return error_reply(Unavailable("The server stops, and this request was not complete"))
        return error_reply(RequestTimedOut("The request did not arrive in time"))
