"""Which locks are near their end, and who is told."""

from __future__ import annotations

import random

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.deadlines import MAX_LENGTHS, Deadlines
from qrusty_trio.core.queue import Lock
from qrusty_trio.storage.memory import MemoryStorage

NOW = 1_000_000


class Told:
    def __init__(self) -> None:
        self.ids: list[str] = []

    def deadline_soon(self, lock: Lock, seconds: int) -> None:
        self.ids.append(lock.id)


def locked(broker: Broker, consumer: str, seconds: int, now: int) -> str:
    broker.publish("q", 0, "p", 9, now)
    delivery = broker.consume("q", consumer, seconds, now)
    assert delivery is not None
    return delivery.id


def look(deadlines: Deadlines, broker: Broker, now: int, limit: int = 1000) -> int:
    """The number of steps."""
    steps = 1
    while deadlines.look(broker.locks, now, limit):
        steps += 1
    return steps


# Verifies: WS-0041
def test_each_lock_is_told_once_and_again_when_it_was_renewed() -> None:
    broker, deadlines, told = Broker(MemoryStorage()), Deadlines(), Told()
    deadlines.ask("c", 5, told, NOW)
    first, later = locked(broker, "c", 10, NOW), locked(broker, "c", 30, NOW)
    locked(broker, "other", 10, NOW)
    look(deadlines, broker, NOW + 4_999)
    assert told.ids == []
    for _ in range(3):
        look(deadlines, broker, NOW + 5_000)
        assert told.ids == [first]
    broker.renew("q", first, "c", 20, NOW + 9_000)
    look(deadlines, broker, NOW + 10_000)
    assert told.ids == [first]
    look(deadlines, broker, NOW + 27_000)
    assert told.ids == [first, first, later]
    broker.ack("q", first, "c", NOW)
    look(deadlines, broker, NOW + 60_000)
    assert told.ids == [first, first, later]


def test_each_length_of_time_is_for_itself() -> None:
    broker, deadlines, soon, early = Broker(MemoryStorage()), Deadlines(), Told(), Told()
    deadlines.ask("c", 2, soon, NOW)
    deadlines.ask("c", 8, early, NOW)
    assert deadlines.lengths() == [2, 8]
    id = locked(broker, "c", 10, NOW)
    look(deadlines, broker, NOW + 2_000)
    assert (soon.ids, early.ids) == ([], [id])
    look(deadlines, broker, NOW + 8_000)
    assert (soon.ids, early.ids) == ([id], [id])


def test_locks_of_a_purged_queue_are_not_told() -> None:
    broker, deadlines, told = Broker(MemoryStorage()), Deadlines(), Told()
    deadlines.ask("c", 5, told, NOW)
    locked(broker, "c", 10, NOW)
    broker.catalog.purge("q")
    look(deadlines, broker, NOW + 9_000)
    assert told.ids == []


def test_who_no_longer_asks_is_not_told() -> None:
    broker, deadlines, told = Broker(MemoryStorage()), Deadlines(), Told()
    assert not deadlines
    deadlines.ask("c", 5, told, NOW)
    deadlines.ask("d", 5, told, NOW)
    locked(broker, "c", 10, NOW)
    deadlines.forget("c", 5)
    deadlines.forget("c", 5)
    deadlines.forget("c", 6)
    assert deadlines
    look(deadlines, broker, NOW + 9_000)
    assert told.ids == []
    deadlines.forget("d", 5)
    assert not deadlines
    deadlines.ask("c", 5, told, NOW)
    deadlines.clear()
    assert not deadlines


# Verifies: WS-0042
def test_lengths_are_bounded() -> None:
    deadlines, told = Deadlines(), Told()
    for seconds in range(1, MAX_LENGTHS + 1):
        assert deadlines.may_ask(seconds)
        deadlines.ask("c", seconds, told, NOW)
    assert deadlines.may_ask(1)
    assert not deadlines.may_ask(MAX_LENGTHS + 1)


# Verifies: WS-0042
def test_many_locks_take_many_steps() -> None:
    broker, deadlines, told = Broker(MemoryStorage()), Deadlines(), Told()
    deadlines.ask("c", 5, told, NOW)
    ids = [locked(broker, "c", 10, NOW + number // 3) for number in range(100)]
    assert look(deadlines, broker, NOW + 9_000, limit=10) >= 9
    assert sorted(told.ids) == sorted(ids)


def test_of_very_many_that_end_together_the_last_are_told() -> None:
    broker, deadlines, told = Broker(MemoryStorage()), Deadlines(), Told()
    deadlines.ask("c", 5, told, NOW)
    ids = [locked(broker, "c", 10, NOW) for _ in range(30)]
    look(deadlines, broker, NOW + 9_000, limit=10)
    assert told.ids == ids[:-11:-1]


def test_whenever_locks_are_made_and_looked_at_none_is_passed_over_or_told_twice() -> None:
    for seed in range(50):
        dice = random.Random(seed)
        broker, deadlines, told = Broker(MemoryStorage()), Deadlines(), Told()
        seconds = dice.randint(1, 9)
        deadlines.ask("c", seconds, told, NOW)
        ends: dict[str, int] = {}
        expected: list[str] = []
        now = NOW
        for _ in range(60):
            now += dice.choice((0, 1, 500, 500, 3_000))
            length = seconds + dice.randint(1, 4)
            if ends and dice.random() < 0.3:
                id = dice.choice(list(ends))
                ends[id] = broker.renew("q", id, "c", length, now)
            else:
                id = locked(broker, "c", length, now)
                ends[id] = now + length * 1000
            if dice.random() < 0.5:
                look(deadlines, broker, now, dice.choice((5, 1000)))
                near = [id for id, end in ends.items() if end <= now + seconds * 1000]
                expected += near
                for id in near:
                    # It is told again only after a renewal.
                    broker.ack("q", id, "c", now)
                    del ends[id]
                assert sorted(told.ids) == sorted(expected)
