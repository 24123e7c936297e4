"""The storage protocol: an ordered key-value map with families, atomic batches and an explicit sync.

Rule: a batch is applied whole or not at all, and reads see it as soon as `write` returns. From then on it survives the
end of the process, because the operating system holds it. It survives a power cut once a later `sync` has returned.
Everything but `sync`, `flush`, `compact`, `reclaim`, `check`, `reopen` and `close` is called from one thread only, that
of the event loop. Every backend passes tests/storage/test_conformance.py.

Requirements: PER-0023
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Protocol

from qrusty_trio.errors import StorageFault
from qrusty_trio.storage.files import Opened
from qrusty_trio.storage.reclaim import Span


class Family(IntEnum):
    """The key spaces. The number is the index into `Storage.families`. The bytes are described in docs/format.md.

    Requirements: PER-0010
    """

    META = 0
    """Schema version; per queue its configuration and counters; per segment and queue the sums of its payloads."""
    MESSAGES = 1
    """Queue number, order key, sequence -> record. Available messages only."""
    LOCKS = 2
    """Queue number, lock number -> lock header and record. Locked messages only."""
    DEAD = 3
    """Queue number, dead-letter sequence -> message key and record."""
    DEDUP = 4
    """Queue number, 128-bit payload digest -> message id."""
    EXTERNAL = 5
    """Segment, queue number, kind, offset -> id and key of the message that owns this payload."""


class Batch(Protocol):
    """A list of changes. `family` is an entry of `Storage.families`."""

    def put(self, key: bytes, value: bytes, family: Any) -> None: ...

    def delete(self, key: bytes, family: Any) -> None: ...

    def delete_range(self, begin: bytes, end: bytes, family: Any) -> None:
        """Delete every key with begin <= key < end."""

    def __len__(self) -> int:
        """The number of changes."""


class Storage(Protocol):
    """An open store.

    Any method may raise `errors.DiskFull` when there is no space, or `errors.StorageFault` for any other fault. After a
    fault in `write` or `sync` the caller must call `reopen` before the next write.
    """

    families: tuple[Any, ...]
    """One handle per `Family`, in its order."""
    persistent: bool
    """False if everything is lost at the end of the process."""

    def batch(self) -> Batch: ...

    def write(self, batch: Batch) -> None:
        """Apply the batch atomically, without a sync. Takes microseconds; runs on the loop.

        Requirements: PER-0006
        """

    def sync(self) -> None:
        """Make all earlier writes survive a power cut. Blocks (0.2 ms on an SSD); releases the GIL. Any thread.

        It also succeeds in files that were removed. Only a `check` after it tells whether they are still there.
        """

    def sync_descriptor(self) -> Opened | None:
        """A file whose fdatasync makes all earlier writes survive a power cut; None if only `sync` does that.

        That is so at the time of the call. Takes microseconds; runs on the loop. Like `sync`, it says nothing of files
        that were removed.
        """

    @property
    def watched(self) -> bool:
        """Whether `sync_descriptor` may return a file, as far as is known now."""

    def sync_failed(self, error: OSError) -> StorageFault:
        """The fault to raise after such an fdatasync has failed. Call `reopen` before the next write, as after `sync`.

        Requirements: PER-0064
        """

    def get(self, family: Any, key: bytes) -> bytes | None: ...

    def scan(
        self, family: Any, begin: bytes, end: bytes, limit: int, octets: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Up to `limit` pairs with begin <= key < end, in key order. Takes about 1.5 µs a pair after the seek.

        With `octets`, stops after the pair that brings the total size of the values to that many bytes.
        """

    def flush(self) -> None:
        """Write memtables to disk, so that a restart has little log to read. Blocks; any thread."""

    def compact(self) -> None:
        """Compact the whole key range. Blocks for seconds; any thread."""

    def reclaim(self, spans: Sequence[Span], at_least: int) -> bool:
        """Free the disk space of deleted ranges if that is about `at_least` bytes or more. Returns whether it was.

        Blocks for seconds; any thread. `close` and `reopen` abort it; it then raises `StorageFault`.
        """

    def tidy(self) -> bool:
        """Free some of the memory of deleted ranges. Returns whether there is more. Well under a millisecond."""

    def set_cache_bytes(self, capacity: int) -> None:
        """Resize the block cache (memory pressure)."""

    def disk_bytes(self) -> int: ...

    def check(self) -> None:
        """Check that the directory is still in place. Takes microseconds to a millisecond; any thread.

        Raises `StorageFault` when it was renamed, removed or replaced. Then call `reopen` before the next write.
        """

    def reopen(self) -> None:
        """Close and open again after a fault. Blocks. Raises if the fault persists."""

    def close(self) -> None:
        """Flush and close. Idempotent. Blocks."""
