"""Deliveries that nobody saw, on their way back to their queues.

Rule: they go back in small steps, however many there are, and are not counted. The store may fail meanwhile: then they
are `unseen`, and the recovery undoes them before anything else changes.

Requirements: DLV-0040
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from qrusty_trio.api.call import Reply
from qrusty_trio.api.operations import error_reply
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import StorageFault

GIVEN_BACK_PER_STEP = 64
"""Messages returned to their queues in one step, which takes about 1 ms."""

Unseen = tuple[int, int, str]
"""Queue number, lock number, message id."""

log = logging.getLogger(__name__)


class Host(Protocol):
    """What undoing deliveries needs of the engine."""

    fault: StorageFault | None

    def dispatch_soon(self) -> None:
        """Call `Returns.run` soon, in a transaction."""


class Returns:
    """The deliveries that wait to be undone. Used only by the engine and its recovery."""

    def __init__(self, broker: Broker, host: Host, transaction: Callable[[], AbstractContextManager[int]]) -> None:
        """`transaction` begins one that expires no locks."""
        self._broker = broker
        self._host = host
        self._transaction = transaction
        self._waiting: deque[Unseen] = deque()
        self._last: list[Unseen] = []
        """Those of the last step. It may not be stored yet."""
        self.unseen: set[Unseen] = set()
        """Those that nobody saw but the store may have, since it failed."""

    def __len__(self) -> int:
        return len(self._waiting)

    def note_unseen(self, deliveries: Iterable[Delivery]) -> None:
        """Leave these to the recovery."""
        self.unseen.update((each.queue_number, each.lock_number, each.id) for each in deliveries)

    def not_synced(self, replies: Sequence[Reply], fault: StorageFault) -> list[Reply]:
        """The same replies after a sync that failed: those that needed it are errors, and hand out nothing.

        Requirements: PER-0062
        """
        for reply in replies:
            if reply.needs_sync and reply.deliveries:
                self.take_back(reply.deliveries)
        return [error_reply(fault) if reply.needs_sync else reply for reply in replies]

    def take_back(self, deliveries: Iterable[Delivery]) -> None:
        """Undo deliveries that nobody saw: up to GIVEN_BACK_PER_STEP at once, the others in steps."""
        self._waiting.extend((each.queue_number, each.lock_number, each.id) for each in deliveries)
        if self._host.fault is None:
            try:
                # These locks may have expired, and their deliveries must not count.
                with self._transaction():
                    self.run(GIVEN_BACK_PER_STEP)
            except StorageFault as fault:
                log.debug("messages are given back after the store has recovered: %s", fault)
        if self._host.fault is not None:
            self.fail()
        elif self._waiting:
            self._host.dispatch_soon()

    def run(self, limit: int) -> None:
        """Undo up to `limit` of them, inside a transaction. Raises StorageFault; then call `fail`."""
        waiting = self._waiting
        self._last = []
        while waiting and limit > 0:
            self._broker.take_back(*waiting[0])
            self._last.append(waiting.popleft())
            limit -= 1

    def fail(self) -> None:
        """The store has failed: leave all to the recovery, those of the last step included."""
        self.unseen.update(self._last, self._waiting)
        self._last = []
        self._waiting.clear()

    def finish(self) -> None:
        """Undo all that are left: the server stops. Otherwise their locks would end later, and count."""
        while self._waiting and self._host.fault is None:
            self.take_back(())
