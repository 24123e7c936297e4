"""The trash: what is kept aside comes back whole, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from qrusty_trio.core import relocation, trash
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dead_letter_moves import Chosen, Target
from qrusty_trio.core.dead_letter_moves import Outcome as Requeued
from qrusty_trio.core.dead_letters import EVERY
from qrusty_trio.core.model import Ordering, QueueConfig
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.trash import Outcome
from qrusty_trio.core.verifying import Problem, Verifier
from qrusty_trio.errors import (
    DiskFull,
    LimitReached,
    NotFound,
    QueueNotFound,
    Unavailable,
    UndoNotPossible,
)
from qrusty_trio.storage.base import Batch, Family, Storage
from qrusty_trio.storage.payloads import PayloadRef, PayloadStore
from tests.core.brokers import (
    LONG,
    NO_DUPLICATES,
    Keeping,
    big,
    break_payload,
    exhaust,
    payloads_in_order,
    restarted,
    take,
    with_payloads,
)
from tests.core.ownership import check_ownership

MANY = 5


class Source:
    """What the verifier reads."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self._storage.get(self._storage.families[family], key)

    def scan(self, family: Family, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return self._storage.scan(self._storage.families[family], begin, end, limit)


def check(broker: Broker, payloads: PayloadStore) -> None:
    """The store agrees with itself, byte by byte."""
    broker.commit()
    problems: list[Problem] = []
    for _ in Verifier(Source(broker.journal.storage), payloads.read, problems.append).run():
        pass
    assert problems == []
    check_ownership(broker.journal.storage)


@pytest.fixture
def broker(payloads: PayloadStore) -> Broker:
    return with_payloads(Keeping(), payloads)


def fill(broker: Broker, config: QueueConfig = NO_DUPLICATES) -> list[str]:
    """Some messages of every size, one of them locked, and a dead letter. Returns the payloads of all but that."""
    broker.catalog.create("q", config)
    dead = broker.publish("q", 9, big("dead"), 1, 0)
    assert take(broker) == dead
    broker.nack("q", dead, "c", 0)
    texts = [f"m{number}" if number % 2 else big(f"m{number}") for number in range(MANY)]
    for text in texts:
        broker.publish("q", 5, text, 3, 0)
    assert take(broker) is not None
    return texts


def put_aside(broker: Broker, what: str) -> Queue:
    put = broker.trash.purge if what == "purged" else broker.trash.delete
    count, queue = put("q", 600, 1000)
    assert count == MANY
    assert queue is not None
    assert not len(queue.tier), "it takes no memory"
    return queue


def restore(broker: Broker, number: int, to: str | None = None) -> Outcome:
    outcome = Outcome("")
    exhaust(broker.trash.restore(broker.trash.get(number), to, outcome))
    return outcome


# Verifies: DLV-0059, DLV-0060
def test_dead_letters_are_not_passed_over_when_their_queue_is_purged(broker: Broker) -> None:
    """They stay, but belong to its successor: the change that was under way must not end as if it were done."""
    broker.catalog.create("q", QueueConfig())
    for _ in range(200):
        broker.publish("q", 1, "dead", 1, 0)
        dead = take(broker, "q")
        assert dead is not None
        broker.nack("q", dead, "c", 0)
    broker.publish("q", 1, "live", 1, 0)
    queue = broker.catalog.by_name["q"]
    ids = [letter.id for batch in broker.dead_letters.search(queue, EVERY, 0, 200, 64) for letter in batch.letters]
    searched, found = broker.dead_letters.search(queue, EVERY, 0, 200, 64), broker.dead_letters.find(queue, ids)
    next(searched)
    next(found)
    broker.trash.purge("q", 600, 0)
    for each in (searched, found):
        with pytest.raises(Unavailable, match="Queue 'q' was purged meanwhile"):
            list(each)
    successor = broker.catalog.by_name["q"]
    assert sum(len(batch.letters) for batch in broker.dead_letters.search(successor, EVERY, 0, 200, 64)) == 200


# Verifies: DLV-0059, DLV-0060
@pytest.mark.parametrize("what", ["purged", "deleted"])
@pytest.mark.parametrize("again", [False, True])
def test_what_is_put_back_is_as_before(broker: Broker, payloads: PayloadStore, what: str, again: bool) -> None:
    texts = fill(broker)
    queue = put_aside(broker, what)
    check(broker, payloads)
    if again:
        broker = restarted(broker, payloads)
    found = broker.catalog.by_name.get("q")
    assert (found is None) == (what == "deleted")
    if found is not None:
        assert (found.available, found.locked, found.dead, found.config) == (0, 0, 1, NO_DUPLICATES)
    outcome = restore(broker, queue.number)
    assert outcome == Outcome("q", MANY, 0)
    assert broker.catalog.take_emptied() == ({queue.number: MANY} if what == "purged" else {})
    check(broker, payloads)
    assert broker.trash.everything() == []
    found = broker.catalog.by_name["q"]
    assert (found.available, found.locked, found.dead) == (MANY, 0, 1)
    # None of the deliveries counts, and each payload is still known.
    assert not broker.deduplication.owner(found, b"")
    for text in texts:
        delivery = broker.consume("q", "c", LONG, 0)
        assert delivery is not None
        assert (delivery.payload, delivery.retry_count) == (text, 1)
    check(restarted(broker, payloads), payloads)


@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_locks_that_were_miscounted_are_counted_anew(broker: Broker, payloads: PayloadStore, what: str) -> None:
    fill(broker)
    queue = put_aside(broker, what)
    queue.locked += 3
    broker.journal.mark(queue)
    broker.commit()
    broker = restarted(broker, payloads)
    restore(broker, queue.number)
    assert broker.catalog.by_name["q"].locked == 0
    broker.commit()
    broker = restarted(broker, payloads)
    assert broker.catalog.by_name["q"].locked == 0
    check(broker, payloads)


# Verifies: DLV-0060
@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_a_kill_while_it_is_put_back_loses_nothing(
    broker: Broker, payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(trash, "PER_STEP", 1)
    texts = fill(broker)
    number = put_aside(broker, what).number
    broker.publish("q", 5, "new", 3, 0)
    steps = 0
    while number in broker.catalog.kept:
        steps += 1
        assert steps < 20
        if what == "deleted":
            broker.catalog.delete("q")
        broker.commit()
        for _ in broker.trash.restore(broker.trash.get(number), None, Outcome("")):
            break
        broker.commit()
        broker = restarted(broker, payloads)
        check(broker, payloads)
        held = [queue for queue in (broker.catalog.by_name.get("q"), broker.catalog.kept.get(number)) if queue]
        assert sum(queue.available + queue.locked for queue in held) == MANY + (what == "purged")
    assert steps == (MANY + 2 if what == "purged" else 2)
    assert payloads_in_order(broker) == texts + (["new"] if what == "purged" else [])


# Verifies: DLV-0059
def test_dead_letters_stay_with_the_queue_that_goes_on(broker: Broker, payloads: PayloadStore) -> None:
    fill(broker, QueueConfig(ordering=Ordering.FIFO))
    first = broker.catalog.by_name["q"]
    put_aside(broker, "purged")
    broker.commit()
    broker = restarted(broker, payloads)
    queue = broker.catalog.by_name["q"]
    assert (queue.number, queue.dead_number) != (first.number, queue.number)
    (batch,) = broker.dead_letters.search(queue, EVERY, 0, queue.next_dead, 100)
    (letter,) = batch.letters
    (found,) = broker.dead_letters.find(queue, [letter.id])
    assert found.letters == [letter]
    # A letter that dies now has a later number, and each goes back to its own place.
    late = broker.publish("q", 1, big("late"), 1, 0)
    assert take(broker) == late
    broker.nack("q", late, "c", 0)
    check(broker, payloads)
    requeued = Requeued()
    moves = broker.dead_letter_moves
    exhaust(moves.requeue(queue, Chosen(None, EVERY, queue.next_dead, False), Target(queue, None), requeued))
    assert requeued.taken == 2
    check(broker, payloads)
    assert payloads_in_order(broker) == [big("dead"), big("late")]
    assert queue.dead == 0


@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_what_goes_on_with_a_queue_is_told_what_became_of_it(broker: Broker, what: str) -> None:
    """Dead letters that are requeued into it, for one: a queue that was purged is still there."""
    fill(broker)
    broker.catalog.create("source", QueueConfig())
    for _ in range(200):
        broker.publish("source", 1, "dead", 1, 0)
        dead = take(broker, "source")
        assert dead is not None
        broker.nack("source", dead, "c", 0)
    source, target = (broker.catalog.by_name[name] for name in ("source", "q"))
    steps = broker.dead_letter_moves.requeue(
        source, Chosen(None, EVERY, source.next_dead, False), Target(target, None), Requeued()
    )
    next(steps)
    put = broker.trash.purge if what == "purged" else broker.trash.delete
    put("q", 600, 0)
    refusal = Unavailable if what == "purged" else QueueNotFound
    with pytest.raises(refusal, match=f"Queue 'q' was {what} meanwhile"):
        exhaust(steps)


def test_a_queue_that_was_purged_twice(broker: Broker, payloads: PayloadStore) -> None:
    texts = fill(broker)
    first = put_aside(broker, "purged").number
    broker.publish("q", 5, "between", 3, 0)
    _, second = broker.trash.purge("q", 600, 0)
    assert second is not None
    broker.publish("q", 5, "after", 3, 0)
    exhaust(broker.catalog.update("q", "renamed", None, 0))
    broker.commit()
    broker = restarted(broker, payloads)
    assert restore(broker, second.number).queue == "renamed"
    assert restore(broker, first).restored == MANY
    check(broker, payloads)
    assert payloads_in_order(broker, "renamed") == [*texts, "between", "after"]


# Verifies: DLV-0060
def test_what_the_queue_has_again_stays_in_the_trash(broker: Broker, payloads: PayloadStore) -> None:
    fill(broker)
    number = put_aside(broker, "purged").number
    broker.publish("q", 1, "m1", 3, 0)
    broker.publish("q", 1, big("m2"), 3, 0)
    broker.publish("q", 1, big("m0"), 3, 0)
    assert restore(broker, number) == Outcome("q", MANY - 3, 3)
    left = broker.trash.get(number)
    assert (left.available, len(left.tier)) == (3, 0)
    assert broker.trash.next_to_erase(None) is left
    check(broker, payloads)
    # It can be put back beside it, or once the equal ones are gone.
    assert restore(broker, number, "other") == Outcome("other", 3, 0)
    check(broker, payloads)
    assert payloads_in_order(broker, "other") == [big("m0"), "m1", big("m2")]


def test_equal_messages_that_were_locked(
    broker: Broker, payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that were locked when the queue came to refuse duplicates, one comes back."""
    monkeypatch.setattr(trash, "PER_STEP", 1)
    for text in ("a", big("b")):
        broker.catalog.create("q", QueueConfig())
        for _ in range(2):
            broker.publish("q", 5, text, 3, 0)
            assert take(broker) is not None
        exhaust(broker.catalog.update("q", None, False, 0))
        check(broker, payloads)
        _, queue = broker.trash.delete("q", 600, 0)
        assert queue is not None
        outcome = Outcome("")
        for _ in broker.trash.restore(queue, None, outcome):
            check(broker, payloads)
        assert outcome == Outcome("q", 1, 0)
        check(broker, payloads)
        assert payloads_in_order(broker) == [text]
        broker.catalog.delete("q")
        broker.commit()


# Verifies: DLV-0060
def test_the_queue_is_deleted_while_its_messages_are_put_back(
    broker: Broker, payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not yet put back stays in the trash."""
    monkeypatch.setattr(trash, "PER_STEP", 1)
    fill(broker)
    queue = put_aside(broker, "purged")
    outcome = Outcome("")
    steps = broker.trash.restore(queue, None, outcome)
    while outcome.restored < 2:
        next(steps)
    broker.catalog.delete("q")
    with pytest.raises(UndoNotPossible, match="is gone"):
        list(steps)
    assert outcome.restored == 2
    assert (queue.available, queue.locked) == (MANY - 2, 0)
    check(broker, payloads)
    assert restore(broker, queue.number, "r").restored == MANY - 2
    check(restarted(broker, payloads), payloads)


def test_the_oldest_comes_first(broker: Broker, payloads: PayloadStore) -> None:
    for name in ("a", "b"):
        broker.publish(name, 1, "text", 3, 0)
    for now, name in enumerate(("b", "a")):
        broker.trash.delete(name, 600, now)
    broker.commit()
    for each in (broker, restarted(broker, payloads)):
        kept = each.trash.everything()
        assert [queue.name for queue in kept] == ["b", "a"]
        assert [each.trash.goes_back_to(queue) for queue in kept] == [None, None]


def test_duplicates_refused_since_then(broker: Broker, payloads: PayloadStore, tmp_path: Path) -> None:
    """Payloads in files are read then, as nothing else tells which are equal. A broken one is left to the consumer."""
    broker.catalog.create("q", QueueConfig())
    for text in ("a", "a", "b", "b", "c"):
        broker.publish("q", 5, big(text), 3, 0)
    _, queue = broker.trash.purge("q", 600, 0)
    assert queue is not None
    exhaust(broker.catalog.update("q", None, False, 0))
    break_payload(payloads, tmp_path, 4)
    assert restore(broker, queue.number) == Outcome("q", 3, 2)
    check_ownership(broker.journal.storage)
    assert payloads_in_order(broker) == [big("a"), big("b")]
    check(broker, payloads)


def test_a_place_to_go_back_to(broker: Broker) -> None:
    fill(broker)
    purged = put_aside(broker, "purged").number
    _, deleted = broker.trash.delete("q", 600, 0)
    assert deleted is not None
    with pytest.raises(UndoNotPossible, match=f"put that back first, with id {deleted.number}"):
        restore(broker, purged)
    broker.trash.erase(deleted)
    with pytest.raises(UndoNotPossible, match="'to'"):
        restore(broker, purged)
    assert restore(broker, purged, "other") == Outcome("other", MANY, 0)
    queue = broker.catalog.by_name["other"]
    dead = take(broker, "other", "d")
    assert dead is not None
    for _ in range(3):
        broker.nack("other", dead, "d", 0)
        take(broker, "other", "d")
    broker.commit()
    assert (queue.dead, queue.dead_number == queue.number) == (1, False)
    broker.catalog.delete("other")
    broker.commit()
    storage = broker.journal.storage
    for family in (Family.MESSAGES, Family.LOCKS, Family.DEAD, Family.DEDUP, Family.EXTERNAL):
        assert storage.scan(storage.families[family], b"", b"\xff" * 99, 9) == []


# Verifies: DLV-0062
def test_bounds(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "MAX_KEPT", 1)
    fill(broker)
    queue = put_aside(broker, "purged")
    broker.publish("q", 1, "p", 3, 0)
    for put in (broker.trash.purge, broker.trash.delete):
        with pytest.raises(LimitReached):
            put("q", 600, 0)
    assert broker.trash.next_to_erase(600_999) is None
    assert broker.trash.next_to_erase(601_000) is queue
    assert broker.trash.next_to_erase(None) is queue
    assert broker.trash.purge("none", 600, 0) == broker.trash.delete("none", 600, 0) == (0, None)
    steps = broker.trash.restore(queue, None, Outcome(""))
    next(steps)
    assert broker.trash.next_to_erase(None) is None, "it is being put back"
    assert broker.trash.erase(queue) == MANY
    assert broker.trash.erase(queue) == 0
    with pytest.raises(NotFound):
        next(steps)
    _, gone = broker.trash.purge("q", 600, 0)
    assert gone is not None
    broker.trash.erase(gone)
    _, deleted = broker.trash.delete("q", 600, 1000)
    assert broker.trash.next_to_erase(600_999) is None
    assert broker.trash.next_to_erase(601_000) is deleted is not None
    broker.trash.erase(deleted)
    broker.catalog.create("q", QueueConfig())
    assert broker.trash.purge("q", 600, 0) == (0, None), "an empty queue leaves nothing to keep"


@pytest.fixture
def full() -> Keeping:
    class Full(Keeping):
        full = False

        def write(self, batch: Batch) -> None:
            if self.full:
                raise DiskFull("No space left on the device")
            super().write(batch)

    return Full()


@pytest.mark.parametrize("what", ["purged", "deleted", "restored", "erased"])
def test_what_was_not_stored_did_not_happen(full: Keeping, payloads: PayloadStore, what: str) -> None:
    broker = with_payloads(full, payloads)
    texts = fill(broker)
    broker.commit()
    number = broker.catalog.number_of("q")
    if what in ("restored", "erased"):
        put_aside(broker, "deleted")
        broker.commit()
    full.full = True  # type: ignore[attr-defined]  # it is that of the fixture
    if what == "restored":
        restore(broker, number)
    elif what == "erased":
        broker.trash.erase(broker.trash.get(number))
    else:
        put_aside(broker, what)
    with pytest.raises(DiskFull):
        broker.commit()
    full.full = False  # type: ignore[attr-defined]  # it is that of the fixture
    exhaust(broker.load())
    check(broker, payloads)
    if what in ("restored", "erased"):
        assert restore(broker, number).restored == MANY
    else:
        assert broker.trash.everything() == []
    locked = broker.catalog.by_name["q"].locked
    assert payloads_in_order(broker) == texts[locked:]


@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_payloads_are_compacted_and_stay_with_what_is_kept(broker: Broker, payloads: PayloadStore, what: str) -> None:
    texts = fill(broker)
    number = put_aside(broker, what).number
    moved = 0
    for segment in list(payloads.segments()):
        places, _ = relocation.places(broker, segment, b"")
        for place in places:
            payloads.retire()
            reference = payloads.append(payloads.read(PayloadRef.unpack(place.reference))).pack()
            relocation.refer(broker, place, reference)
            moved += 1
        check(broker, payloads)
    # The dead letter moves, too. The payload of the locked one is in a file as well, and stays where it is.
    assert moved == len([text for text in texts if len(text) > 50])
    restore(broker, number)
    check(broker, payloads)
    assert payloads_in_order(broker) == texts


@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_what_is_erased_leaves_no_payload(broker: Broker, payloads: PayloadStore, what: str) -> None:
    fill(broker)
    assert broker.trash.erase(put_aside(broker, what)) == (MANY + 1 if what == "deleted" else MANY)
    check(broker, payloads)
    broker = restarted(broker, payloads)
    check(broker, payloads)
    owned = [segment for segment in payloads.segments() if broker.payloads.externals.owned(segment)]
    assert len(owned) == (1 if what == "purged" else 0), "the dead letter of the queue that goes on"


def test_whoever_follows_a_queue_is_told_where_it_went(broker: Broker) -> None:
    fill(broker)
    broker.catalog.take_named()
    queue = put_aside(broker, "purged")
    successor = broker.catalog.by_name["q"].number
    assert broker.catalog.take_named() == [(queue.number, successor)]
    put_aside_again = broker.trash.delete("q", 600, 1000)[1]
    assert put_aside_again is not None
    assert broker.catalog.take_named() == [(successor, None)]
    restore(broker, successor)
    assert broker.catalog.take_named() == [(successor, "q")]
