"""The broker: limits, exactness, wake-ups, and what it does when a payload or the store fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qrusty_trio.core import broker as broker_module
from qrusty_trio.core import duplicates as duplicates_module
from qrusty_trio.core import registry as registry_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.hot_tier import READ_BYTES
from qrusty_trio.core.keys import lock_key, prefix
from qrusty_trio.core.model import Kind, NackOutcome, Ordering, QueueConfig
from qrusty_trio.core.queue import COUNTERS
from qrusty_trio.errors import (
    DiskFull,
    DuplicatePayload,
    InvalidQueueName,
    LimitReached,
    MessageNotLocked,
    PayloadNotStored,
    PriorityKindMismatch,
    QueueExists,
    QueueNotFound,
    StorageFault,
)
from qrusty_trio.storage.base import Batch, Family, Storage
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.core import stored

LONG = 30
"""Seconds of a lock that does not end during a test."""
NO_DUPLICATES = QueueConfig(allow_duplicates=False)


class Disk(MemoryStorage):
    """A store in memory that can be full."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False

    def write(self, batch: Batch) -> None:
        if self.full:
            raise DiskFull("No space left on the device")
        super().write(batch)


@pytest.fixture(params=["memory", "rocksdb"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "memory":
        yield MemoryStorage()
    else:
        store = RocksStorage.open(tmp_path / "store", cache_mb=8, write_buffer_mb=2, max_open_files=64)
        yield store
        store.close()


@pytest.fixture
def broker(storage: Storage) -> Broker:
    return Broker(storage)


@pytest.fixture
def payloads(tmp_path: Path) -> Iterator[PayloadStore]:
    store = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=100)
    yield store
    store.close()


def restarted(broker: Broker, payloads: PayloadStore | None = None) -> Broker:
    """What a new process finds."""
    again = Broker(broker.journal.storage, payloads=payloads, externalize_min_bytes=broker.externalize_min_bytes)
    exhaust(again.load())
    return again


def exhaust(pieces: Iterator[None]) -> None:
    for _ in pieces:
        pass


def take(broker: Broker, name: str = "q", consumer: str = "c", now: int = 0) -> str | None:
    """Consume; the id."""
    delivery = broker.consume(name, consumer, LONG, now)
    return delivery.id if delivery is not None else None


def payloads_in_order(broker: Broker, name: str = "q") -> list[str]:
    """Consume all there is."""
    found = []
    while (delivery := broker.consume(name, "last", LONG, 0)) is not None:
        found.append(delivery.payload)
    return found


# Names, limits, exactness


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "a/b", " ", "%2F", "\0", "Q", "😀"])
def test_any_name_up_to_255_bytes(broker: Broker, name: str) -> None:
    broker.create_queue(name, QueueConfig())
    broker.publish(name, 1, "payload", 3, 0)
    broker.commit()
    again = restarted(broker)
    assert again.names() == [name]
    assert payloads_in_order(again, name) == ["payload"]


@pytest.mark.parametrize("name", ["", "n" * 256, "ü" * 128])
def test_other_names_are_refused_and_make_nothing(broker: Broker, name: str) -> None:
    with pytest.raises(InvalidQueueName):
        broker.create_queue(name, QueueConfig())
    with pytest.raises(InvalidQueueName):
        broker.publish(name, 1, "payload", 3, 0)
    assert broker.names() == []


def test_names_are_taken_once(broker: Broker) -> None:
    broker.create_queue("q", QueueConfig())
    broker.create_queue("r", QueueConfig())
    with pytest.raises(QueueExists):
        broker.create_queue("q", QueueConfig())
    with pytest.raises(QueueExists):
        next(broker.update_queue("q", "r", None, 0))
    with pytest.raises(QueueNotFound):
        next(broker.update_queue("unknown", "s", None, 0))
    for name, new_name in ((" ", "s"), ("q", " "), ("q", ""), ("q", "n" * 256)):
        with pytest.raises(InvalidQueueName):
            next(broker.update_queue(name, new_name, False, 0))
    stats = broker.stats("q")
    assert stats is not None
    assert stats.config.allow_duplicates
    assert broker.names() == ["q", "r"]


