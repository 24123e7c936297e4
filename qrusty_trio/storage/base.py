"""The storage protocol: an ordered key-value map with families, atomic batches and an explicit sync.

Rule: a batch is applied whole or not at all, and is visible to reads as soon as `write` returns. It survives the end
of the process from then on (the operating system holds it) and a power cut once a later `sync` has returned.
Everything but `sync`, `flush`, `compact`, `reclaim` and `close` is called from one thread only (the event loop).
Every backend passes tests/storage/test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Protocol

from qrusty_trio.storage.reclaim import Span


class Family(IntEnum):
    """The key spaces. The number is the index into `Storage.families`."""

    META = 0
    """Schema version; queue number -> configuration; queue number -> counters."""
    MESSAGES = 1
    """Queue number, order key, sequence -> record. Available messages only."""
    LOCKS = 2
    """Queue number, message id -> lock header and record. Locked messages only."""
    DEAD = 3
    """Queue number, dead-letter sequence -> record."""
    DEDUP = 4
    """Queue number, 128-bit payload digest -> message id."""
    EXTERNAL = 5
    """Segment, offset -> where the record that owns this payload is."""


class Batch(Protocol):
    """A list of changes. `family` is an entry of `Storage.families`."""

    def put(self, key: bytes, value: bytes, family: Any) -> None: ...

    def delete(self, key: bytes, family: Any) -> None: ...

    def delete_range(self, begin: bytes, end: bytes, family: Any) -> None:
        """Delete every key with begin <= key < end."""

    def __len__(self) -> int:
        """How many changes there are."""


class Storage(Protocol):
    """An open store.

    Raises everywhere: `errors.DiskFull` when there is no space, `errors.StorageFault` for any other fault. After a
    fault in `write` or `sync` the caller calls `reopen` before the next write.
    """

    families: tuple[Any, ...]
    """One handle per `Family`, in its order."""
    persistent: bool
    """False when everything is lost at the end of the process."""

    def batch(self) -> Batch: ...

    def write(self, batch: Batch) -> None:
        """Apply the batch atomically; not synced. Microseconds; runs on the loop."""

    def sync(self) -> None:
        """Make all earlier writes survive a power cut. Blocks (0.2 ms on an SSD); releases the GIL. Any thread."""

    def get(self, family: Any, key: bytes) -> bytes | None: ...

    def scan(
        self, family: Any, begin: bytes, end: bytes, limit: int, octets: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Up to `limit` pairs with begin <= key < end, in key order. About 1.5 µs a pair after the seek.

        With `octets`, no more pairs after the one whose value brings the bytes of all values to that many.
        """

    def flush(self) -> None:
        """Write memory tables to disk, so that a restart has little log to read. Blocks; any thread."""

    def compact(self) -> None:
        """Compact the whole key range. Blocks for seconds; any thread."""

    def reclaim(self, spans: Sequence[Span], at_least: int) -> bool:
        """Give back the disk space of ranges that were deleted, if that is about `at_least` bytes or more.

        Whether it was. Blocks for seconds; any thread. `close` and `reopen` make it give up: it raises `StorageFault`.
        """

    def tidy(self) -> bool:
        """Free some of what range deletes have taken out. Whether there is more. Well under a millisecond."""

    def set_cache_bytes(self, capacity: int) -> None:
        """Resize the block cache (memory pressure)."""

    def disk_bytes(self) -> int: ...

    def check(self) -> None:
        """Whether what is written still goes to where it belongs. Microseconds to a millisecond; any thread.

        Raises `StorageFault` when the directory was renamed, removed or replaced; `reopen` comes first then.
        """

    def reopen(self) -> None:
        """Close and open again after a fault. Blocks; raises if the fault is still there."""

    def close(self) -> None:
        """Flush and close. Idempotent. Blocks."""
