"""The open WebSockets, and the messages held by closed ones.

Rule: the messages of a closed WebSocket go back to their queues in small steps, however many there are. The connection
itself waits for none of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.lock_table import LockTable
from qrusty_trio.core.queue import Lock


class Session(Protocol):
    """A WebSocket connection, as far as the engine knows it."""

    consumer: str

    def has_left(self, id: str) -> bool:
        """Whether the delivery of a message was handed to the connection's writer."""

    def store_failed(self) -> None:
        """Close the connection. The recovery returns the messages that it holds to their queues."""

    def sync_failed(self) -> None:
        """Close the connection. Deliveries wait in it that will never leave."""


class Departed(NamedTuple):
    """What a closed WebSocket held."""

    consumer: str
    locks: LockTable[Lock]
    counts: bool
    """Whether its deliveries count."""
    unsent: frozenset[str]
    """Ids of messages whose delivery was never sent. Those deliveries never count."""


class Sessions:
    """All WebSockets by consumer id. Used only by the engine.

    Requirements: DLV-0026
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._open: dict[str, Session] = {}
        self.departed: deque[Departed] = deque()
        """Closed WebSockets with messages that still have to be returned."""
        self._unsent: dict[str, frozenset[str]] = {}
        """For these: consumer id -> messages whose delivery was never sent. Their locks may expire before that."""

    def join(self, session: Session) -> None:
        """Register a WebSocket that was opened."""
        self._open[session.consumer] = session

    def leave(self, session: Session, counts: bool, unsent: frozenset[str]) -> None:
        """Remove a WebSocket that was closed, and queue the return of its messages.

        `counts`: its deliveries count towards `max_retries`. `unsent`: ids of messages whose delivery was never sent;
        those deliveries never count.
        """
        self._open.pop(session.consumer, None)
        locks = self._broker.locks.disconnect(session.consumer)
        if locks is not None:
            self.departed.append(Departed(session.consumer, locks, counts, unsent))
            if unsent:
                self._unsent[session.consumer] = unsent

    def forget_departed(self) -> None:
        """Drop the pending returns, because the recovery returns what any WebSocket held."""
        self.departed.clear()
        self._unsent.clear()

    def everyone(self) -> list[Session]:
        """The WebSockets that are open now."""
        return list(self._open.values())

    def sync_failed(self, consumers: Iterable[str]) -> None:
        """The locks of what was delivered to these could not be synced.

        Requirements: PER-0062
        """
        for consumer in consumers:
            if (session := self._open.get(consumer)) is not None:
                session.sync_failed()

    def has_left(self, consumer: str, id: str) -> bool:
        """Whether the delivery of message `id` to `consumer` was sent. True if nothing is known about it.

        Requirements: DLV-0017
        """
        session = self._open.get(consumer)
        return session.has_left(id) if session is not None else id not in self._unsent.get(consumer, ())

    def give_back(self, limit: int, now: int) -> None:
        """Return up to `limit` messages of closed WebSockets to their queues. `now`: wall milliseconds.

        Requirements: DLV-0027
        """
        while self.departed and limit > 0:
            consumer, locks, counts, unsent = self.departed[0]
            lock = locks.pop()
            if lock is None:
                self.departed.popleft()
                self._unsent.pop(consumer, None)
                continue
            self._broker.give_back(lock, counts and lock.id not in unsent, now)
            limit -= 1
