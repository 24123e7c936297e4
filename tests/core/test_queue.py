"""A queue: what its transitions leave in the store besides messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qrusty_trio.core import queue as queue_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.core.queue import Queue
from qrusty_trio.storage.base import Batch, Family
from qrusty_trio.storage.memory import MemoryBatch, MemoryStorage
from tests.core.brokers import LONG, exhaust, lock_of, restarted, take

FEW = 3


class Ranges(MemoryBatch):
    """Notes which ranges are deleted."""

    __slots__ = ("noted",)

    def __init__(self, noted: list[tuple[Any, bytes, bytes]]) -> None:
        super().__init__()
        self.noted = noted

    def delete_range(self, begin: bytes, end: bytes, family: Any) -> None:
        self.noted.append((family, begin, end))
        super().delete_range(begin, end, family)


class Noting(MemoryStorage):
    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Any, bytes, bytes]] = []

    def batch(self) -> Batch:
        return Ranges(self.noted)

    def ranges(self, family: Family) -> list[tuple[bytes, bytes]]:
        return [(begin, end) for each, begin, end in self.noted if each is self.families[family]]


@pytest.fixture
def storage() -> Noting:
    return Noting()


@pytest.fixture
def broker(storage: Noting, monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr(queue_module, "TRIM_EVERY", FEW)
    return Broker(storage)


def lock_key(number: int) -> bytes:
    return (1).to_bytes(4, "big") + number.to_bytes(8, "big")


# Verifies: PER-0022
def test_what_was_consumed_is_deleted_as_a_range_from_time_to_time(broker: Broker, storage: Noting) -> None:
    for number in range(2 * FEW + 1):
        broker.publish("q", 1, str(number), 9, 0)
    keys = []
    for _ in range(2 * FEW + 1):
        id = take(broker)
        assert id is not None
        keys.append(lock_of(broker, id).key)
    broker.commit()
    queue, again = broker.catalog.by_name["q"], restarted(broker).catalog.by_name["q"]
    assert (again.head, again.trimmed_to) == (queue.head, queue.trimmed_to) == (keys[-1], keys[2 * FEW - 1])
    prefix = keys[0][:4]
    assert storage.ranges(Family.MESSAGES) == [(prefix, keys[FEW - 1]), (keys[FEW - 1], keys[2 * FEW - 1])]


# Verifies: PER-0022
def test_locks_that_are_gone_are_deleted_as_a_range_from_time_to_time(broker: Broker, storage: Noting) -> None:
    """Up to the first that was still there. The store says how far, so that the next process begins there."""
    ids = [broker.publish("q", 1, str(number), 9, 0) for number in range(4 * FEW)]
    for id in ids:
        assert take(broker) == id
    held = ids.pop(4)
    for id in ids[: 2 * FEW]:
        broker.ack("q", id, "c", 0)
    assert storage.ranges(Family.LOCKS) == [(lock_key(0), lock_key(2)), (lock_key(2), lock_key(4))]
    broker.commit()
    assert storage.get(storage.families[Family.META], b"L" + lock_key(0)[:4]) == (4).to_bytes(8, "big")
    assert restarted(broker).catalog.by_name["q"].locks_from == 4
    for id in (*ids[2 * FEW : 3 * FEW - 1], held):
        broker.ack("q", id, "c", 0)
    assert len(storage.ranges(Family.LOCKS)) == 2
    for id in ids[3 * FEW - 1 :]:
        broker.ack("q", id, "c", 0)
    assert storage.ranges(Family.LOCKS)[2:] == [(lock_key(4), lock_key(4 * FEW - 1))]


# Verifies: PER-0022
def test_dead_letters_that_are_gone_are_deleted_as_a_range_once_there_are_enough(
    broker: Broker, storage: Noting
) -> None:
    broker.catalog.create("q", QueueConfig())
    queue = broker.catalog.by_name["q"]
    queue.next_dead = 2 * FEW
    for queue.dead_from in (FEW - 1, FEW, 2 * FEW - 1):
        queue.trim_dead(broker.journal)
    assert storage.ranges(Family.DEAD) == [(lock_key(0), lock_key(FEW))]


@pytest.mark.parametrize("what", ["publish", "take", "consume", "ack", "nack", "bury"])
def test_a_queue_that_is_deleted_with_pending_changes_leaves_no_counters(
    broker: Broker, storage: Noting, what: str
) -> None:
    broker.catalog.create("q", QueueConfig())
    broker.commit()
    ids = [broker.publish("q", 1, str(number), 1 if what == "bury" else 9, 0) for number in range(2)]
    for id in ids:
        if what == "publish":
            continue
        if what in ("take", "consume"):
            broker.commit()
        if what != "take":
            assert take(broker) == id
    if what not in ("publish", "consume"):
        broker.commit()
    queue = broker.catalog.by_name["q"]
    for id in ids:
        if what == "take":
            queue.take(broker.journal, queue.tier.first()[0])
        elif what == "ack":
            broker.ack("q", id, "c", 0)
        elif what in ("nack", "bury"):
            broker.nack("q", id, "c", 0)
    broker.catalog.delete("q")
    broker.commit()
    meta = storage.scan(storage.families[Family.META], b"", b"\xff", 100)
    assert [key for key, _ in meta] == [b"N"]
    for family in (Family.MESSAGES, Family.LOCKS, Family.DEAD):
        assert storage.scan(storage.families[family], b"", b"\xff" * 40, 100) == []


@pytest.mark.parametrize("way", [Queue.take, Queue.drop])
def test_what_was_removed_is_not_counted_in_the_next_process(
    broker: Broker, storage: Noting, way: Callable[[Queue, Journal, bytes], None]
) -> None:
    for number in range(FEW + 1):
        broker.publish("q", 1, str(number), 9, 0)
    broker.commit()
    queue = broker.catalog.by_name["q"]
    for _ in range(FEW):
        way(queue, broker.journal, queue.tier.first()[0])
    broker.commit()
    assert restarted(broker).catalog.by_name["q"].available == 1
    assert len(storage.ranges(Family.MESSAGES)) == (way is Queue.take)


def test_dead_letters_that_were_all_removed_are_gone_in_the_next_process_too(broker: Broker) -> None:
    for number in range(2):
        id = broker.publish("q", 1, str(number), 1, 0)
        assert take(broker) == id
        broker.nack("q", id, "c", 0)
    broker.commit()
    broker.catalog.by_name["q"].exhume(broker.journal)
    broker.commit()
    again = restarted(broker).catalog.by_name["q"]
    assert (again.dead, again.dead_from, again.dead_purged) == (0, 2, 2)


def test_a_lock_that_was_renewed_is_renewed_in_the_next_process_too(broker: Broker) -> None:
    id = broker.publish("q", 1, "p", 9, 0)
    take(broker)
    broker.commit()
    end = broker.renew("q", id, "c", 10 * LONG, 0)
    broker.commit()
    assert lock_of(restarted(broker), id).expires_at_ms == end == 10_000 * LONG


def test_the_figures_of_a_queue(broker: Broker) -> None:
    for number in range(6):
        broker.publish("q", 1, str(number), 1, 0)
    dead = take(broker)
    assert dead is not None
    broker.nack("q", dead, "c", 0)
    for _ in range(2):
        take(broker)
    rates = broker.catalog.by_name["q"].rates
    rates.published, rates.acked, rates.nacked = 50, 25, 5
    exhaust(broker.catalog.sample(1000))
    exhaust(broker.catalog.sample(2000))
    stats = broker.catalog.stats("q")
    assert stats is not None
    assert (stats.available, stats.locked, stats.dead) == (3, 2, 1)
    assert (stats.publish_rate, stats.ack_rate, stats.nack_rate) == pytest.approx((8, 4, 0.8))
