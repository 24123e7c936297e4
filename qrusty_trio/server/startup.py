"""Start-up: open the stores, then load them while the gate is closed.

Rule: nothing is changed, and nothing listens, before the store is open and known to be ours. From then on reads are
answered while `load` works in pieces. The gate opens when everything is loaded.

Requirements: API-0024
"""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass

import trio

from qrusty_trio.config import Settings, StorageMode
from qrusty_trio.errors import PayloadUnreadable, StartupRefused, StorageFault
from qrusty_trio.server import recovery
from qrusty_trio.server.compactor import Compactor
from qrusty_trio.server.engine import Engine
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from qrusty_trio.storage.removed_log import RemovedLog
from qrusty_trio.storage.rocksdb import RocksStorage
from qrusty_trio.wording import counted

PAYLOADS_DIRECTORY = "payloads"
"""Segment files, under DATA_PATH."""

GC_THRESHOLDS = (10_000, 20, 50)
"""Thresholds for `gc.set_threshold`: new objects, then collections of the younger generation. The collector only has to
find garbage in cycles."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stores:
    """The open stores.

    Requirements: API-0059
    """

    storage: Storage
    payloads: PayloadStore | None
    removed_log: RemovedLog | None

    def check(self) -> None:
        """Raise StorageFault unless all directories are where they were opened. Blocks as long as the disk does."""
        self.storage.check()
        if self.payloads is not None:
            self.payloads.check_place()

    def reopen(self) -> None:
        """Open the store again after a fault. Blocks. Raises StorageFault while it can't be opened."""
        self.check()
        self.storage.reopen()

    def close(self) -> None:
        """Close the stores. Blocks; idempotent. Raises StorageFault when the last sync failed."""
        try:
            if self.payloads is not None:
                self.payloads.close()
        finally:
            self.storage.close()


def open_stores(settings: Settings) -> Stores:
    """Open the stores. Blocks for up to a second. Raises StartupRefused.

    Requirements: PER-0056
    """
    if settings.storage_mode is StorageMode.MEMORY:
        log.warning("STORAGE_MODE=memory: every message is lost when the server stops")
        return Stores(MemoryStorage(), None, None)
    storage = RocksStorage.open(
        settings.data_path,
        cache_mb=settings.rocksdb_cache_mb,
        write_buffer_mb=settings.rocksdb_write_buffer_mb,
        max_open_files=settings.rocksdb_max_open_files,
    )
    try:
        payloads = PayloadStore.open(
            settings.data_path / PAYLOADS_DIRECTORY, segment_max_bytes=settings.segment_max_mb * 1024 * 1024
        )
    except BaseException:
        storage.close()
        raise
    return Stores(storage, payloads, RemovedLog(settings.data_path))


async def load(engine: Engine, compactor: Compactor | None) -> None:
    """Load the store in pieces, then open the gate. Raises StartupRefused when the store has a fault.

    Requirements: PER-0058
    """
    began = trio.current_time()
    try:
        await recovery.load(engine)
        if compactor is not None:
            await compactor.check()
    except (StorageFault, PayloadUnreadable) as fault:
        raise StartupRefused(str(fault)) from fault
    _spare_the_loop()
    engine.services.gate.starting = False
    log.info(
        "ready after %.3f s: %s, %s locked",
        trio.current_time() - began,
        counted(len(engine.broker.catalog.by_name), "queue"),
        counted(engine.broker.locks.count, "message"),
    )


def _spare_the_loop() -> None:
    """Make the cycle collector run less often and examine fewer objects.

    The objects that exist now will stay. A full collection that examined them took 20 ms. Messages and locks leave no
    cycles behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
