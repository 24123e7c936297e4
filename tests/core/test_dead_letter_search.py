"""The pieces of a search among dead letters: each goes on where the one before ended, and together they miss none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from qrusty_trio.core import dead_letters as letters_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dead_letters import EVERY, Filter
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from tests.core.brokers import big, break_payload, with_payloads
from tests.core.test_dead_letters import bury, chosen, ids_of, purge

COUNT = 12
GONE = {2, 3, 4, 5, 9}
EVEN = Filter(text="even")
NOBODY = Filter(consumer="nobody")


@pytest.fixture(scope="module", params=["small", "large"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Its dead letters are odd and even; those in GONE are gone."""
    payloads = PayloadStore.open(tmp_path_factory.mktemp("payloads"), segment_max_bytes=100_000)
    broker = with_payloads(MemoryStorage(), payloads)
    padded = big if request.param == "large" else str
    ids = [bury(broker, padded("odd" if number % 2 else "even")) for number in range(COUNT)]
    purge(broker, chosen(broker, [ids[number] for number in GONE]))
    yield broker
    payloads.close()


# Verifies: DLV-0049
@pytest.mark.parametrize("per_step", [1, 2, 3, 99])
@pytest.mark.parametrize("octets", [130, "as long as two", 10**6])
@pytest.mark.parametrize("numbers", [3, 4000])
def test_pieces_join(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, per_step: int, octets: int | str, numbers: int
) -> None:
    if octets == "as long as two":
        journal = broker.journal
        octets = sum(len(value) for _, value in journal.scan(journal.dead, b"", b"\xff", 2))
    monkeypatch.setattr(letters_module, "STEP_BYTES", octets)
    monkeypatch.setattr(letters_module, "NUMBERS_PER_STEP", numbers)
    queue = broker.catalog.by_name["q"]
    for wanted, reading, (begin, end) in product(
        (EVERY, EVEN, NOBODY), (False, True), [(0, 99), (1, 11), (4, 10), (7, 7)]
    ):
        at, found, looked_at = begin, [], 0
        for batch in broker.dead_letters.search(queue, wanted, begin, end, per_step, reading=reading):
            there = set(range(batch.begin, batch.end)) - GONE
            assert (batch.begin, batch.looked_at) == (at, len(there))
            assert len(there) <= per_step
            assert len(range(batch.begin, batch.end)) <= numbers
            assert batch.whole == ({letter.number for letter in batch.letters} == there)
            found += [letter.number for letter in batch.letters]
            at, looked_at = batch.end, looked_at + batch.looked_at
        expected = [number for number in range(begin, min(end, COUNT)) if number not in GONE]
        assert (at, looked_at) == (min(end, COUNT), len(expected))
        if wanted is not EVERY:
            expected = [number for number in expected if wanted is EVEN and number % 2 == 0]
        assert found == expected


def test_a_text_is_not_found_in_a_payload_that_is_lost(tmp_path: Path) -> None:
    payloads = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=100)
    broker = with_payloads(MemoryStorage(), payloads)
    ids = [bury(broker, big("text")) for _ in range(3)]
    break_payload(payloads, tmp_path, 1)
    assert ids_of(broker, Filter(text="text")) == [ids[0], ids[2]]
    assert ids_of(broker, Filter(text="why")) == ids
    payloads.close()
