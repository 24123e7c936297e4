"""Histograms: every value is in the bucket of its bit length, and sums are exact."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.core.histogram import Histogram


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.integers(0, 64), st.integers(0, 64))
def test_buckets_count_what_is_below_their_bound(values: list[int], first: int, last: int) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    assert list(histogram.cumulated(first, last)) == [
        (2**bits, sum(value < 2**bits for value in values)) for bits in range(first, last + 1)
    ]
