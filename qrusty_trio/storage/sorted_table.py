"""A sorted map of bytes in which a range delete is fast whatever the size of the range.

Rule: keys are in pieces of at most `PIECE` entries. A range delete only moves the pieces within it out of the table.
`tidy` frees them later, bit by bit, because freeing a million entries at once takes a tenth of a second.

Requirements: PER-0055
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

PIECE = 512
TIDY_ENTRIES = 256
TIDY_BYTES = 1024 * 1024
"""The most that one call of `tidy` frees, plus at most one larger value. It takes 0.03 ms, with small values as with a
large one."""


class SortedTable:
    """Keys in order, each with its value."""

    __slots__ = ("_keys", "_lasts", "_trash", "_values", "count")

    def __init__(self) -> None:
        self._lasts: list[bytes] = []
        """The last key of each piece."""
        self._keys: list[list[bytes]] = []
        self._values: list[list[bytes]] = []
        self._trash: list[list[bytes]] = []
        """Keys and values removed from the table and not freed yet."""
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def get(self, key: bytes) -> bytes | None:
        piece = bisect_left(self._lasts, key)
        if piece == len(self._lasts):
            return None
        keys = self._keys[piece]
        at = bisect_left(keys, key)
        return self._values[piece][at] if keys[at] == key else None

    def put(self, key: bytes, value: bytes) -> None:
        lasts = self._lasts
        piece = bisect_left(lasts, key)
        if piece == len(lasts):
            if not lasts:
                lasts.append(key)
                self._keys.append([key])
                self._values.append([value])
                self.count += 1
                return
            piece -= 1
            lasts[piece] = key
        keys, values = self._keys[piece], self._values[piece]
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            values[at] = value
            return
        keys.insert(at, key)
        values.insert(at, value)
        self.count += 1
        if len(keys) > PIECE:
            self._split(piece)

    def _split(self, piece: int) -> None:
        # Keys mostly arrive in order, so the last piece is left nearly full.
        middle = PIECE * 7 // 8 if piece == len(self._lasts) - 1 else PIECE // 2
        for pieces in (self._keys, self._values):
            whole = pieces[piece]
            pieces.insert(piece + 1, whole[middle:])
            del whole[middle:]
        self._lasts.insert(piece, self._keys[piece][-1])

    def delete(self, key: bytes) -> None:
        """Delete a key. No effect when it is not there."""
        piece = bisect_left(self._lasts, key)
        if piece == len(self._lasts):
            return
        keys = self._keys[piece]
        at = bisect_left(keys, key)
        if keys[at] == key:
            del keys[at], self._values[piece][at]
            self.count -= 1
            self._shrunk(piece)

    def delete_range(self, begin: bytes, end: bytes) -> None:
        """Delete every key with begin <= key < end. Takes well under a millisecond for a million keys.

        Requirements: PER-0055
        """
        if begin >= end:
            return
        first = bisect_left(self._lasts, begin)
        if first == len(self._lasts):
            return
        last = bisect_left(self._lasts, end)
        if first == last:
            self._cut(first, bisect_left(self._keys[first], begin), bisect_left(self._keys[first], end))
            self._shrunk(first)
            return
        if last < len(self._lasts):
            self._cut(last, 0, bisect_left(self._keys[last], end))
        at = bisect_left(self._keys[first], begin)
        whole = first if not at else first + 1
        self.count -= sum(map(len, self._keys[whole:last]))
        for pieces in (self._keys, self._values):
            self._trash += pieces[whole:last]
            del pieces[whole:last]
        del self._lasts[whole:last]
        if whole < len(self._lasts):
            self._shrunk(whole)
        if at:
            self._cut(first, at, len(self._keys[first]))
            self._shrunk(first)

    def _cut(self, piece: int, begin: int, end: int) -> None:
        if begin < end:
            for pieces in (self._keys, self._values):
                self._trash.append(pieces[piece][begin:end])
                del pieces[piece][begin:end]
            self.count -= end - begin

    def _shrunk(self, piece: int) -> None:
        """Restore the invariants after entries of a piece were removed.

        It may be empty, have another last key, or be small enough to join its neighbour.
        """
        keys = self._keys[piece]
        if not keys:
            del self._keys[piece], self._values[piece], self._lasts[piece]
            return
        self._lasts[piece] = keys[-1]
        if len(keys) < PIECE // 8 and len(self._lasts) > 1:
            left = piece if piece + 1 < len(self._lasts) else piece - 1
            if len(self._keys[left]) + len(self._keys[left + 1]) <= PIECE // 2:
                for pieces in (self._keys, self._values):
                    pieces[left] += pieces.pop(left + 1)
                del self._lasts[left]

    def items(self, begin: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The pairs with begin <= key < end, in order. The table must not change during the iteration."""
        for piece in range(bisect_left(self._lasts, begin), len(self._lasts)):
            keys = self._keys[piece]
            at = bisect_left(keys, begin) if keys[0] < begin else 0
            to = bisect_left(keys, end) if keys[-1] >= end else len(keys)
            yield from zip(keys[at:to], self._values[piece][at:to], strict=True)
            if to < len(keys):
                return

    def tidy(self) -> bool:
        """Free some of the removed entries. Returns whether there are more."""
        entries, octets = TIDY_ENTRIES, TIDY_BYTES
        while self._trash and entries > 0 and octets > 0:
            gone = self._trash[-1]
            if not gone:
                self._trash.pop()
                continue
            octets -= len(gone.pop())
            entries -= 1
        return bool(self._trash)

    def clear(self) -> None:
        self._lasts, self._keys, self._values, self._trash = [], [], [], []
        self.count = 0
