"""The broker against a model of a few dozen lines, on both stores, step by step: see `machine.py`.

QRUSTY_MODEL_RUNS: runs of 100 steps altogether (500); with it set, each run of the tests tries other ones.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from qrusty_trio.api.operations import OPERATIONS
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.core.machine import BrokerMachine

RUNS = int(os.environ.get("QRUSTY_MODEL_RUNS", "500"))
STEPS = 100
SLICE = 250
STEPS_OF = {
    "publish": "publish",
    "consume": "consume",
    "consume_from": "consume_from",
    "ack": "ack",
    "nack": "nack",
    "ack_batch": "settle_batch",
    "nack_batch": "settle_batch",
    "publish_batch": "publish_batch",
    "consume_batch": "consume_batch",
    "renew": "renew_over_http",
    "renew_batch": "renew_batch",
    "force_unlock": "force_unlock",
    "locks": "look_at_locks",
    "messages": "look_at_messages",
    "message": "look_at_one",
    "find": "find_anywhere",
    "priorities": "look_at_priorities",
    "dead_letters": "look_at_dead",
    "dead_letter": "look_at_one_dead",
    "requeue_dead_letters": "requeue",
    "purge_dead_letters": "purge_dead",
    "create_queue": "manage",
    "update_queue": "manage",
    "purge_queue": "manage",
    "delete_queue": "manage",
    "restore": "restore",
    "erase": "erase",
    "purge_all": "clear_all",
    "delete_all": "clear_all",
}
"""Operation -> the step that does what it does."""


def test_each_operation_is_a_step() -> None:
    assert set(STEPS_OF) == {each.name for each in OPERATIONS if each.needs_store}
    for step in STEPS_OF.values():
        assert callable(getattr(BrokerMachine, step))


def run(storage: Storage, directory: Path, runs: int) -> None:
    machine = type("Machine", (BrokerMachine,), {"storage": storage, "directory": directory})
    # In slices: Hypothesis remembers what it has tried, 0.5 MB a run.
    for start in range(0, runs, SLICE):
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=min(SLICE, runs - start),
                stateful_step_count=STEPS,
                deadline=None,
                derandomize="QRUSTY_MODEL_RUNS" not in os.environ,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )


# Verifies: SYS-0002, SYS-0003, SYS-0004, PER-0010, SCH-0001, SCH-0002, SCH-0003, SCH-0004, SCH-0008, SCH-0009, SCH-0010
# Verifies: DLV-0001, DLV-0004, DLV-0007, DLV-0009, DLV-0031, DLV-0032
def test_in_memory(tmp_path: Path) -> None:
    run(MemoryStorage(), tmp_path, RUNS - RUNS // 2)


# Verifies: SYS-0002, SYS-0003, PER-0010, SCH-0004
def test_on_disk(tmp_path: Path) -> None:
    storage = RocksStorage.open(tmp_path / "store", cache_mb=8, write_buffer_mb=2, max_open_files=64)
    try:
        run(storage, tmp_path, RUNS // 2)
    finally:
        storage.close()
