"""What takes dead letters away: requeue, purge and retention.

Rule: a letter leaves DEAD only in the batch that makes it available again, or that frees its payload. So a kill at any
moment leaves it in one place. A requeue or a purge touches no letter that died after it was asked for. It goes in steps
of under a millisecond, and others run in between.

Requirements: DLV-0047, DLV-0048, DLV-0049, DLV-0051
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from qrusty_trio.core import records
from qrusty_trio.core.catalog import Catalog
from qrusty_trio.core.dead_letters import EVERY, PER_STEP, Batch, DeadLetter, DeadLetters, Filter
from qrusty_trio.core.deduplication import Deduplication
from qrusty_trio.core.externals import DEAD_LETTER
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import PREFIX_BYTES, lock_key
from qrusty_trio.core.model import NEVER, Priority
from qrusty_trio.core.payloads import Payloads
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.records import external_digest, reference_of
from qrusty_trio.errors import DuplicatePayload, PayloadLost, QrustyError
from qrusty_trio.storage.payloads import PayloadBroken
from qrusty_trio.wording import counted

MAX_SAMPLES = 10
"""Dead letters that a dry run shows."""
MAX_REFUSED = 100
"""Dead letters that a response names of those that can't be requeued. All of them are counted."""

PutBack = Callable[[Queue, bytes, bytes], None]
"""Makes a message available: queue, key in MESSAGES, record."""

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """Which dead letters to take."""

    ids: list[str] | None
    """Those with these message ids; None: those that pass the filter."""
    wanted: Filter
    end: int
    """None with this dead-letter number or a higher one."""
    dry_run: bool
    """Only say what would happen."""


class Target(NamedTuple):
    """Where to requeue to."""

    queue: Queue
    priority: Priority | None
    """A new priority; None: each keeps its own."""


@dataclass
class Outcome:
    """What has happened so far, or in a dry run would happen."""

    taken: int = 0
    samples: list[DeadLetter] = field(default_factory=list)
    """The first of them; only in a dry run."""
    refused: list[tuple[str, QrustyError]] = field(default_factory=list)
    """The first that can't be requeued (id), and why."""
    refused_total: int = 0
    looked_at: int = 0
    not_found: list[str] = field(default_factory=list)
    """Ids that are not among the dead letters."""


