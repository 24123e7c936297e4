"""The lock index: who holds which message, and until when.

Rule: the index knows every lock, from the consume until the message is settled. `due` returns the expired ones,
earliest first. Locks with the same end form a linked list, so the cost of an add or remove does not depend on the
number of locks.

The cycle collector does not track locks, and locks form cycles: with their queue and with their neighbours in a list.
So every lock is unlinked here when it leaves. `remove` does so at once; when a whole queue is emptied, `tidy` does so
bit by bit.

Requirements: SYS-0002
"""

from __future__ import annotations

from bisect import bisect_left, insort

from qrusty_trio.core.lock_table import SPLIT_AT, LockTable
from qrusty_trio.core.model import NEVER, WS_MARK
from qrusty_trio.core.queue import Lock, Queue

CHAIN_PIECE = 1024
"""How many locks that end in the same millisecond are sorted at a time. There may be any number of them: at a start
after the clock was set back, all locks that would last too long get the same end."""
_WINDOW_BITS = 10
"""Ends are grouped by "second" (1,024 ms), then by millisecond."""


class LockIndex:
    """The locks of all queues (`Queue.locks`): their number, when they end, and which WebSocket holds which.

    Requirements: SCH-0019
    """

    __slots__ = ("_connections", "_order", "_windows", "count", "limit", "untidy", "wake_at")

    def __init__(self, limit: int = 500_000) -> None:
        self.limit = limit
        """The maximum number of locks."""
        self.count = 0
        self.wake_at = NEVER
        """No lock ends before this (wall milliseconds). `look_again` makes it exact."""
        self._windows: dict[int, dict[int, Lock]] = {}
        """Second -> end (ms) -> the head of the list of locks that end then. May include locks of purged queues."""
        self._order: list[int] = []
        """The keys of `_windows`, sorted."""
        self._connections: dict[str, LockTable[Lock]] = {}
        """Consumer id of a WebSocket -> the locks it holds. May include locks of purged queues."""
        self.untidy: list[LockTable[Lock]] = []
        """Tables of void locks, which `tidy` frees."""

    @property
    def full(self) -> bool:
        """Whether no message can be locked until another lock is gone.

        Requirements: SCH-0026
        """
        return self.count >= self.limit

    # One lock

    def add(self, lock: Lock) -> None:
        # Once for every delivery, so what is usual is done here without a call.
        table = lock.queue.locks
        small = table.small
        if small is not None and len(small) < SPLIT_AT - 1:
            small[lock.id] = lock
        else:
            table.add(lock)
        self.count += 1
        if lock.consumer[:1] == WS_MARK:
            self._connections.setdefault(lock.consumer, LockTable()).add(lock)
        end = lock.expires_at_ms
        window = self._windows.get(end >> _WINDOW_BITS)
        first = window.get(end) if window is not None else None
        if window is None or first is None:
            self._schedule(lock)
        else:
            lock.after = first
            first.before = lock
            window[end] = lock

    def _schedule(self, lock: Lock) -> None:
        end = lock.expires_at_ms
        if end < self.wake_at:
            self.wake_at = end
        window = self._windows.get(end >> _WINDOW_BITS)
        if window is None:
            window = self._windows[end >> _WINDOW_BITS] = {}
            insort(self._order, end >> _WINDOW_BITS)
        first = window.get(end)
        if first is not None:
            lock.after = first
            first.before = lock
        window[end] = lock

    def _unschedule(self, lock: Lock) -> None:
        before, after = lock.before, lock.after
        if after is not None:
            after.before = before
            lock.after = None
        if before is not None:
            before.after = after
            lock.before = None
            return
        end = lock.expires_at_ms
        number = end >> _WINDOW_BITS
        window = self._windows[number]
        if after is not None:
            window[end] = after
            return
        del window[end]
        if not window:
            del self._windows[number]
            del self._order[bisect_left(self._order, number)]

    def remove(self, lock: Lock) -> None:
        table = lock.queue.locks
        if table.small is not None:
            del table.small[lock.id]
        else:
            table.discard(lock.id)
        self.count -= 1
        if lock.consumer[:1] == WS_MARK:
            self._release(lock)
        self._unschedule(lock)

    def _release(self, lock: Lock) -> None:
        held = self._connections.get(lock.consumer)
        if held is not None:
            held.discard(lock.id)
            if not held:
                del self._connections[lock.consumer]

    def _holds(self, lock: Lock) -> bool:
        held = self._connections.get(lock.consumer)
        return held is not None and held.get(lock.id) is lock

    def extend(self, lock: Lock, end: int) -> None:
        """Move the end of a lock."""
        self._unschedule(lock)
        lock.expires_at_ms = end
        self._schedule(lock)

    # By WebSocket

    def held(self, consumer: str, id: str) -> Lock | None:
        """The lock by which a WebSocket holds a message; None if it does not hold it."""
        held = self._connections.get(consumer)
        lock = held.get(id) if held is not None else None
        return lock if lock is not None and valid(lock) else None

    def disconnect(self, consumer: str) -> LockTable[Lock] | None:
        """Remove a WebSocket that is gone and return the locks it held; None for none. Check each one with `valid`."""
        return self._connections.pop(consumer, None)

    @property
    def websockets(self) -> bool:
        """Whether any WebSocket holds anything."""
        return bool(self._connections)

    def disconnect_any(self) -> LockTable[Lock] | None:
        """Like `disconnect`, for any WebSocket that holds locks; None when there is none.

        Requirements: DLV-0016
        """
        return self._connections.popitem()[1] if self._connections else None

    def forget_connections(self) -> None:
        """Forget all WebSockets, at the start of a load. Their locks are freed with those of their queues."""
        self._connections = {}

    # All locks of a queue

    def forget(self, queue: Queue) -> None:
        """Void all locks of a queue, in constant time. `tidy` frees their memory bit by bit."""
        if queue.locks:
            self.count -= len(queue.locks)
            self.untidy.append(queue.locks)
            queue.locks = LockTable()

    def tidy(self, limit: int) -> bool:
        """Free up to `limit` void locks. Returns whether there are more.

        Requirements: DLV-0008
        """
        while self.untidy and limit > 0:
            void = self.untidy[-1].pop()
            if void is None:
                self.untidy.pop()
                continue
            self._unschedule(void)
            # After a load, the same WebSocket may hold a new lock of the same message; that one stays.
            if self._holds(void):
                self._release(void)
            limit -= 1
        return bool(self.untidy)

    # By end

    def look_again(self) -> None:
        """Set `wake_at` to the earliest end of any lock."""
        self.wake_at = min(self._windows[self._order[0]]) if self._order else NEVER

    def due(self, now: int, limit: int) -> list[Lock]:
        """Up to `limit` valid locks with end <= now, earliest first. They stay in the index.

        Void locks use up part of the work of a call; `tidy` removes them.

        Requirements: SCH-0015
        """
        found: list[Lock] = []
        void = 0
        for number in self._order:
            if number > now >> _WINDOW_BITS:
                break
            window = self._windows[number]
            for end in sorted(end for end in window if end <= now):
                together: list[Lock] = []
                lock: Lock | None = window[end]
                while lock is not None and len(together) + void < max(limit, CHAIN_PIECE):
                    if valid(lock):
                        together.append(lock)
                    else:
                        void += 1
                    lock = lock.after
                # By message key: messages of a queue whose locks end together go back in queue order.
                together.sort(key=_by_key)
                found += together[: limit - len(found)]
                if len(found) >= limit or void >= limit:
                    return found
        return found

    def ending(self, after: int, until: int, limit: int) -> tuple[list[Lock], int]:
        """Valid locks with after < end <= until, about `limit`, and the end (ms) up to which these are all.

        Of locks that end in the same millisecond, only the last `limit` that were made are looked at.
        """
        found: list[Lock] = []
        looked = 0
        order = self._order
        for index in range(bisect_left(order, (after + 1) >> _WINDOW_BITS), len(order)):
            if order[index] > until >> _WINDOW_BITS:
                break
            window = self._windows[order[index]]
            for end in sorted(end for end in window if after < end <= until):
                lock: Lock | None = window[end]
                passed = 0
                while lock is not None and passed < limit:
                    passed += 1
                    if valid(lock):
                        found.append(lock)
                    lock = lock.after
                looked += passed
                if looked >= limit:
                    return found, end
        return found, until


def _by_key(lock: Lock) -> bytes:
    return lock.key


def valid(lock: Lock) -> bool:
    """Whether the lock is still in force: its queue was not purged, and its message was not settled."""
    return lock.queue.locks.get(lock.id) is lock
