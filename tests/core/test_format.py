"""What is stored, byte by byte, as docs/format.md says. To change a form, follow the steps there."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import WS_MARK, Kind, Ordering, QueueConfig
from qrusty_trio.core.records import ClockFrame, digest_of
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore

NOW = 1_700_000_000_000
PREFIX = bytes.fromhex("00000001")


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def broker(storage: MemoryStorage) -> Broker:
    broker = Broker(storage)
    broker.clock_frame = ClockFrame(7, -2).pack()
    return broker


def stored(storage: MemoryStorage, family: Family) -> dict[bytes, bytes]:
    return dict(storage.scan(storage.families[family], b"", b"\xff" * 8, 1000))


def message(id: str, payload: bytes, deliveries: int = 0, flags: int = 0) -> bytes:
    return struct.pack(">BQII", flags, NOW, 3, deliveries) + id.encode() + payload


# Verifies: PER-0011
@pytest.mark.parametrize(
    ("ordering", "kind", "priority", "key"),
    [
        (Ordering.MAX_FIRST, Kind.NUMERIC, 5, "fffffffffffffffa 0000000000000000"),
        (Ordering.MIN_FIRST, Kind.NUMERIC, 5, "0000000000000005 0000000000000000"),
        (Ordering.FIFO, Kind.NUMERIC, 5, "0000000000000000 0000000000000005"),
        (Ordering.MIN_FIRST, Kind.TEXT, "a\0b", "61 00ff 62 0000 0000000000000000"),
        (Ordering.MAX_FIRST, Kind.TEXT, "a\0b", "9e ff00 9d ffff 0000000000000000"),
        (Ordering.FIFO, Kind.TEXT, "ab", "0000000000000000 6162"),
    ],
)
def test_an_available_message(
    broker: Broker, storage: MemoryStorage, ordering: Ordering, kind: Kind, priority: int | str, key: str
) -> None:
    broker.catalog.create("q", QueueConfig(ordering, True, kind))
    id = broker.publish("q", priority, "ü", 3, NOW)
    broker.commit()
    expected = {PREFIX + bytes.fromhex(key): message(id, b"\xc3\xbc")}
    assert stored(storage, Family.MESSAGES) == expected


# Verifies: PER-0011
def test_a_queue(broker: Broker, storage: MemoryStorage) -> None:
    broker.catalog.create("q", QueueConfig(Ordering.MIN_FIRST, False))
    for priority in range(3):
        broker.publish("q", priority, str(priority), 1, NOW)
    for _ in range(2):
        broker.consume("q", "c", 1, NOW)
    broker.expire(NOW + 10_000, 1)
    broker.commit()
    meta = stored(storage, Family.META)
    assert meta[b"N"] == bytes.fromhex("00000002")
    config = {"name": "q", "ordering": "MinFirst", "kind": "Numeric", "allow_duplicates": False, "settling": False}
    assert json.loads(meta[b"Q" + PREFIX]) == config
    head, trimmed_to = PREFIX + struct.pack(">QQ", 1, 1), PREFIX
    assert meta[b"C" + PREFIX] == struct.pack(">7Q", 1, 1, 1, 3, 2, 1, len(head)) + head + trimmed_to


# Verifies: PER-0011
@pytest.mark.parametrize("websocket", [False, True])
def test_a_locked_message(broker: Broker, storage: MemoryStorage, websocket: bool) -> None:
    broker.catalog.create("q", QueueConfig(Ordering.FIFO, False))
    id = broker.publish("q", 0, "payload", 3, NOW)
    broker.consume("q", WS_MARK + "cü" if websocket else "cü", 30, NOW)
    broker.commit()
    flags = 0xC0 if websocket else 0x80
    key = PREFIX + bytes(16)
    digest = digest_of(b"payload")
    expected = (
        struct.pack(">QIHHB", NOW + 30_000, 1, 3, len(key), 16 | flags)
        + struct.pack(">IIq", 30, 7, -2)
        + "cü".encode()
        + key
        + digest
        + message(id, b"payload")
    )
    assert stored(storage, Family.LOCKS) == {PREFIX + bytes(8): expected}
    assert stored(storage, Family.MESSAGES) == {}
    assert stored(storage, Family.DEDUP) == {PREFIX + digest: id.encode()}


# Verifies: PER-0011
def test_a_dead_letter_with_its_payload_in_a_segment(tmp_path: Path, storage: MemoryStorage) -> None:
    payloads = PayloadStore.open(tmp_path, segment_max_bytes=10_000)
    broker = Broker(storage, payloads=payloads, externalize_min_bytes=4)
    broker.catalog.create("q", QueueConfig(Ordering.FIFO))
    id = broker.publish("q", 0, "payload", 3, NOW)
    broker.publish("q", 0, "another", 3, NOW)
    for _ in range(3):
        broker.consume("q", "cü", 30, NOW)
        broker.nack("q", id, "cü", NOW + 5, "é")
    broker.commit()
    payloads.close()
    (segment,) = tmp_path.glob("*.payloads")
    data = segment.read_bytes()
    assert data[:8] == b"QPAY" + bytes.fromhex("00000001")
    number = struct.unpack(">I", data[8:12])[0]
    assert segment.name == f"{number:010}.payloads"
    assert data[16:20] == (7).to_bytes(4, "big")
    assert data[24:31] == b"payload"
    reference = struct.pack(">IQI", number, 24, 7) + data[20:24]
    key = PREFIX + bytes(16)
    dead_key = PREFIX + bytes(8)
    letter = (
        struct.pack(">H", 0x8000 | len(key))
        + key
        + struct.pack(">QBHH", NOW + 5, 1, 3, 2)
        + "cüé".encode()
        + message(id, reference, deliveries=3, flags=1)
    )
    index_key = PREFIX + b"\xff" + id.encode()
    assert stored(storage, Family.DEAD) == {dead_key: letter, index_key: bytes(8)}
    external = stored(storage, Family.EXTERNAL)
    assert external[struct.pack(">IIBQ", number, 1, 1, 24)] == id.encode() + dead_key
    assert len(external) == 2
    sums = stored(storage, Family.META)[b"S" + struct.pack(">IIB", number, 1, 1)]
    assert sums == struct.pack(">QQQ", 1, 7, 31)
