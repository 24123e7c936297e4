"""The oldest available message of each queue: found by a look at the first of each priority."""

from __future__ import annotations

import random

import pytest

from qrusty_trio.core import ages
from qrusty_trio.core.ages import LOOKS_PER_STEP, MAX_PRIORITIES, look_at_all
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.browsing import Chunk, read_on
from qrusty_trio.core.dead_letter_moves import Chosen, Outcome, Target
from qrusty_trio.core.dead_letters import EVERY
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.model import Kind, Ordering, QueueConfig
from qrusty_trio.core.queue import Queue
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.memory import MemoryStorage
from tests.core.brokers import exhaust


def look(broker: Broker) -> int:
    """The number of steps."""
    return sum(1 for _ in look_at_all(broker.journal, broker.catalog))


def oldest(broker: Broker, name: str = "q") -> tuple[int | None, bool]:
    stats = broker.catalog.stats(name)
    assert stats is not None
    return stats.oldest_ms, stats.oldest_exact


# Verifies: SCH-0046
@pytest.mark.parametrize("ordering", Ordering)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("tier", [1, 5, 1000])
def test_the_oldest_is_found_whatever_happened(storage: Storage, ordering: Ordering, kind: Kind, tier: int) -> None:
    broker = Broker(storage, hot_tier_size=tier, refill_threshold=1)
    broker.catalog.create("q", QueueConfig(ordering, kind=kind))
    dice = random.Random(tier)
    born: dict[str, int] = {}
    held: list[str] = []
    for now in range(1, 300):
        what = dice.random()
        if what < 0.5:
            number = dice.randrange(6)
            born[broker.publish("q", number if kind is Kind.NUMERIC else "\0" * (number + 1), "p", 99, now)] = now
        elif what < 0.8:
            delivery = broker.consume("q", "c", 30, now)
            if delivery is not None:
                held.append(delivery.id)
        elif held:
            id = held.pop(dice.randrange(len(held)))
            if dice.random() < 0.5:
                broker.nack("q", id, "c", now)
            else:
                broker.ack("q", id, "c", now)
                del born[id]
        if dice.random() < 0.3:
            broker.commit()
            look(broker)
            available = [born[id] for id in born if id not in held]
            assert oldest(broker) == (min(available, default=None), True)
    look(broker)
    expected = oldest(broker)
    broker.commit()
    again = Broker(storage)
    exhaust(again.load())
    assert again.catalog.by_name["q"].oldest is None
    look(again)
    assert oldest(again) == expected


def test_of_a_fifo_queue_it_is_known_without_a_look() -> None:
    broker = Broker(MemoryStorage())
    broker.catalog.create("q", QueueConfig(Ordering.FIFO))
    broker.publish("q", 1, "p", 9, 5)
    broker.publish("q", 1, "p", 9, 6)
    assert oldest(broker) == (5, True)
    look(broker)
    assert broker.consume("q", "c", 30, 7) is not None
    assert oldest(broker) == (6, True)


def test_before_the_first_look_the_first_message_stands_for_the_oldest() -> None:
    broker = Broker(MemoryStorage())
    broker.publish("q", 1, "p", 9, 5)
    broker.publish("q", 2, "p", 9, 6)
    assert oldest(broker) == (6, False)
    look(broker)
    assert oldest(broker) == (5, True)
    broker.catalog.purge("q")
    assert oldest(broker) == (None, True)
    broker.publish("q", 2, "p", 9, 7)
    look(broker)
    assert oldest(broker) == (7, True)


def test_after_a_restart_nothing_is_known_until_the_first_look() -> None:
    broker = Broker(MemoryStorage())
    broker.publish("q", 1, "p", 9, 5)
    broker.commit()
    again = Broker(broker.journal.storage)
    exhaust(again.load())
    assert oldest(again) == (None, False)
    look(again)
    assert oldest(again) == (5, True)


def test_a_fifo_queue_needs_no_look() -> None:
    broker = Broker(MemoryStorage())
    broker.catalog.create("q", QueueConfig(Ordering.FIFO))
    for now in (5, 6):
        broker.publish("q", 1, "p", 9, now)
    assert oldest(broker) == (5, True)
    broker.consume("q", "c", 30, 9)
    assert oldest(broker) == (6, True)


def test_of_very_many_priorities_the_first_are_looked_at() -> None:
    broker = Broker(MemoryStorage(), hot_tier_size=10)
    for number in range(2 * MAX_PRIORITIES):
        broker.publish("q", number, "p", 9, number)
    assert look(broker) >= (MAX_PRIORITIES - 10) // LOOKS_PER_STEP
    assert oldest(broker) == (MAX_PRIORITIES, False)


# Verifies: SCH-0046
def test_only_queues_that_changed_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(MemoryStorage())
    for name in ("a", "b"):
        for priority in (1, 2):
            broker.publish(name, priority, "p", 9, 1)
    looks: list[str] = []

    def noted(journal: Journal, queue: Queue, begin: bytes, limit: int) -> Chunk:
        looks.append(queue.name)
        return read_on(journal, queue, begin, limit)

    monkeypatch.setattr(ages, "read_on", noted)
    look(broker)
    assert set(looks) == {"a", "b"}
    looks.clear()
    broker.publish("a", 9, "p", 9, 2)
    look(broker)
    assert looks == []
    delivery = broker.consume("a", "c", 30, 2)
    look(broker)
    assert set(looks) == {"a"}
    looks.clear()
    assert delivery is not None
    broker.nack("a", delivery.id, "c", 2)
    look(broker)
    assert set(looks) == {"a"}


def test_a_queue_that_is_deleted_meanwhile() -> None:
    broker = Broker(MemoryStorage(), hot_tier_size=2)
    for name in ("a", "b"):
        for priority in range(3 * LOOKS_PER_STEP):
            broker.publish(name, priority, "p", 9, 1)
    steps = look_at_all(broker.journal, broker.catalog)
    next(steps)
    broker.catalog.delete("a")
    broker.catalog.purge("b")
    exhaust(steps)
    assert oldest(broker, "b") == (None, True)


def test_a_dead_letter_of_another_queue_brings_its_age_along() -> None:
    broker = Broker(MemoryStorage())
    broker.publish("dying", 5, "old", 1, 1000)
    delivery = broker.consume("dying", "c", 30, 1000)
    assert delivery is not None
    broker.nack("dying", delivery.id, "c", 1000)
    broker.publish("q", 5, "new", 1, 9000)
    broker.commit()
    look(broker)
    assert oldest(broker) == (9000, True)
    queues = broker.catalog.by_name
    everything = Chosen(None, EVERY, queues["dying"].next_dead, False)
    for _ in broker.dead_letter_moves.requeue(queues["dying"], everything, Target(queues["q"], 6), Outcome()):
        broker.commit()
    look(broker)
    assert oldest(broker) == (1000, True)
