"""Messages by priority: counted in small queues, estimated in large ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from qrusty_trio.core import browsing, priorities
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import Kind, Ordering, Priority, QueueConfig
from qrusty_trio.core.priorities import MAX_PRIORITIES, PriorityCounts, count_priorities
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.memory import MemoryStorage


def of(broker: Broker, name: str = "q") -> PriorityCounts:
    steps = count_priorities(broker.journal, broker.catalog.by_name[name])
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found: PriorityCounts = stop.value
            return found


def filled(broker: Broker, given: list[Priority], config: QueueConfig | None = None) -> Counter[Priority]:
    broker.catalog.create("q", config if config is not None else QueueConfig())
    for priority in given:
        broker.publish("q", priority, "p", 9, 0)
    broker.commit()
    return Counter(given)


def consumed(broker: Broker, expected: Counter[Priority], count: int) -> None:
    for _ in range(count):
        delivery = broker.consume("q", "c", 30, 0)
        assert delivery is not None
        expected[delivery.priority] -= 1
        broker.ack("q", delivery.id, "c", 0)


# Verifies: DLV-0054
@pytest.mark.parametrize("ordering", Ordering)
def test_a_small_queue_is_counted(storage: Storage, ordering: Ordering) -> None:
    broker = Broker(storage, hot_tier_size=5, refill_threshold=2)
    dice = random.Random(1)
    expected = filled(broker, [dice.choice((1, 1, 1, 5, 2**64 - 1)) for _ in range(900)], QueueConfig(ordering))
    consumed(broker, expected, 100)
    found = of(broker)
    assert dict(found.counts) == {priority: count for priority, count in expected.items() if count}
    assert (found.others, found.sampled, found.looked_at) == (0, False, 800)
    order = [priority for priority, _ in found.counts]
    assert (
        order
        == {
            Ordering.MAX_FIRST: sorted(order, reverse=True),
            Ordering.MIN_FIRST: sorted(order),
            Ordering.FIFO: sorted(order, key=lambda priority: -expected[priority]),
        }[ordering]
    )


def test_an_empty_queue() -> None:
    broker = Broker(MemoryStorage())
    broker.catalog.create("q", QueueConfig())
    assert of(broker) == PriorityCounts([], 0, False, 0)


@pytest.mark.parametrize("ordering", Ordering)
def test_many_priorities_of_a_small_queue(ordering: Ordering) -> None:
    broker = Broker(MemoryStorage())
    filled(broker, [number // 2 for number in range(1000)], QueueConfig(ordering))
    found = of(broker)
    assert len(found.counts) == MAX_PRIORITIES
    assert found.others == 1000 - 2 * MAX_PRIORITIES
    if ordering is Ordering.MAX_FIRST:
        assert found.counts[0] == (499, 2)


DISTRIBUTIONS: dict[str, Callable[[random.Random, int], int]] = {
    "even": lambda dice, number: dice.randrange(10),
    "one": lambda dice, number: 7,
    "skewed": lambda dice, number: min(20, int(dice.expovariate(0.5))),
    "in phases": lambda dice, number: number // 7_000,
    "in runs": lambda dice, number: number // 64 % 3,
    "every other": lambda dice, number: number % 2,
}


# Verifies: DLV-0054
@pytest.mark.parametrize("ordering", Ordering)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_large_queue_is_sampled(ordering: Ordering, distribution: str) -> None:
    broker = Broker(MemoryStorage())
    dice = random.Random(2)
    given: list[Priority] = [DISTRIBUTIONS[distribution](dice, number) for number in range(30_000)]
    expected = filled(broker, given, QueueConfig(ordering))
    consumed(broker, expected, 5_000)
    found = of(broker)
    assert found.sampled is True
    assert found.looked_at < 10_000
    assert 0 <= found.others <= (len(found.counts) if ordering is Ordering.FIFO else 0)  # rounding
    counts = dict(found.counts)
    assert abs(sum(counts.values()) - 25_000) <= len(counts)
    for priority, count in expected.items():
        # Those of a few messages may be missed in a Fifo queue.
        assert abs(counts.get(priority, 0) - count) < max(0.35 * count, 700), (priority, counts, expected)
        if count and (ordering is not Ordering.FIFO or count > 1_000):
            assert counts[priority] > 0


def test_rare_priorities_are_exact_in_a_large_queue() -> None:
    broker = Broker(MemoryStorage())
    expected = filled(broker, [9 if number % 1_000 == 0 else 5 for number in range(20_000)])
    assert dict(of(broker).counts) == expected


@pytest.mark.parametrize("few", [100, 200])
def test_one_that_came_late_is_estimated_by_all_there_is_of_it(few: int) -> None:
    """Windows as wide as those of the others would reach far beyond its last message."""
    broker = Broker(MemoryStorage())
    filled(broker, [5 if number < 20_000 else 9 for number in range(20_000 + few)])
    counts = dict(of(broker).counts)
    assert list(counts) == [9, 5]
    assert abs(counts[9] - few) <= few * 0.03, counts


def test_text_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priorities, "COUNTED_MESSAGES", 100)
    broker = Broker(MemoryStorage(), hot_tier_size=5, refill_threshold=2)
    texts: list[Priority] = ["a", "a\0", "\0", "ü", "a\0b"]
    given = [texts[number % 5] for number in range(200)]
    expected = filled(broker, given, QueueConfig(Ordering.MIN_FIRST, kind=Kind.TEXT))
    found = of(broker)
    assert found.counts == sorted(expected.items(), key=lambda item: str(item[0]).encode())
    assert found.sampled


def test_many_priorities_of_a_large_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priorities, "COUNTED_MESSAGES", 100)
    broker = Broker(MemoryStorage())
    filled(broker, [number // 2 for number in range(1000)])
    found = of(broker)
    assert found.counts == [(499 - number, 2) for number in range(MAX_PRIORITIES)]
    assert (found.others, found.sampled) == (1000 - 2 * MAX_PRIORITIES, True)


@pytest.mark.parametrize("size", [100, 72])
def test_large_records_are_sampled_too(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Four records of 72 bytes and a header are as much as is read at once, to the byte."""
    monkeypatch.setattr(browsing, "READ_BYTES", 500)
    monkeypatch.setattr(priorities, "READ_BYTES", 500)
    monkeypatch.setattr(priorities, "COUNT_STEPS", 10)
    broker = Broker(MemoryStorage(), hot_tier_size=1, refill_threshold=1)
    broker.catalog.create("q", QueueConfig())
    for number in range(600):
        broker.publish("q", number % 2, "x" * size, 9, 0)
    found = of(broker)
    assert found.sampled
    assert [priority for priority, _ in found.counts] == [1, 0]
    assert all(200 < count < 400 for _, count in found.counts)
    assert found.looked_at < 200


