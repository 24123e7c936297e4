"""What the connections of the fast lane share, and who watches them.

Rule: one watcher compares all connections with LIMITS once a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from qrusty_trio.http.answers import Answers
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.fast_lane import IDLE, LIMITS, Connection
from qrusty_trio.http.rounds import Rounds
from qrusty_trio.http.targets import Targets

TICK_SECONDS = 1.0
"""How often the watcher looks: limits hold to within two ticks."""

HandOver = Callable[[trio.abc.Stream, bytes], Awaitable[None]]
"""Serves a stream, of which some bytes have been read already, to its end."""


class Lane:
    """What the fast lane's connections share."""

    def __init__(self, context: HttpContext, hand_over: HandOver) -> None:
        self.context = context
        self.hand_over = hand_over
        self.answers = Answers()
        self.targets = Targets()
        self.now = trio.current_time()
        """The time of the last tick."""
        self.stopping = False
        self.rounds = Rounds(context.engine, context.received, context.unsent)
        self._connections: set[Connection] = set()

    async def watch(self) -> None:
        """Cut off connections that take too long. Never returns."""
        while True:
            self.now = trio.current_time()
            self.answers.tick()
            pressed = self.context.unsent.waiting or self.context.received.waiting
            for connection in self._connections:
                if self.now - connection.since >= LIMITS[connection.phase] or (pressed and connection.lags()):
                    connection.timed_out = True
                    connection.scope.cancel()
            await trio.sleep(TICK_SECONDS)

    def stop(self) -> None:
        """Close idle connections now, the others after the answer they are at."""
        self.stopping = True
        for connection in self._connections:
            if connection.phase == IDLE:
                connection.scope.cancel()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to its end. Closes the stream."""
        connection = Connection(self, stream)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            connection.received.set(0)
            connection.unsent.set(0)
            await trio.aclose_forcefully(stream)
