"""How much is done to dead letters in a step, and what such a step leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from qrusty_trio.core import dead_letter_moves as moves_module
from qrusty_trio.core import dead_letters as letters_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dead_letter_moves import Chosen, Outcome, Target
from qrusty_trio.core.dead_letters import EVERY, Filter
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from tests.core.brokers import big, break_payload, with_payloads
from tests.core.test_dead_letters import NOW, as_before_the_index, bury, chosen, ids_of, purge, requeue

LARGE = 4_000


# Verifies: DLV-0049
@pytest.mark.parametrize("by", ["filter", "id", "id, before the index"])
def test_a_requeue_reads_few_payloads_in_a_step(tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where duplicates are refused, each payload is read for its digest."""
    monkeypatch.setattr(letters_module, "STEP_BYTES", 2 * LARGE)
    payloads = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=100_000)
    broker = with_payloads(MemoryStorage(), payloads)
    broker.catalog.create("unique", QueueConfig(allow_duplicates=False))
    ids = [bury(broker, each * LARGE) for each in "abcdef"]
    if by == "id, before the index":
        broker = as_before_the_index(broker, ids, payloads)
    queue, target = (broker.catalog.by_name[name] for name in ("q", "unique"))
    outcome = Outcome()
    which = Chosen(None if by == "filter" else ids, EVERY, queue.next_dead, False)
    steps = broker.dead_letter_moves.requeue(queue, which, Target(target, None), outcome)
    taken = [0, *(outcome.taken for _ in steps)]
    assert outcome.taken == len(ids)
    assert max(after - before for before, after in pairwise(taken)) <= 2
    payloads.close()


@pytest.mark.parametrize("take", [purge, requeue])
def test_the_last_of_those_before_the_index_leave_the_first_ones(
    take: Callable[[Broker, Chosen], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_module, "PER_STEP", 2)
    broker = Broker(MemoryStorage())
    ids = [bury(broker) for _ in range(6)]
    broker = as_before_the_index(broker, ids)
    assert take(broker, chosen(broker, ids[2:])).taken == 4
    assert ids_of(broker) == ids[:2]


# Verifies: DLV-0047
def test_so_many_that_can_t_be_requeued_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves_module, "MAX_REFUSED", 2)
    broker = Broker(MemoryStorage())
    broker.catalog.create("unique", QueueConfig(allow_duplicates=False))
    broker.publish("unique", 1, "p", 3, 0)
    ids = [bury(broker, "p") for _ in range(4)]
    outcome = requeue(broker, to="unique")
    assert ([id for id, _ in outcome.refused], outcome.refused_total) == (ids[:2], 4)


def test_a_payload_whose_digest_is_known_is_not_read(tmp_path: Path) -> None:
    payloads = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=100)
    broker = with_payloads(MemoryStorage(), payloads)
    broker.catalog.create("q", QueueConfig(allow_duplicates=False))
    bury(broker, big("lost"))
    break_payload(payloads, tmp_path, 0)
    assert requeue(broker).taken == 1
    payloads.close()


@pytest.mark.parametrize("take", [purge, requeue])
def test_one_that_is_not_wanted_stays_before_those_that_are(
    take: Callable[[Broker, Chosen], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves_module, "PER_STEP", 2)
    broker = Broker(MemoryStorage())
    ids = [bury(broker, payload) for payload in ["stays", *5 * ["goes"]]]
    assert take(broker, chosen(broker, wanted=Filter(text="goes"))).taken == 5
    assert ids_of(broker) == ids[:1]


def test_retention_has_nothing_to_look_at() -> None:
    """Of few letters, and in a queue that is gone."""
    broker = Broker(MemoryStorage())
    broker.catalog.create("q", QueueConfig(dead_letter_max=2))
    queue, moves = broker.catalog.by_name["q"], broker.dead_letter_moves
    for overdue in (False, False, True):
        bury(broker)
        assert moves.overdue(queue, NOW) == overdue
    broker.catalog.delete("q")
    assert moves.retain(queue, NOW) == 0
