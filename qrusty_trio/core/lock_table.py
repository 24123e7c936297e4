"""Locks by message id, however many.

Rule: an add or a remove costs the same however many there are, and never stops to move them all: the table is split
before it grows large.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

SPLIT_AT = 4096
"""Locks in one dict from which on a table is split: a dict of 400,000 that grows holds the loop for 22 ms."""
SHARDS = 256


class Numbered(Protocol):
    """What a table needs to know of a lock."""

    id: str
    number: int


L = TypeVar("L", bound=Numbered)


class LockTable(Generic[L]):
    """Locks by message id, oldest first within a shard."""

    __slots__ = ("_mask", "_shards", "count")

    def __init__(self) -> None:
        self._shards: list[dict[str, L]] = [{}]
        self._mask = 0
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return self.count > 0

    def __iter__(self) -> Iterator[L]:
        """Every lock. The table must not change meanwhile."""
        for shard in self._shards:
            yield from shard.values()

    def get(self, id: str) -> L | None:
        return self._shards[hash(id) & self._mask].get(id)

    def add(self, lock: L) -> None:
        id = lock.id
        self._shards[hash(id) & self._mask][id] = lock
        self.count += 1
        if self.count == SPLIT_AT and not self._mask:
            self._split()

    def _split(self) -> None:
        shards: list[dict[str, L]] = [{} for _ in range(SHARDS)]
        mask = self._mask = SHARDS - 1
        for id, lock in self._shards[0].items():
            shards[hash(id) & mask][id] = lock
        self._shards = shards

    def remove(self, id: str) -> None:
        del self._shards[hash(id) & self._mask][id]
        self.count -= 1

    def discard(self, id: str) -> None:
        if self._shards[hash(id) & self._mask].pop(id, None) is not None:
            self.count -= 1

    def pop(self) -> L | None:
        """Take any lock out; None when there is none."""
        while self._shards:
            shard = self._shards[-1]
            if shard:
                self.count -= 1
                return shard.popitem()[1]
            if len(self._shards) == 1:
                return None
            # A table that is being emptied takes nothing in any more.
            self._shards.pop()
        return None

    def oldest_number(self) -> int | None:
        """The lowest lock number in a table of one queue; None when it is empty."""
        firsts = [next(iter(shard.values())).number for shard in self._shards if shard]
        return min(firsts, default=None)

    def pages(self, size: int) -> Iterator[list[L]]:
        """Every lock that is there throughout, in lists of about `size`; the table may change between two."""
        page: list[L] = []
        for shard in self._shards:
            for lock in list(shard.values()):
                page.append(lock)
                if len(page) >= size:
                    yield page
                    page = []
        if page:
            yield page
