"""What the broker does when the store or a payload fails: refuse, or remove and go on, and leave the rest as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from qrusty_trio.core import broker as broker_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.queue import Queue
from qrusty_trio.errors import (
    DiskFull,
    PayloadNotStored,
    StorageFault,
)
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.payloads import PayloadStore
from tests.core import stored
from tests.core.brokers import (
    LONG,
    NO_DUPLICATES,
    Disk,
    big,
    break_payload,
    exhaust,
    payloads_in_order,
    take,
    with_payloads,
)

# Faults of the store


# Verifies: PER-0042
def test_after_a_fault_nothing_is_written_until_the_store_was_loaded() -> None:
    disk = Disk()
    broker = Broker(disk)
    broker.publish("q", 1, "kept", 3, 0)
    broker.publish("q", 1, "also kept", 3, 0)
    held = take(broker)
    broker.commit()
    number = broker.catalog.number_of("q")
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

    exhaust(broker.load())
    assert broker.journal.fault is None
    assert broker.catalog.names() == ["q"]
    assert [lock.id for lock in broker.catalog.by_name["q"].locks] == [held]
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


# Verifies: PER-0020
@pytest.mark.parametrize("reads", range(1, 8))
def test_a_load_that_breaks_off_forgets_no_number_that_was_given_out(reads: int) -> None:
    """The locks with these numbers are lost, their deliveries may be out in the world."""
    disk = Disk()
    broker = Broker(disk)
    broker.publish("q", 1, "one", 3, 0)
    broker.publish("other", 1, "two", 3, 0)
    broker.commit()
    given = {name: broker.consume(name, "c", LONG, 0) for name in ("q", "other")}
    disk.full = True
    with pytest.raises(DiskFull):
        broker.commit()
    disk.full = False
    disk.reads_left = reads
    with suppress(StorageFault):
        exhaust(broker.load())
    disk.reads_left = None
    exhaust(broker.load())
    for name, before in given.items():
        again = broker.consume(name, "c", LONG, 0)
        assert before is not None
        assert again is not None
        assert again.lock_number > before.lock_number


def test_a_queue_whose_deletion_was_not_stored_goes_on_counting() -> None:
    disk = Disk()
    broker = Broker(disk)
    broker.publish("q", 1, "one", 3, 0)
    broker.commit()
    before = broker.consume("q", "c", LONG, 0)
    broker.catalog.delete("q")
    disk.full = True
    with pytest.raises(DiskFull):
        broker.commit()
    disk.full = False
    exhaust(broker.load())
    again = broker.consume("q", "c", LONG, 0)
    assert before is not None
    assert again is not None
    assert again.lock_number > before.lock_number


# Payloads in files


def test_a_payload_that_finds_no_room_leaves_all_as_before(storage: Storage, payloads: PayloadStore) -> None:
    broker = with_payloads(storage, payloads)
    broker.catalog.create("q", NO_DUPLICATES)
    broker.publish("q", 1, big("first"), 3, 0)
    broker.commit()
    before = stored.of_store(storage, payloads)
    payloads.close()
    for name in ("q", "new"):
        with pytest.raises(PayloadNotStored):
            broker.publish(name, 1, big("second"), 3, 0)
    assert broker.catalog.names() == ["q"]
    assert broker.catalog.by_name["q"].available == 1
    broker.publish("q", 1, "small", 3, 0)  # its neighbours are not touched
    broker.commit()
    broker.catalog.purge("q")
    after = stored.of_store(storage, payloads)
    assert [queue.name for queue in after.values()] == [queue.name for queue in before.values()] == ["q"]
    assert broker.journal.fault is None


# Verifies: PER-0028
def test_a_broken_payload_is_removed_and_the_next_one_given(
    storage: Storage, payloads: PayloadStore, tmp_path: Path
) -> None:
    broker = with_payloads(storage, payloads)
    broker.catalog.create("q", NO_DUPLICATES)
    ids = [broker.publish("q", 7, big(text), 3, 0) for text in ("one", "two", "three")]
    broker.commit()
    break_payload(payloads, tmp_path, 0)
    break_payload(payloads, tmp_path, 1)
    delivery = broker.consume("q", "c", LONG, 0)
    assert delivery is not None
    assert (delivery.id, delivery.payload) == (ids[2], big("three"))
    assert [
        (removed.queue, removed.id, removed.priority, removed.reason) for removed in broker.payloads.take_removed()
    ] == [
        ("q", ids[0], 7, "checksum"),
        ("q", ids[1], 7, "checksum"),
    ]
    assert broker.payloads.removed_total == 2
    broker.publish("q", 7, big("one"), 3, 0)  # it keeps no equal one out
    broker.commit()
    (queue,) = stored.of_store(storage, payloads).values()
    assert (len(queue.available), len(queue.held), len(queue.dead)) == (1, 1, 0)


# Verifies: DLV-0034
def test_one_consume_does_not_remove_without_end(
    storage: Storage, payloads: PayloadStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "REMOVED_PER_CONSUME", 2)
    broker = with_payloads(storage, payloads)
    for number in range(5):
        broker.publish("q", 1, big(str(number)), 3, 0)
    broker.commit()
    for number in range(4):
        break_payload(payloads, tmp_path, number)
    assert [broker.consume("q", "c", LONG, 0) for _ in range(2)] == [None, None]
    assert broker.catalog.number_of("q") in broker.take_ready()  # it is worth another look
    assert payloads_in_order(broker) == [big("4")]
    assert broker.payloads.removed_total == 4


# Verifies: PER-0047
@pytest.mark.parametrize("operation", ["publish", "consume", "ack", "nack", "take back", "expire", "purge", "delete"])
def test_a_change_that_breaks_off_anywhere_is_known_to_be_half_done(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of memory, say: either nothing has changed, or the batch tells that something has."""
    for breaks_at in range(20):
        broker = Broker(Disk())
        for text in ("a", "b", "c"):
            broker.publish("q", 1, text, 3, 0)
        held = broker.consume("q", "c", LONG, 0)
        assert held is not None
        broker.commit()
        queue = broker.catalog.by_name["q"]
        operations: dict[str, Callable[[], object]] = {
            "publish": partial(broker.publish, "q", 1, "d", 3, 0),
            "consume": partial(broker.consume, "q", "c", LONG, 0),
            "ack": partial(broker.ack, "q", held.id, "c", 0),
            "nack": partial(broker.nack, "q", held.id, "c", 0),
            "take back": partial(broker.take_back, queue.number, held.lock_number, held.id),
            "expire": partial(broker.expire, LONG * 2000, 10),
            "purge": partial(broker.catalog.purge, "q"),
            "delete": partial(broker.catalog.delete, "q"),
        }
        calls = count()

        def breaking(
            function: Callable[..., None], calls: Iterator[int] = calls, breaks_at: int = breaks_at
        ) -> Callable[..., None]:
            def change(*args: object) -> None:
                if next(calls) == breaks_at:
                    raise MemoryError
                function(*args)

            return change

        def state(queue: Queue = queue, broker: Broker = broker) -> object:
            locks = sorted(lock.id for lock in queue.locks)
            return queue.available, queue.locked, queue.dead, len(queue.tier), locks, broker.locks.count

        journal = broker.journal
        before, position = state(), journal.position
        with monkeypatch.context() as patch:
            for name in ("put", "delete", "delete_range"):
                patch.setattr(journal, name, breaking(getattr(journal, name)))
            try:
                operations[operation]()
            except MemoryError:
                assert journal.position != position or state() == before
            else:
                assert breaks_at
                return
    raise AssertionError("it never came to its end")
