"""How much a requeue does in a step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from qrusty_trio.core import dead_letters as letters_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dead_letter_moves import Chosen, Outcome, Target
from qrusty_trio.core.dead_letters import EVERY
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from tests.core.brokers import with_payloads
from tests.core.test_dead_letters import as_before_the_index, bury, chosen, ids_of, purge, requeue

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