def test_the_number_of_queues_is_bounded(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MAX_QUEUES", 2)
    broker.publish("a", 1, "payload", 3, 0)
    broker.create_queue("b", QueueConfig())
    with pytest.raises(LimitReached):
        broker.create_queue("c", QueueConfig())
    with pytest.raises(LimitReached):
        broker.publish("c", 1, "payload", 3, 0)
    broker.delete("a")
    broker.create_queue("c", QueueConfig())
    assert broker.names() == ["b", "c"]


@pytest.mark.parametrize("ordering", [Ordering.MAX_FIRST, Ordering.MIN_FIRST])
def test_priorities_are_exact(broker: Broker, ordering: Ordering) -> None:
    broker.create_queue("q", QueueConfig(ordering))
    priorities = [2**53, 2**53 + 1, 0, 2**64 - 1, 2**63, 2**64 - 2]
    for priority in priorities:
        broker.publish("q", priority, str(priority), 3, 0)
    broker.commit()
    expected = sorted(priorities, reverse=ordering is Ordering.MAX_FIRST)
    again = restarted(broker)
    got = [again.consume("q", "c", LONG, 0) for _ in priorities]
    assert [delivery.priority for delivery in got if delivery is not None] == expected


def test_a_refused_publish_makes_no_queue(broker: Broker) -> None:
    with pytest.raises(PriorityKindMismatch):
        broker.publish("q", "text", "payload", 3, 0)
    with pytest.raises(QueueNotFound):
        broker.publish("q", 1, "payload", 3, 0, create=False)
    assert broker.names() == []


def test_numbers_of_queues_are_not_used_again(broker: Broker) -> None:
    broker.publish("q", 1, "old", 3, 0)
    old = broker.queue_number("q")
    assert broker.delete("q") == 1
    broker.commit()
    again = restarted(broker)
    again.publish("q", 1, "new", 3, 0)
    assert again.queue_number("q") > old
    assert again.consume_number(old, "c", LONG, 0) is None


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
            broker.purge("q")
        else:
            broker.delete("q")
            assert stored.of_store(disk, None) == before
            broker.commit()
    assert stored.of_store(disk, None) == before
    disk.full = False
    exhaust(broker.load())
    assert (broker.purge("q") if what == "purge" else broker.delete("q")) == 2
    broker.commit()
    (dead_letters, *_) = [*[queue.dead for queue in stored.of_store(disk, None).values()], []]
    assert len(dead_letters) == (1 if what == "purge" else 0)


def test_a_rename_keeps_locks_and_rates(broker: Broker) -> None:
    broker.publish("q", 1, "payload", 3, 0)
    id = take(broker)
    assert id is not None
    exhaust(broker.sample(1000))
    points = broker.metrics("q")
    assert points[-1].publish_rate > 0
    exhaust(broker.update_queue("q", "r", None, 0))
    assert broker.metrics("r") == points
    with pytest.raises(MessageNotLocked):
        broker.ack("q", id, "c", 0)
    broker.ack("r", id, "c", 0)


# Wake-ups


def test_what_becomes_available_in_a_watched_queue_is_ready(broker: Broker) -> None:
    broker.create_queue("q", QueueConfig())
    number = broker.queue_number("q")

    def woken_by(action: Callable[[], object]) -> bool:
        broker.ready.clear()
        action()
        return number in broker.ready

    assert not woken_by(lambda: broker.publish("q", 1, "unwatched", 9, 0))
    broker.watched.add(number)
    assert woken_by(lambda: broker.publish("q", 1, "payload", 9, 0))
    id = take(broker)
    assert id is not None
    assert woken_by(lambda: broker.nack("q", id, "c", 0))
    take(broker)
    assert woken_by(lambda: broker.give_back(number, id, "c", 0, counted=False))
    take(broker)
    assert woken_by(lambda: broker.expire(LONG * 1000, 10))


@pytest.mark.parametrize("free", ["ack", "purge", "delete"])
def test_room_in_the_index_of_locks_wakes_who_was_refused(storage: Storage, free: str) -> None:
    broker = Broker(storage, max_locked_index=1)
    broker.publish("holder", 1, "payload", 3, 0)
    broker.publish("q", 1, "payload", 3, 0)
    number = broker.queue_number("q")
    broker.watched.add(number)
    id = take(broker, "holder")
    assert id is not None
    assert take(broker) is None
    assert broker.refused_for_locks == 1
    broker.ready.clear()
    if free == "ack":
        broker.ack("holder", id, "c", 0)
    elif free == "purge":
        broker.purge("holder")
    else:
        broker.delete("holder")
    assert number in broker.ready
    assert take(broker) is not None


# Deep queues


def test_the_dead_head_is_covered_again_after_messages_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "COVER_EVERY", 3)
    broker = Broker(MemoryStorage())
    for priority in (1, 9, 5):  # each time before, or behind, what was covered
        for _ in range(3):
            broker.publish("q", priority, "payload", 3, 0)
        for _ in range(3):
            take(broker)
        queue = broker.queues["q"]
        assert queue.covered == queue.head == queue.encode(priority, queue.next_sequence - 1)


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
        now_held = again.queues["q"].tier.octets + size
        assert now_held - held <= max(READ_BYTES, 8 * (size + 100))
        held = now_held


