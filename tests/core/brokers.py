"""What the tests of the broker share: stores that fail, restarts, payloads that break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.core.queue import Lock
from qrusty_trio.errors import DiskFull, StorageFault
from qrusty_trio.storage.base import Batch, Storage
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore

LONG = 30
"""Seconds of a lock that does not end during a test."""
NO_DUPLICATES = QueueConfig(allow_duplicates=False)


class Disk(MemoryStorage):
    """A store in memory that can be full, and stop reading."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.reads_left: int | None = None
        """So many more reads succeed."""

    def write(self, batch: Batch) -> None:
        if self.full:
            raise DiskFull("No space left on the device")
        super().write(batch)

    def get(self, family: Any, key: bytes) -> bytes | None:
        self._read()
        return super().get(family, key)

    def scan(
        self, family: Any, begin: bytes, end: bytes, limit: int, octets: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        self._read()
        return super().scan(family, begin, end, limit, octets)

    def _read(self) -> None:
        if self.reads_left is not None:
            if not self.reads_left:
                raise StorageFault("Input/output error")
            self.reads_left -= 1


class Keeping(MemoryStorage):
    """A store in memory that counts as one on disk, so that something can be kept aside in it."""

    persistent = True


def restarted(broker: Broker, payloads: PayloadStore | None = None) -> Broker:
    """What a new process finds."""
    again = Broker(broker.journal.storage, payloads=payloads, externalize_min_bytes=broker.payloads.min_bytes)
    exhaust(again.load())
    return again


def exhaust(pieces: Iterator[None]) -> None:
    for _ in pieces:
        pass


def search_to_the_end(broker: Broker) -> None:
    """Look for duplicates until there are none."""
    while broker.deduplication.searching:
        broker.deduplication.search_on()


def take(broker: Broker, name: str = "q", consumer: str = "c", now: int = 0) -> str | None:
    """Consume; the id."""
    delivery = broker.consume(name, consumer, LONG, now)
    return delivery.id if delivery is not None else None


def settle_some(broker: Broker, name: str) -> None:
    """Of ten messages that may be delivered once: one acked, two dead, two locked, five left."""
    for outcome in ("ack", "dead", "dead", "locked", "locked"):
        id = take(broker, name)
        assert id is not None
        if outcome == "ack":
            broker.ack(name, id, "c", 2000)
        elif outcome == "dead":
            broker.nack(name, id, "c", 2000, "why")


def payloads_in_order(broker: Broker, name: str = "q") -> list[str]:
    """Consume all there is."""
    found = []
    while (delivery := broker.consume(name, "last", LONG, 0)) is not None:
        found.append(delivery.payload)
    return found


def with_payloads(storage: Storage, payloads: PayloadStore) -> Broker:
    return Broker(storage, payloads=payloads, externalize_min_bytes=50)


def big(text: str) -> str:
    return text.ljust(60)


def break_payload(payloads: PayloadStore, directory: Path, number: int) -> None:
    """Damage the file of one payload; each has its own segment."""
    path = sorted((directory / "payloads").glob("*.payloads"))[number]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def lock_of(broker: Broker, id: str, name: str = "q") -> Lock:
    """The lock of a message."""
    lock = broker.catalog.by_name[name].locks.get(id)
    assert lock is not None
    return lock
