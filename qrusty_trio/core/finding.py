"""Finding an available message by its id.

Rule: the store has no index by id, because that would cost every publish and every delivery 1 µs. So messages are
looked at in order, and only so many: whoever asks is told how many, and where to go on.

Requirements: DLV-0053
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from qrusty_trio.core.browsing import read_on
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.records import ID_AT, PAYLOAD_AT

MESSAGES_PER_SEARCH = 10_000
"""Messages looked at in one search, roughly: 6 ms in steps."""
MESSAGES_PER_STEP = 500
"""Messages looked at in one step, which takes 0.3 ms."""
STEPS_PER_SEARCH = 100
"""Steps of one search. Large records need more of them."""


class Place(NamedTuple):
    """A place in the order of a queue."""

    key: bytes
    before: int
    """Messages that were counted before it."""


class Search(NamedTuple):
    """How a search ended."""

    looked_at: int
    """Messages looked at."""
    found: Place | None
    record: bytes
    """The record of the message that was found; otherwise empty."""
    further: Place | None
    """Where to go on; None if all messages were looked at."""


def find(journal: Journal, queue: Queue, id: str, start: Place | None) -> Generator[None, None, Search]:
    """Look for an available message from `start` on (None: from the first one). Raises StorageFault."""
    wanted = id.encode()
    begin, before = start if start is not None else (queue.head, 0)
    looked_at = 0
    for _ in range(STEPS_PER_SEARCH):
        chunk = read_on(journal, queue, begin, MESSAGES_PER_STEP)
        for index, (key, record) in enumerate(chunk.pairs):
            if record[ID_AT:PAYLOAD_AT] == wanted:
                looked_at += index + 1
                return Search(looked_at, Place(key, before + looked_at - 1), record, None)
        looked_at += len(chunk.pairs)
        if chunk.begin is None:
            return Search(looked_at, None, b"", None)
        begin = chunk.begin
        if looked_at >= MESSAGES_PER_SEARCH:
            break
        yield
    return Search(looked_at, None, b"", Place(begin, before + looked_at))
