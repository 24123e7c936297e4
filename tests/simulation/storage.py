"""A store with faults: it fails, forgets, is slow and comes back as disks do, when its dice say so.

Rule: what it may lose is what it never promised. A batch is stored whole or not at all. What was written after the last
sync that succeeded may be gone after a fault of a sync, or after a power cut, from the newest backwards; nothing else.
Every change is shown to `Watcher` as it becomes part of the store, or is taken out of it again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from qrusty_trio.errors import DiskFull, StorageFault
from qrusty_trio.storage.base import Batch, Family, Storage
from qrusty_trio.storage.reclaim import Span


class Kind(Enum):
    PUT = "put"
    DELETE = "delete"
    DELETE_RANGE = "delete range"


Change = tuple[Kind, Family, bytes, bytes]
"""Key and value, or begin and end of a range."""
ALL = 1_000_000
END = b"\xff" * 3000
RANGE_COST = 5
"""A range delete counts as so many operations."""


def _cost(kind: Kind, family: Family) -> int:
    if kind is Kind.DELETE_RANGE:
        # A queue that goes costs one in EXTERNAL, and one deletion in META, for each segment: in fact those are large.
        return 0 if family is Family.EXTERNAL else RANGE_COST
    return 0 if kind is Kind.DELETE and family is Family.META else 1


class Changes:
    """A batch that tells what is in it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def put(self, key: bytes, value: bytes, family: Any) -> None:
        self.changes.append((Kind.PUT, family, key, value))

    def delete(self, key: bytes, family: Any) -> None:
        self.changes.append((Kind.DELETE, family, key, b""))

    def delete_range(self, begin: bytes, end: bytes, family: Any) -> None:
        self.changes.append((Kind.DELETE_RANGE, family, begin, end))

    def __len__(self) -> int:
        return len(self.changes)


class Watcher(Protocol):
    """Who is told what becomes of the store."""

    def attempted(self, changes: list[Change]) -> None:
        """A batch was handed to the store, whatever becomes of it."""

    def applied(self, number: int, changes: list[Change]) -> None:
        """A batch is part of the store."""

    def lost(self, first: int) -> None:
        """The batches from that number on are not part of it any more."""

    def store_event(self, *words: object) -> None:
        """For the trace."""


@dataclass
class Odds:
    """How often something goes wrong, per call."""

    write: float = 0.0
    sync: float = 0.0
    read: float = 0.0
    reopen: float = 0.0


