"""What a store holds, seen from outside: a copy of its directory, opened by the broker alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from qrusty_trio.core.broker import Broker
from qrusty_trio.server.startup import PAYLOADS_DIRECTORY
from qrusty_trio.storage.payloads import PayloadStore
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.crash.ledger import LOCK_SECONDS, QUEUES, Ledger

NOW = 2_000_000_000_000
"""In the far future no lock of the clients is left, and none of the audit's own ends."""


class Content(NamedTuple):
    """Payloads in the order of their queue."""

    available: list[str]
    locked: list[str]


def check(ledger: Ledger, path: Path, scratch: Path, *, power_cut: bool = False) -> list[str]:
    """Hold what a stopped server left at `path` to the ledger. Returns what is available; leaves `path` as it is.

    A power cut may take payloads, but of no message that was answered.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(path, scratch)
    available = []
    contents = _contents(scratch, power_cut)
    for queue in QUEUES:
        content = contents.get(queue, Content([], []))
        ledger.check_stored(queue, content.available, content.locked)
        available += content.available
    return available


def _contents(path: Path, power_cut: bool) -> dict[str, Content]:
    storage = RocksStorage.open(path, cache_mb=8, write_buffer_mb=4, max_open_files=64)
    payloads = PayloadStore.open(path / PAYLOADS_DIRECTORY, segment_max_bytes=2**28)
    broker = Broker(storage, payloads=payloads)
    try:
        for _ in broker.load():
            pass
        sizes = {
            name: (broker.catalog.by_name[name].available, broker.catalog.by_name[name].locked)
            for name in broker.catalog.names()
        }
        available = {name: _drain(broker, name) for name in broker.catalog.names()}
        while broker.expire(NOW, 1000):
            broker.commit()
        locked = {name: _drain(broker, name) for name in broker.catalog.names()}
        removed = broker.payloads.take_removed()
        assert power_cut or not removed, f"payloads are broken: {removed[0]}"
        for name, counted in sizes.items() if not removed else ():
            assert counted == (len(available[name]), len(locked[name])), f"counters of {name!r} are wrong: {counted}"
        assert set(available) <= set(QUEUES)
        return {name: Content(available[name], locked[name]) for name in broker.catalog.names()}
    finally:
        broker.journal.detach()  # or the store stays open until the collector runs
        payloads.close()
        storage.close()


def _drain(broker: Broker, queue: str) -> list[str]:
    found = []
    while delivery := broker.consume(queue, "audit", LOCK_SECONDS, NOW):
        found.append(delivery.payload)
        if len(found) % 100 == 0:
            broker.commit()
    return found