class DeadLetterMoves:
    """Takes letters out of DEAD."""

    def __init__(
        self,
        journal: Journal,
        catalog: Catalog,
        payloads: Payloads,
        deduplication: Deduplication,
        letters: DeadLetters,
        put_back: PutBack,
    ) -> None:
        self._journal = journal
        self._catalog = catalog
        self._payloads = payloads
        self._deduplication = deduplication
        self._letters = letters
        self._put_back = put_back

    def requeue(self, queue: Queue, chosen: Chosen, target: Target, outcome: Outcome) -> Iterator[None]:
        """Make dead letters available again, with no delivery counted. Fills `outcome` as it goes.

        In its own queue a letter goes to its old place, or to the same age within a new priority. In another queue it
        is the last of its priority. Letters that the target refuses stay. Raises PriorityKindMismatch and
        InvalidPriority in the first step, and StorageFault, PayloadUnreadable, QueueNotFound and Unavailable in any.
        """
        priority = target.priority
        if priority is not None:
            target.queue.encode(priority, 0)  # raises
        accepts_all = target.queue.config.allow_duplicates
        if accepts_all and self._counted(queue, chosen):
            yield from self._sample(queue, chosen, outcome)
            return
        # A queue that refuses duplicates wants to know each payload.
        for batch in self._batches(queue, chosen, outcome, reading=not accepts_all):
            if not self._catalog.exists(target.queue):
                raise self._catalog.gone(target.queue, target.queue.name)
            kept = False
            for letter in batch.letters:
                refusal = self._requeue(queue, letter, target, chosen.dry_run)
                if refusal is None:
                    self._count(letter, chosen, outcome)
                    continue
                kept = True
                outcome.refused_total += 1
                if len(outcome.refused) < MAX_REFUSED:
                    outcome.refused.append((letter.id, refusal))
            if not chosen.dry_run and not kept:
                self._passed(queue, batch)
            yield

    def purge(self, queue: Queue, chosen: Chosen, outcome: Outcome) -> Iterator[None]:
        """Remove dead letters for good, and free their payloads. Fills `outcome` as it goes.

        All of a queue are removed at once, however many they are. Raises StorageFault, PayloadUnreadable.
        """
        if self._counted(queue, chosen):
            yield from self._sample(queue, chosen, outcome)
            return
        if _takes_all(queue, chosen):
            outcome.taken = outcome.looked_at = queue.dead
            self._purge_all(queue)
            return
        for batch in self._batches(queue, chosen, outcome):
            for letter in batch.letters:
                self._count(letter, chosen, outcome)
            if not chosen.dry_run:
                self._remove(queue, batch)
            yield

    def _purge_all(self, queue: Queue) -> None:
        if not queue.dead:
            return
        self._catalog.note_emptied(queue.dead_number, queue.dead)
        queue.exhume(self._journal)
        if self._payloads.index is not None:
            self._payloads.index.free_all(queue, DEAD_LETTER)

    def _batches(self, queue: Queue, chosen: Chosen, outcome: Outcome, reading: bool = False) -> Iterator[Batch]:
        letters = self._letters
        if chosen.ids is None:
            for batch in letters.search(queue, chosen.wanted, 0, chosen.end, PER_STEP, reading=reading):
                outcome.looked_at += batch.looked_at
                yield batch
            return
        ids = list(dict.fromkeys(chosen.ids))
        found: set[str] = set()
        for batch in letters.find(queue, ids, reading=reading):
            some = [letter for letter in batch.letters if letter.number < chosen.end]
            found.update(letter.id for letter in some)
            outcome.looked_at += batch.looked_at
            yield batch._replace(letters=some)
        outcome.not_found = [id for id in ids if id not in found]

    def _count(self, letter: DeadLetter, chosen: Chosen, outcome: Outcome) -> None:
        outcome.taken += 1
        if chosen.dry_run and len(outcome.samples) < MAX_SAMPLES:
            outcome.samples.append(letter)

    def _counted(self, queue: Queue, chosen: Chosen) -> bool:
        """Whether a dry run can say how many there are without looking at each."""
        return chosen.dry_run and _takes_all(queue, chosen)

    def _sample(self, queue: Queue, chosen: Chosen, outcome: Outcome) -> Iterator[None]:
        outcome.taken = queue.dead
        for batch in self._letters.search(queue, EVERY, 0, chosen.end, MAX_SAMPLES):
            outcome.looked_at += batch.looked_at
            outcome.samples += batch.letters[: MAX_SAMPLES - len(outcome.samples)]
            if len(outcome.samples) == MAX_SAMPLES:
                return
            yield

    def _requeue(self, queue: Queue, letter: DeadLetter, target: Target, dry_run: bool) -> QrustyError | None:
        """Requeue one letter. Returns why it can't be; then it stays."""
        to, priority = target
        record = records.requeued(letter.stored.record)
        reference = reference_of(record)
        digest = b""
        if not to.config.allow_duplicates:
            digest = external_digest(record) if reference else b""
            try:
                digest = digest or records.digest_of(self._letters.payload(letter))
            except PayloadBroken as broken:
                return PayloadLost(f"the payload is lost: {broken.reason}")
            if self._deduplication.owner(to, digest):
                return DuplicatePayload(f"Queue '{to.name}' refuses duplicates and holds an equal payload")
        if dry_run:
            return None
        if to is queue:
            # It may have died under an earlier number of the queue.
            key = to.prefix + letter.stored.key[PREFIX_BYTES:]
            if priority is not None:
                key = to.encode(priority, to.coder.sequence(key))
        else:
            key = to.encode(letter.priority if priority is None else priority, to.next_sequence)
            to.next_sequence += 1
            to.oldest = None  # It may be older than all that are there.
        queue.unbury(self._journal, lock_key(queue.dead_number, letter.number), letter.id)
        if reference:
            externals = self._payloads.externals
            externals.free(queue, reference, DEAD_LETTER)
            externals.own(to, reference, letter.id, key)
            if digest and not external_digest(record):
                # The record must hold the digest in case the payload is lost.
                record += digest
        if digest:
            self._deduplication.own(to, digest, letter.id)
        self._put_back(to, key, record)
        return None

    def _remove(self, queue: Queue, batch: Batch) -> None:
        for letter in batch.letters:
            queue.unbury(self._journal, lock_key(queue.dead_number, letter.number), letter.id)
            if reference := reference_of(letter.stored.record):
                self._payloads.externals.free(queue, reference, DEAD_LETTER)
        self._catalog.note_emptied(queue.dead_number, len(batch.letters))
        self._passed(queue, batch)

    def _passed(self, queue: Queue, batch: Batch) -> None:
        """Note that all letters of a batch are gone: no search has to begin before its end."""
        if batch.whole and batch.begin <= queue.dead_from < batch.end:
            queue.dead_from = batch.end
            queue.trim_dead(self._journal)

    # Retention

    def overdue(self, queue: Queue, now: int) -> bool:
        """Whether retention has something to remove, or to look at. Takes 0.2 µs and reads nothing."""
        config = queue.config
        most, ttl = config.dead_letter_max, config.dead_letter_ttl_seconds
        return bool(queue.dead) and (
            (most is not None and queue.dead > most) or (ttl is not None and queue.dead_due <= now)
        )

    def retain(self, queue: Queue, now: int) -> int:
        """Remove the oldest letters that are too old or too many, in one step. Returns how many.

        Call it as long as `overdue` says so. `now`: wall milliseconds. Raises StorageFault.
        """
        if not self._catalog.exists(queue):
            return 0
        config = queue.config
        surplus = queue.dead - config.dead_letter_max if config.dead_letter_max is not None else 0
        ttl = config.dead_letter_ttl_seconds
        died_until = now - ttl * 1000 if ttl is not None else -1
        batch = next(self._letters.search(queue, EVERY, 0, queue.next_dead, PER_STEP), None)
        if batch is None:
            self._miscounted(queue)
            return 0
        removed = 0
        queue.dead_due = now
        for letter in batch.letters:
            if removed >= surplus and letter.died_by_ms > died_until:
                queue.dead_due = letter.died_by_ms + ttl * 1000 if ttl is not None else NEVER
                break
            removed += 1
        letters = batch.letters[:removed]
        if removed < len(batch.letters):
            batch = Batch(letters, removed, batch.begin, batch.letters[removed].number)
        self._remove(queue, batch)
        return removed

    def _miscounted(self, queue: Queue) -> None:
        """Correct the counter of a queue: it counts dead letters, but the store has none."""
        log.error(
            "queue '%s' counted %s, but the store holds none; the count is now 0",
            queue.name,
            counted(queue.dead, "dead letter"),
        )
        queue.dead = 0
        self._journal.mark(queue)


def _takes_all(queue: Queue, chosen: Chosen) -> bool:
    return chosen.ids is None and chosen.wanted is EVERY and chosen.end >= queue.next_dead
