"""Reading a store into memory: at a start, and after a fault.

Rule: in steps of about a millisecond, and never more at once than a step needs. Counters are stored, so no messages are
read; of locks only those that hold.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qrusty_trio.core import duplicates, records
from qrusty_trio.core.externals import REFERENCE_BYTES
from qrusty_trio.core.keys import lock_key, prefix
from qrusty_trio.core.locks import Lock
from qrusty_trio.core.queue import CONFIG, COUNTERS, LOCKS_FROM, Queue
from qrusty_trio.core.records import EXTERNAL, PAYLOAD_AT, ClockFrame
from qrusty_trio.wording import counted

if TYPE_CHECKING:
    from qrusty_trio.core.registry import Registry

NEVER = 2**63
"""Wall milliseconds that never come."""
NEXT_QUEUE = b"N"
"""META: NEXT_QUEUE -> the number of the next queue (4 bytes)."""
QUEUES_PER_STEP = 100
LOCKS_PER_STEP = 200
LOCK_NUMBERS_PER_STEP = 4_000
"""Numbers of locks that one step looks for: those that are over cost it 0.1 µs each."""
NO_CLOCK = ClockFrame(0, 0)

log = logging.getLogger(__name__)


def load(registry: Registry, clock: ClockFrame, now: int) -> Iterator[None]:
    """Read what is stored into memory, in steps of about a millisecond: queues with their counters, and locks.

    What was in memory before (the store had a fault) is let go of, but for the numbers that were given out: none of
    queues and locks is used twice within a process. `clock` and `now` (wall ms) are those of this process.
    """
    journal = registry.journal
    journal.attach()
    for index, queue in enumerate(registry.forget_queues(), 1):
        registry.locks.forget(queue)
        if index % QUEUES_PER_STEP == 0:
            yield
    number = journal.get(journal.meta, NEXT_QUEUE)
    if number is not None:
        registry.next_number = max(registry.next_number, int.from_bytes(number, "big"))
    begin, end = CONFIG, CONFIG + b"\xff" * 5
    while pairs := journal.scan(journal.meta, begin, end, QUEUES_PER_STEP):
        for key, config in pairs:
            _load_queue(registry, key[1:], config)
        begin = pairs[-1][0] + b"\x00"
        yield
    if registry.externals is not None:
        yield from registry.externals.load()
    yield from _check_orphans(registry)
    for queue in list(registry.by_number.values()):
        if queue.locked:
            yield from _load_locks(registry, queue, clock, now)
        if queue.settling:
            registry.searches[queue.number] = duplicates.settle(registry, queue)
    next_end = registry.locks.next_end()
    registry.wake_at = next_end if next_end is not None else NEVER
    registry.named.clear()
    registry.unread.clear()


def _load_queue(registry: Registry, number: bytes, config: bytes) -> None:
    journal = registry.journal
    counters = journal.get(journal.meta, COUNTERS + number)
    if counters is None:
        raise registry.damaged(f"the counters of queue number {int.from_bytes(number, 'big')} are missing")
    locks_from = int.from_bytes(journal.get(journal.meta, LOCKS_FROM + number) or b"", "big")
    queue = Queue.stored(int.from_bytes(number, "big"), config, counters, registry.limits, locks_from)
    known = registry.unread.get(queue.number)
    if known is not None:
        queue.rates = known.rates
        queue.next_lock = max(queue.next_lock, known.next_lock)
    else:
        queue.next_lock = max(queue.next_lock, registry.lock_floor)
    registry.enter(queue)


def _check_orphans(registry: Registry) -> Iterator[None]:
    """A lock of a queue that is not there would be lost without a word. Looks between the queues."""
    journal = registry.journal
    after = 0
    for index, number in enumerate([*sorted(registry.by_number), 2**32 - 1], 1):
        if number > after and journal.scan(journal.locks, prefix(after), prefix(number), 1):
            raise registry.damaged(f"there is a lock of a queue before number {number}, but no such queue")
        after = number + 1
        if index % QUEUES_PER_STEP == 0:
            yield


def _load_locks(registry: Registry, queue: Queue, clock: ClockFrame, now: int) -> Iterator[None]:
    """Read the locks of a queue. So many numbers a step, as those of locks that are over take time, too."""
    journal = registry.journal
    number = queue.locks_from
    while len(queue.locks) < queue.locked and number < queue.next_lock:
        end = min(number + LOCK_NUMBERS_PER_STEP, queue.next_lock)
        pairs = journal.scan(journal.locks, lock_key(queue.number, number), lock_key(queue.number, end), LOCKS_PER_STEP)
        for key, value in pairs:
            _load_lock(registry, queue, int.from_bytes(key[4:], "big"), value, clock, now)
        number = int.from_bytes(pairs[-1][0][4:], "big") + 1 if len(pairs) == LOCKS_PER_STEP else end
        yield
    if len(queue.locks) != queue.locked:
        log.error(
            "queue '%s' counted %s, but the store holds %d; that is the count now",
            queue.name,
            counted(queue.locked, "locked message"),
            len(queue.locks),
        )
        queue.locked = len(queue.locks)
        journal.mark(queue)


def _load_lock(registry: Registry, queue: Queue, number: int, value: bytes, clock: ClockFrame, now: int) -> None:
    stored = records.unpack_lock(value)
    flags, _, _, _, id = records.unpack_message(stored.record)
    external = stored.record[PAYLOAD_AT : PAYLOAD_AT + REFERENCE_BYTES] if flags & EXTERNAL else b""
    end = records.end_now(stored, clock, now) if clock is not NO_CLOCK else stored.expires_at_ms
    consumer = stored.consumer_id
    lock = Lock(id.decode(), queue, number, stored.key, consumer, end, stored.deliveries, stored.digest, external, 0)
    registry.locks.add(lock)
