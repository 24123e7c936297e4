"""What has changed and is not written yet.

Rule: all changes of one transaction go into one batch, the counters of the queues they touch with them. Reads that
could meet a pending change write it first, so nobody ever reads past it. After a storage fault (`fault`) memory and
store may differ: nothing is written any more until the broker has loaded the store again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from qrusty_trio.errors import StorageFault
from qrusty_trio.storage.base import Batch, Family, Storage


class Dirty(Protocol):
    """Something with state to be stored along with the changes: a queue with its counters."""

    dirty: bool

    def write_state(self, journal: Journal) -> None: ...


class Journal:
    """The pending batch of a store."""

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
    """put(key, value, family); `mark` something dirty with it, or call `touch`."""
    delete: Callable[[bytes, Any], None]
    delete_range: Callable[[bytes, bytes, Any], None]

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.dirty: list[Dirty] = []
        self.fresh_digests: dict[bytes, bytes] = {}
        """Changes to DEDUP in the pending batch: key -> message id, or b"" when it was freed."""
        self.fault: StorageFault | None = None
        self.batch_number = 0
        """Counts the batches written: what was put under the current number can't be read back yet."""
        self._pending = False
        self.attach()

    def attach(self) -> None:
        """Take the families of a store that was (re)opened. Drops what is pending."""
        families = self.storage.families
        self.meta, self.messages, self.locks, self.dead, self.dedup, self.external = (families[each] for each in Family)
        self.fault = None
        self._drop()

    def detach(self) -> None:
        """Let go of the families, so that the store can be closed."""
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
        """Store the state of `changed` with the pending batch."""
        if not changed.dirty:
            changed.dirty = True
            self.dirty.append(changed)

    def forget(self, gone: Dirty) -> None:
        """Its state is not to be stored any more."""
        if gone.dirty:
            gone.dirty = False
            self.dirty.remove(gone)

    def touch(self) -> None:
        """There is a change although nothing is marked."""
        self._pending = True

    @property
    def size(self) -> int:
        """Changes that are pending, the counters not counted. 50 ns."""
        return len(self._batch)

    @property
    def position(self) -> tuple[int, int, int]:
        """Another one after every change."""
        return self.batch_number, len(self._batch), len(self.dirty)

    def commit(self) -> None:
        """Write what is pending. Raises StorageFault; then `fault` is set, and every commit raises it from then on."""
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
        """What is stored, pending changes not seen."""
        try:
            return self.storage.get(family, key)
        except StorageFault as fault:
            self.fault = fault
            raise

    def scan(
        self, family: Any, begin: bytes, end: bytes, limit: int, octets: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """What `Storage.scan` gives, pending changes written first."""
        self.commit()
        try:
            return self.storage.scan(family, begin, end, limit, octets)
        except StorageFault as fault:
            self.fault = fault
            raise

    def damaged(self, what: str) -> StorageFault:
        """The fault to raise when the store contradicts itself."""
        fault = StorageFault(f"The store contradicts itself: {what}. Stop the server and put back a backup.")
        self.fault = fault
        return fault
