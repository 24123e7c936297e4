"""What is done once a second for every queue, and how much the tiers of all may hold together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qrusty_trio.core import catalog as catalog_module
from qrusty_trio.core import hot_tier as hot_tier_module
from qrusty_trio.core import queue as queue_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.catalog import QUEUES_PER_STEP
from qrusty_trio.core.hot_tier import TierLimits
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.errors import QueueNotFound, QueueProtected
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.memory import MemoryStorage
from tests.core.brokers import exhaust, take


def limits_of(broker: Broker) -> TierLimits:
    return broker.catalog._tiers.limits


@pytest.fixture
def broker() -> Broker:
    return Broker(MemoryStorage())


def test_a_sample_says_how_many_there_are_and_how_many_are_locked(broker: Broker) -> None:
    for number in range(3):
        broker.publish("q", 1, str(number), 3, 0)
    assert take(broker) is not None
    exhaust(broker.catalog.sample(1000))
    point = broker.catalog.metrics("q")[-1]
    assert (point.t_ms, point.total, point.locked) == (1000, 3, 1)
    assert point.publish_rate > 0
    assert (point.ack_rate, point.nack_rate) == (0, 0)


def test_each_publish_ack_and_nack_counts_once(broker: Broker) -> None:
    ids = [broker.publish("q", 1, str(number), 9, 0) for number in range(6)]
    for id in ids[:3]:
        assert take(broker) == id
    for id in ids[:2]:
        broker.ack("q", id, "c", 0)
    broker.nack("q", ids[2], "c", 0)
    rates = broker.catalog.by_name["q"].rates
    assert (rates.published, rates.acked, rates.nacked) == (6, 2, 1)


def test_every_queue_is_sampled_so_many_a_step(broker: Broker) -> None:
    names = [f"{number:04}" for number in range(2 * QUEUES_PER_STEP + 1)]
    for name in names:
        broker.catalog.create(name, QueueConfig())
    sampled = [sum(bool(broker.catalog.metrics(name)) for name in names) for _ in broker.catalog.sample(1000)]
    assert sampled == [QUEUES_PER_STEP, 2 * QUEUES_PER_STEP]
    assert all(broker.catalog.metrics(name) for name in names)


# Verifies: SCH-0012
def test_the_tiers_hold_so_much_together_however_many_queues_come(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were there before, and are not used, give up their share with the next sample."""
    monkeypatch.setattr(hot_tier_module, "TIERS_BYTES", 40_000)
    broker.catalog.create("full", QueueConfig())
    for _ in range(300):
        broker.publish("full", 1, "x" * 100, 3, 0)
    tier = broker.catalog.by_name["full"].tier
    assert tier.octets > 30_000
    for number in range(9):
        broker.catalog.create(str(number), QueueConfig())
    exhaust(broker.catalog.sample(1000))
    assert 3_000 < tier.octets <= 4_000
    for number in range(9):
        broker.catalog.delete(str(number))
    assert limits_of(broker).octets == 40_000


def test_less_memory_is_taken_at_once_from_every_tier() -> None:
    broker = Broker(MemoryStorage(), hot_tier_size=100, refill_threshold=50)
    for name in ("a", "b"):
        for _ in range(200):
            broker.publish(name, 1, "payload", 3, 0)
    assert [broker.catalog.tier_size(name) for name in ("a", "b")] == [100, 100]
    exhaust(broker.catalog.resize_tiers(0.1))
    assert [broker.catalog.tier_size(name) for name in ("a", "b")] == [10, 10]
    assert limits_of(broker).low == 5
    assert limits_of(broker).octets == hot_tier_module.TIERS_BYTES // 20
    exhaust(broker.catalog.resize_tiers(0.001))
    assert (limits_of(broker).entries, limits_of(broker).low) == (1, 1)
    exhaust(broker.catalog.resize_tiers(1.0))
    assert (limits_of(broker).entries, limits_of(broker).low) == (100, 50)


