"""What the tests of the server share: a store on RocksDB that can be watched, held up and broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qrusty_trio.storage.rocksdb import RocksStorage
from tests.server.engines import WatchedStorage


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WatchedStorage]:
    """RocksDB in a directory of the test's own."""
    storage = RocksStorage.open(tmp_path / "store", cache_mb=8, write_buffer_mb=4, max_open_files=64)
    try:
        yield WatchedStorage(storage)
    finally:
        storage.close()
