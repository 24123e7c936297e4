"""What bytes were found to mean, kept under the bytes.

Rule: bounded in number, and what comes once only never displaces what comes again and again: it is kept apart until it
comes a second time. So a client whose every request is different costs the others nothing.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Meaning = TypeVar("Meaning")


class Remembered(Generic[Meaning]):
    """At most `most` entries that came again, and as many that came once."""

    __slots__ = ("_again", "_most", "_once")

    def __init__(self, most: int) -> None:
        self._most = most
        self._again: dict[bytes, Meaning] = {}
        self._once: dict[bytes, Meaning] = {}

    def get(self, text: bytes) -> Meaning | None:
        """What `text` means, if that is known."""
        found = self._again.get(text)
        if found is None and (found := self._once.pop(text, None)) is not None:
            if len(self._again) >= self._most:
                # The oldest goes. Is it still in use, it is back after two more requests.
                del self._again[next(iter(self._again))]
            self._again[text] = found
        return found

    def put(self, text: bytes, meaning: Meaning) -> None:
        """Remember what `get` did not know."""
        if len(self._once) >= self._most:
            self._once.clear()
        self._once[text] = meaning

    def __len__(self) -> int:
        return len(self._again) + len(self._once)
