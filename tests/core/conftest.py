"""Both stores, a broker on each, and a payload store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qrusty_trio.core.broker import Broker
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.core.damages import Sound


@pytest.fixture(params=["memory", "rocksdb"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "memory":
        yield MemoryStorage()
    else:
        store = RocksStorage.open(tmp_path / "store", cache_mb=8, write_buffer_mb=2, max_open_files=64)
        yield store
        store.close()


@pytest.fixture
def broker(storage: Storage) -> Broker:
    return Broker(storage)


@pytest.fixture
def payloads(tmp_path: Path) -> Iterator[PayloadStore]:
    store = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=100)
    yield store
    store.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """For the tests of the verifier."""
    return Sound(tmp_path_factory.mktemp("sound"))
