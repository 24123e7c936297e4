"""Putting back what is kept aside: in steps, with others at work meanwhile, and within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from qrusty_trio.core import trash
from qrusty_trio.core.ages import look_at_all
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.core.trash import Outcome
from qrusty_trio.errors import (
    DuplicatePayload,
    InvalidQueueName,
    LimitReached,
    NotFound,
    QueueProtected,
    UndoNotPossible,
)
from qrusty_trio.storage.payloads import PayloadStore
from tests.core.brokers import (
    LONG,
    NO_DUPLICATES,
    Keeping,
    big,
    break_payload,
    exhaust,
    lock_of,
    payloads_in_order,
    restarted,
    search_to_the_end,
    take,
    with_payloads,
)
from tests.core.test_trash import MANY, check, fill, put_aside, restore


@pytest.fixture
def broker(payloads: PayloadStore) -> Broker:
    return with_payloads(Keeping(), payloads)


def test_the_other_of_two_equal_messages_was_acked(broker: Broker, payloads: PayloadStore) -> None:
    broker.catalog.create("q", QueueConfig())
    for _ in range(2):
        broker.publish("q", 5, "a", 3, 0)
    first, _ = take(broker), take(broker)
    exhaust(broker.catalog.update("q", None, False, 0))
    assert first is not None
    broker.ack("q", first, "c", 0)
    _, queue = broker.trash.delete("q", 600, 0)
    assert queue is not None
    assert restore(broker, queue.number) == Outcome("q", 1, 0)
    with pytest.raises(DuplicatePayload):
        broker.publish("q", 5, "a", 3, 0)
    check(broker, payloads)
    assert payloads_in_order(broker) == ["a"]


def test_a_search_for_duplicates_goes_on(broker: Broker, payloads: PayloadStore) -> None:
    broker.catalog.create("q", QueueConfig())
    for text in ("a", "b", "a"):
        broker.publish("q", 5, text, 3, 0)
    assert take(broker) is not None
    next(broker.catalog.update("q", None, False, 0))
    _, queue = broker.trash.delete("q", 600, 0)
    assert queue is not None
    assert not broker.deduplication.searching
    restore(broker, queue.number)
    search_to_the_end(broker)
    assert broker.catalog.by_name["q"].available == 2
    check(broker, payloads)
    assert payloads_in_order(broker) == ["a", "b"]


def test_large_payloads_are_read_in_steps(
    broker: Broker, payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To know them by their digests, where duplicates are refused since."""
    monkeypatch.setattr(trash, "STEP_BYTES", 4_000)
    broker.catalog.create("q", QueueConfig())
    texts = [f"{number}".ljust(2_000) for number in range(8)]
    for text in texts:
        broker.publish("q", 5, text, 3, 0)
    _, queue = broker.trash.purge("q", 600, 0)
    assert queue is not None
    exhaust(broker.catalog.update("q", None, False, 0))
    outcome = Outcome("")
    assert sum(1 for _ in broker.trash.restore(queue, None, outcome)) == 4
    assert outcome == Outcome("q", 8, 0)
    check(broker, payloads)
    assert payloads_in_order(broker) == texts


def test_what_is_known_of_dead_letters_outlives_a_restart(broker: Broker, payloads: PayloadStore) -> None:
    fill(broker)
    before = broker.catalog.by_name["q"]
    before.exhume(broker.journal)
    put_aside(broker, "purged")
    broker.commit()
    after = restarted(broker, payloads).catalog.by_name["q"]
    assert after is not before
    assert (after.dead_from, after.dead_purged, after.next_dead) == (1, 1, 1)


def test_behind_equal_messages_that_were_locked(broker: Broker, payloads: PayloadStore) -> None:
    broker.catalog.create("q", QueueConfig())
    for text in ("a", "a", "b"):
        broker.publish("q", 5, text, 3, 0)
        assert take(broker) is not None
    exhaust(broker.catalog.update("q", None, False, 0))
    _, queue = broker.trash.delete("q", 600, 0)
    assert queue is not None
    assert restore(broker, queue.number) == Outcome("q", 2, 0)
    check(broker, payloads)
    assert payloads_in_order(broker) == ["a", "b"]


