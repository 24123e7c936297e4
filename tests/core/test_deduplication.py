"""Payloads that a queue refuses twice, and turning that on in a queue that holds some twice, while it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qrusty_trio.core import deduplication as deduplication_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.deduplication import STEP_BYTES
from qrusty_trio.core.model import Kind, NackOutcome, Ordering, QueueConfig
from qrusty_trio.errors import (
    DuplicatePayload,
)
from qrusty_trio.storage.base import Family, Storage
from qrusty_trio.storage.memory import MemoryBatch, MemoryStorage
from qrusty_trio.storage.payload_format import REFERENCE_BYTES
from qrusty_trio.storage.payloads import PayloadStore
from tests.core import stored
from tests.core.brokers import (
    LONG,
    NO_DUPLICATES,
    big,
    break_payload,
    exhaust,
    payloads_in_order,
    restarted,
    search_to_the_end,
    take,
    with_payloads,
)
from tests.core.ownership import check_ownership


# Verifies: DLV-0031
@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_message_that_was_indexed_frees_its_payload_when_it_breaks(
    storage: Storage, payloads: PayloadStore, tmp_path: Path, locked: bool, restart: bool
) -> None:
    """Its digest can't be told from the payload any more."""
    broker = with_payloads(storage, payloads)
    id = broker.publish("q", 1, big("text"), 3, 0)
    if locked:
        assert take(broker) == id
    exhaust(broker.catalog.update("q", None, False, 0))
    if locked:
        broker.nack("q", id, "c", 0)
    broker.commit()
    if restart:
        broker = restarted(broker, payloads)
    break_payload(payloads, tmp_path, 0)
    assert take(broker) is None
    assert [removed.id for removed in broker.payloads.take_removed()] == [id]
    broker.publish("q", 1, big("text"), 3, 0)


# Verifies: DLV-0030
def test_duplicates_are_refused_while_one_is_available_or_locked(broker: Broker) -> None:
    broker.catalog.create("q", NO_DUPLICATES)
    broker.publish("q", 1, "p", 1, 0)
    with pytest.raises(DuplicatePayload, match=r"^Duplicate payload rejected$"):
        broker.publish("q", 2, "p", 1, 0)
    id = take(broker)
    assert id is not None
    with pytest.raises(DuplicatePayload):
        broker.publish("q", 2, "p", 1, 0)
    assert broker.nack("q", id, "c", 0) is NackOutcome.DEAD_LETTERED
    broker.publish("q", 2, "p", 1, 0)
    broker.catalog.purge("q")
    broker.publish("q", 2, "p", 1, 0)


def test_what_comes_back_after_duplicates_were_allowed_keeps_no_payload(broker: Broker) -> None:
    broker.catalog.create("q", NO_DUPLICATES)
    id = broker.publish("q", 1, "p", 9, 0)
    assert take(broker) == id
    exhaust(broker.catalog.update("q", None, True, 0))
    assert broker.nack("q", id, "c", 0) is NackOutcome.UNLOCKED
    assert take(broker) == id
    broker.ack("q", id, "c", 0)
    exhaust(broker.catalog.update("q", None, False, 0))
    broker.publish("q", 1, "p", 9, 0)


def test_a_payload_that_is_locked_stays_refused_when_duplicates_were_allowed_for_a_while(broker: Broker) -> None:
    broker.catalog.create("q", NO_DUPLICATES)
    id = broker.publish("q", 1, "p", 9, 0)
    assert take(broker) == id
    for allowed in (True, False):
        exhaust(broker.catalog.update("q", None, allowed, 0))
    with pytest.raises(DuplicatePayload):
        broker.publish("q", 1, "p", 9, 0)


