"""Purge-all and delete-all: what others do to the queues between two of their steps."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from qrusty_trio.api.call import Call
from qrusty_trio.api.operations import resolve
from qrusty_trio.api.queues import QUEUES_PIECE
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.wire.table import Table

PATHS = {"purged": "/purge-all", "deleted": "/delete-all"}
QUEUES = [f"q{number:03}" for number in range(2 * QUEUES_PIECE)]
LAST = QUEUES[-1]
"""The first piece leaves it for the second."""


def publish(table: Table, queue: str) -> None:
    assert table.post("/publish", {"queue": queue, "priority": 1, "payload": "p"}).status == 200


def rename(table: Table, name: str, other: str) -> None:
    assert table.post("/update-queue", {"name": name, "config": {"name": other}}).status == 200


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[RocksStorage]:
    store = RocksStorage.open(tmp_path, cache_mb=16, write_buffer_mb=8, max_open_files=64)
    yield store
    store.close()


@pytest.fixture
def table(storage: RocksStorage) -> Iterator[Table]:
    table = Table(storage)
    for queue in QUEUES:
        publish(table, queue)
    yield table
    table.broker.journal.detach()


class Running:
    """One of the two, after its first step."""

    def __init__(self, table: Table, path: str) -> None:
        self._table = table
        operation, params = resolve("POST", path.encode())
        steps = operation.function(table.services, Call(operation, params, b""), table.now)
        assert isinstance(steps, Generator)
        self._steps = steps
        next(self._steps)
        table.broker.commit()

    def end(self) -> dict[str, int]:
        """Run the rest. The response."""
        while True:
            try:
                next(self._steps)
            except StopIteration as stop:
                self._table.broker.commit()
                told: dict[str, int] = json.loads(stop.value.body)
                return told


# Verifies: SCH-0031
@pytest.mark.parametrize("other", ["a", "z"])
def test_a_queue_that_is_renamed_meanwhile_is_deleted(table: Table, other: str) -> None:
    running = Running(table, "/delete-all")
    rename(table, LAST, other)
    assert running.end() == {"deleted_queues": len(QUEUES), "deleted_messages": len(QUEUES)}
    assert table.get("/queues") == []


# Verifies: SCH-0031
@pytest.mark.parametrize("other", ["a", "z"])
def test_a_queue_that_is_renamed_meanwhile_is_purged(table: Table, other: str) -> None:
    running = Running(table, "/purge-all")
    rename(table, LAST, other)
    assert running.end() == {"purged_queues": len(QUEUES), "purged_messages": len(QUEUES)}
    assert table.get(f"/queue-stats/{other}")["available"] == 0


# Verifies: SCH-0031
@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_a_queue_that_is_new_is_left_alone_even_under_the_name_of_an_old_one(table: Table, what: str) -> None:
    running = Running(table, PATHS[what])
    rename(table, LAST, "a")
    publish(table, LAST)
    assert running.end() == {f"{what}_queues": len(QUEUES), f"{what}_messages": len(QUEUES)}
    assert table.get(f"/queue-stats/{LAST}")["available"] == 1


# Verifies: SCH-0031
@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_a_queue_that_is_deleted_meanwhile_is_not_counted(table: Table, what: str) -> None:
    running = Running(table, PATHS[what])
    assert table.run("DELETE", f"/delete-queue/{LAST}").status == 200
    publish(table, LAST)
    assert running.end() == {f"{what}_queues": len(QUEUES) - 1, f"{what}_messages": len(QUEUES) - 1}
    assert table.get(f"/queue-stats/{LAST}")["available"] == 1


# Verifies: SCH-0031
@pytest.mark.parametrize("what", ["purged", "deleted"])
def test_a_queue_whose_messages_are_kept_aside_meanwhile_is_one_of_them(table: Table, what: str) -> None:
    running = Running(table, PATHS[what])
    assert table.post(f"/purge-queue/{LAST}?undo_seconds=60").status == 200
    publish(table, LAST)
    assert running.end() == {f"{what}_queues": len(QUEUES), f"{what}_messages": len(QUEUES)}
    assert table.get("/queues") == (QUEUES if what == "purged" else [])
    if what == "purged":
        assert table.get(f"/queue-stats/{LAST}")["available"] == 0
