"""The open WebSockets, and what those held that are gone.

Rule: what a WebSocket held goes back in small steps, however much it was: the connection itself waits for none of them.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.lock_table import LockTable
from qrusty_trio.core.queue import Lock


class Session(Protocol):
    """A WebSocket connection, as far as the engine knows it."""

    consumer: str

    def has_left(self, id: str) -> bool:
        """Whether the delivery of a message was handed out to the connection's writer."""

    def store_failed(self) -> None:
        """Close the connection: what it holds is given back to the queues."""


class Departed(NamedTuple):
    """What a WebSocket held that is gone."""

    consumer: str
    locks: LockTable[Lock]
    counts: bool
    """Whether its deliveries count."""
    unsent: frozenset[str]
    """Messages whose delivery never left: they do not count in any case."""


class Sessions:
    """By consumer id. Used by the engine only."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._open: dict[str, Session] = {}
        self.departed: deque[Departed] = deque()
        """What is still to be given back."""
        self._unsent: dict[str, frozenset[str]] = {}
        """Of those: consumer id -> messages whose delivery never left. Their locks may end before that."""

    def join(self, session: Session) -> None:
        """A WebSocket was opened."""
        self._open[session.consumer] = session

    def leave(self, session: Session, counts: bool, unsent: frozenset[str]) -> None:
        """A WebSocket is gone.

        `counts`: its deliveries count towards `max_retries`. `unsent`: messages whose delivery never left, which do
        not in any case.
        """
        self._open.pop(session.consumer, None)
        locks = self._broker.locks.disconnect(session.consumer)
        if locks is not None:
            self.departed.append(Departed(session.consumer, locks, counts, unsent))
            if unsent:
                self._unsent[session.consumer] = unsent

    def forget_departed(self) -> None:
        """The recovery gives back what any WebSocket held."""
        self.departed.clear()
        self._unsent.clear()

    def everyone(self) -> list[Session]:
        """Those that are open now."""
        return list(self._open.values())

    def has_left(self, consumer: str, id: str) -> bool:
        """Whether the delivery of a message has left, as far as is known."""
        session = self._open.get(consumer)
        return session.has_left(id) if session is not None else id not in self._unsent.get(consumer, ())

    def give_back(self, limit: int) -> None:
        """Give back up to `limit` messages of those that are gone."""
        while self.departed and limit > 0:
            consumer, locks, counts, unsent = self.departed[0]
            lock = locks.pop()
            if lock is None:
                self.departed.popleft()
                self._unsent.pop(consumer, None)
                continue
            self._broker.give_back(lock, counts and lock.id not in unsent)
            limit -= 1
