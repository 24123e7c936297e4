"""What a store holds, and what a model says it has to hold, in one form that can be compared.

Rule: read record by record from the families, nothing taken from a broker. On the way everything is checked that the
store says twice: counters against messages, references against their index and its sums.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec

from qrusty_trio.core import records
from qrusty_trio.core.configuration import StoredConfig
from qrusty_trio.core.keys import KeyCoder
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.core.records import EXTERNAL, PAYLOAD_AT
from qrusty_trio.storage.base import Family, Storage
from qrusty_trio.storage.payloads import PayloadRef, PayloadStore
from tests.core.model import Dead, Held, Message, Model, ModelQueue

ALL = 1_000_000
LIVE, DEAD_LETTER = 0, 1
_REFERENCE = len(PayloadRef(0, 0, 0, 0).pack())


class Picture(NamedTuple):
    """One queue."""

    name: str
    config: QueueConfig
    published: int
    available: list[Message]
    """In order."""
    held: dict[str, Held]
    dead: list[Dead]
    """First buried first."""
    owners: dict[bytes, str]
    """Digest of a payload -> message."""
    kept: tuple[bool, int, int] | None = None
    """If it is kept aside: whether it was purged, since when, until when."""


def of_model(model: Model) -> dict[int, Picture]:
    pictures = {queue.number: _of_queue(name, queue) for name, queue in model.queues.items()}
    for number, (name, queue, purged, at, until) in model.kept.items():
        pictures[number] = _of_queue(name, queue)._replace(kept=(purged, at, until))
    return pictures


def _of_queue(name: str, queue: ModelQueue) -> Picture:
    owners = {records.digest_of(payload.encode()): id for payload, id in queue.owners.items()}
    available = queue.in_order(queue.available)
    return Picture(name, queue.config, queue.published, available, dict(queue.held), list(queue.dead), owners)


def of_store(storage: Storage, payloads: PayloadStore | None) -> dict[int, Picture]:
    """Fails when the store contradicts itself."""
    return _Reader(storage, payloads).read()


class _Reader:
    def __init__(self, storage: Storage, payloads: PayloadStore | None) -> None:
        self._storage = storage
        self._payloads = payloads
        self._external: dict[bytes, bytes] = {}
        self._sums: dict[bytes, list[int]] = {}
        """Segment, queue number, kind -> count, bytes, least end."""
        self._letters: dict[str, bytes] = {}
        """Message id -> key in DEAD."""

    def _all(self, family: Family) -> list[tuple[bytes, bytes]]:
        return self._storage.scan(self._storage.families[family], b"", b"\xff" * 3000, ALL)

    def read(self) -> dict[int, Picture]:
        meta = dict(self._all(Family.META))
        pictures: dict[int, Picture] = {}
        coders: dict[int, KeyCoder] = {}
        with_letters: dict[int, int] = {}
        for key, value in meta.items():
            if len(key) == 5 and key[:1] == b"Q":
                stored = msgspec.json.decode(value, type=StoredConfig)
                assert not stored.deduplicating
                number = int.from_bytes(key[1:], "big")
                config = QueueConfig(
                    stored.ordering,
                    stored.allow_duplicates,
                    stored.kind,
                    None if stored.dead_letter_ttl_seconds is msgspec.UNSET else stored.dead_letter_ttl_seconds,
                    None if stored.dead_letter_max is msgspec.UNSET else stored.dead_letter_max,
                    stored.protected is True,
                )
                coders[number] = KeyCoder(number, config)
                counters = struct.unpack_from(">7Q", meta[b"C" + key[1:]])
                kept = None
                if stored.kept is not msgspec.UNSET:
                    kept = stored.kept.purged, stored.kept.at, stored.kept.until
                pictures[number] = Picture(stored.name, config, counters[3], [], {}, [], {}, kept)
                if kept is None or not kept[0]:
                    at = number if stored.dead_letters is msgspec.UNSET else stored.dead_letters
                    assert at not in with_letters
                    with_letters[at] = number
        assert {key[1:] for key in meta if key[:1] == b"Q"} == {key[1:] for key in meta if key[:1] == b"C"}
        for key, record in self._all(Family.MESSAGES):
            number = int.from_bytes(key[:4], "big")
            head = _head(meta, number)
            assert key >= head, "an available message stands before the head of its queue"
            pictures[number].available.append(self._message(coders[number], key, record, LIVE, key))
        for key, value in self._all(Family.LOCKS):
            number = int.from_bytes(key[:4], "big")
            lock = records.unpack_lock(value)
            message = self._message(coders[number], lock.key, lock.record, LIVE, lock.key)
            assert lock.deliveries == message.deliveries + 1
            held = Held(message._replace(deliveries=lock.deliveries), lock.consumer.decode(), lock.expires_at_ms)
            pictures[number].held[message.id] = held
        index = {}
        for key, value in self._all(Family.DEAD):
            number = with_letters[int.from_bytes(key[:4], "big")]
            own = number.to_bytes(4, "big")
            if key[4:5] == b"\xff":
                index[key[5:].decode()] = key[:4] + value
                continue
            assert key >= key[:4] + meta.get(b"D" + own, bytes(16))[:8], "a dead letter stands before the first"
            letter = records.unpack_dead_letter(value)
            message = self._message(coders[number], own + letter.key[4:], letter.record, DEAD_LETTER, key)
            assert letter.died_ms is not None
            texts = letter.consumer.decode(), letter.error.decode()
            pictures[number].dead.append(Dead(message, letter.reason, letter.died_ms, *texts))
            self._letters[message.id] = key
        assert index == self._letters
        for key, value in self._all(Family.DEDUP):
            pictures[int.from_bytes(key[:4], "big")].owners[key[4:]] = value.decode()
        self._check_counters(meta, pictures)
        self._check_external(meta)
        return pictures

    def _message(self, coder: KeyCoder, key: bytes, record: bytes, kind: int, owner_key: bytes) -> Message:
        flags, created, max_retries, deliveries, id = records.unpack_message(record)
        data = record[PAYLOAD_AT:]
        if flags & EXTERNAL:
            assert self._payloads is not None
            reference = PayloadRef.unpack(data[:_REFERENCE])
            data = self._payloads.read(reference)
            group = reference.segment.to_bytes(4, "big") + owner_key[:4] + bytes([kind])
            self._external[group + reference.offset.to_bytes(8, "big")] = id + owner_key
            sums = self._sums.setdefault(group, [0, 0, 0])
            sums[0] += 1
            sums[1] += reference.length
            sums[2] = max(sums[2], reference.offset + reference.length)
        priority = coder.priority(key)
        sequence = next(
            part for part in (key[-8:], key[4:12]) if coder.encode(priority, int.from_bytes(part, "big")) == key
        )
        return Message(
            id.decode(),
            int.from_bytes(sequence, "big"),
            priority,
            data.decode(),
            max_retries,
            deliveries,
            created,
            flags >> 2,
        )

    def _check_counters(self, meta: dict[bytes, bytes], pictures: dict[int, Picture]) -> None:
        for number, picture in pictures.items():
            counters = struct.unpack_from(">7Q", meta[b"C" + number.to_bytes(4, "big")])
            assert counters[:3] == (len(picture.available), len(picture.held), len(picture.dead))
            assert counters[4] >= len(picture.held)
            assert counters[5] >= len(picture.dead)

    def _check_external(self, meta: dict[bytes, bytes]) -> None:
        assert dict(self._all(Family.EXTERNAL)) == self._external
        sums = {
            key[1:]: struct.unpack(">QQQ", value) for key, value in meta.items() if key[:1] == b"S" and len(key) == 10
        }
        assert {group: list(each[:2]) for group, each in sums.items()} == {
            group: each[:2] for group, each in self._sums.items()
        }
        assert all(each[2] >= self._sums[group][2] for group, each in sums.items())


def _head(meta: dict[bytes, bytes], number: int) -> bytes:
    counters = meta[b"C" + number.to_bytes(4, "big")]
    length = struct.unpack_from(">7Q", counters)[6]
    return counters[56 : 56 + length]
