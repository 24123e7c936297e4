"""The bursts of one WebSocket, from when they were read until their responses may leave.

Rule: a burst runs as soon as it is there, also while earlier ones wait for their sync. So its changes are in the next
sync, and the loop works while the disk does. Responses are released in the order of the requests, each burst after its
own sync. What is unanswered counts against the budget of all WebSockets, and nothing more is read while it is `full`.
What requests take once decoded is counted before they run, and their responses as soon as these are there.

Requirements: WS-0054
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import time_ns
from typing import Protocol, TypeVar

import trio

from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_burst import Burst
from qrusty_trio.api.ws_requests import SessionBroker
from qrusty_trio.api.ws_session import WsSession
from qrusty_trio.errors import StorageFault
from qrusty_trio.http.turns import Turns
from qrusty_trio.http.websocket_notes import ConnectionNotes

REQUESTS_PER_STEP = 128
"""Most requests run in one step of the event loop: about 2 ms."""
UNANSWERED_BYTES = 192 * 1024
"""A connection is read while less than this waits for a sync: 300 usual requests. A last burst may exceed it."""

T = TypeVar("T")


class ChangingEngine(Protocol):
    """What running bursts needs from the engine."""

    @property
    def waits(self) -> bool:
        """Whether a response to a change has to wait for a sync."""

    def change(self, function: Callable[[SessionBroker, int], T], *, sync: bool) -> T:
        """Run `function(broker, now)` in one transaction. With `sync`, its changes are written before the next sync.

        Raises StorageFault; the changes are not stored then.
        """

    def when_durable(self, callback: Callable[[StorageFault | None], None], peers: Sequence[object]) -> None:
        """Call `callback` after the sync of everything run so far, with the fault if it failed."""


class Bursts:
    """Runs the bursts of a connection. `wake` is called, on the loop, when `release` may have something to do.

    It knows nothing of its connection, so what waits for a sync keeps none alive.

    Requirements: WS-0054
    """

    def __init__(
        self,
        engine: ChangingEngine,
        session: WsSession,
        budget: Budget,
        turns: Turns,
        notes: ConnectionNotes | None,
        wake: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._session = session
        self._notes = notes
        self._budget = budget
        self._turns = turns
        self._wake = wake
        self._served: deque[Burst] = deque()
        """Those whose responses were not released yet, in order."""
        self.held = 0
        """Memory that they take, in bytes, roughly."""
        self._turn: trio.Event | None = None
        """While a burst waits for its turn: set when others may be released."""
        self.released = 0
        """Bursts whose responses were released so far."""

    @property
    def at_work(self) -> bool:
        """Whether a burst runs, or waits for its sync."""
        return any(not each.over for each in self._served)

    @property
    def full(self) -> bool:
        """Whether no more may be run for now."""
        return self.held >= UNANSWERED_BYTES

    async def serve(self, burst: Burst) -> None:
        """Run a burst, a subscribe after those before it. Returns while its changes wait for a sync."""
        before = self._served[-1] if self._served else None
        self._served.append(burst)
        self._hold(burst.size)
        if before is not None and (before.subscribes or burst.subscribes):
            # Otherwise responses to others would let deliveries pass before the one to the subscribe.
            self.release()
            while self._served[0] is not burst:
                self._turn = trio.Event()
                await self._turn.wait()
                self.release()
            self._turn = None
        if self._notes is not None:
            burst.begun = time_ns()
        engine = self._engine
        run = partial(self._run, burst)
        try:
            at_once = burst.weight <= REQUESTS_PER_STEP
            # Run it in steps, so that other connections get their turn. One sync at the end covers them all.
            while engine.change(run, sync=burst.changes and at_once):
                at_once = False
                self._hold(burst.count_responses())
                await self._turns.next()
            if not at_once:
                engine.change(lambda broker, now: None, sync=burst.changes)
        except StorageFault as fault:
            self._over(burst, fault)
        else:
            if burst.changes and engine.waits:
                if self._notes is None:
                    burst.drop_batches()
                self._hold(burst.count_responses())
                engine.when_durable(partial(self._over, burst), (self,))
            else:
                self._over(burst, None)

    def _run(self, burst: Burst, broker: SessionBroker, now: int) -> bool:
        return self._session.run(burst, broker, now, REQUESTS_PER_STEP)

    def _over(self, burst: Burst, fault: StorageFault | None) -> None:
        # Perhaps called by the committer, where an error would concern everybody. So no more is done here.
        burst.over, burst.fault = True, fault
        if self._turn is not None:
            self._turn.set()
        self._wake()

    def release(self) -> None:
        """Add the responses that may leave to the outbox."""
        served = self._served
        while served and served[0].over:
            burst = served[0]
            if burst.fault is not None:
                self._session.fail(burst, burst.fault)
            else:
                self._session.finish(burst)
            if self._notes is not None:
                self._notes.served(burst, burst.begun)
            served.popleft()
            self._hold(-burst.size)
            self.released += 1

    def _hold(self, octets: int) -> None:
        self.held += octets
        self._budget.decoded += octets
        self._budget.change(octets)

    def let_go(self) -> None:
        """The connection has ended: nothing is released any more."""
        for burst in self._served:
            if self._notes is not None and burst.next == len(burst.requests):
                self._notes.served(burst, burst.begun)
            burst.requests, burst.responses, burst.publisher = [], [], None
        self._served.clear()
        self._hold(-self.held)