@pytest.mark.parametrize("queues", [2 * QUEUES_PER_STEP - 1, 2 * QUEUES_PER_STEP, 2 * QUEUES_PER_STEP + 1])
def test_what_is_done_to_all_queues_is_done_so_many_a_step(broker: Broker, queues: int) -> None:
    catalog = broker.catalog
    for number in range(queues):
        catalog.create(str(number), QueueConfig())
    for steps in (catalog.sample(1000), catalog.resize_tiers(0.5), catalog.drop_idle()):
        assert len(list(steps)) == queues // QUEUES_PER_STEP


def test_what_was_emptied_is_counted_by_number(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so many queues."""
    monkeypatch.setattr(catalog_module, "MAX_QUEUES", 3)
    for name in ("a", "b", "c"):
        broker.publish(name, 1, "dead", 1, 0)
        id = take(broker, name)
        assert id is not None
        broker.nack(name, id, "c", 0)
        for _ in range(3):
            broker.publish(name, 1, "payload", 3, 0)
        assert take(broker, name) is not None
    assert broker.catalog.purge("a") == 3
    assert broker.catalog.purge("a") == 0
    broker.publish("a", 1, "payload", 3, 0)
    assert broker.catalog.purge("a") == 1
    assert broker.catalog.delete("b") == 3
    assert broker.catalog.take_emptied() == {1: 4, 2: 4}
    assert broker.catalog.take_emptied() == {}
    for number in range(10, 15):
        broker.catalog.note_emptied(number, 1)
    assert broker.catalog.take_emptied() == {10: 1, 11: 1, 12: 1}


def test_no_name_is_unknown_before_all_queues_are_loaded(broker: Broker) -> None:
    broker.publish("q", 1, "payload", 3, 0)
    broker.commit()
    broker.catalog.refuses_unknown = True
    for _ in broker.load():
        assert take(broker, "other") is None
    with pytest.raises(QueueNotFound, match="'other' does not exist"):
        take(broker, "other")


def test_an_unknown_name_is_refused_where_there_was_nothing_to_load(broker: Broker) -> None:
    broker.catalog.refuses_unknown = True
    with pytest.raises(QueueNotFound):
        take(broker, "unknown")


def test_a_protected_queue_keeps_what_it_has(broker: Broker) -> None:
    catalog = broker.catalog
    catalog.create("q", QueueConfig(dead_letter_max=5, protected=True))
    broker.publish("q", 1, "payload", 3, 0)
    refused: list[Callable[[], object]] = [
        lambda: catalog.purge("q"),
        lambda: catalog.delete("q"),
        lambda: exhaust(catalog.update("q", "r", None, 0)),
        lambda: exhaust(catalog.update("q", "r", None, 0, None, True)),
        lambda: exhaust(catalog.update("q", None, None, 0, {"dead_letter_max": 4})),
        lambda: exhaust(catalog.update("q", None, None, 0, {"dead_letter_ttl_seconds": 9})),
    ]
    for each in refused:
        with pytest.raises(QueueProtected):
            each()
    for most in (5, 6):
        exhaust(catalog.update("q", None, None, 0, {"dead_letter_max": most}))
        assert catalog.by_name["q"].config == QueueConfig(dead_letter_max=most, protected=True)
    exhaust(catalog.update("q", "r", None, 0, {"dead_letter_max": 4}, False))
    assert catalog.by_name["r"].config == QueueConfig(dead_letter_max=4)
    assert catalog.delete("r") == 1


def test_what_idle_queues_free_takes_no_message(broker: Broker) -> None:
    id = broker.publish("q", 1, "payload", 3, 0)
    exhaust(broker.catalog.drop_idle())
    assert take(broker) == id


def test_nothing_is_left_of_a_queue_that_is_deleted(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "TRIM_EVERY", 1)
    storage = broker.journal.storage

    def keys() -> set[bytes]:
        broker.commit()
        return {key for key, _ in storage.scan(storage.families[Family.META], b"", b"\xff" * 9, 99)}

    broker.catalog.create("first", QueueConfig())
    before = keys()
    for max_retries in (9, 1):
        id = broker.publish("q", 1, "payload", max_retries, 0)
        assert take(broker) == id
        if max_retries == 9:
            broker.ack("q", id, "c", 0)
        else:
            broker.nack("q", id, "c", 0)
    queue = broker.catalog.by_name["q"]
    queue.exhume(broker.journal)
    assert len(keys() - before) == 4
    broker.catalog.delete("q")
    assert keys() == before
