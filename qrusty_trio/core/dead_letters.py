"""Dead letters: why each one died, and how they are read, found and chosen.

Rule: a dead letter stays until somebody asks for it, or until the retention of its queue removes it; both are in
`dead_letter_moves.py`. Its number in the queue is its age: the first one that died has the lowest. What looks at many
of them goes in pieces, bounded by letters, bytes and numbers, because those of removed letters take time, too.

    DEAD   queue number (4) | dead-letter number (8)  ->  `records.StoredDeadLetter`
    DEAD   queue number (4) | FF | message id (36)    ->  dead-letter number (8)

The second entry finds a letter by its id. It costs each death 1 to 2 µs, a publish nothing. Letters from before this
index stand before all others; whoever misses an id looks through those.

Requirements: DLV-0045
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from qrusty_trio.core import records
from qrusty_trio.core.catalog import Catalog
from qrusty_trio.core.deduplication import Deduplication
from qrusty_trio.core.externals import DEAD_LETTER
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import dead_index_key, lock_key
from qrusty_trio.core.model import ID_CHARACTERS, DeathReason, Priority
from qrusty_trio.core.payloads import Payloads
from qrusty_trio.core.queue import Lock, Queue
from qrusty_trio.core.records import StoredDeadLetter, pack_dead_letter, reference_of, unpack_message
from qrusty_trio.errors import Unavailable
from qrusty_trio.storage.payloads import PayloadBroken
from qrusty_trio.wording import counted

PER_STEP = 64
"""Dead letters moved or removed in one step, which takes under a millisecond."""
READ_PER_STEP = 128
"""Dead letters read in one step."""
STEP_BYTES = 256 * 1024
"""Bytes of records read in one step, and bytes of large payloads, or one that is larger."""
NUMBERS_PER_STEP = 4_000
"""Dead-letter numbers scanned in one step. Those of removed letters cost 0.1 µs each."""
LOOKED_AT_WITHOUT_INDEX = 10_000
"""Dead letters from before the index that a search for one id looks through: 20 ms in steps."""

_WHY = ("for an unknown reason", "nacked", "its lock ended", "its connection was lost")
"""By the code of the reason."""

log = logging.getLogger(__name__)


class DeadLetter(NamedTuple):
    """A dead letter that was read from the store."""

    number: int
    """Its place among the dead letters of its queue."""
    id: str
    priority: Priority
    created_ms: int
    max_retries: int
    deliveries: int
    stored: StoredDeadLetter

    @property
    def died_by_ms(self) -> int:
        """When it died, wall milliseconds. Where that was not noted, when it was published."""
        return _died_by_ms(self.stored)


class Filter(NamedTuple):
    """Which dead letters are meant: those to which all of this applies. None applies to any."""

    reason: DeathReason | None = None
    consumer: str | None = None
    died_until_ms: int | None = None
    """They died at this wall time or before."""
    text: str | None = None
    """It occurs in the payload or in the consumer's error."""


EVERY = Filter()


class Batch(NamedTuple):
    """What one step of a search found."""

    letters: list[DeadLetter]
    looked_at: int
    begin: int
    end: int
    """The step went through the dead-letter numbers from `begin` up to here."""

    @property
    def whole(self) -> bool:
        """Whether these are all letters between the two numbers."""
        return len(self.letters) == self.looked_at


