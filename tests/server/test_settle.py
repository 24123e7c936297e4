"""Duplicates that were still being looked for when the server ended are looked for again."""

from __future__ import annotations

from pathlib import Path

import trio

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.deduplication import PER_STEP
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.server.running import running, settings_for, until_ready


# Verifies: DLV-0033
async def test_a_search_that_a_restart_cut_short_is_finished(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    storage = RocksStorage.open(settings.data_path, cache_mb=8, write_buffer_mb=2, max_open_files=64)
    broker = Broker(storage)
    broker.catalog.create("q", QueueConfig())
    for number in range(3 * PER_STEP):
        broker.publish("q", 1, f"payload {number % 2}", 3, 1000)
    search = broker.catalog.update("q", None, False, 1000)
    for _ in range(2):
        next(search)
        broker.commit()
    left = broker.catalog.stats("q")
    assert left is not None
    assert left.available > 2
    broker.journal.detach()
    storage.close()

    async with running(settings) as server:
        await until_ready(server)
        with trio.fail_after(60):
            while server.engine.broker.catalog.by_name["q"].deduplicating:  # noqa: ASYNC110  # a flag of the core
                await trio.sleep(0.01)
        stats = server.engine.broker.catalog.stats("q")
        assert stats is not None
        assert stats.available == 2