def test_a_counter_that_is_wrong_is_put_right_and_said(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker(storage)
    broker.publish("q", 1, "payload", 3, 0)
    broker.commit()
    batch = storage.batch()
    batch.delete_range(b"", b"\xff", storage.families[Family.MESSAGES])
    storage.write(batch)
    again = restarted(broker)
    assert take(again) is None
    assert "counted 1 available messages" in caplog.text
    again.commit()
    last = restarted(again)
    assert last.available(last.queue_number("q")) == 0
    last.publish("q", 1, "new", 3, 0)
    assert payloads_in_order(last) == ["new"]


def test_a_lock_without_its_queue_is_damage(storage: Storage) -> None:
    broker = Broker(storage)
    broker.publish("q", 1, "payload", 3, 0)
    take(broker)
    broker.commit()
    batch = storage.batch()
    batch.delete_range(b"Q", b"R", storage.families[Family.META])
    storage.write(batch)
    again = Broker(storage)
    with pytest.raises(StorageFault, match="no such queue"):
        exhaust(again.load())
    with pytest.raises(StorageFault):
        again.publish("q", 1, "payload", 3, 0)
        again.commit()


def test_a_lock_without_its_record_is_damage(storage: Storage) -> None:
    broker = Broker(storage)
    broker.publish("q", 1, "payload", 3, 0)
    id = take(broker)
    assert id is not None
    broker.commit()
    batch = storage.batch()
    batch.delete(lock_key(broker.queue_number("q"), 0), storage.families[Family.LOCKS])
    storage.write(batch)
    with pytest.raises(StorageFault, match="contradicts itself"):
        broker.nack("q", id, "c", 0)


def test_missing_counters_are_damage(storage: Storage) -> None:
    broker = Broker(storage)
    broker.publish("q", 1, "payload", 3, 0)
    broker.commit()
    batch = storage.batch()
    batch.delete(COUNTERS + prefix(broker.queue_number("q")), storage.families[Family.META])
    storage.write(batch)
    with pytest.raises(StorageFault, match="counters"):
        exhaust(Broker(storage).load())


# Faults of the store


def test_after_a_fault_nothing_is_written_until_the_store_was_loaded() -> None:
    disk = Disk()
    broker = Broker(disk)
    broker.publish("q", 1, "kept", 3, 0)
    broker.publish("q", 1, "also kept", 3, 0)
    held = take(broker)
    broker.commit()
    number = broker.queue_number("q")
    broker.watched.add(number)

    broker.publish("q", 9, "lost", 3, 0)
    broker.publish("other", 1, "lost", 3, 0)
    assert held is not None
    broker.ack("q", held, "c", 0)
    disk.full = True
    with pytest.raises(DiskFull):
        broker.commit()
    assert str(broker.journal.fault) == "No space left on the device"
    # There is nothing pending any more, and still it must not look as if all were well.
    with pytest.raises(DiskFull):
        broker.commit()
    disk.full = False
    with pytest.raises(DiskFull):
        broker.commit()
    broker.publish("q", 9, "lost, too", 3, 0)
    with pytest.raises(DiskFull):
        broker.commit()

    broker.ready.clear()
    exhaust(broker.load())
    assert broker.journal.fault is None
    assert broker.names() == ["q"]
    assert broker.watched == broker.ready == {number}
    assert list(broker.queues["q"].locks) == [held]
    broker.ack("q", held, "c", 0)
    assert payloads_in_order(broker) == ["also kept"]
    broker.commit()
    assert stored.of_store(disk, None)[number].available == []


def test_a_fault_in_the_midst_of_an_operation() -> None:
    disk = Disk()
    broker = Broker(disk)
    broker.publish("q", 1, "payload", 3, 0)
    broker.commit()
    id = take(broker)
    assert id is not None
    disk.full = True
    with pytest.raises(DiskFull):
        broker.nack("q", id, "c", 0)  # its record is to be read back, so it is written first
    with pytest.raises(DiskFull):
        broker.commit()
    disk.full = False
    exhaust(broker.load())
    assert payloads_in_order(broker) == ["payload"]


# Payloads in files


def with_payloads(storage: Storage, payloads: PayloadStore) -> Broker:
    return Broker(storage, payloads=payloads, externalize_min_bytes=50)


def big(text: str) -> str:
    return text.ljust(60)


def test_a_payload_that_finds_no_room_leaves_all_as_before(storage: Storage, payloads: PayloadStore) -> None:
    broker = with_payloads(storage, payloads)
    broker.create_queue("q", NO_DUPLICATES)
    broker.publish("q", 1, big("first"), 3, 0)
    broker.commit()
    before = stored.of_store(storage, payloads)
    payloads.close()
    for name in ("q", "new"):
        with pytest.raises(PayloadNotStored):
            broker.publish(name, 1, big("second"), 3, 0)
    assert broker.names() == ["q"]
    assert broker.available(broker.queue_number("q")) == 1
    broker.publish("q", 1, "small", 3, 0)  # its neighbours are not touched
    broker.commit()
    broker.purge("q")
    after = stored.of_store(storage, payloads)
    assert [queue.name for queue in after.values()] == [queue.name for queue in before.values()] == ["q"]
    assert broker.journal.fault is None


def break_payload(payloads: PayloadStore, directory: Path, number: int) -> None:
    """Damage the file of one payload; each has its own segment."""
    path = sorted((directory / "payloads").glob("*.payloads"))[number]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_broken_payload_is_removed_and_the_next_one_given(
    storage: Storage, payloads: PayloadStore, tmp_path: Path
) -> None:
    broker = with_payloads(storage, payloads)
    broker.create_queue("q", NO_DUPLICATES)
    ids = [broker.publish("q", 7, big(text), 3, 0) for text in ("one", "two", "three")]
    broker.commit()
    break_payload(payloads, tmp_path, 0)
    break_payload(payloads, tmp_path, 1)
    delivery = broker.consume("q", "c", LONG, 0)
    assert delivery is not None
    assert (delivery.id, delivery.payload) == (ids[2], big("three"))
    assert [(removed.queue, removed.id, removed.priority, removed.reason) for removed in broker.removed] == [
        ("q", ids[0], 7, "checksum"),
        ("q", ids[1], 7, "checksum"),
    ]
    assert broker.removed_total == 2
    broker.publish("q", 7, big("one"), 3, 0)  # it keeps no equal one out
    broker.commit()
    (queue,) = stored.of_store(storage, payloads).values()
    assert (len(queue.available), len(queue.held), len(queue.dead)) == (1, 1, 0)


def test_one_consume_does_not_remove_without_end(
    storage: Storage, payloads: PayloadStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "BROKEN_PER_CONSUME", 2)
    broker = with_payloads(storage, payloads)
    for number in range(5):
        broker.publish("q", 1, big(str(number)), 3, 0)
    broker.commit()
    for number in range(4):
        break_payload(payloads, tmp_path, number)
    assert [broker.consume("q", "c", LONG, 0) for _ in range(2)] == [None, None]
    assert broker.queue_number("q") in broker.ready  # it is worth another look
    assert payloads_in_order(broker) == [big("4")]
    assert broker.removed_total == 4


def test_a_message_indexed_while_locked_frees_its_payload_when_it_breaks(
    storage: Storage, payloads: PayloadStore, tmp_path: Path
) -> None:
    broker = with_payloads(storage, payloads)
    broker.publish("q", 1, big("text"), 3, 0)
    id = take(broker)
    assert id is not None
    exhaust(broker.update_queue("q", None, False, 0))
    broker.nack("q", id, "c", 0)
    broker.commit()
    break_payload(payloads, tmp_path, 0)
    assert take(broker) is None
    assert [removed.id for removed in broker.removed] == [id]
    broker.publish("q", 1, big("text"), 3, 0)


# Duplicates


def test_duplicates_are_refused_while_one_is_available_or_locked(broker: Broker) -> None:
    broker.create_queue("q", NO_DUPLICATES)
    broker.publish("q", 1, "p", 1, 0)
    with pytest.raises(DuplicatePayload, match=r"^Duplicate payload rejected$"):
        broker.publish("q", 2, "p", 1, 0)
    id = take(broker)
    assert id is not None
    with pytest.raises(DuplicatePayload):
        broker.publish("q", 2, "p", 1, 0)
    assert broker.nack("q", id, "c", 0) is NackOutcome.DEAD_LETTERED
    broker.publish("q", 2, "p", 1, 0)
    broker.purge("q")
    broker.publish("q", 2, "p", 1, 0)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates_module, "PER_STEP", 1)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("steps", range(8))
