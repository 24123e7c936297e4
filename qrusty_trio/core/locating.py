"""Locating a message by its id over all queues.

Rule: the indexes come first, in each call: locks in memory, dead letters in the store. Available messages have none
(see `finding`), so the queues are gone through one after the other, by number, and only so much of it in a call:
whoever asks is told how many messages were looked at, and where to go on. A queue may come, change or go between two
steps, so every step looks it up anew.

Requirements: DLV-0061
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

from qrusty_trio.core.browsing import read_on
from qrusty_trio.core.catalog import Catalog
from qrusty_trio.core.dead_letters import LOOKED_AT_WITHOUT_INDEX, DeadLetter, DeadLetters
from qrusty_trio.core.finding import Place
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.queue import Lock, Queue
from qrusty_trio.core.records import ID_AT, PAYLOAD_AT

QUEUES_PER_STEP = 100
"""Queues asked for a lock or a dead letter in one step: 0.5 ms if all have dead letters."""
WORK_PER_STEP = 500
"""Messages, or what takes as long, looked at in one step: 0.3 ms, and up to 1 ms with many small queues."""
WORK_PER_CALL = 10_000
WORK_PER_QUEUE = 10
"""What it takes to begin with a queue, in messages."""
WORK_PER_EMPTY_QUEUE = 1
BYTES_PER_MESSAGE = 512
"""Of larger records, so many bytes are as much work as a message."""


class Spot(NamedTuple):
    """Where a search goes on."""

    queue_number: int
    """The first queue that was not looked through."""
    place: Place | None = None
    """In that queue; None: at its beginning."""


class Located(NamedTuple):
    """A message that was found: by its lock, as a dead letter, or at its place."""

    queue: Queue
    lock: Lock | None = None
    letter: DeadLetter | None = None
    place: Place | None = None
    record: bytes = b""
    """Of an available message."""


class Search(NamedTuple):
    """How a call of a search ended."""

    looked_at: int
    """Messages looked at, those that an index had not counted."""
    available: int
    """Available messages of all queues that are searched."""
    located: Located | None
    further: Spot | None
    """Where to go on; None if it is over."""


class _Work:
    """What a call has done."""

    def __init__(self) -> None:
        self.looked_at = 0
        self._done = self._in_step = 0

    def add(self, work: int) -> None:
        self._done += work
        self._in_step += work

    @property
    def over(self) -> bool:
        return self._done >= WORK_PER_CALL

    def step_over(self) -> bool:
        """Whether it is time to let others run; then a new step begins."""
        if self._in_step < WORK_PER_STEP:
            return False
        self._in_step = 0
        return True


class Locator:
    """Looks for one message in the queues that `may_search` allows."""

    def __init__(
        self,
        journal: Journal,
        catalog: Catalog,
        dead_letters: DeadLetters,
        id: str,
        may_search: Callable[[str], bool],
    ) -> None:
        self._journal = journal
        self._catalog = catalog
        self._dead_letters = dead_letters
        self._id = id
        self._may_search = may_search
        self._available = 0

    def search(self, start: Spot | None) -> Generator[None, None, Search]:
        """One call of a search, in steps; `start`: where the one before ended. Raises StorageFault."""
        located = yield from self._by_indexes()
        if located is not None:
            return Search(0, self._available, located, None)
        work = _Work()
        first = start.queue_number if start is not None else 0
        for number in sorted(number for number in self._catalog.by_number if number >= first):
            if work.over:
                return Search(work.looked_at, self._available, None, Spot(number))
            queue = self._queue(number)
            if queue is None or not (queue.available or queue.dead):
                work.add(WORK_PER_EMPTY_QUEUE)
            else:
                work.add(WORK_PER_QUEUE)
                place = start.place if start is not None and start.queue_number == number else None
                found = yield from self._in_queue(number, place, work)
                if isinstance(found, Located):
                    return Search(work.looked_at, self._available, found, None)
                if found is not None:
                    return Search(work.looked_at, self._available, None, Spot(number, found))
            if work.step_over():
                yield
        return Search(work.looked_at, self._available, None, None)

    def _queue(self, number: int) -> Queue | None:
        queue = self._catalog.by_number.get(number)
        return queue if queue is not None and self._may_search(queue.name) else None

    def _by_indexes(self) -> Generator[None, None, Located | None]:
        """A message that is locked or dead. Counts the available ones, too."""
        for index, number in enumerate(list(self._catalog.by_number), 1):
            queue = self._queue(number)
            if queue is not None:
                self._available += queue.available
                lock = queue.locks.get(self._id)
                if lock is not None:
                    return Located(queue, lock=lock)
                if queue.dead:
                    self._journal.commit()  # reading by the index ignores what is pending
                    letter = self._dead_letters.by_index(queue, self._id)
                    if letter is not None:
                        return Located(queue, letter=letter)
            if index % QUEUES_PER_STEP == 0:
                yield
        return None

    def _in_queue(self, number: int, place: Place | None, work: _Work) -> Generator[None, None, Located | Place | None]:
        """Look through a queue. Returns the message, or where to go on, or None if it is not there."""
        queue = self._queue(number)
        if queue is not None and place is None and self._dead_letters.may_be_before_the_index(queue):
            for batch in self._dead_letters.find(queue, [self._id], LOOKED_AT_WITHOUT_INDEX):
                work.looked_at += batch.looked_at
                work.add(batch.looked_at)
                for letter in batch.letters:
                    return Located(queue, letter=letter)
                yield
            queue = self._queue(number)
        wanted = self._id.encode()
        begin, before = place if place is not None else (queue.head if queue is not None else b"", 0)
        while queue is not None and queue.available:
            chunk = read_on(self._journal, queue, begin, WORK_PER_STEP)
            octets = 0
            for index, (key, record) in enumerate(chunk.pairs):
                octets += len(record)
                if record[ID_AT:PAYLOAD_AT] == wanted:
                    work.looked_at += index + 1
                    return Located(queue, place=Place(key, before + index), record=record)
            before += len(chunk.pairs)
            work.looked_at += len(chunk.pairs)
            work.add(max(len(chunk.pairs), octets // BYTES_PER_MESSAGE))
            if chunk.begin is None:
                break
            begin = chunk.begin
            if work.over:
                return Place(begin, before)
            if work.step_over():
                yield
                queue = self._queue(number)
        return None