class SimulatedStorage:
    """See `qrusty_trio.storage.base.Storage`; its families are those of the enumeration."""

    persistent = True

    def __init__(self, inner: Storage, dice: random.Random, odds: Odds, watcher: Watcher) -> None:
        self.inner = inner
        self.odds = odds
        self.families: tuple[Any, ...] = tuple(Family)
        self.operations = 0
        """Counted since somebody set it to 0."""
        self.batches = 0
        """Written so far."""
        self.synced = 0
        """Of them, those that survive whatever happens."""
        self.dead = False
        """The process is gone: nothing it still does has any effect."""
        self._dice = dice
        self._watcher = watcher
        self._fault: StorageFault | None = None
        self._lossy = False
        self._undo: list[tuple[int, list[Change]]] = []
        """Of the batches that are not synced: number, and the changes that take it back."""

    # What the engine calls

    def batch(self) -> Batch:
        return Changes()

    def write(self, batch: Batch) -> None:
        assert isinstance(batch, Changes)
        self._check()
        self.operations += sum(_cost(kind, family) for kind, family, _, _ in batch.changes)
        self._watcher.attempted(batch.changes)
        if self._dice.random() < self.odds.write:
            outcome = self._dice.choice(("nothing stored", "stored", "disk full"))
            self._watcher.store_event("write fails,", outcome)
            if outcome == "stored":
                self._apply(batch.changes)
            self._break(DiskFull("no room") if outcome == "disk full" else StorageFault("a write failed"))
        self._apply(batch.changes)

    def sync(self) -> None:
        self._check()
        if self._dice.random() < self.odds.sync:
            self._lossy = self._dice.random() < 0.6
            self._watcher.store_event("sync fails")
            self._break(StorageFault("a sync failed"))
        self._settle()

    watched = True

    def sync_descriptor(self) -> None:
        """Every sync is `sync`."""

    def sync_failed(self, error: OSError) -> StorageFault:
        return StorageFault(str(error))

    def get(self, family: Any, key: bytes) -> bytes | None:
        self._read()
        return self.inner.get(self.inner.families[family], key)

    def scan(
        self, family: Any, begin: bytes, end: bytes, limit: int, octets: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        self._read()
        pairs = self.inner.scan(self.inner.families[family], begin, end, limit, octets)
        self.operations += len(pairs)
        return pairs

    def reopen(self) -> None:
        if self.dead:
            raise StorageFault("the process is gone")
        if self._dice.random() < self.odds.reopen:
            self._watcher.store_event("reopen fails")
            raise StorageFault("the store can't be opened")
        self._watcher.store_event("reopened")
        self.inner.reopen()
        if self._lossy:
            self._lose()
        self._settle()
        self._fault, self._lossy = None, False

    def flush(self) -> None:
        self.inner.flush()

    def compact(self) -> None:
        self.inner.compact()

    def reclaim(self, spans: Sequence[Span], at_least: int) -> bool:
        return self.inner.reclaim(spans, at_least)

    def tidy(self) -> bool:
        return self.inner.tidy()

    def set_cache_bytes(self, capacity: int) -> None:
        self.inner.set_cache_bytes(capacity)

    def check(self) -> None:
        self.inner.check()

    def disk_bytes(self) -> int:
        return self.inner.disk_bytes()

    def close(self) -> None:
        """A stop in order syncs."""
        if self._fault is None:
            self._settle()

    # What the world does

    def restart(self, power_cut: bool) -> None:
        """The process ended, without closing the store. A new one has it open."""
        if power_cut or self._lossy:
            self._lose()
        self._settle()
        self._fault, self._lossy, self.dead = None, False, False

    def all(self, family: Family) -> list[tuple[bytes, bytes]]:
        """Everything in a family; not counted, never fails."""
        return self.inner.scan(self.inner.families[family], b"", END, ALL)

    # Inside

    def _check(self) -> None:
        if self.dead:
            raise StorageFault("the process is gone")
        if self._fault is not None:
            raise StorageFault(f"the store must be reopened first: {self._fault}")

    def _read(self) -> None:
        if self.dead:
            raise StorageFault("the process is gone")
        self.operations += 1
        if self._dice.random() < self.odds.read:
            self._watcher.store_event("read fails")
            raise StorageFault("a read failed")

    def _break(self, fault: StorageFault) -> None:
        self._fault = fault
        raise fault

    def _apply(self, changes: list[Change]) -> None:
        undo: list[Change] = []
        batch = self.inner.batch()
        families = self.inner.families
        now: dict[tuple[Family, bytes], bytes | None] = {}
        for kind, family, key, value in changes:
            handle = families[family]
            if kind is Kind.DELETE_RANGE:
                there = {each for each, _ in self.inner.scan(handle, key, value, ALL)}
                there |= {each for of, each in now if of is family and key <= each < value}
                batch.delete_range(key, value, handle)
                for each in there:
                    now[family, each] = None
            elif kind is Kind.PUT:
                batch.put(key, value, handle)
                now[family, key] = value
            else:
                batch.delete(key, handle)
                now[family, key] = None
        for family, key in now:
            old = self.inner.get(families[family], key)
            undo.append((Kind.DELETE, family, key, b"") if old is None else (Kind.PUT, family, key, old))
        self.inner.write(batch)
        self.batches += 1
        self._undo.append((self.batches, undo))
        self._watcher.applied(self.batches, changes)

    def _lose(self) -> None:
        """Take back some of what was not synced, the newest first."""
        count = self._dice.randint(0, len(self._undo))
        if not count:
            return
        first = self._undo[-count][0]
        self._watcher.store_event("lost", count, "of", len(self._undo), "batches")
        for _, undo in reversed(self._undo[-count:]):
            batch = self.inner.batch()
            for kind, family, key, value in undo:
                handle = self.inner.families[family]
                if kind is Kind.PUT:
                    batch.put(key, value, handle)
                else:
                    batch.delete(key, handle)
            self.inner.write(batch)
        del self._undo[-count:]
        self._watcher.lost(first)

    def _settle(self) -> None:
        self.synced = self.batches
        self._undo.clear()
