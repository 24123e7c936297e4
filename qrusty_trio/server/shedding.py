"""What the memory monitor can free: the `PressureTarget` of the running server.

Rule: correctness never depends on what is freed here. Every message stays in the store.

Requirements: SCH-0041
"""

from __future__ import annotations

import trio

from qrusty_trio.server.compactor import Compactor
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.recovery import in_pieces
from qrusty_trio.server.upkeep import Collector
from qrusty_trio.storage.base import Storage

LOCKS_PER_STEP = 1000
"""Locks freed in one step, which takes about 1 ms."""


class Shedding:
    """See `pressure.PressureTarget`."""

    def __init__(self, engine: Engine, storage: Storage, compactor: Compactor | None, collector: Collector) -> None:
        self._engine = engine
        self._storage = storage
        self._compactor = compactor
        self._collector = collector

    def refuse_publishes(self, refuse: bool) -> None:
        self._engine.services.gate.memory_critical = refuse

    def set_cache_bytes(self, capacity: int) -> None:
        self._storage.set_cache_bytes(capacity)

    async def trim_tiers(self, fraction: float) -> None:
        await in_pieces(self._engine.broker.catalog.resize_tiers(fraction))

    async def drop_idle_structures(self) -> None:
        await in_pieces(self._engine.broker.catalog.drop_idle())
        self._collector.collect_frozen()

    async def shrink_indexes(self) -> None:
        """Free the locks of purged queues; all others are needed. Payload digests are only in the store anyway."""
        while self._engine.broker.locks.tidy(LOCKS_PER_STEP):
            await trio.lowlevel.checkpoint()

    async def compact_payloads(self) -> None:
        if self._compactor is not None:
            await self._compactor.compact()

    def flush_memtables(self) -> None:
        self._storage.flush()

    def compact_range(self) -> None:
        self._storage.compact()

    async def restore(self) -> None:
        await in_pieces(self._engine.broker.catalog.resize_tiers(1.0))
