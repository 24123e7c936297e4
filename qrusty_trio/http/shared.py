"""What the connections of the fast path share."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from qrusty_trio.http.answers import Answers
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.head import BODY_SECONDS, HEAD_SECONDS, IDLE_SECONDS, SEND_SECONDS
from qrusty_trio.http.rounds import Rounds
from qrusty_trio.http.targets import Targets

IDLE, HEAD, BODY, WORKING, SENDING = range(5)
"""The phases of a connection. WORKING is the engine's time, or another carrier's."""
LIMITS = (IDLE_SECONDS, HEAD_SECONDS, BODY_SECONDS, math.inf, SEND_SECONDS)
"""Seconds a connection may stay in each phase."""

HandOver = Callable[[trio.abc.Stream, bytes], Awaitable[None]]
"""Serves a stream, of which some bytes have been read already, to its end."""


class Shared:
    """Made once for all connections."""

    def __init__(self, context: HttpContext, hand_over: HandOver) -> None:
        self.context = context
        self.hand_over = hand_over
        self.answers = Answers()
        self.targets = Targets()
        self.now = trio.current_time()
        """The time of the last tick."""
        self.stopping = False
        """Connections close after the answer they are at."""
        self.rounds = Rounds(context.engine, context.received, context.unsent)