def test_a_payload_that_breaks_in_the_midst_of_a_search_is_not_refused(
    storage: Storage, payloads: PayloadStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deduplication_module, "PER_STEP", 1)
    broker = with_payloads(storage, payloads)
    for text in ("first", "second", "third"):
        broker.publish("q", 1, big(text), 9, 0)
    update = broker.catalog.update("q", None, False, 0)
    for _ in range(3):
        next(update)
    broker.commit()
    broker = restarted(broker, payloads)
    break_payload(payloads, tmp_path, 0)
    search_to_the_end(broker)
    broker.publish("q", 1, big("first"), 9, 0)
    assert payloads_in_order(broker) == [big(text) for text in ("second", "third", "first")]


def test_after_a_load_only_the_queues_there_are_are_searched(broker: Broker) -> None:
    broker.publish("q", 1, "p", 9, 0)
    next(broker.catalog.update("q", None, False, 0))
    broker.commit()
    exhaust(broker.load())
    assert list(broker.deduplication.searching) == [broker.catalog.by_name["q"]]


def test_what_is_refused_already_is_not_searched_again(broker: Broker) -> None:
    broker.catalog.create("q", NO_DUPLICATES)
    broker.publish("q", 1, "p", 9, 0)
    assert len(list(broker.catalog.update("q", None, False, 0))) == 1
    assert not broker.deduplication.searching


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplication_module, "PER_STEP", 1)


# Verifies: SCH-0033
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("steps", range(8))
def test_the_queue_serves_while_duplicates_are_looked_for(storage: Storage, steps: int) -> None:
    """After each number of steps: publish, consume, ack, nack, and then a restart."""
    broker = Broker(storage, hot_tier_size=2, refill_threshold=1)
    broker.catalog.create("q", QueueConfig(Ordering.MIN_FIRST))
    for priority, payload in enumerate(["a", "b", "a", "c", "b", "d"], 10):
        broker.publish("q", priority, payload, 9, 0)
    locked = take(broker)  # the first "a"
    assert locked is not None
    update = broker.catalog.update("q", None, False, 0)
    for _ in range(1 + steps):
        next(update, None)
        broker.commit()
    next_one = broker.consume("q", "d", LONG, 0)
    assert next_one is not None
    assert next_one.payload == "b"
    broker.publish("q", 99, "e", 9, 0)
    with pytest.raises(DuplicatePayload):
        broker.publish("q", 1, "b", 9, 0)  # locked
    try:
        broker.publish("q", 1, "d", 9, 0)  # before all: refused, or the other one is found to be its duplicate
    except DuplicatePayload:
        priority_of_d = 15
    else:
        priority_of_d = 1
    broker.nack("q", locked, "c", 0)
    broker.ack("q", next_one.id, "d", 0)
    broker.commit()

    again = restarted(broker)
    search_to_the_end(again)
    again.commit()
    (queue,) = stored.of_store(storage, None).values()
    rest = {message.payload: message.priority for message in queue.available}
    assert len(rest) == len(queue.available)
    # The ack of one "b" may have freed the other, if it had not been found yet.
    assert rest.pop("b", 14) == 14
    assert rest == {"a": 10, "c": 13, "d": priority_of_d, "e": 99}
    assert set(queue.owners.values()) == {message.id for message in queue.available}


@pytest.mark.usefixtures("small_steps")
def test_a_search_that_was_overtaken_ends_nothing(broker: Broker) -> None:
    for payload in ("a", "a", "b", "b", "c", "c"):
        broker.publish("q", 1, payload, 9, 0)
    broker.commit()
    first = broker.catalog.update("q", None, False, 0)
    for _ in range(5):
        next(first)
    exhaust(broker.catalog.update("q", None, True, 0))
    second = broker.catalog.update("q", None, False, 0)
    next(second)
    exhaust(first)
    assert [queue.deduplicating for queue in broker.catalog.by_name.values()] == [True]
    exhaust(second)
    assert [queue.deduplicating for queue in broker.catalog.by_name.values()] == [False]
    for payload in ("a", "b", "c"):
        with pytest.raises(DuplicatePayload):
            broker.publish("q", 1, payload, 9, 0)
    assert payloads_in_order(broker) == ["a", "b", "c"]


