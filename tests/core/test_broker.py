"""The broker: names, limits, exactness, wake-ups, deep queues, damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qrusty_trio.core import catalog as catalog_module
from qrusty_trio.core import loading as loading_module
from qrusty_trio.core import queue as queue_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.hot_tier import READ_BYTES
from qrusty_trio.core.keys import COUNTERS, QUEUE_CONFIG, lock_key, prefix
from qrusty_trio.core.model import WS_CONSUMER_PREFIX, NackOutcome, Ordering, QueueConfig
from qrusty_trio.errors import (
    DiskFull,
    InvalidQueueName,
    LimitReached,
    MessageNotLocked,
    PriorityKindMismatch,
    QueueExists,
    QueueNotFound,
    StorageFault,
)
from qrusty_trio.storage.base import Family, Storage
from qrusty_trio.storage.memory import MemoryStorage
from tests.core import stored
from tests.core.brokers import (
    LONG,
    Disk,
    exhaust,
    lock_of,
    payloads_in_order,
    restarted,
    take,
)

# Names, limits, exactness


# Verifies: API-0016
@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "a/b", " ", "%2F", "\0", "Q", "😀"])
def test_any_name_up_to_255_bytes(broker: Broker, name: str) -> None:
    broker.catalog.create(name, QueueConfig())
    broker.publish(name, 1, "payload", 3, 0)
    broker.commit()
    again = restarted(broker)
    assert again.catalog.names() == [name]
    assert payloads_in_order(again, name) == ["payload"]


# Verifies: API-0016
@pytest.mark.parametrize("name", ["", "n" * 256, "ü" * 128])
def test_other_names_are_refused_and_make_nothing(broker: Broker, name: str) -> None:
    with pytest.raises(InvalidQueueName):
        broker.catalog.create(name, QueueConfig())
    with pytest.raises(InvalidQueueName):
        broker.publish(name, 1, "payload", 3, 0)
    assert broker.catalog.names() == []


# Verifies: API-0017
def test_names_are_taken_once(broker: Broker) -> None:
    broker.catalog.create("q", QueueConfig())
    broker.catalog.create("r", QueueConfig())
    with pytest.raises(QueueExists):
        broker.catalog.create("q", QueueConfig())
    with pytest.raises(QueueExists):
        next(broker.catalog.update("q", "r", None, 0))
    with pytest.raises(QueueNotFound):
        next(broker.catalog.update("unknown", "s", None, 0))
    for name, new_name in ((" ", "s"), ("q", " "), ("q", ""), ("q", "n" * 256)):
        with pytest.raises(InvalidQueueName):
            next(broker.catalog.update(name, new_name, False, 0))
    stats = broker.catalog.stats("q")
    assert stats is not None
    assert stats.config.allow_duplicates
    assert broker.catalog.names() == ["q", "r"]


# Verifies: API-0020
def test_the_number_of_queues_is_bounded(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "MAX_QUEUES", 2)
    broker.publish("a", 1, "payload", 3, 0)
    broker.catalog.create("b", QueueConfig())
    with pytest.raises(LimitReached):
        broker.catalog.create("c", QueueConfig())
    with pytest.raises(LimitReached):
        broker.publish("c", 1, "payload", 3, 0)
    broker.catalog.delete("a")
    broker.catalog.create("c", QueueConfig())
    assert broker.catalog.names() == ["b", "c"]


# Verifies: SCH-0006
@pytest.mark.parametrize("ordering", [Ordering.MAX_FIRST, Ordering.MIN_FIRST])
def test_priorities_are_exact(broker: Broker, ordering: Ordering) -> None:
    broker.catalog.create("q", QueueConfig(ordering))
    priorities = [2**53, 2**53 + 1, 0, 2**64 - 1, 2**63, 2**64 - 2]
    for priority in priorities:
        broker.publish("q", priority, str(priority), 3, 0)
    broker.commit()
    expected = sorted(priorities, reverse=ordering is Ordering.MAX_FIRST)
    again = restarted(broker)
    got = [again.consume("q", "c", LONG, 0) for _ in priorities]
    assert [delivery.priority for delivery in got if delivery is not None] == expected


# Verifies: API-0018
def test_a_refused_publish_makes_no_queue(broker: Broker) -> None:
    with pytest.raises(PriorityKindMismatch):
        broker.publish("q", "text", "payload", 3, 0)
    with pytest.raises(QueueNotFound):
        broker.publish("q", 1, "payload", 3, 0, create=False)
    assert broker.catalog.names() == []


# Verifies: PER-0020
def test_numbers_of_queues_are_not_used_again(broker: Broker) -> None:
    broker.publish("q", 1, "old", 3, 0)
    old = broker.catalog.number_of("q")
    assert broker.catalog.delete("q") == 1
    broker.commit()
    again = restarted(broker)
    again.publish("q", 1, "new", 3, 0)
    assert again.catalog.number_of("q") > old
    assert again.consume_number(old, "c", LONG, 0) is None


# Verifies: PER-0021
@pytest.mark.parametrize("what", ["purge", "delete"])
def test_emptying_a_queue_is_one_batch(what: str) -> None:
    disk = Disk()
    broker = Broker(disk)
    for _ in range(3):
        broker.publish("q", 1, "payload", 1, 0)
    dead = take(broker)
    assert dead is not None
    broker.nack("q", dead, "c", 0)
    take(broker)
    broker.commit()
    before = stored.of_store(disk, None)
    disk.full = True
    with pytest.raises(DiskFull):
        if what == "purge":
            broker.catalog.purge("q")
        else:
            broker.catalog.delete("q")
            assert stored.of_store(disk, None) == before
            broker.commit()
    assert stored.of_store(disk, None) == before
    disk.full = False
    exhaust(broker.load())
    assert (broker.catalog.purge("q") if what == "purge" else broker.catalog.delete("q")) == 2
    broker.commit()
    (dead_letters, *_) = [*[queue.dead for queue in stored.of_store(disk, None).values()], []]
    assert len(dead_letters) == (1 if what == "purge" else 0)


# Verifies: SCH-0009
def test_a_rename_keeps_locks_and_rates(broker: Broker) -> None:
    broker.publish("q", 1, "payload", 3, 0)
    id = take(broker)
    assert id is not None
    exhaust(broker.catalog.sample(1000))
    points = broker.catalog.metrics("q")
    assert points[-1].publish_rate > 0
    exhaust(broker.catalog.update("q", "r", None, 0))
    assert broker.catalog.metrics("r") == points
    with pytest.raises(MessageNotLocked):
        broker.ack("q", id, "c", 0)
    broker.ack("r", id, "c", 0)


# Who holds what


# Verifies: DLV-0004, DLV-0041
def test_only_who_holds_a_message_nacks_or_renews_it(broker: Broker) -> None:
    broker.publish("q", 1, "payload", 3, 0)
    id = take(broker)
    assert id is not None
    for queue, message, consumer in (("q", id, "other"), ("q", "no such id", "c"), ("r", id, "c")):
        with pytest.raises(MessageNotLocked):
            broker.nack(queue, message, consumer, 0)
        with pytest.raises(MessageNotLocked):
            broker.renew(queue, message, consumer, LONG, 0)
    assert broker.nack("q", id, "c", 0) is NackOutcome.UNLOCKED


# Verifies: DLV-0005
@pytest.mark.parametrize("max_retries", [0, 1])
def test_a_delivery_that_nobody_saw_never_makes_a_dead_letter(broker: Broker, max_retries: int) -> None:
    broker.publish("q", 1, "payload", max_retries, 0)
    for _ in range(3):
        delivery = broker.consume("q", "c", LONG, 0)
        assert delivery is not None
        assert delivery.retry_count == 1
        broker.take_back(delivery.queue_number, delivery.lock_number, delivery.id)


# Verifies: DLV-0012
@pytest.mark.parametrize(
    ("consumer", "left", "counts"),
    [("c", False, True), (WS_CONSUMER_PREFIX + "1", False, False), (WS_CONSUMER_PREFIX + "1", True, True)],
)
def test_an_expired_delivery_counts_unless_it_never_left(
    broker: Broker, consumer: str, left: bool, counts: bool
) -> None:
    broker.publish("q", 1, "payload", 9, 0)
    id = take(broker, consumer=consumer)
    assert id is not None
    broker.has_left = lambda *asked: left and asked == (consumer, id)
    assert broker.expire(LONG * 1000, 9) == 1
    delivery = broker.consume("q", "c", LONG, 0)
    assert delivery is not None
    assert delivery.retry_count == 1 + counts


def test_where_nobody_knows_what_has_left_every_delivery_counts(broker: Broker) -> None:
    broker.publish("q", 1, "payload", 9, 0)
    take(broker, consumer=WS_CONSUMER_PREFIX + "1")
    assert broker.expire(LONG * 1000, 9) == 1
    delivery = broker.consume("q", "c", LONG, 0)
    assert delivery is not None
    assert delivery.retry_count == 2


# Wake-ups


# Verifies: SCH-0021
def test_what_becomes_available_in_a_watched_queue_is_ready(broker: Broker) -> None:
    broker.catalog.create("q", QueueConfig())
    number = broker.catalog.number_of("q")

    def woken_by(action: Callable[[], object]) -> bool:
        broker.take_ready()
        action()
        return number in broker.take_ready()

    assert not woken_by(lambda: broker.publish("q", 1, "unwatched", 9, 0))
    broker.watched.add(number)
    assert woken_by(lambda: broker.publish("q", 1, "payload", 9, 0))
    id = take(broker)
    assert id is not None
    assert woken_by(lambda: broker.nack("q", id, "c", 0))
    take(broker)
    assert woken_by(lambda: broker.give_back(lock_of(broker, id), counts=False, now=0))
    take(broker)
    assert woken_by(lambda: broker.expire(LONG * 1000, 10))


# Deep queues


# Verifies: PER-0022
def test_the_dead_head_is_covered_again_after_messages_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "TRIM_EVERY", 3)
    broker = Broker(MemoryStorage())
    for priority in (1, 9, 5):  # each time before, or behind, what was covered
        for _ in range(3):
            broker.publish("q", priority, "payload", 3, 0)
        for _ in range(3):
            take(broker)
        queue = broker.catalog.by_name["q"]
        assert queue.trimmed_to == queue.head == queue.encode(priority, queue.next_sequence - 1)


# Verifies: SCH-0013
def test_large_records_are_read_a_few_at_a_time(storage: Storage) -> None:
    broker = Broker(storage)
    size = 200_000
    for number in range(40):
        broker.publish("q", 1, f"{number:02}" + "x" * size, 3, 0)
        broker.commit()
    again = restarted(broker)
    held = 0
    for number in range(40):
        delivery = again.consume("q", "c", LONG, 0)
        assert delivery is not None
        assert delivery.payload.startswith(f"{number:02}x")
        # Of the first piece the sizes are not known: at most eight records.
        now_held = again.catalog.by_name["q"].tier.octets + size
        assert now_held - held <= max(READ_BYTES, 8 * (size + 100))
        held = now_held


# Verifies: PER-0019
def test_a_counter_that_is_wrong_is_put_right_and_said(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker(storage)
    broker.publish("q", 1, "payload", 3, 0)
    broker.commit()
    batch = storage.batch()
    batch.delete_range(b"", b"\xff", storage.families[Family.MESSAGES])
    storage.write(batch)
    again = restarted(broker)
    assert take(again) is None
    assert "counted 1 available message," in caplog.text
    again.commit()
    last = restarted(again)
    assert last.catalog.by_name["q"].available == 0
    last.publish("q", 1, "new", 3, 0)
    assert payloads_in_order(last) == ["new"]


# Verifies: PER-0019
def test_a_count_of_locks_that_is_wrong_is_put_right_and_said(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(storage)
    for number in range(3):
        broker.publish("q", 1, str(number), 3, 0)
        take(broker)
    broker.commit()
    batch = storage.batch()
    batch.delete(lock_key(broker.catalog.number_of("q"), 1), storage.families[Family.LOCKS])
    storage.write(batch)
    again = restarted(broker)
    assert "queue 'q' counted 3 locked messages, but the store holds 2;" in caplog.text
    again.commit()
    caplog.clear()
    last = restarted(again)
    assert (last.catalog.by_name["q"].locked, last.locks.count) == (2, 2)
    assert not caplog.records


# Verifies: PER-0008
def test_a_step_of_loading_passes_over_so_many_lock_numbers(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of deleted locks take time as well."""
    monkeypatch.setattr(loading_module, "LOCK_NUMBERS_PER_STEP", 4)
    broker = Broker(storage)
    for _ in range(20):
        broker.publish("q", 1, "payload", 3, 0)
        broker.commit()
    ids = [take(broker) for _ in range(20)]
    for id in ids[1:-1]:
        assert id is not None
        broker.ack("q", id, "c", 0)
    broker.commit()
    scan, widths = storage.scan, []

    def watched(family: Any, begin: bytes, end: bytes, *rest: Any) -> list[tuple[bytes, bytes]]:
        if family == storage.families[Family.LOCKS] and begin[:4] == prefix(1):
            widths.append(int.from_bytes(end[4:], "big") - int.from_bytes(begin[4:], "big"))
        return scan(family, begin, end, *rest)

    monkeypatch.setattr(storage, "scan", watched)
    again = Broker(storage)
    exhaust(again.load())
    assert again.catalog.by_name["q"].locked == 2
    assert widths == [4] * 5


