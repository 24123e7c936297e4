"""The recorded contract against the operation table itself: real broker, real stores, no sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.wire.cases import SCENARIOS, run_scenario
from tests.wire.table import Table


@pytest.fixture(params=["memory", "rocksdb"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Table]:
    storage: MemoryStorage | RocksStorage
    if request.param == "memory":
        storage = MemoryStorage()
    else:
        storage = RocksStorage.open(tmp_path, cache_mb=8, write_buffer_mb=4, max_open_files=64)
    try:
        yield Table(storage)
    finally:
        storage.close()


# Verifies: SYS-0010
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_scenario(table: Table, scenario: str) -> None:
    await run_scenario(table, SCENARIOS[scenario])


async def test_all_scenarios_in_turn(table: Table) -> None:
    for steps in SCENARIOS.values():
        await run_scenario(table, steps)


def test_recorded_steps_are_all_here() -> None:
    assert sum(map(len, SCENARIOS.values())) == 133
