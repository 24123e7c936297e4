"""The engine with its stores and the compactor, as the server puts them together, without sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from qrusty_trio.config import Settings
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import Delivery
from qrusty_trio.server import startup
from qrusty_trio.server.compactor import Compactor
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.pressure import PressureStatus
from qrusty_trio.server.recovery import recover
from qrusty_trio.server.startup import PAYLOADS_DIRECTORY, Stores
from qrusty_trio.server.supervisor import make_engine, reopen
from qrusty_trio.storage.payload_format import segment_name
from qrusty_trio.storage.payloads import PayloadStore
from qrusty_trio.storage.removed_log import CURRENT, RemovedLog
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.server.collector import collector_of_tests
from tests.server.running import settings_for

LARGE = 5000
"""Bytes of a payload that goes to a segment."""
SEGMENT_BYTES = 10 * LARGE
LOCK_SECONDS = 1000


@dataclass
class Room:
    settings: Settings
    stores: Stores
    engine: Engine
    compactor: Compactor

    @property
    def payloads(self) -> PayloadStore:
        assert self.stores.payloads is not None
        return self.stores.payloads

    @property
    def broker(self) -> Broker:
        return self.engine.broker

    async def publish(
        self, queue: str, payload: str, priority: int = 0, max_retries: int = 10, *, sync: bool = True
    ) -> str:
        def publish(broker: Broker, now: int) -> str:
            return broker.publish(queue, priority, payload, max_retries, now)

        return await self.engine.transact(publish, sync=sync)

    async def consume(self, queue: str, consumer: str = "c") -> Delivery | None:
        return await self.engine.transact(
            lambda broker, now: broker.consume(queue, consumer, LOCK_SECONDS, now), sync=True
        )

    async def ack(self, queue: str, id: str, consumer: str = "c") -> None:
        await self.engine.transact(lambda broker, now: broker.ack(queue, id, consumer, now), sync=True)

    async def nack(self, queue: str, id: str, consumer: str = "c") -> None:
        await self.engine.transact(lambda broker, now: broker.nack(queue, id, consumer, now), sync=True)

    async def drain(self, queue: str) -> list[str]:
        """Consume and ack all; the payloads."""
        payloads = []
        while delivery := await self.consume(queue):
            payloads.append(delivery.payload)
            await self.ack(queue, delivery.id)
        return payloads

    def removed(self) -> list[dict[str, Any]]:
        """What is in the file of removed messages."""
        file = self.settings.data_path / CURRENT
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def large(text: str, size: int = LARGE) -> str:
    """A payload of exactly `size` bytes that starts with `text`."""
    return f"{text}|".ljust(size, ".")


def segment(path: Path, number: int) -> Path:
    return path / PAYLOADS_DIRECTORY / segment_name(number)


@asynccontextmanager
async def room(path: Path, segment_max_bytes: int = SEGMENT_BYTES, **changes: Any) -> AsyncIterator[Room]:
    """Stores at `path`, loaded and checked, closed at the end. The compactor is there; nobody runs it."""
    settings = settings_for(path, **changes)
    storage = await trio.to_thread.run_sync(
        partial(
            RocksStorage.open,
            path,
            cache_mb=settings.rocksdb_cache_mb,
            write_buffer_mb=settings.rocksdb_write_buffer_mb,
            max_open_files=settings.rocksdb_max_open_files,
        )
    )
    payloads = PayloadStore.open(path / PAYLOADS_DIRECTORY, segment_max_bytes=segment_max_bytes)
    removed_log = RemovedLog(path)
    stores = Stores(storage, payloads, removed_log)
    engine = make_engine(settings, stores, PressureStatus())
    try:
        compactor = Compactor(engine, payloads, removed_log, settings.compact_interval_secs)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.committer.run)
            await nursery.start(recover, engine, partial(reopen, stores, compactor))
            await nursery.start(engine.dispatch)
            await nursery.start(engine.reap)
            await nursery.start(engine.search)
            with collector_of_tests():
                await startup.load(engine, compactor)
            yield Room(settings, stores, engine, compactor)
            nursery.cancel_scope.cancel()
    finally:
        # RocksDB stays open as long as anybody holds a family of it.
        engine.broker.journal.detach()
        await trio.to_thread.run_sync(stores.close)
