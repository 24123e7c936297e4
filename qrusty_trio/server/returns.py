"""Deliveries that nobody saw, on their way back to their queues.

Rule: they go back in small steps, however many there are, and are not counted. The store may be read anew meanwhile:
then they are handed to the recovery.

Requirements: DLV-0040
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import Delivery

Unseen = tuple[int, int, str]
"""Queue number, lock number, message id."""


class Returns:
    """The deliveries that wait to be undone. Used only by the engine."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: deque[Unseen] = deque()
        self._last: list[Unseen] = []
        """Those of the last step. It may not be stored yet."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        self._waiting.extend((each.queue_number, each.lock_number, each.id) for each in deliveries)

    def run(self, limit: int) -> None:
        """Undo up to `limit` of them, inside a transaction. Raises StorageFault; then call `take_all`."""
        waiting = self._waiting
        self._last = []
        while waiting and limit > 0:
            self._broker.take_back(*waiting[0])
            self._last.append(waiting.popleft())
            limit -= 1

    def take_all(self) -> list[Unseen]:
        """Hand over all that are left, after a fault of the store. Those of the last step are among them."""
        left = [*self._last, *self._waiting]
        self._last = []
        self._waiting.clear()
        return left
