"""The connections of the fast path, and the task that enforces their timeouts.

Rule: one task checks all connections against LIMITS once a second.

Requirements: API-0035
"""

from __future__ import annotations

import trio

from qrusty_trio.http.batching import Batching
from qrusty_trio.http.connection import FastConnection
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.shared import IDLE, LIMITS, RunFallback, Shared

TICK_SECONDS = 1.0
"""How often connections are checked: timeouts hold to within two ticks."""


class FastPath:
    """All connections of the fast path."""

    def __init__(self, context: HttpContext, run_fallback: RunFallback) -> None:
        self.shared = Shared(context, run_fallback)
        self.batching = Batching(self.shared)
        self._connections: set[FastConnection] = set()
        self._arrived: dict[FastConnection, int] = {}
        """While the server stops: what was there at the last tick of requests that are incomplete."""

    async def watch(self) -> None:
        """Cut off connections that take too long. Never returns."""
        while True:
            now = self.shared.now = trio.current_time()
            self.shared.responses.tick()
            context = self.shared.context
            pressed = context.unsent.waiting or context.received.waiting
            before, self._arrived = self._arrived, {}
            for connection in self._connections:
                late = now - connection.since >= LIMITS[connection.phase]
                if self.shared.stopping and (arrived := connection.arrived()) is not None:
                    # It was not accepted yet. It may come to its end, but nobody waits for a peer that stalls.
                    late = late or before.get(connection) == arrived
                    self._arrived[connection] = arrived
                if late or (pressed and connection.lags()):
                    connection.timed_out = True
                    connection.scope.cancel()
                elif pressed and connection.pause is not None and connection.received.held:
                    # Requests behind a call that waits must not keep others from being received.
                    connection.pause.give_up()
            await trio.sleep(TICK_SECONDS)

    def stop(self) -> None:
        """Close idle connections now, and the others after their current response.

        Requirements: API-0055
        """
        self.shared.stopping = True
        for connection in self._connections:
            if connection.phase == IDLE:
                connection.scope.cancel()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to its end. Closes the stream."""
        connection = FastConnection(self.shared, self.batching, stream)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            connection.received.set(0)
            connection.unsent.set(0)
            await trio.aclose_forcefully(stream)
