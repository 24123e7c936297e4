"""Looking at what a queue holds, without locking, counting or moving anything.

Rule: the cost of a look depends neither on the number of messages nor on that of locks. What may take longer than a
step is a generator. It yields between steps, and stops early once it has looked at enough: then a page has fewer
entries than were asked for, and says where to go on. Between two steps anything may change, so every step looks anew.

Requirements: DLV-0043, DLV-0044
"""

from __future__ import annotations

from collections.abc import Generator
from heapq import nsmallest
from operator import attrgetter
from typing import NamedTuple

from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import lock_key
from qrusty_trio.core.model import is_websocket
from qrusty_trio.core.queue import Lock, Queue
from qrusty_trio.core.records import unpack_lock, unpack_message

FEW_LOCKS = 1024
"""So many locks are gone through in memory: 0.5 ms. More are read from the store, where they are in order."""
LOCKS_PER_STEP = 200
"""Locks read from the store in one step, which takes 0.6 ms."""
LOCK_NUMBERS_PER_STEP = 4_000
"""Lock numbers passed in one step. Those of deleted locks cost 0.1 µs each."""
LOCK_STEPS_PER_PAGE = 25
"""Steps after which a page of locks ends, whatever it has found: 5,000 locks or 100,000 lock numbers."""
READ_BYTES = 256 * 1024
"""Bytes of records read in one step, roughly: half a millisecond."""

_number = attrgetter("number")


class Chunk(NamedTuple):
    """Some available messages of a queue, in its order."""

    pairs: list[tuple[bytes, bytes]]
    """Key, record."""
    begin: bytes | None
    """The key from which to read on; None at the end of the queue. There may be no message before the next chunk."""


def read_on(journal: Journal, queue: Queue, begin: bytes, limit: int) -> Chunk:
    """Up to `limit` available messages from key `begin` on, and about READ_BYTES of the store. Raises StorageFault."""
    frontier = queue.tier.frontier
    if frontier is None or begin < frontier:
        pairs = queue.tier.following(begin, limit)
        return Chunk(pairs, frontier if len(pairs) < limit else pairs[-1][0] + b"\x00")
    pairs = journal.scan(journal.messages, max(begin, queue.head), queue.end, limit, READ_BYTES)
    if len(pairs) < limit and sum(len(record) for _, record in pairs) < READ_BYTES:
        return Chunk(pairs, None)
    return Chunk(pairs, pairs[-1][0] + b"\x00")


class LockPage(NamedTuple):
    """Some locks of a queue, in the order in which they were made."""

    locks: list[Lock]
    after: int | None
    """The lock number after which to go on; None at the end of the list."""


def shown_consumer(consumer: str) -> str:
    """A consumer id as it is shown to people, and as they write it."""
    return consumer[1:] if is_websocket(consumer) else consumer


def lock_page(
    journal: Journal, queue: Queue, consumer: str | None, after: int, limit: int
) -> Generator[None, None, LockPage]:
    """Up to `limit` locks with a number above `after`; with `consumer`, only those of that one. Raises StorageFault."""

    def wanted(lock: Lock) -> bool:
        return lock.number > after and (consumer is None or shown_consumer(lock.consumer) == consumer)

    if len(queue.locks) <= FEW_LOCKS:
        found = [lock for lock in queue.locks if wanted(lock)]
        first = nsmallest(limit, found, key=_number)
        return LockPage(first, first[-1].number if len(found) > limit else None)
    # By message: one that is locked anew while this goes on comes again, with the lock that it has then.
    page: dict[str, Lock] = {}
    number = max(after + 1, queue.locks_from)
    for _ in range(LOCK_STEPS_PER_PAGE):
        if number >= queue.next_lock:
            return LockPage(list(page.values()), None)
        end = min(number + LOCK_NUMBERS_PER_STEP, queue.next_lock)
        pairs = journal.scan(
            journal.locks, lock_key(queue.number, number), lock_key(queue.number, end), LOCKS_PER_STEP, READ_BYTES
        )
        for key, value in pairs:
            number = int.from_bytes(key[4:], "big") + 1
            lock = queue.locks.get(unpack_message(unpack_lock(value).record)[4].decode())
            # A queue that was purged since has none of these in memory.
            if lock is not None and lock.number == number - 1 and wanted(lock):
                page.pop(lock.id, None)
                page[lock.id] = lock
                if len(page) == limit:
                    return LockPage(list(page.values()), lock.number)
        if len(pairs) < LOCKS_PER_STEP and sum(len(value) for _, value in pairs) < READ_BYTES:
            number = end
        yield
    return LockPage(list(page.values()), number - 1)
