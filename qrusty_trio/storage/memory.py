"""The store in memory: the same protocol, sorted keys, nothing on disk. For tests and for QRUSTY_STORAGE=memory.

Rule: behaves as RocksDB does, batch by batch; the changes of a batch are applied in the order in which they were made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sortedcontainers import SortedDict

from qrusty_trio.errors import StorageFault
from qrusty_trio.storage.base import Batch, Family

KEYS_PER_STEP = 512
ENTRY_OVERHEAD = 200
"""Bytes that CPython and SortedDict take for one pair besides its own bytes."""
_Table = Any  # sortedcontainers has no types


class MemoryBatch:
    """A list of changes; each is (table, key, value), (table, key, None) or (table, begin, end) for a range."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes: list[tuple[int, _Table, bytes, bytes]] = []

    def put(self, key: bytes, value: bytes, family: Any) -> None:
        self.changes.append((0, family, key, value))

    def delete(self, key: bytes, family: Any) -> None:
        self.changes.append((1, family, key, b""))

    def delete_range(self, begin: bytes, end: bytes, family: Any) -> None:
        self.changes.append((2, family, begin, end))

    def is_empty(self) -> bool:
        return not self.changes


class MemoryStorage:
    """An empty store; see `Storage` for the protocol. Its families are the tables themselves."""

    persistent = False

    def __init__(self) -> None:
        self.families: tuple[Any, ...] = tuple(SortedDict() for _ in Family)
        self._bytes = 0
        self._closed = False

    def batch(self) -> Batch:
        return MemoryBatch()

    def write(self, batch: Batch) -> None:
        assert isinstance(batch, MemoryBatch)
        if self._closed:
            raise StorageFault("The store is closed.")
        for kind, table, key, value in batch.changes:
            if kind == 0:
                self._drop(table, key)
                table[key] = value
                self._bytes += len(key) + len(value) + ENTRY_OVERHEAD
            elif kind == 1:
                self._drop(table, key)
            elif key < value:
                for doomed in list(table.irange(key, value, (True, False))):
                    self._drop(table, doomed)
        batch.changes = []

    def _drop(self, table: _Table, key: bytes) -> None:
        old = table.pop(key, None)
        if old is not None:
            self._bytes -= len(key) + len(old) + ENTRY_OVERHEAD

    def sync(self) -> None:
        """Nothing to do: nothing survives the process."""

    def get(self, family: Any, key: bytes) -> bytes | None:
        value: bytes | None = family.get(key)
        return value

    def scan(self, family: Any, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        pairs: list[tuple[bytes, bytes]] = []
        if begin < end:
            for key in family.irange(begin, end, (True, False)):
                if len(pairs) >= limit:
                    break
                pairs.append((key, family[key]))
        return pairs

    def scan_keys(self, family: Any, begin: bytes, end: bytes) -> Iterator[bytes]:
        return iter(list(family.irange(begin, end, (True, False))) if begin < end else ())

    def flush(self) -> None:
        """Nothing to do."""

    def compact(self) -> None:
        """Nothing to do."""

    def set_cache_bytes(self, capacity: int) -> None:
        """Nothing to do: there is no cache."""

    def memory_bytes(self) -> int:
        return self._bytes

    def disk_bytes(self) -> int:
        return 0

    def reopen(self) -> None:
        """Nothing to do: there are no faults to recover from."""

    def close(self) -> None:
        self._closed = True
        for table in self.families:
            table.clear()
        self._bytes = 0