class DeadLetters:
    """The family DEAD."""

    def __init__(self, journal: Journal, catalog: Catalog, payloads: Payloads, deduplication: Deduplication) -> None:
        self._journal = journal
        self._catalog = catalog
        self._payloads = payloads
        self._deduplication = deduplication
        self.buried_total = 0
        """Messages that became dead letters since the start."""

    def bury(self, lock: Lock, record: bytes, reason: DeathReason, error: str, now: int) -> None:
        """Make a message a dead letter whose lock was just removed. `now`: wall milliseconds."""
        queue = lock.queue
        value = pack_dead_letter(lock.key, record, now, reason, lock.consumer, error)
        key = queue.bury(self._journal, lock.id.encode(), value)
        self.buried_total += 1
        if lock.external:
            externals = self._payloads.externals
            externals.free(queue, lock.external)
            externals.own(queue, lock.external, lock.id, key, DEAD_LETTER)
        if lock.digest:
            self._deduplication.free(queue, lock.digest, lock.id)
        log.warning(
            "message %s of queue '%s' is a dead letter: %s, delivered %d of at most %s",
            lock.id,
            queue.name,
            _WHY[reason.code],
            lock.deliveries,
            counted(max(1, unpack_message(record)[2]), "time"),
        )

    # Reading

    def payload(self, letter: DeadLetter) -> bytes:
        """UTF-8. Raises PayloadBroken, PayloadUnreadable."""
        return self._payloads.of(letter.stored.record)

    def get(self, queue: Queue, number: int) -> DeadLetter | None:
        """A dead letter by its number, ignoring pending changes."""
        value = self._journal.get(self._journal.dead, lock_key(queue.dead_number, number))
        return _read(queue, number, records.unpack_dead_letter(value)) if value is not None else None

    def search(
        self, queue: Queue, wanted: Filter, begin: int, end: int, per_step: int, *, reading: bool = False
    ) -> Iterator[Batch]:
        """The letters with a number from `begin` to `end` (exclusive) that are wanted, oldest first.

        Each step finds up to `per_step` and takes under a millisecond, or reads one large payload. The caller handles
        what it found before the next one: the queue may change in between. `reading`: it also reads the payloads of
        all. Ends early when the queue is deleted. Raises StorageFault, PayloadUnreadable, and Unavailable once the
        letters belong to the successor of a queue that was purged.
        """
        # What has no number yet must not count as passed: `dead_from` would hide it later.
        end = min(end, queue.next_dead)
        number = max(begin, queue.dead_from)
        while number < end and self._is_there(queue):
            batch = self._step(queue, wanted, number, end, per_step, reading)
            number = batch.end
            yield batch

    def _is_there(self, queue: Queue) -> bool:
        """Whether it still has its letters. False after a delete. Raises Unavailable if its successor has them."""
        if self._catalog.exists(queue):
            return True
        refusal = self._catalog.gone(queue, queue.name)
        if isinstance(refusal, Unavailable):
            raise refusal
        return False

    def _step(self, queue: Queue, wanted: Filter, begin: int, end: int, per_step: int, reading: bool) -> Batch:
        journal = self._journal
        end = min(begin + NUMBERS_PER_STEP, end)
        keys = lock_key(queue.dead_number, begin), lock_key(queue.dead_number, end)
        pairs = journal.scan(journal.dead, *keys, per_step, STEP_BYTES)
        if begin <= queue.dead_from:
            queue.dead_from = _number(pairs[0][0]) if pairs else end
        found = []
        stored = read = 0
        for looked_at, (key, value) in enumerate(pairs, 1):
            stored += len(value)
            letter = records.unpack_dead_letter(value)
            matches, octets = (True, 0) if wanted is EVERY else self._matches(letter, wanted)
            read += octets
            if matches:
                found.append(_read(queue, _number(key), letter))
                read += self._to_read(letter) if reading else 0
            if read >= STEP_BYTES:
                return Batch(found, looked_at, begin, _number(key) + 1)
        if len(pairs) == per_step or stored >= STEP_BYTES:
            end = _number(pairs[-1][0]) + 1
        return Batch(found, len(pairs), begin, end)

    def _matches(self, stored: StoredDeadLetter, wanted: Filter) -> tuple[bool, int]:
        """Whether a letter is wanted, and how many bytes of its payload had to be read from a file."""
        reason, consumer, died_until_ms, text = wanted
        if (
            (reason is not None and stored.reason is not reason)
            or (consumer is not None and stored.consumer != consumer.encode())
            or (died_until_ms is not None and _died_by_ms(stored) > died_until_ms)
        ):
            return False, 0
        if text is None or text.encode() in stored.error:
            return True, 0
        try:
            payload = self._payloads.of(stored.record)
        except PayloadBroken:
            return False, 0
        return text.encode() in payload, len(payload) if reference_of(stored.record) else 0

    # By id

    def find(
        self, queue: Queue, ids: list[str], looked_at: int | None = None, *, reading: bool = False
    ) -> Iterator[Batch]:
        """The letters with these message ids, in steps like those of `search`. Ids of no letter are passed over.

        `looked_at`: most letters from before the index to look through; None: all of them.
        """
        missing: set[str] = set()
        passed = 0
        while passed < len(ids):
            if not self._is_there(queue):
                return
            self._journal.commit()
            letters: list[DeadLetter] = []
            octets = 0
            for id in ids[passed : passed + PER_STEP]:
                passed += 1
                letter = self.by_index(queue, id)
                if letter is None:
                    missing.add(id)
                    continue
                letters.append(letter)
                octets += len(letter.stored.record) + (self._to_read(letter.stored) if reading else 0)
                if octets >= STEP_BYTES:
                    break
            yield Batch(letters, len(letters), 0, 0)
        if missing:
            yield from self._before_the_index(queue, missing, looked_at, reading)

    def by_index(self, queue: Queue, id: str) -> DeadLetter | None:
        """The letter with this message id, if it has an entry in the index. Ignores pending changes."""
        if len(id) != ID_CHARACTERS or not id.isascii():
            return None
        journal = self._journal
        number = journal.get(journal.dead, dead_index_key(queue.dead_prefix, id))
        return self.get(queue, int.from_bytes(number, "big")) if number is not None else None

    def _to_read(self, stored: StoredDeadLetter) -> int:
        """Bytes of its payload that have to be read from a file."""
        return self._payloads.octets(stored.record) if reference_of(stored.record) else 0

    def may_be_before_the_index(self, queue: Queue) -> bool:
        """Whether the queue may have letters from before the index. A look at the first one, or at a gap, tells."""
        if not queue.dead:
            return False
        first = next(self.search(queue, EVERY, 0, queue.next_dead, 1), None)
        return first is not None and all(letter.stored.died_ms is None for letter in first.letters)

    def _before_the_index(self, queue: Queue, missing: set[str], most: int | None, reading: bool) -> Iterator[Batch]:
        seen = 0
        for batch in self.search(queue, EVERY, 0, queue.next_dead, PER_STEP, reading=reading):
            letters = batch.letters
            yield batch._replace(letters=[letter for letter in letters if letter.id in missing], begin=0, end=0)
            seen += len(letters)
            if (letters and letters[-1].stored.died_ms is not None) or (most is not None and seen >= most):
                return


def _number(key: bytes) -> int:
    return int.from_bytes(key[4:], "big")


def _died_by_ms(stored: StoredDeadLetter) -> int:
    return stored.died_ms if stored.died_ms is not None else unpack_message(stored.record)[1]


def _read(queue: Queue, number: int, stored: StoredDeadLetter) -> DeadLetter:
    _, created, max_retries, deliveries, id = unpack_message(stored.record)
    return DeadLetter(number, id.decode(), queue.coder.priority(stored.key), created, max_retries, deliveries, stored)
