"""The store in memory: the same protocol, sorted keys, nothing on disk. For tests and for STORAGE_MODE=memory.

Rule: reads return the same as with RocksDB after every batch. The changes of a batch are applied in the order in which
they were made. Nothing here waits, and nothing is thread-safe.

Requirements: PER-0023
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qrusty_trio.errors import StorageFault
from qrusty_trio.storage.base import Batch, Family
from qrusty_trio.storage.files import Opened
from qrusty_trio.storage.reclaim import Span
from qrusty_trio.storage.sorted_table import SortedTable

_PUT, _DELETE, _DELETE_RANGE = range(3)


class MemoryBatch:
    """A list of changes: (kind, table, key, value), or (kind, table, begin, end) for a range."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes: list[tuple[int, SortedTable, bytes, bytes]] = []

    def put(self, key: bytes, value: bytes, family: Any) -> None:
        self.changes.append((_PUT, family, key, value))

    def delete(self, key: bytes, family: Any) -> None:
        self.changes.append((_DELETE, family, key, b""))

    def delete_range(self, begin: bytes, end: bytes, family: Any) -> None:
        self.changes.append((_DELETE_RANGE, family, begin, end))

    def __len__(self) -> int:
        return len(self.changes)


class MemoryStorage:
    """An empty store; see `Storage` for the protocol. Its families are the tables themselves."""

    persistent = False

    def __init__(self) -> None:
        self.families: tuple[Any, ...] = tuple(SortedTable() for _ in Family)
        self._untidy: set[SortedTable] = set()
        """Families with memory to free."""
        self._closed = False

    def batch(self) -> Batch:
        return MemoryBatch()

    def write(self, batch: Batch) -> None:
        assert isinstance(batch, MemoryBatch)
        if self._closed:
            raise StorageFault("The store is closed.")
        for kind, table, key, value in batch.changes:
            if kind == _PUT:
                table.put(key, value)
            elif kind == _DELETE:
                table.delete(key)
            else:
                table.delete_range(key, value)
                self._untidy.add(table)
        batch.changes.clear()
        if self._untidy:
            # So memory is freed as fast as it is deleted even if nobody calls `tidy`.
            self.tidy()

    def sync(self) -> None:
        """Nothing to do: nothing survives the process."""

    def sync_descriptor(self) -> Opened | None:
        return None

    @property
    def watched(self) -> bool:
        return False

    def sync_failed(self, error: OSError) -> StorageFault:
        return StorageFault(str(error))

    def get(self, family: Any, key: bytes) -> bytes | None:
        value: bytes | None = family.get(key)
        return value

    def scan(
        self, family: Any, begin: bytes, end: bytes, limit: int, octets: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        pairs: list[tuple[bytes, bytes]] = []
        left = math.inf if octets is None else octets
        if begin < end:
            for pair in family.items(begin, end):
                if len(pairs) >= limit or left <= 0:
                    break
                pairs.append(pair)
                left -= len(pair[1])
        return pairs

    def flush(self) -> None:
        """Nothing to do."""

    def compact(self) -> None:
        """Nothing to do."""

    def reclaim(self, spans: Sequence[Span], at_least: int) -> bool:
        """Nothing to do: nothing is on disk."""
        return True

    def tidy(self) -> bool:
        """Free some of the memory of deleted ranges. Returns whether there is more. About 0.05 ms, on the loop."""
        for table in self._untidy:
            if not table.tidy():
                self._untidy.discard(table)
            break
        return bool(self._untidy)

    def set_cache_bytes(self, capacity: int) -> None:
        """Nothing to do: there is no cache."""

    def disk_bytes(self) -> int:
        return 0

    def check(self) -> None:
        """Nothing to do: there is no directory."""

    def reopen(self) -> None:
        """Nothing to do: there are no faults to recover from."""

    def close(self) -> None:
        self._closed = True
        for table in self.families:
            table.clear()
