"""The first messages of a queue, in memory.

Rule: the tier holds *every* available message whose key is before its frontier. Messages at or after the frontier are
in the store only. Without a frontier (None), the tier is the whole queue. A message that arrives before the frontier
goes into the tier. When that makes the tier too large, its last message is dropped and becomes the frontier. So the
first message of the tier is always the first of the queue, whatever the size of the tier.

Requirements: SYS-0003, SCH-0045
"""

from __future__ import annotations

from bisect import bisect_left, insort

TIERS_BYTES = 64 * 1024 * 1024
"""Limit in bytes for the records of all tiers together. Each tier may always hold one record."""
READ_BYTES = 512 * 1024
"""Bytes to read into a tier at once, roughly: about a millisecond."""
_UNKNOWN_RECORD = 64 * 1024
"""Assumed size of a record (bytes) before any was seen. So the first read is a small one."""
_TRIM_AT = 512
"""Popped entries at the front of the list before they are deleted. Deleting them moves all entries that follow."""


class TierLimits:
    """The limits of one tier. All tiers of a broker share one instance, and the broker changes it."""

    __slots__ = ("entries", "low", "octets")

    def __init__(self, entries: int, low: int, octets: int = TIERS_BYTES) -> None:
        self.resize(entries, low)
        self.octets = octets

    def resize(self, entries: int, low: int) -> None:
        """Set the limits in messages. A tier with fewer than `low` messages reads more if there are any.

        `low` is capped at half of `entries`, so that reads come in batches.
        """
        self.entries = entries
        self.low = max(1, min(low, entries // 2))


class Tiers:
    """The limits of the tiers of all queues together.

    Requirements: SCH-0012
    """

    def __init__(self, entries: int, refill_threshold: int) -> None:
        self._entries = entries
        self._refill_threshold = refill_threshold
        self._fraction = 1.0
        self.limits = TierLimits(entries, refill_threshold)

    def resize(self, fraction: float) -> None:
        """Limit every tier to this fraction of its messages, and all tiers to this fraction of their bytes.

        The byte limit takes effect with the next `divide`.
        """
        self._fraction = fraction
        self.limits.resize(max(1, int(self._entries * fraction)), int(self._refill_threshold * fraction))

    def divide(self, queues: int) -> None:
        """Divide the bytes among this many queues."""
        self.limits.octets = int(TIERS_BYTES * self._fraction) // max(1, queues)


class HotTier:
    """Records by key, in the order of the keys.

    Requirements: SCH-0010
    """

    __slots__ = ("_keys", "_largest", "_limits", "_octets", "_records", "_start", "frontier")

    def __init__(self, limits: TierLimits, frontier: bytes | None) -> None:
        self._limits = limits
        self.frontier = frontier
        self._keys: list[bytes] = []
        """Sorted; those before `_start` have been popped."""
        self._start = 0
        self._records: dict[bytes, bytes] = {}
        self._octets = 0
        self._largest = _UNKNOWN_RECORD
        """Estimated size (bytes) of the largest record after the frontier."""

    def __len__(self) -> int:
        return len(self._records)

    @property
    def octets(self) -> int:
        """Bytes of the records held."""
        return self._octets

    def add(self, key: bytes, record: bytes) -> None:
        """Add an available message. It is kept only if it is before the frontier."""
        frontier = self.frontier
        if frontier is not None and key >= frontier:
            if len(record) > self._largest:
                self._largest = len(record)
            return
        keys = self._keys
        if not self._records or key > keys[-1]:
            keys.append(key)
        else:
            insort(keys, key, lo=self._start)
        self._records[key] = record
        self._octets += len(record)
        limits = self._limits
        if len(self._records) > limits.entries or self._octets > limits.octets:
            self.trim()

    def first(self) -> tuple[bytes, bytes]:
        """The first message (key, record). Raises IndexError when the tier is empty."""
        key = self._keys[self._start]
        return key, self._records[key]

    def following(self, key: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` messages (key, record) from `key` on, in order."""
        at = bisect_left(self._keys, key, lo=self._start)
        records = self._records
        return [(each, records[each]) for each in self._keys[at : at + limit]]

    def pop(self) -> tuple[bytes, bytes]:
        """Remove and return the first message (key, record). Raises IndexError when the tier is empty."""
        start = self._start
        key = self._keys[start]
        record = self._records.pop(key)
        self._octets -= len(record)
        start += 1
        if start >= _TRIM_AT or not self._records:
            del self._keys[:start]
            start = 0
        self._start = start
        return key, record

    def discard(self, key: bytes) -> None:
        """Remove a message that is gone from the queue. No effect when it is not in the tier."""
        record = self._records.pop(key, None)
        if record is not None:
            self._octets -= len(record)
            del self._keys[bisect_left(self._keys, key, lo=self._start)]

    def replace(self, key: bytes, record: bytes) -> None:
        """Replace the record of a message. No effect when it is not in the tier."""
        old = self._records.get(key)
        if old is not None:
            self._records[key] = record
            self._octets += len(record) - len(old)

    def low(self) -> bool:
        """Whether it is time to read more messages."""
        held = len(self._records)
        limits = self._limits
        return self.frontier is not None and held < limits.low and (not held or self._octets < limits.octets // 4)

    def room(self) -> int:
        """How many records to read into the tier at once, judging by the size of earlier ones; at least one.

        Requirements: SCH-0013
        """
        limits = self._limits
        by_size = min(READ_BYTES, limits.octets - self._octets) // self._largest
        return max(1, min(limits.entries - len(self._records), by_size))

    def extend(self, pairs: list[tuple[bytes, bytes]], end: bool) -> None:
        """Append what was read from the store, starting at the frontier and in key order. `end`: nothing follows it."""
        assert self.frontier is not None
        keys, records = self._keys, self._records
        octets = 0
        # The estimate falls slowly: a few small records must not hide a large one further back.
        largest = max(1, self._largest // 2)
        for key, record in pairs:
            keys.append(key)
            records[key] = record
            size = len(record)
            octets += size
            if size > largest:
                largest = size
        self._octets += octets
        self._largest = largest
        if end:
            self.frontier = None
        elif pairs:
            self.frontier = pairs[-1][0] + b"\x00"
        self.trim()

    def pass_over(self, begin: bytes, end: bytes) -> None:
        """Skip begin <= key < end, where the queue has no messages."""
        if self.frontier is not None and begin <= self.frontier < end:
            self.frontier = end

    def trim(self) -> None:
        """Drop messages from the end until the tier is within its limits. At least one message stays.

        Requirements: SCH-0011
        """
        limits = self._limits
        while len(self._records) > 1 and (len(self._records) > limits.entries or self._octets > limits.octets):
            key = self._keys.pop()
            self._octets -= len(self._records.pop(key))
            self.frontier = key

    def reset(self, frontier: bytes | None) -> None:
        """Empty the tier. The queue must have no message before `frontier`."""
        self._keys.clear()
        self._start = 0
        self._records.clear()
        self._octets = 0
        self.frontier = frontier
