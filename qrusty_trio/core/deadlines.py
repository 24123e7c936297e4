"""Warnings that locks are about to end, for the WebSockets that asked for them.

Rule: there is no timer for a message. The lock index knows which locks end when, so it is enough to look from time to
time at those that have come near their end since the last look. Each lock is looked at once for each length of time
that somebody asked for, and once more after each renewal.

A subscriber asks for less time than its locks last. So a lock that is made after a look always ends after what that
look covered, and none is passed over. A renewal by less than that time is up to the subscriber: see `WsSession`.

Requirements: WS-0041
"""

from __future__ import annotations

from typing import Protocol

from qrusty_trio.core.locks import LockIndex
from qrusty_trio.core.queue import Lock

MAX_SECONDS = 3600
"""Longest time before the end of a lock at which a warning can be asked for."""
MAX_LENGTHS = 16
"""Different lengths of time that may be asked for at the same time. Each costs a look at every lock: 0.1 µs."""


class Warned(Protocol):
    """A connection that asked for warnings."""

    def deadline_soon(self, lock: Lock, seconds: int) -> None:
        """A lock of this connection ends within `seconds`."""


class _Watch:
    """What was asked for at one length of time."""

    __slots__ = ("looked_to", "warned")

    def __init__(self, now: int) -> None:
        self.looked_to = now
        """Locks that end up to then (wall milliseconds) have been looked at."""
        self.warned: dict[str, Warned] = {}
        """By consumer id."""


class Deadlines:
    """Who wants to be warned how long before a lock ends.

    Requirements: WS-0042
    """

    def __init__(self) -> None:
        self._watches: dict[int, _Watch] = {}

    def __bool__(self) -> bool:
        """Whether anybody asked."""
        return bool(self._watches)

    def lengths(self) -> list[int]:
        """The lengths of time asked for, in seconds, shortest first."""
        return sorted(self._watches)

    def may_ask(self, seconds: int) -> bool:
        """Whether there is room for this length of time."""
        return seconds in self._watches or len(self._watches) < MAX_LENGTHS

    def ask(self, consumer: str, seconds: int, warned: Warned, now: int) -> None:
        """Warn a connection `seconds` before its locks end. Does nothing if it has asked for that."""
        watch = self._watches.get(seconds)
        if watch is None:
            watch = self._watches[seconds] = _Watch(now)
        watch.warned[consumer] = warned

    def forget(self, consumer: str, seconds: int) -> None:
        """Undo `ask`."""
        watch = self._watches.get(seconds)
        if watch is not None and watch.warned.pop(consumer, None) is not None and not watch.warned:
            del self._watches[seconds]

    def clear(self) -> None:
        """Forget everybody, after a fault of the store."""
        self._watches.clear()

    def look(self, locks: LockIndex, now: int, limit: int) -> bool:
        """Warn of locks that have come near their end; looks at about `limit`. Returns whether there may be more."""
        for seconds, watch in self._watches.items():
            near, watch.looked_to = locks.ending(watch.looked_to, now + seconds * 1000, limit)
            for lock in near:
                warned = watch.warned.get(lock.consumer)
                if warned is not None:
                    warned.deadline_soon(lock, seconds)
            if watch.looked_to < now + seconds * 1000:
                return True
        return False
