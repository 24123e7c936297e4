"""What the options of RocksDB promise that rocksdict has no setter for: seen in what the store does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qrusty_trio.storage.base import Family
from qrusty_trio.storage.rocksdb import RocksStorage
from qrusty_trio.storage.rocksdb_options import MAX_RANGE_DELETIONS

END = b"\xff" * 8
FLUSH_SECONDS = 60.0


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[RocksStorage]:
    store = RocksStorage.open(tmp_path / "store", cache_mb=64, write_buffer_mb=8, max_open_files=64)
    yield store
    store.close()


def empty_queues(storage: RocksStorage, family: Family, count: int) -> None:
    for number in range(count):
        batch = storage.batch()
        key = number.to_bytes(4, "big")
        batch.delete_range(key, key + END, storage.families[family])
        storage.write(batch)


def tables(path: Path) -> list[Path]:
    return list(path.glob("*.sst"))


def test_nothing_of_how_options_are_given_is_left(storage: RocksStorage, tmp_path: Path) -> None:
    assert not list((tmp_path / "store").glob("*tmp*"))
    assert storage.get(storage.families[Family.META], b"schema_version") is not None


# Verifies: PER-0052
@pytest.mark.parametrize("family", [each for each in Family if each is not Family.META])
def test_range_deletes_do_not_pile_up_in_memory(storage: RocksStorage, tmp_path: Path, family: Family) -> None:
    empty_queues(storage, family, MAX_RANGE_DELETIONS - 1)
    assert not tables(tmp_path / "store")
    empty_queues(storage, family, 2)
    deadline = time.monotonic() + FLUSH_SECONDS
    while not tables(tmp_path / "store"):
        assert time.monotonic() < deadline, "no flush"
        time.sleep(0.01)


# Verifies: PER-0052
def test_they_do_not_after_a_reopen_either(storage: RocksStorage, tmp_path: Path) -> None:
    storage.reopen()
    before = set(tables(tmp_path / "store"))
    empty_queues(storage, Family.LOCKS, MAX_RANGE_DELETIONS + 1)
    deadline = time.monotonic() + FLUSH_SECONDS
    while not set(tables(tmp_path / "store")) - before:
        assert time.monotonic() < deadline, "no flush"
        time.sleep(0.01)


# Verifies: PER-0053
def test_blocks_of_tables_that_are_gone_leave_the_cache(storage: RocksStorage) -> None:
    handle = storage.families[Family.MESSAGES]
    cache = storage._tuning.cache
    seen = []
    for _ in range(8):
        for begin in range(0, 2000, 200):
            batch = storage.batch()
            for number in range(begin, begin + 200):
                batch.put(b"%08d" % number, os.urandom(1000), handle)
            storage.write(batch)
        storage.flush()
        storage.compact()
        assert len(storage.scan(handle, b"", END, 10_000)) == 2000
        seen.append(cache.get_usage())
    # Each round reads 2 MiB of new blocks.
    assert max(seen[2:]) - seen[1] < 4 * 2**20, seen
