"""The oldest available message of each queue, for an answer to "how long does a message wait?".

Rule: this costs a publish or a delivery nothing. Within a priority the first message is the oldest, so the oldest of a
queue is the oldest among the firsts of its priorities: one seek for each. Only queues in which something changed are
looked at, in steps. So the figure is as old as the last look.

Of a queue with more than MAX_PRIORITIES only the first ones are looked at. What is found then is a lower bound. A dead
letter that was requeued from another queue counts once it is the first of its priority.
"""

from __future__ import annotations

from collections.abc import Iterator

from qrusty_trio.core.browsing import read_on
from qrusty_trio.core.catalog import Catalog
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import SEQUENCE_BYTES
from qrusty_trio.core.model import Ordering
from qrusty_trio.core.queue import Oldest, Queue
from qrusty_trio.core.records import unpack_message

MAX_PRIORITIES = 256
"""Priorities of a queue that are looked at."""
LOOKS_PER_STEP = 8
"""Looks into the store in one step: a millisecond, as each needs a seek."""
CHEAP_LOOK = 1 / 20
"""What a look into a hot tier counts, and a queue in which nothing changed."""


def look_at_all(journal: Journal, catalog: Catalog) -> Iterator[None]:
    """Look at every queue in which something changed since the last time, in steps. Raises StorageFault."""
    looks = 0.0
    for queue in catalog.everything():
        if not _may_have_changed(queue):
            looks += CHEAP_LOOK
            continue
        if not catalog.exists(queue):
            continue
        state = _state(queue)
        created: int | None = None
        begin: bytes | None = queue.head
        left = 1 if queue.config.ordering is Ordering.FIFO else MAX_PRIORITIES
        while begin is not None and left:
            frontier = queue.tier.frontier
            looks += CHEAP_LOOK if frontier is None or begin < frontier else 1
            chunk = read_on(journal, queue, begin, 1)
            begin = chunk.begin
            for key, record in chunk.pairs:
                born = unpack_message(record)[1]
                created = born if created is None else min(created, born)
                left -= 1
                if begin is not None:
                    begin = key[:-SEQUENCE_BYTES] + b"\xff" * SEQUENCE_BYTES + b"\x00"
            if looks >= LOOKS_PER_STEP:
                looks = 0
                yield
        exact = begin is None or queue.config.ordering is Ordering.FIFO
        queue.oldest = Oldest(created, exact, state) if created is not None else None
        if looks >= LOOKS_PER_STEP:
            looks = 0
            yield


def _state(queue: Queue) -> tuple[int, int, int, int]:
    """What differs after everything that can remove or return a message; publishes leave it as it is."""
    return queue.next_lock, queue.locked, queue.dead, queue.available - queue.next_sequence


def _may_have_changed(queue: Queue) -> bool:
    if not queue.available:
        queue.oldest = None
        return False
    return queue.oldest is None or queue.oldest.state != _state(queue)
