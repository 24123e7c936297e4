"""A table of locks by message id, for any number of locks.

Rule: the cost of an add or remove does not depend on the number of locks, and no add rehashes them all at once. To
that end the table is split into shards before it grows large.

Requirements: SCH-0037
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

SPLIT_AT = 4096
"""A table with this many locks is split: a dict of 400,000 entries that grows blocks the loop for 22 ms."""
SHARDS = 256
_MASK = SHARDS - 1


class Numbered(Protocol):
    """What a table needs to know about a lock."""

    id: str
    number: int


L = TypeVar("L", bound=Numbered)


class LockTable(Generic[L]):
    """Locks by message id, oldest first within a shard."""

    __slots__ = ("_count", "_shards", "small")

    def __init__(self) -> None:
        self.small: dict[str, L] | None = {}
        """All locks, while there are fewer than SPLIT_AT; then None. Whoever is in a hurry may add and remove here."""
        self._shards: list[dict[str, L]] = [self.small]
        self._count = 0
        """Locks in the shards, once the table is split."""

    def __len__(self) -> int:
        return len(self.small) if self.small is not None else self._count

    def __iter__(self) -> Iterator[L]:
        """All locks. The table must not change during the iteration."""
        for shard in self._shards:
            yield from shard.values()

    def get(self, id: str) -> L | None:
        small = self.small
        return small.get(id) if small is not None else self._shards[hash(id) & _MASK].get(id)

    def add(self, lock: L) -> None:
        small = self.small
        if small is None:
            self._shards[hash(lock.id) & _MASK][lock.id] = lock
            self._count += 1
            return
        small[lock.id] = lock
        if len(small) >= SPLIT_AT:
            self._split(small)

    def _split(self, small: dict[str, L]) -> None:
        shards: list[dict[str, L]] = [{} for _ in range(SHARDS)]
        for id, lock in small.items():
            shards[hash(id) & _MASK][id] = lock
        self.small, self._shards, self._count = None, shards, len(small)

    def discard(self, id: str) -> None:
        """Remove a lock. No effect when it is not in the table."""
        if self.small is not None:
            self.small.pop(id, None)
        elif self._shards[hash(id) & _MASK].pop(id, None) is not None:
            self._count -= 1

    def pop(self) -> L | None:
        """Remove and return any lock; None when the table is empty. Nothing may be added after the first call."""
        while self._shards:
            shard = self._shards[-1]
            if shard:
                if self.small is None:
                    self._count -= 1
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
