"""How much a requeue does in a step."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from qrusty_trio.core import dead_letters as letters_module
from qrusty_trio.core.dead_letter_moves import Chosen, Outcome, Target
from qrusty_trio.core.dead_letters import EVERY
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from tests.core.brokers import with_payloads
from tests.core.test_dead_letters import bury

LARGE = 4_000


# Verifies: DLV-0049
@pytest.mark.parametrize("by_id", [False, True])
def test_a_requeue_reads_few_payloads_in_a_step(tmp_path: Path, by_id: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where duplicates are refused, each payload is read for its digest."""
    monkeypatch.setattr(letters_module, "STEP_BYTES", 2 * LARGE)
    payloads = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=100_000)
    broker = with_payloads(MemoryStorage(), payloads)
    broker.catalog.create("unique", QueueConfig(allow_duplicates=False))
    ids = [bury(broker, each * LARGE) for each in "abcdef"]
    queue, target = (broker.catalog.by_name[name] for name in ("q", "unique"))
    outcome = Outcome()
    chosen = Chosen(ids if by_id else None, EVERY, queue.next_dead, False)
    steps = broker.dead_letter_moves.requeue(queue, chosen, Target(target, None), outcome)
    taken = [0, *(outcome.taken for _ in steps)]
    assert outcome.taken == len(ids)
    assert max(after - before for before, after in pairwise(taken)) <= 2
    payloads.close()
