"""The journal: changes that are pending, not yet written to the store.

Rule: all changes of a transaction go into one batch, together with the counters of the queues they touch. A `scan`
writes pending changes first, so it never misses one; an operation must not be half done at that point. After a storage
fault (`fault`) memory and store may differ. Nothing is written then until the broker has loaded the store again.

Requirements: PER-0006
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from qrusty_trio.errors import StorageFault
from qrusty_trio.storage.base import Batch, Family, Storage


class Dirty(Protocol):
    """An object whose state is stored along with the changes, such as a queue with its counters."""

    dirty: bool

    def write_state(self, journal: Journal) -> None: ...


class Journal:
    """The pending batch of a store.

    Requirements: SYS-0001
    """

    __slots__ = (
        "_batch",
        "_pending",
        "batch_number",
        "dead",
        "dedup",
        "delete",
        "delete_range",
        "dirty",
        "external",
        "fault",
        "fresh_digests",
        "locks",
        "messages",
        "meta",
        "put",
        "storage",
    )

    put: Callable[[bytes, bytes, Any], None]
    """put(key, value, family). Also `mark` a changed object or call `touch`: a put alone is not committed."""
    delete: Callable[[bytes, Any], None]
    delete_range: Callable[[bytes, bytes, Any], None]

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.dirty: list[Dirty] = []
        self.fresh_digests: dict[bytes, bytes] = {}
        """Changes to DEDUP in the pending batch: key -> message id, or b"" if the digest was freed."""
        self.fault: StorageFault | None = None
        self.batch_number = 0
        """Counts the batches. What was put under the current number can't be read back yet."""
        self._pending = False
        self.attach()

    def attach(self) -> None:
        """Take over the families of a store that was (re)opened. Drops pending changes."""
        families = self.storage.families
        self.meta, self.messages, self.locks, self.dead, self.dedup, self.external = (families[each] for each in Family)
        self.fault = None
        self._drop()

    def detach(self) -> None:
        """Release the families, so that the store can be closed. Drops pending changes."""
        if self.fault is not None:
            self.fault.forget_origin()
        self.meta = self.messages = self.locks = self.dead = self.dedup = self.external = None
        self._drop()

    def _drop(self) -> None:
        for each in self.dirty:
            each.dirty = False
        self.dirty.clear()
        self.fresh_digests.clear()
        self._begin()

    def _begin(self) -> None:
        batch: Batch = self.storage.batch()
        self._batch = batch
        self._pending = False
        self.put = batch.put
        self.delete = batch.delete
        self.delete_range = batch.delete_range
        self.batch_number += 1

    def mark(self, changed: Dirty) -> None:
        """Store the state of `changed` in the pending batch, at the next commit."""
        if not changed.dirty:
            changed.dirty = True
            self.dirty.append(changed)

    def forget(self, gone: Dirty) -> None:
        """Undo `mark` for an object that is gone."""
        if gone.dirty:
            gone.dirty = False
            self.dirty.remove(gone)

    def touch(self) -> None:
        """Note that there is a change although nothing is marked."""
        self._pending = True

    @property
    def size(self) -> int:
        """Number of pending changes, not counting counters. Takes 50 ns."""
        return len(self._batch)

    @property
    def position(self) -> tuple[int, int, int]:
        """A value that differs after every change."""
        return self.batch_number, len(self._batch), len(self.dirty)

    def commit(self) -> None:
        """Write the pending changes. Raises StorageFault. It is kept in `fault`, and every later commit raises it.

        Requirements: PER-0042
        """
        if self.fault is not None:
            raise self.fault
        if not self.dirty and not self._pending:
            return
        for each in self.dirty:
            each.dirty = False
            each.write_state(self)
        self.dirty.clear()
        try:
            self.storage.write(self._batch)
        except StorageFault as fault:
            self.fault = fault
            raise
        if self.fresh_digests:
            self.fresh_digests.clear()
        self._begin()

    def get(self, family: Any, key: bytes) -> bytes | None:
        """Read a value from the store, ignoring pending changes. Raises StorageFault."""
        try:
            return self.storage.get(family, key)
        except StorageFault as fault:
            self.fault = fault
            raise

    def scan(
        self, family: Any, begin: bytes, end: bytes, limit: int, octets: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Write pending changes, then call `Storage.scan`. Raises StorageFault."""
        self.commit()
        try:
            return self.storage.scan(family, begin, end, limit, octets)
        except StorageFault as fault:
            self.fault = fault
            raise

    def damaged(self, what: str) -> StorageFault:
        """Set `fault` and return it, for the caller to raise: the store contradicts itself."""
        fault = StorageFault(f"The store contradicts itself: {what}. Stop the server and put back a backup.")
        self.fault = fault
        return fault
