"""Who has which message until when.

Rule: the index knows every lock there is; a lock is in it from the consume until it is settled, renewed or not, and
`due` gives those that have ended, earliest first. An add or remove costs the same however many there are.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from qrusty_trio.core.queue import Queue

_STALE_SLACK = 1024
"""Ends without a lock that may lie about before they are cleared out."""


class Lock(msgspec.Struct, eq=False, gc=False):
    """One delivered message.

    A Struct because one is made for every delivery (a class takes five times as long), and unknown to the cycle
    collector, which would stop the loop for longer the more there are: a queue lets go of its locks itself.
    """

    id: str
    queue: Queue
    number: int
    """Its place in LOCKS, within the queue."""
    key: bytes
    """The key of the message in MESSAGES: where it goes back to."""
    consumer: str
    until: int
    """End of the lock, wall milliseconds."""
    deliveries: int
    """The one that made the lock included."""
    digest: bytes
    """Of the payload, when the queue refuses duplicates; else empty."""
    external: bytes
    """The reference of a payload in a segment file; else empty."""
    batch_number: int
    """The batch that its record in LOCKS was put in."""


class LockIndex:
    """The locks of all queues (`Queue.locks`, by message id), how many there are, and when they end."""

    __slots__ = ("_by_end", "_ends", "_trash", "count")

    def __init__(self) -> None:
        self.count = 0
        self._by_end: dict[int, set[Lock]] = {}
        """End (ms) -> the locks that end then, and some of queues that were purged."""
        self._ends: list[int] = []
        """Heap of the keys of `_by_end`, and of some that are no longer there."""
        self._trash: list[dict[str, Lock]] = []

    def add(self, lock: Lock) -> None:
        lock.queue.locks[lock.id] = lock
        self.count += 1
        # As in `_schedule`, without a call: once for every delivery.
        same = self._by_end.get(lock.until)
        if same is not None:
            same.add(lock)
        else:
            self._by_end[lock.until] = {lock}
            heapq.heappush(self._ends, lock.until)

    def _schedule(self, lock: Lock) -> None:
        same = self._by_end.get(lock.until)
        if same is None:
            self._by_end[lock.until] = {lock}
            heapq.heappush(self._ends, lock.until)
        else:
            same.add(lock)

    def _unschedule(self, lock: Lock) -> None:
        same = self._by_end[lock.until]
        same.remove(lock)
        if not same:
            del self._by_end[lock.until]
            if len(self._ends) > 2 * len(self._by_end) + _STALE_SLACK:
                self.shrink()

    def remove(self, lock: Lock) -> None:
        del lock.queue.locks[lock.id]
        self.count -= 1
        # As in `_unschedule`, without a call: most locks share their end with others.
        same = self._by_end[lock.until]
        if len(same) > 1:
            same.remove(lock)
        else:
            self._unschedule(lock)

    def extend(self, lock: Lock, until: int) -> None:
        """Move the end of a lock."""
        self._unschedule(lock)
        lock.until = until
        self._schedule(lock)

    def forget(self, queue: Queue) -> None:
        """All locks of a queue are void. Costs the same however many; `tidy` frees their memory bit by bit."""
        if queue.locks:
            self.count -= len(queue.locks)
            self._trash.append(queue.locks)
            queue.locks = {}

    def tidy(self, limit: int) -> bool:
        """Free up to `limit` locks that were forgotten. Whether there are more."""
        while self._trash and limit > 0:
            void = self._trash[-1]
            while void and limit > 0:
                self._unschedule(void.popitem()[1])
                limit -= 1
            if not void:
                self._trash.pop()
        return bool(self._trash)

    def shrink(self) -> None:
        """Forget ends at which no lock ends any more."""
        self._ends = list(self._by_end)
        heapq.heapify(self._ends)

    def next_end(self) -> int | None:
        """When the next lock ends, wall milliseconds; None when there is no lock."""
        ends = self._ends
        while ends and ends[0] not in self._by_end:
            heapq.heappop(ends)
        return ends[0] if ends else None

    def due(self, now: int, limit: int) -> list[Lock]:
        """Up to about `limit` locks with end <= now, earliest first. They stay in the index."""
        found: list[Lock] = []
        looked_at: list[int] = []
        seen = 0
        while seen < limit and (end := self.next_end()) is not None and end <= now:
            heapq.heappop(self._ends)
            if looked_at and looked_at[-1] == end:
                continue
            looked_at.append(end)
            # Those that were forgotten count: there may be as many as there were locks.
            seen += len(self._by_end[end])
            # By message key: those of one queue that end together go back in their order.
            found += sorted(
                (lock for lock in self._by_end[end] if lock.queue.locks.get(lock.id) is lock), key=lambda lock: lock.key
            )
        for end in looked_at:
            heapq.heappush(self._ends, end)
        return found