@pytest.mark.parametrize("room", [0, 1])
def test_there_are_as_many_queues_as_there_may_be(broker: Broker, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    fill(broker)
    queue = put_aside(broker, "deleted")
    broker.catalog.create("another", QueueConfig())
    monkeypatch.setattr(trash, "MAX_QUEUES", 1 + room)
    if room:
        assert restore(broker, queue.number).restored == MANY
    else:
        with pytest.raises(LimitReached, match="There are 1 queues already"):
            restore(broker, queue.number)


def test_a_protected_queue_is_not_put_aside(broker: Broker) -> None:
    fill(broker)
    exhaust(broker.catalog.update("q", None, None, 0, protected=True))
    for put in (broker.trash.purge, broker.trash.delete):
        with pytest.raises(QueueProtected):
            put("q", 600, 0)
    assert broker.trash.everything() == []


def test_a_lock_that_was_made_since_it_was_put_back_is_left_alone(
    broker: Broker, payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By somebody who began to put it back, too."""
    monkeypatch.setattr(trash, "PER_STEP", 1)
    broker.catalog.create("q", QueueConfig())
    for number in range(3):
        broker.publish("q", 5, str(number), 3, 0)
        take(broker)
    _, queue = broker.trash.delete("q", 600, 0)
    assert queue is not None
    second = broker.trash.restore(queue, None, Outcome(""))
    next(second)
    restore(broker, queue.number)
    held = take(broker)
    assert held is not None
    with pytest.raises(NotFound):
        next(second)
    assert lock_of(broker, held).consumer == "c"
    check(broker, payloads)
    assert payloads_in_order(broker) == ["1", "2"]


def test_a_store_that_is_loaded_anew_ends_what_is_being_put_back(broker: Broker, payloads: PayloadStore) -> None:
    texts = fill(broker)
    queue = put_aside(broker, "deleted")
    broker.commit()
    steps = broker.trash.restore(queue, None, Outcome(""))
    next(steps)
    broker.commit()
    exhaust(broker.load())
    with pytest.raises(NotFound):
        next(steps)
    restore(broker, queue.number)
    check(broker, payloads)
    assert payloads_in_order(broker) == texts


@pytest.mark.parametrize("what", ["purged", "deleted"])
@pytest.mark.parametrize("per_step", [1, 2])
def test_locks_far_apart_are_released_in_steps(
    broker: Broker, payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch, what: str, per_step: int
) -> None:
    monkeypatch.setattr(trash, "PER_STEP", per_step)
    monkeypatch.setattr(trash, "LOCK_NUMBERS_PER_STEP", 5)
    broker.catalog.create("q", QueueConfig())
    for number in range(40):
        broker.publish("q", 5, str(number), 3, 0)
    ids = [take(broker) for _ in range(40)]
    held = (0, 1, 2, 20, 39)
    for number, id in enumerate(ids):
        if number not in held:
            assert id is not None
            broker.ack("q", id, "c", 0)
    put = broker.trash.purge if what == "purged" else broker.trash.delete
    _, queue = put("q", 600, 0)
    assert queue is not None
    outcome = Outcome("")
    steps = sum(1 for _ in broker.trash.restore(queue, None, outcome))
    assert steps >= 40 // 5
    assert outcome == Outcome("q", len(held), 0)
    check(broker, payloads)
    assert payloads_in_order(broker) == [str(number) for number in held]


def test_what_was_locked_before_duplicates_were_allowed(broker: Broker, payloads: PayloadStore) -> None:
    broker.catalog.create("q", NO_DUPLICATES)
    broker.publish("q", 5, "a", 3, 0)
    take(broker)
    exhaust(broker.catalog.update("q", None, True, 0))
    _, queue = broker.trash.delete("q", 600, 0)
    assert queue is not None
    assert restore(broker, queue.number) == Outcome("q", 1, 0)
    check(broker, payloads)
    assert payloads_in_order(broker) == ["a"]


@pytest.mark.parametrize("config", [QueueConfig(), NO_DUPLICATES], ids=["allowed", "refused"])
def test_a_payload_that_is_lost_later_leaves_no_duplicate(
    broker: Broker, payloads: PayloadStore, tmp_path: Path, config: QueueConfig
) -> None:
    """Its digest is noted when it comes into a queue that refuses duplicates."""
    broker.catalog.create("q", config)
    broker.publish("q", 5, big("a"), 3, 0)
    _, queue = broker.trash.purge("q", 600, 0)
    assert queue is not None
    exhaust(broker.catalog.update("q", None, False, 0))
    assert restore(broker, queue.number) == Outcome("q", 1, 0)
    break_payload(payloads, tmp_path, 0)
    assert take(broker) is None
    broker.publish("q", 5, big("a"), 3, 0)
    check(broker, payloads)


@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_a_payload_that_is_lost_after_it_was_locked_leaves_no_duplicate(
    broker: Broker, payloads: PayloadStore, tmp_path: Path, what: str
) -> None:
    broker.catalog.create("q", QueueConfig())
    broker.publish("q", 5, big("a"), 3, 0)
    assert take(broker) is not None
    exhaust(broker.catalog.update("q", None, False, 0))
    _, queue = (broker.trash.purge if what == "purged" else broker.trash.delete)("q", 600, 0)
    assert queue is not None
    assert restore(broker, queue.number) == Outcome("q", 1, 0)
    break_payload(payloads, tmp_path, 0)
    assert take(broker) is None
    broker.publish("q", 5, big("a"), 3, 0)
    check(broker, payloads)


@pytest.mark.parametrize("ended", [["restore"], ["delete"], ["restore", "delete"]])
def test_no_lock_has_the_number_of_one_that_was_not_stored(broker: Broker, ended: list[str]) -> None:
    """Whatever of it was lost with a fault: that the queue was put back, or that it was deleted again."""
    broker.catalog.create("q", QueueConfig())
    _, queue = broker.trash.delete("q", 600, 0)
    assert queue is not None
    broker.commit()
    numbers = []
    for number in range(4):
        restore(broker, queue.number)
        broker.publish("q", 5, "a", 3, 0)
        delivery = broker.consume("q", "c", LONG, 0)
        assert delivery is not None
        numbers.append(delivery.lock_number)
        if ended[number % len(ended)] == "delete":
            broker.trash.delete("q", 600, 0)
        exhaust(broker.load())
    assert sorted(set(numbers)) == numbers


@pytest.mark.parametrize("name", ["", "x" * 1000])
def test_a_name_that_no_queue_can_have(broker: Broker, name: str) -> None:
    fill(broker)
    queue = put_aside(broker, "purged")
    with pytest.raises(InvalidQueueName):
        restore(broker, queue.number, name)
    assert broker.trash.get(queue.number) is queue


def test_put_back_twice_after_some_have_moved(
    broker: Broker, payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trash, "PER_STEP", 1)
    texts = fill(broker)
    queue = put_aside(broker, "purged")
    outcome = Outcome("")
    second = broker.trash.restore(queue, None, outcome)
    while not outcome.restored:
        next(second)
    assert restore(broker, queue.number).restored == MANY - 1
    with pytest.raises(NotFound):
        next(second)
    check(broker, payloads)
    assert payloads_in_order(broker) == texts


# Verifies: DLV-0060
def test_the_queue_is_purged_again_while_its_messages_are_put_back(
    broker: Broker, payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put back from then on stays."""
    monkeypatch.setattr(trash, "PER_STEP", 1)
    texts = fill(broker)
    queue = put_aside(broker, "purged")
    outcome = Outcome("")
    steps = broker.trash.restore(queue, None, outcome)
    while outcome.restored < 2:
        next(steps)
    purged, again = broker.trash.purge("q", 600, 1000)
    assert again is not None
    exhaust(steps)
    assert (purged, outcome) == (2, Outcome("q", MANY, 0))
    assert broker.catalog.by_name["q"].available == MANY - 2
    check(broker, payloads)
    assert restore(broker, again.number).restored == 2
    check(broker, payloads)
    assert payloads_in_order(broker) == texts


def test_what_comes_back_may_be_the_oldest(broker: Broker) -> None:
    broker.publish("q", 1, "old", 3, 5)
    _, queue = broker.trash.purge("q", 600, 0)
    assert queue is not None
    broker.publish("q", 2, "new", 3, 9)
    exhaust(look_at_all(broker.journal, broker.catalog))
    restore(broker, queue.number)
    stats = broker.catalog.stats("q")
    assert stats is not None
    assert (stats.oldest_ms, stats.oldest_exact) == (9, False)
    exhaust(look_at_all(broker.journal, broker.catalog))
    stats = broker.catalog.stats("q")
    assert stats is not None
    assert (stats.oldest_ms, stats.oldest_exact) == (5, True)


def test_what_was_locked_may_be_the_oldest(broker: Broker) -> None:
    broker.publish("q", 2, "old", 3, 5)
    broker.publish("q", 1, "new", 3, 9)
    assert take(broker) is not None
    exhaust(look_at_all(broker.journal, broker.catalog))
    _, queue = broker.trash.delete("q", 600, 0)
    assert queue is not None
    restore(broker, queue.number)
    stats = broker.catalog.stats("q")
    assert stats is not None
    assert not stats.oldest_exact
    exhaust(look_at_all(broker.journal, broker.catalog))
    stats = broker.catalog.stats("q")
    assert stats is not None
    assert (stats.oldest_ms, stats.oldest_exact) == (5, True)


@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_put_back_twice_at_the_same_time(broker: Broker, payloads: PayloadStore, what: str) -> None:
    """Whoever comes second is refused, and leaves the queue alone that the first has put back."""
    texts = fill(broker)
    queue = put_aside(broker, what)
    second = broker.trash.restore(queue, None, Outcome(""))
    next(second)
    assert restore(broker, queue.number).restored == MANY
    with pytest.raises(NotFound):
        next(second)
    with pytest.raises(NotFound, match=f"id '{queue.number}'"):
        broker.trash.get(queue.number)
    check(broker, payloads)
    assert payloads_in_order(broker) == texts


def test_duplicates_allowed_since_then(broker: Broker, payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "PER_STEP", 1)
    texts = fill(broker)
    queue = put_aside(broker, "purged")
    exhaust(broker.catalog.update("q", None, True, 0))
    for text in texts:
        broker.publish("q", 1, text, 3, 0)
    outcome = Outcome("")
    for _ in broker.trash.restore(queue, None, outcome):
        check(broker, payloads)
    assert outcome == Outcome("q", MANY, 0)
    assert payloads_in_order(broker) == texts * 2


def test_after_a_restart_it_is_known_where_messages_go_back_to(broker: Broker, payloads: PayloadStore) -> None:
    fill(broker)
    purged = put_aside(broker, "purged").number
    _, deleted = broker.trash.delete("q", 600, 0)
    assert deleted is not None
    broker.commit()
    broker = restarted(broker, payloads)
    with pytest.raises(UndoNotPossible, match=f"put that back first, with id {deleted.number}"):
        restore(broker, purged)
