"""A cache of parsed results, keyed by the bytes that were parsed.

Rule: the number of entries is bounded, and an entry seen once never evicts one that repeats. New entries are kept apart
until they are seen a second time. So a client whose every request is different costs the others nothing.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Meaning = TypeVar("Meaning")


class RepeatCache(Generic[Meaning]):
    """Holds at most `most` repeated entries, and as many that were seen once.

    Requirements: API-0044
    """

    __slots__ = ("_again", "_most", "_once")

    def __init__(self, most: int) -> None:
        self._most = most
        self._again: dict[bytes, Meaning] = {}
        self._once: dict[bytes, Meaning] = {}

    def get(self, text: bytes) -> Meaning | None:
        """The cached result for `text`, or None."""
        found = self._again.get(text)
        if found is None and (found := self._once.pop(text, None)) is not None:
            if len(self._again) >= self._most:
                # Evict the oldest entry. If it is still in use, two more requests bring it back.
                del self._again[next(iter(self._again))]
            self._again[text] = found
        return found

    def put(self, text: bytes, meaning: Meaning) -> None:
        """Cache a result that `get` did not find."""
        if len(self._once) >= self._most:
            self._once.clear()
        self._once[text] = meaning

    def __len__(self) -> int:
        return len(self._again) + len(self._once)