# Verifies: PER-0017
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_lock_without_its_queue_is_damage(storage: Storage, missing: int) -> None:
    broker = Broker(storage)
    for number in (1, 2, 3):
        name = "q" if number == missing else f"other {number}"
        broker.publish(name, 1, "payload", 3, 0)
        take(broker, name)
    broker.commit()
    batch = storage.batch()
    batch.delete(QUEUE_CONFIG + prefix(missing), storage.families[Family.META])
    storage.write(batch)
    again = Broker(storage)
    with pytest.raises(StorageFault, match="no such queue"):
        exhaust(again.load())
    with pytest.raises(StorageFault):
        again.publish("q", 1, "payload", 3, 0)
        again.commit()


# Verifies: PER-0017
def test_a_lock_without_its_record_is_damage(storage: Storage) -> None:
    broker = Broker(storage)
    broker.publish("q", 1, "payload", 3, 0)
    id = take(broker)
    assert id is not None
    broker.commit()
    batch = storage.batch()
    batch.delete(lock_key(broker.catalog.number_of("q"), 0), storage.families[Family.LOCKS])
    storage.write(batch)
    with pytest.raises(StorageFault, match="contradicts itself"):
        broker.nack("q", id, "c", 0)


# Verifies: PER-0017
def test_missing_counters_are_damage(storage: Storage) -> None:
    broker = Broker(storage)
    broker.publish("q", 1, "payload", 3, 0)
    broker.commit()
    batch = storage.batch()
    batch.delete(COUNTERS + prefix(broker.catalog.number_of("q")), storage.families[Family.META])
    storage.write(batch)
    with pytest.raises(StorageFault, match="counters"):
        exhaust(Broker(storage).load())


def test_consumes_that_found_no_free_lock_are_counted() -> None:
    broker = Broker(MemoryStorage(), max_locked_index=1)
    for _ in range(2):
        broker.publish("q", 1, "x", 3, 0)
    assert take(broker) is not None
    assert broker.refused_for_locks == 0
    for count in (1, 2):
        assert take(broker) is None
        assert broker.refused_for_locks == count


# Verifies: DLV-0005
def test_only_that_delivery_is_given_back(broker: Broker) -> None:
    broker.publish("q", 1, "x", 3, 1000)
    first = broker.consume("q", "c", 1, 1000)
    assert first is not None
    assert broker.expire(2000, 10) == 1
    second = broker.consume("q", "c", 30, 2000)
    assert second is not None
    assert first.lock_number != second.lock_number
    broker.take_back(second.queue_number, first.lock_number, first.id)
    assert broker.consume("q", "other", 30, 2000) is None
    broker.take_back(second.queue_number, second.lock_number, second.id)
    third = broker.consume("q", "other", 30, 2000)
    assert third is not None
    assert (third.id, third.retry_count) == (second.id, second.retry_count)
    assert third.lock_number not in (first.lock_number, second.lock_number)