# Verifies: DLV-0032
@pytest.mark.parametrize("payload", ["p", big("p")], ids=["small", "large"])
def test_what_was_locked_twice_comes_back_once(storage: Storage, payloads: PayloadStore, payload: str) -> None:
    broker = with_payloads(storage, payloads)
    broker.catalog.create("q", QueueConfig(kind=Kind.TEXT))
    for _ in range(2):
        broker.publish("q", "high", payload, 9, 0)
    first, second = take(broker), take(broker)
    assert first is not None
    assert second is not None
    exhaust(broker.catalog.update("q", None, False, 0))
    assert broker.nack("q", second, "c", 0) is NackOutcome.DROPPED
    assert broker.nack("q", first, "c", 0) is NackOutcome.UNLOCKED
    broker.commit()
    check_ownership(storage)
    assert payloads_in_order(broker) == [payload]


def test_what_was_locked_when_its_equal_was_acked_owns_the_payload(broker: Broker) -> None:
    for _ in range(2):
        broker.publish("q", 1, "p", 9, 0)
    first, second = take(broker), take(broker)
    assert first is not None
    assert second is not None
    exhaust(broker.catalog.update("q", None, False, 0))
    broker.ack("q", first, "c", 0)
    assert broker.nack("q", second, "c", 0) is NackOutcome.UNLOCKED
    with pytest.raises(DuplicatePayload):
        broker.publish("q", 1, "p", 9, 0)


@pytest.mark.parametrize("payload", ["p", big("p")], ids=["small", "large"])
def test_a_consume_during_the_search_passes_over_equals_of_what_is_locked(
    storage: Storage, payloads: PayloadStore, payload: str
) -> None:
    broker = with_payloads(storage, payloads)
    for text in (payload, payload, "last"):
        broker.publish("q", 1, text, 9, 0)
    update = broker.catalog.update("q", None, False, 0)
    next(update)
    assert payloads_in_order(broker) == [payload, "last"]
    broker.commit()
    check_ownership(storage)


def test_a_nack_before_its_payload_was_looked_at_leaves_no_digest(storage: Storage) -> None:
    broker = Broker(storage)
    broker.publish("q", 1, "p", 9, 0)
    id = take(broker)
    assert id is not None
    next(broker.catalog.update("q", None, False, 0))
    assert broker.nack("q", id, "c", 0) is NackOutcome.UNLOCKED
    search_to_the_end(broker)
    broker.commit()
    assert len(storage.scan(storage.families[Family.DEDUP], b"", b"\xff" * 21, 9)) == 1


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("end", ["purge", "delete", "allow"])
def test_what_ends_a_search(broker: Broker, end: str) -> None:
    for _ in range(4):
        broker.publish("q", 1, "p", 9, 0)
    broker.commit()
    update = broker.catalog.update("q", None, False, 0)
    for _ in range(3):
        next(update)
    if end == "purge":
        broker.catalog.purge("q")
    elif end == "delete":
        broker.catalog.delete("q")
    else:
        exhaust(broker.catalog.update("q", None, True, 0))
    assert not broker.deduplication.searching
    exhaust(update)
    broker.commit()
    again = restarted(broker)
    assert not any(queue.deduplicating for queue in again.catalog.by_name.values())
    for _ in range(2 if end == "allow" else 1):
        again.publish("q", 1, "p", 9, 0)


