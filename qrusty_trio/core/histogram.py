"""A histogram of values with buckets that double.

Rule: adding a value costs two list updates (0.1 µs), however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator

BUCKETS = 65
"""One for each bit length of a value under 2**64."""


class Histogram:
    """Counts of values by bit length: bucket `n` holds the values from 2**(n-1) to 2**n - 1."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total = 0
        """The sum of the values."""

    def add(self, value: int) -> None:
        """Count a value: an integer from 0 to 2**64 - 1."""
        self.counts[value.bit_length()] += 1
        self.total += value

    def cumulated(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(2**n, number of values below that) for n from `first` to `last`."""
        below = sum(self.counts[:first])
        for bits in range(first, last + 1):
            below += self.counts[bits]
            yield 1 << bits, below

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)