def test_the_queue_serves_while_duplicates_are_looked_for(storage: Storage, steps: int) -> None:
    """After each number of steps: publish, consume, ack, nack, and then a restart."""
    broker = Broker(storage, hot_tier_size=2, refill_threshold=1)
    broker.create_queue("q", QueueConfig(Ordering.MIN_FIRST))
    for priority, payload in enumerate(["a", "b", "a", "c", "b", "d"], 10):
        broker.publish("q", priority, payload, 9, 0)
    locked = take(broker)  # the first "a"
    assert locked is not None
    update = broker.update_queue("q", None, False, 0)
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
    exhaust(again.unsettled())
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
    first = broker.update_queue("q", None, False, 0)
    for _ in range(5):
        next(first)
    exhaust(broker.update_queue("q", None, True, 0))
    second = broker.update_queue("q", None, False, 0)
    next(second)
    exhaust(first)
    assert [queue.settling for queue in broker.queues.values()] == [True]
    exhaust(second)
    assert [queue.settling for queue in broker.queues.values()] == [False]
    for payload in ("a", "b", "c"):
        with pytest.raises(DuplicatePayload):
            broker.publish("q", 1, payload, 9, 0)
    assert payloads_in_order(broker) == ["a", "b", "c"]


def test_what_was_locked_twice_comes_back_once(broker: Broker) -> None:
    broker.create_queue("q", QueueConfig(kind=Kind.TEXT))
    for _ in range(2):
        broker.publish("q", "high", "p", 9, 0)
    first, second = take(broker), take(broker)
    assert first is not None
    assert second is not None
    exhaust(broker.update_queue("q", None, False, 0))
    assert broker.nack("q", second, "c", 0) is NackOutcome.DROPPED
    assert broker.nack("q", first, "c", 0) is NackOutcome.UNLOCKED
    assert payloads_in_order(broker) == ["p"]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("end", ["purge", "delete", "allow"])
def test_what_ends_a_search(broker: Broker, end: str) -> None:
    for _ in range(4):
        broker.publish("q", 1, "p", 9, 0)
    broker.commit()
    update = broker.update_queue("q", None, False, 0)
    for _ in range(3):
        next(update)
    if end == "purge":
        broker.purge("q")
    elif end == "delete":
        broker.delete("q")
    else:
        exhaust(broker.update_queue("q", None, True, 0))
    exhaust(update)
    broker.commit()
    again = restarted(broker)
    assert not any(queue.settling for queue in again.queues.values())
    for _ in range(2 if end == "allow" else 1):
        again.publish("q", 1, "p", 9, 0)