# Verifies: SCH-0033
@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize(("size", "steps"), [(200_000, [3, 6, 9]), (STEP_BYTES // 4, [4, 8])])
def test_a_step_reads_few_large_payloads(
    tmp_path: Path, inline: bool, locked: bool, size: int, steps: list[int]
) -> None:
    storage = MemoryStorage()
    with_files = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=2**24)
    broker = Broker(storage, payloads=with_files, externalize_min_bytes=None if inline else 50)
    for number in range(10):
        broker.publish("q", 1, str(number).ljust(size), 9, 0)
        if locked:
            assert take(broker) is not None
    broker.commit()
    update = broker.catalog.update("q", None, False, 0)
    next(update)
    indexed = []
    for _ in update:
        broker.commit()
        indexed.append(len(storage.scan(storage.families[Family.DEDUP], b"", b"\xff" * 21, 99)))
    assert [number for number in indexed if number < 10] == steps
    assert indexed[-1] == 10
    with_files.close()


@pytest.mark.parametrize("refused", ["always", "later", "later, while locked"])
@pytest.mark.parametrize("size", [REFERENCE_BYTES - 1, REFERENCE_BYTES, REFERENCE_BYTES + 1])
def test_a_payload_as_long_as_a_reference_is_not_taken_for_one(
    storage: Storage, payloads: PayloadStore, size: int, refused: str
) -> None:
    broker = with_payloads(storage, payloads)
    broker.catalog.create("q", NO_DUPLICATES if refused == "always" else QueueConfig())
    broker.publish("q", 1, "r" * size, 9, 0)
    id = take(broker)
    assert id is not None
    if refused == "later":
        broker.nack("q", id, "c", 0)
    if refused != "always":
        exhaust(broker.catalog.update("q", None, False, 0))
    if refused != "later":
        broker.nack("q", id, "c", 0)
    assert payloads_in_order(broker) == ["r" * size]
    broker.commit()
    (queue,) = stored.of_store(storage, payloads).values()
    assert [held.message.payload for held in queue.held.values()] == ["r" * size]


@pytest.mark.parametrize("locked", [False, True])
def test_a_payload_that_the_search_finds_broken(
    storage: Storage, payloads: PayloadStore, tmp_path: Path, locked: bool
) -> None:
    """An available message is removed, once. Whoever holds one has its payload: it stays until it is settled."""
    broker = with_payloads(storage, payloads)
    ids = [broker.publish("q", 1, big(text), 3, 0) for text in ("one", "two", "three")]
    if locked:
        assert [take(broker) for _ in range(2)] == ids[:2]
    broker.commit()
    break_payload(payloads, tmp_path, 1)
    exhaust(broker.catalog.update("q", None, False, 0))
    broker.commit()
    assert [removed.id for removed in broker.payloads.take_removed()] == ([] if locked else [ids[1]])
    if locked:
        broker.ack("q", ids[1], "c", 0)
        broker.nack("q", ids[0], "c", 0)
        broker.commit()
    (queue,) = stored.of_store(storage, payloads).values()
    assert [message.id for message in queue.available] == [ids[0], ids[2]]
    assert sorted(queue.owners.values()) == sorted([ids[0], ids[2]])
    assert payloads_in_order(broker) == [big("one"), big("three")]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("fate", ["delete", "delete and make anew", "load"])
def test_a_search_in_a_queue_that_is_gone_brings_nothing_back(storage: Storage, fate: str) -> None:
    """Emptied message by message and deleted, as well as read anew: who still asks for the search finds it over."""
    broker = Broker(storage)
    for payload in ("a", "b"):
        broker.publish("q", 1, payload, 3, 0)
    update = broker.catalog.update("q", None, False, 0)
    next(update)
    for _ in range(2):
        id = take(broker)
        assert id is not None
        broker.ack("q", id, "c", 0)
    if fate == "load":
        broker.commit()
        exhaust(broker.load())
        broker.catalog.by_name["q"].deduplicating = False
    else:
        broker.catalog.delete("q")
        if fate == "delete and make anew":
            broker.publish("q", 1, "new", 3, 0)
            broker.publish("q", 1, "new", 3, 0)
    exhaust(update)
    search_to_the_end(broker)
    broker.commit()
    again = restarted(broker)
    assert again.catalog.names() == ([] if fate == "delete" else ["q"])
    assert payloads_in_order(again) == (["new", "new"] if fate == "delete and make anew" else [])


# Verifies: SCH-0033
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("locked", [0, 7])
def test_a_search_looks_at_so_many_messages_a_step(broker: Broker, locked: int) -> None:
    for number in range(7):
        broker.publish("q", 1, str(number), 3, 0)
    for _ in range(locked):
        assert take(broker) is not None
    broker.commit()
    update = broker.catalog.update("q", None, False, 0)
    next(update)
    for number in range(7):
        next(update)
        broker.commit()
        storage = broker.journal.storage
        assert len(storage.scan(storage.families[Family.DEDUP], b"", b"\xff" * 21, 99)) == number + 1


# Verifies: DLV-0032
@pytest.mark.usefixtures("small_steps")
def test_one_that_is_locked_keeps_its_payload_through_a_search(broker: Broker) -> None:
    """An equal one that is met meanwhile gets neither out nor into its place."""
    first, second = (broker.publish("q", 1, "p", 9, 0) for _ in range(2))
    assert take(broker) == first
    update = broker.catalog.update("q", None, False, 0)
    for _ in range(2):
        next(update)
    assert broker.catalog.by_name["q"].deduplicating
    assert take(broker) is None
    assert broker.nack("q", first, "c", 0) is NackOutcome.UNLOCKED
    exhaust(update)
    assert take(broker) == first
    assert take(broker) is None
    assert second not in [lock.id for lock in broker.catalog.by_name["q"].locks]


def test_those_that_a_search_removes_are_deleted_as_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no read has to pass them one by one later."""
    broker = Broker(MemoryStorage())
    for priority, payload in [(3, "same")] * 200 + [(1, "last")]:
        broker.publish("q", priority, payload, 9, 0)
    broker.commit()
    keys = _keys(broker)
    really, ranges = MemoryBatch.delete_range, []

    def watched(self: MemoryBatch, begin: bytes, end: bytes, family: Any) -> None:
        if family is broker.journal.messages:
            ranges.append([key for key in keys if begin <= key < end])
        really(self, begin, end, family)

    monkeypatch.setattr(MemoryBatch, "delete_range", watched)
    exhaust(broker.catalog.update("q", None, False, 0))
    broker.commit()
    assert ranges == [keys[1:-1]]
    assert _keys(broker) == [keys[0], keys[-1]]


def _keys(broker: Broker) -> list[bytes]:
    journal, queue = broker.journal, broker.catalog.by_name["q"]
    return [key for key, _ in journal.scan(journal.messages, queue.head, queue.end, 1000)]


@pytest.mark.parametrize("meanwhile", [False, True])
@pytest.mark.parametrize("locked", [False, True])
def test_nobody_looks_again_where_duplicates_were(storage: Storage, meanwhile: bool, locked: bool) -> None:
    """In memory tables every one that was removed is passed one by one, though a range delete covers them all."""
    broker = Broker(storage, hot_tier_size=8, refill_threshold=2)
    broker.catalog.create("q", QueueConfig(Ordering.MIN_FIRST))
    broker.publish("q", 0, "first", 9, 0)
    broker.publish("q", 1, "same", 9, 0)
    for number in range(600):
        broker.publish("q", 1 + number // 100, "same", 9, 0)
    broker.publish("q", 9, "last", 9, 0)
    broker.commit()
    ids = [take(broker), take(broker)] if locked else []
    update = broker.catalog.update("q", None, False, 0)
    for step, _ in enumerate(update):
        if meanwhile and step == 3:
            broker.publish("q", 3, "meanwhile", 9, 0)
            broker.publish("q", 1, "at once", 9, 0)
        broker.commit()
    coder = broker.catalog.by_name["q"].coder
    frontier = broker.catalog.by_name["q"].tier.frontier
    if not meanwhile:
        assert frontier is None or coder.priority(frontier[:20]) == 9
    for id in ids:
        assert id is not None
        broker.nack("q", id, "c", 0)
    broker.commit()
    expected = ["first", "same", "at once", "meanwhile", "last"] if meanwhile else ["first", "same", "last"]
    assert payloads_in_order(broker) == expected
