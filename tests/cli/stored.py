"""A store in a directory, for commands that read one: written as a server writes it, with all kinds of entries."""

from __future__ import annotations

from pathlib import Path

from qrusty_trio.core.model import Kind, Ordering, QueueConfig
from qrusty_trio.storage.payloads import PayloadStore
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.core.brokers import NO_DUPLICATES, big, exhaust, settle_some, with_payloads


def opened(path: Path) -> RocksStorage:
    return RocksStorage.open(path, cache_mb=16, write_buffer_mb=8, max_open_files=64)


def make_store(path: Path) -> Path:
    """A store with something of everything, in each of three queues."""
    storage = opened(path)
    payloads = PayloadStore.open(path / "payloads", segment_max_bytes=10_000)
    broker = with_payloads(storage, payloads)
    exhaust(broker.load())
    broker.catalog.create("jobs", QueueConfig())
    broker.catalog.create("names", QueueConfig(ordering=Ordering.FIFO, kind=Kind.TEXT))
    broker.catalog.create("unique", NO_DUPLICATES)
    for number in range(10):
        broker.publish("jobs", number, f"p{number}", 1, 1000)
        broker.publish("names", f"n{number}", big(f"long {number}"), 1, 1000)
        broker.publish("unique", 5, big(f"u{number}") if number % 2 else f"u{number}", 1, 1000)
    for name in ("jobs", "names", "unique"):
        settle_some(broker, name)
    broker.journal.commit()
    payloads.sync()
    payloads.close()
    storage.close()
    return path
