"""What the tests of the verifier share: a store in order, made by a broker, and changes of its pairs."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from qrusty_trio.core import records
from qrusty_trio.core.model import Kind, Ordering, QueueConfig
from qrusty_trio.core.verifying import END, Problem, Verifier
from qrusty_trio.errors import StorageFault
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.payloads import PayloadStore
from tests.core.brokers import NO_DUPLICATES, Keeping, big, exhaust, settle_some, take, with_payloads

COUNTERS = struct.Struct(">7Q")
JOBS, NAMES, UNIQUE, GONE, AGAIN, NEW, EMPTY, TWINS, SEARCHED = (number.to_bytes(4, "big") for number in range(1, 10))
NONE = b"\0\0\0\x63"
META, MESSAGES, LOCKS, DEAD, DEDUP, EXTERNAL = Family
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")

Pairs = dict[Family, dict[bytes, bytes]]
Told = list[tuple[str, str]]
"""Codes and sentences."""
STRANGER = b"x" * 36
"""The id of no message."""


class Source:
    """What the verifier reads."""

    def __init__(self, pairs: Pairs, broken: Iterable[Family] = ()) -> None:
        self.pairs = pairs
        self._broken = set(broken)

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self.pairs[family].get(key)

    def scan(self, family: Family, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        if family in self._broken:
            raise StorageFault(f"{family.name} can't be read")
        keys = sorted(key for key in self.pairs[family] if begin <= key < end)
        return [(key, self.pairs[family][key]) for key in keys[:limit]]


class Sound:
    """A store in order, with something of everything."""

    def __init__(self, path: Path) -> None:
        storage = Keeping()
        self.payloads = PayloadStore.open(path / "payloads", segment_max_bytes=10_000)
        self.names: dict[str, str] = {}
        """Id -> queue and how many were published before: jobs.0."""
        self._broker = broker = with_payloads(storage, self.payloads)
        exhaust(broker.load())
        self._settled("jobs", QueueConfig(), lambda number: f"p{number}")
        self._settled("names", QueueConfig(Ordering.FIFO, kind=Kind.TEXT), lambda number: big(f"long {number}"))
        self._settled("unique", NO_DUPLICATES, lambda number: big(f"u{number}") if number % 2 else f"u{number}")
        self._settled("gone", NO_DUPLICATES, lambda number: f"p{number}")
        broker.trash.delete("gone", 100, 2000)
        self._settled("again", QueueConfig(Ordering.MIN_FIRST), lambda number: f"p{number}")
        broker.trash.purge("again", 100, 2000)
        self._settled("empty", QueueConfig(), lambda number: f"p{number}")
        broker.catalog.purge("empty")
        for name in ("twins", "searched"):
            broker.catalog.create(name, QueueConfig())
            for _ in range(2):
                self._publish(name, 5, "equal", 9)
        take(broker, "twins")
        take(broker, "twins")
        exhaust(broker.catalog.update("twins", None, False, 2000))
        next(broker.catalog.update("searched", None, False, 2000))
        broker.journal.commit()
        self.pairs: Pairs = {
            family: dict(storage.scan(storage.families[family], b"", END, 10_000)) for family in Family
        }
        self.pairs[META] |= {b"schema_version": (3).to_bytes(4, "big"), b"P": struct.pack(">IQ", 1, 0)}

    def _publish(self, name: str, priority: int | str, payload: str, max_retries: int) -> None:
        count = sum(each.startswith(f"{name}.") for each in self.names.values())
        self.names[self._broker.publish(name, priority, payload, max_retries, 1000)] = f"{name}.{count}"

    def _settled(self, name: str, config: QueueConfig, payload: Callable[[int], str]) -> None:
        """Ten messages: one acked, two dead, two locked, five left."""
        broker = self._broker
        broker.catalog.create(name, config)
        for number in range(10):
            self._publish(name, number if config.kind is Kind.NUMERIC else f"n{number}", payload(number), 1)
        settle_some(broker, name)

    def copy(self) -> Pairs:
        return {family: dict(pairs) for family, pairs in self.pairs.items()}

    def named(self, sentence: str) -> str:
        return ID.sub(lambda match: self.names[match[0]], sentence)


def problems_of(sound: Sound, pairs: Pairs, broken: Iterable[Family] = ()) -> list[tuple[str, str | None, str]]:
    """With the names of messages in place of their ids."""
    found: list[Problem] = []
    exhausted = sum(Verifier(Source(pairs, broken), sound.payloads.read, found.append).run())
    if not broken:
        assert exhausted == sum(map(len, pairs.values()))
    return [(code, queue, sound.named(sentence)) for code, queue, sentence in found]


# Changes of a store


Damage = Callable[[Pairs], None]


def put(family: Family, key: bytes, value: bytes) -> Damage:
    return lambda pairs: pairs[family].update({key: value})


def change(family: Family, begin: bytes, edit: Callable[[bytes], bytes], which: int = 0) -> Damage:
    def damage(pairs: Pairs) -> None:
        key = nth(pairs, family, begin, which)
        pairs[family][key] = edit(pairs[family][key])

    return damage


def delete(family: Family, begin: bytes, which: int = 0) -> Damage:
    def damage(pairs: Pairs) -> None:
        del pairs[family][nth(pairs, family, begin, which)]

    return damage


def move(family: Family, begin: bytes, to: Callable[[bytes], bytes], which: int = 0) -> Damage:
    def damage(pairs: Pairs) -> None:
        key = nth(pairs, family, begin, which)
        pairs[family][to(key)] = pairs[family].pop(key)

    return damage


def nth(pairs: Pairs, family: Family, begin: bytes, which: int = 0) -> bytes:
    return sorted(key for key in pairs[family] if key.startswith(begin))[which]


def counters(queue: bytes, **numbers: int) -> Damage:
    names = ("available", "locked", "dead", "next_sequence", "next_lock", "next_dead", "head")

    def edit(value: bytes) -> bytes:
        changed = dict(zip(names, COUNTERS.unpack_from(value), strict=True)) | numbers
        return COUNTERS.pack(*changed.values()) + value[COUNTERS.size :]

    return change(META, b"C" + queue, edit)


def head(queue: bytes, head: bytes, trimmed_to: bytes = b"") -> Damage:
    return change(
        META, b"C" + queue, lambda value: COUNTERS.pack(*COUNTERS.unpack(value[:56])[:6], len(head)) + head + trimmed_to
    )


def key(queue: bytes, priority: int, sequence: int) -> bytes:
    return queue + struct.pack(">QQ", 2**64 - 1 - priority, sequence)


def earlier(value: bytes) -> bytes:
    """A dead letter as versions without reasons stored it."""
    return records.repack_dead_letter(records.unpack_dead_letter(value)._replace(died_ms=None))


def all_of(*damages: Damage) -> Damage:
    def damage(pairs: Pairs) -> None:
        for each in damages:
            each(pairs)

    return damage


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def index(segment: int, queue: int, kind: int, offset: int) -> bytes:
    return struct.pack(">IIBQ", segment, queue, kind, offset)


def sums(count: int, octets: int, end: int) -> bytes:
    return struct.pack(">3Q", count, octets, end)


def told(sound: Sound, damage: Damage) -> list[tuple[str, str | None, str]]:
    """What is behind "can't be read: " is up to libraries."""
    pairs = sound.copy()
    damage(pairs)
    cut = "can't be read: "
    return [
        (code, queue, sentence[: sentence.index(cut) + len(cut) - 2] if cut in sentence else sentence)
        for code, queue, sentence in problems_of(sound, pairs)
    ]
