"""A table of locks by message id, for any number of locks.

Rule: the cost of an add or remove does not depend on the number of locks, and no add rehashes them all at once. To
that end the table is split into shards before it grows large.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

SPLIT_AT = 4096
"""A table with this many locks is split: a dict of 400,000 entries that grows blocks the loop for 22 ms."""
SHARDS = 256


class Numbered(Protocol):
    """What a table needs to know about a lock."""

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
        """All locks. The table must not change during the iteration."""
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
        """Remove and return any lock; None when the table is empty. Nothing may be added after the first call."""
        while self._shards:
            shard = self._shards[-1]
            if shard:
                self.count -= 1
                return shard.popitem()[1]
            if len(self._shards) == 1:
                return None
            # Nothing is added to a table that is being emptied.
            self._shards.pop()
        return None

    def oldest_number(self) -> int | None:
        """The lowest lock number in a table of one queue; None when it is empty."""
        firsts = [next(iter(shard.values())).number for shard in self._shards if shard]
        return min(firsts, default=None)

    def pages(self, size: int) -> Iterator[list[L]]:
        """All locks in lists of up to `size`. The table may change between two lists.

        Locks added or removed meanwhile may be missing or included.
        """
        page: list[L] = []
        for shard in self._shards:
            for lock in list(shard.values()):
                page.append(lock)
                if len(page) >= size:
                    yield page
                    page = []
        if page:
            yield page