def test_a_queue_of_that_very_size_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priorities, "COUNTED_MESSAGES", 100)
    broker = Broker(MemoryStorage())
    filled(broker, [5] * 100)
    assert of(broker) == PriorityCounts([(5, 100)], 0, False, 100)
    broker.publish("q", 5, "p", 9, 0)
    assert of(broker).sampled


@pytest.mark.parametrize("size", [1, 72])
def test_an_estimate_is_exact_where_messages_are_spread_evenly(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Of one priority only, so that nothing makes it add up. Long records end a window before its width, by bytes."""
    monkeypatch.setattr(priorities, "MAX_PRIORITIES", 1)
    if size > 1:
        monkeypatch.setattr(priorities, "READ_BYTES", 4 * (size + 53))
        monkeypatch.setattr(priorities, "COUNTED_MESSAGES", 100)
    broker = Broker(MemoryStorage(), hot_tier_size=5, refill_threshold=2)
    broker.catalog.create("q", QueueConfig())
    for priority in [5, *[9] * 16_000]:
        broker.publish("q", priority, "x" * size, 9, 0)
    found = of(broker)
    assert (found.counts, found.others, found.sampled) == ([(9, 16_000)], 1, True)


def test_a_window_that_is_fuller_than_expected_ends_where_it_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first messages are rare. By them, windows are wide."""
    monkeypatch.setattr(priorities, "MAX_PRIORITIES", 1)
    monkeypatch.setattr(priorities, "FIRST_MESSAGES", 2)
    broker = Broker(MemoryStorage())
    filled(broker, [9, *[5] * 9, *[9] * 16_000])
    [(priority, count)] = of(broker).counts
    assert priority == 9
    assert abs(count - 16_001) < 160, count


def late(monkeypatch: pytest.MonkeyPatch, given: Sequence[Priority]) -> Broker:
    """Messages that are old: 10,000 later ones were consumed, so that estimates by sequence numbers are too high."""
    monkeypatch.setattr(priorities, "COUNTED_MESSAGES", 100)
    broker = Broker(MemoryStorage())
    filled(broker, [*given, *[100] * 10_000])
    consumed(broker, Counter(), 10_000)
    return broker


@pytest.mark.parametrize(
    ("most", "given", "expected"),
    [
        (1, [9] * 65 + [5] * 60, [(9, 125)]),
        # 85 and two thirds each, rounded
        (3, [9, 8, 7] * 65 + [5] * 62, [(9, 86), (8, 86), (7, 86)]),
    ],
)
def test_no_more_are_estimated_than_there_are(
    monkeypatch: pytest.MonkeyPatch, most: int, given: Sequence[Priority], expected: list[tuple[Priority, int]]
) -> None:
    monkeypatch.setattr(priorities, "MAX_PRIORITIES", most)
    found = of(late(monkeypatch, given))
    assert (found.counts, found.others) == (expected, 0)


def test_few_messages_are_exact_even_if_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = of(late(monkeypatch, [9] * 10 + [5] * 200))
    assert found.counts == [(9, 10), (5, 200)]


def test_windows_of_a_fifo_queue_begin_with_its_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priorities, "COUNTED_MESSAGES", 100)
    broker = Broker(MemoryStorage())
    expected = filled(broker, [*[0] * 3_000, *[1] * 128, *[2] * 128], QueueConfig(Ordering.FIFO))
    consumed(broker, expected, 3_000)
    counts = dict(of(broker).counts)
    assert set(counts) == {1, 2}
    assert abs(counts[1] - 128) < 26, counts


class Counting(MemoryStorage):
    """Counts what it reads, without looks at what comes next."""

    read = 0

    def scan(
        self, family: Any, begin: bytes, end: bytes, limit: int, octets: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        pairs = super().scan(family, begin, end, limit, octets)
        self.read += len(pairs) if limit > 1 else 0
        return pairs


@pytest.mark.parametrize("ordering", Ordering)
def test_what_was_looked_at_is_told(ordering: Ordering) -> None:
    storage = Counting()
    broker = Broker(storage)
    filled(broker, [5] * 15_000, QueueConfig(ordering))
    before = storage.read
    assert of(broker).looked_at == storage.read - before > 0


@pytest.mark.parametrize("ordering", Ordering)
def test_messages_that_are_counted_but_not_there(ordering: Ordering) -> None:
    broker = Broker(MemoryStorage())
    filled(broker, [], QueueConfig(ordering))
    broker.catalog.by_name["q"].available = 20_000
    found = of(broker)
    assert (found.counts, found.looked_at) == ([], 0)
