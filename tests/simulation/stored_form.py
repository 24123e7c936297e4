"""How the store spells things: the one place of the simulation that knows the bytes of records and keys."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import msgspec

from qrusty_trio.core import records
from qrusty_trio.core.configuration import StoredConfig
from qrusty_trio.core.keys import COUNTERS, QUEUE_CONFIG, KeyCoder
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.core.records import EXTERNAL, PAYLOAD_AT
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.payload_format import REFERENCE_BYTES, segment_name
from qrusty_trio.storage.payloads import PayloadRef, PayloadStore
from tests.simulation.storage import SimulatedStorage

_COUNTERS = struct.Struct(">3Q")
_LOCK_KEY = struct.Struct(">IQ")
_config = msgspec.json.Decoder(StoredConfig).decode

LockName = tuple[int, int]
"""Queue number, lock number."""


@dataclass(slots=True)
class Message:
    """A message in the store."""

    id: str
    queue: int
    payload: bytes
    priority: int | str
    max_retries: int
    deliveries: int
    key: bytes


@dataclass(slots=True)
class StoredLock:
    """A lock in the store."""

    name: LockName
    message: Message
    consumer: str
    seconds: int
    deliveries: int
    end: int
    """As it is stored."""


@dataclass(frozen=True, slots=True)
class StoredKept:
    """Why a queue is kept aside, and from when to when (wall milliseconds)."""

    purged: bool
    at: int
    until: int


def is_config(key: bytes) -> bool:
    return len(key) == 5 and key[:1] == QUEUE_CONFIG


def is_counters(key: bytes) -> bool:
    return len(key) == 5 and key[:1] == COUNTERS


def counters_key(number: int) -> bytes:
    return COUNTERS + number.to_bytes(4, "big")


def queue_number(key: bytes) -> int:
    return int.from_bytes(key[:4], "big")


def is_dead_letter(key: bytes) -> bool:
    """Whether a key in DEAD is that of a letter; the others are the index by id."""
    return key[4:5] != b"\xff"


def lock_number(key: bytes) -> int:
    """0 for a key that is the start of a queue."""
    return int.from_bytes(key[4:12].ljust(8, b"\0"), "big")


def counters(value: bytes) -> tuple[int, int, int]:
    """Available, locked, dead."""
    available, locked, dead = _COUNTERS.unpack_from(value)
    return available, locked, dead


def config(value: bytes) -> tuple[str, bool, bool]:
    """Name, whether duplicates are refused, whether those that were there before are looked for."""
    read = _config(value)
    return read.name, not read.allow_duplicates, read.deduplicating


def aside(number: int, value: bytes) -> tuple[int, StoredKept | None]:
    """The number in the keys of a queue's dead letters, and why it is kept aside, if it is."""
    read = _config(value)
    kept = None if read.kept is msgspec.UNSET else StoredKept(read.kept.purged, read.kept.at, read.kept.until)
    return number if read.dead_letters is msgspec.UNSET else read.dead_letters, kept


def limits_dead(value: bytes) -> bool:
    """Whether the configuration of a queue lets dead letters go by themselves."""
    read = _config(value)
    return read.dead_letter_ttl_seconds is not msgspec.UNSET or read.dead_letter_max is not msgspec.UNSET


def references(storage: SimulatedStorage) -> Iterator[tuple[str, PayloadRef]]:
    """Messages (id) whose payload is in a segment file, and where there."""
    stored = [record for _, record in storage.all(Family.MESSAGES)]
    stored += [records.unpack_lock(value).record for _, value in storage.all(Family.LOCKS)]
    stored += [
        records.unpack_dead_letter(value).record for key, value in storage.all(Family.DEAD) if is_dead_letter(key)
    ]
    for record in stored:
        flags, _, _, _, id = records.unpack_message(record)
        if flags & EXTERNAL:
            yield id.decode(), PayloadRef.unpack(record[PAYLOAD_AT : PAYLOAD_AT + REFERENCE_BYTES])


def is_whole(directory: Path, reference: PayloadRef) -> bool:
    """Whether a payload can be read."""
    path = directory / segment_name(reference.segment)
    if not path.exists():
        return False
    with path.open("rb") as file:
        file.seek(reference.offset)
        return crc32(file.read(reference.length)) == reference.checksum


class Decoder:
    """Records to messages. Remembers what can't be read any more once a payload has moved: it never changes."""

    def __init__(self) -> None:
        self.payloads: PayloadStore | None = None
        self._payload_of: dict[str, bytes] = {}
        self._ids: dict[bytes, list[str]] = {}
        self._coders: dict[int, KeyCoder] = {}

    def with_payload(self, payload: bytes) -> list[str]:
        """All messages that ever had it."""
        return self._ids.get(payload, [])

    def queue(self, number: int, value: bytes) -> None:
        """The configuration of a queue, as it is written: needed to read its keys."""
        read = _config(value)
        self._coders[number] = KeyCoder(number, QueueConfig(read.ordering, read.allow_duplicates, read.kind))

    def message(self, key: bytes, record: bytes) -> Message:
        flags, _, max_retries, deliveries, id_bytes = records.unpack_message(record)
        id = id_bytes.decode()
        payload = self._payload_of.get(id)
        if payload is None:
            payload = record[PAYLOAD_AT:]
            if flags & EXTERNAL:
                assert self.payloads is not None
                payload = self.payloads.read(PayloadRef.unpack(payload[:REFERENCE_BYTES]))
            self._payload_of[id] = payload
            self._ids.setdefault(payload, []).append(id)
        priority = self._coders[queue_number(key)].priority(key)
        return Message(id, queue_number(key), payload, priority, max_retries, deliveries, key)

    def lock(self, key: bytes, value: bytes) -> StoredLock:
        stored = records.unpack_lock(value)
        message = self.message(stored.key, stored.record)
        name = _LOCK_KEY.unpack(key)
        return StoredLock(
            name, message, stored.consumer_id, stored.seconds or 0, stored.deliveries, stored.expires_at_ms
        )

    def dead(self, queue: int, value: bytes) -> Message:
        """A dead letter of that queue. It may have died under an earlier number."""
        stored = records.unpack_dead_letter(value)
        return self.message(queue.to_bytes(4, "big") + stored.key[4:], stored.record)
