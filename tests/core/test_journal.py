"""What is pending: written whole or dropped whole, and nothing is written when nothing has changed."""

from __future__ import annotations

from typing import Any

import pytest

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.errors import DiskFull, DuplicatePayload, StorageFault
from qrusty_trio.storage.base import Batch
from tests.core.brokers import NO_DUPLICATES, Disk, exhaust, payloads_in_order, take


class Counted(Disk):
    """A store that counts its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, batch: Batch) -> None:
        super().write(batch)
        self.writes += 1


def lose(broker: Broker, disk: Disk) -> None:
    """The pending batch is not stored, and the store is read anew."""
    disk.full = True
    with pytest.raises(DiskFull):
        broker.commit()
    disk.full = False
    exhaust(broker.load())


# Verifies: DLV-0031
def test_a_payload_whose_publish_was_lost_can_be_published_again() -> None:
    disk = Disk()
    broker = Broker(disk)
    broker.catalog.create("q", NO_DUPLICATES)
    broker.commit()
    broker.publish("q", 1, "lost", 3, 0)
    lose(broker, disk)
    broker.publish("q", 1, "lost", 3, 0)
    with pytest.raises(DuplicatePayload):
        broker.publish("q", 1, "lost", 3, 0)
    assert payloads_in_order(broker) == ["lost"]


@pytest.mark.parametrize("end", ["ack", "bury"])
def test_a_payload_whose_end_was_lost_still_keeps_equal_ones_out(end: str) -> None:
    disk = Disk()
    broker = Broker(disk)
    broker.catalog.create("q", NO_DUPLICATES)
    broker.publish("q", 1, "kept", 1, 0)
    id = take(broker)
    assert id is not None
    broker.commit()
    if end == "ack":
        broker.ack("q", id, "c", 0)
    else:
        broker.nack("q", id, "c", 0)
    lose(broker, disk)
    with pytest.raises(DuplicatePayload):
        broker.publish("q", 1, "kept", 1, 0)
    assert [lock.id for lock in broker.catalog.by_name["q"].locks] == [id]


def test_nothing_is_written_when_nothing_has_changed() -> None:
    disk = Counted()
    broker = Broker(disk)
    broker.commit()
    assert disk.writes == 0
    broker.publish("q", 1, "payload", 3, 0)
    for _ in range(2):
        broker.commit()
        assert disk.writes == 1
    broker.journal.touch()
    for _ in range(3):
        broker.commit()
        assert disk.writes == 2
    broker.journal.touch()
    exhaust(broker.load())  # drops it
    broker.commit()
    assert disk.writes == 2


# Verifies: PER-0042
@pytest.mark.parametrize("read", ["get", "scan"])
def test_a_read_that_failed_is_a_fault_until_the_store_was_loaded(read: str) -> None:
    disk = Disk()
    broker = Broker(disk)
    broker.publish("q", 1, "payload", 3, 0)
    broker.commit()
    journal: Journal = broker.journal
    arguments: tuple[Any, ...] = (b"",) if read == "get" else (b"", b"\xff", 1)
    disk.reads_left = 0
    with pytest.raises(StorageFault, match="Input"):
        getattr(journal, read)(journal.messages, *arguments)
    disk.reads_left = None
    broker.publish("q", 1, "another", 3, 0)
    with pytest.raises(StorageFault, match="Input"):
        broker.commit()
    exhaust(broker.load())
    assert payloads_in_order(broker) == ["payload"]


def test_a_queue_is_noted_once_for_each_write() -> None:
    """However often it has changed: a write stores its counters once."""
    broker = Broker(Disk())
    broker.catalog.create("q", QueueConfig())
    queue = broker.catalog.by_name["q"]
    broker.commit()
    for publishes, deliveries in ((4, 0), (0, 2), (2, 2)):
        for _ in range(publishes):
            broker.publish("q", 1, "p", 1, 0)
        for _ in range(deliveries):
            take(broker)
        assert broker.journal.dirty == [queue]
        broker.commit()
        assert broker.journal.dirty == []
    key, _ = queue.tier.first()
    queue.take(broker.journal, key)
    queue.take(broker.journal, queue.tier.first()[0])
    assert broker.journal.dirty == [queue]
