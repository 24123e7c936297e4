"""Durations of operations, second by second, for the last hour.

Rule: recording costs two look-ups and a few list updates. Memory is bounded: each operation has the current second and
a ring of `WINDOW_SECONDS` packed slots (230 KB). The ring is created when the operation first runs.

Requirements: API-0028
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TypedDict

from qrusty_trio.core.histogram import Histogram

WINDOW_SECONDS = 3600
"""How far back a series reaches."""
SERIES_PIECE = 600
"""Seconds read in one piece, which takes 0.5 ms."""

_PAIRS = {
    "ack": "storage_ack",
    "ack_batch": "storage_batch_ack",
    "consume": "storage_pop",
    "nack": "storage_nack",
    "nack_batch": "storage_batch_nack",
    "publish": "storage_push",
    "queue_stats": "storage_get_queue_stats",
    "stats": "storage_get_all_queue_stats",
}
"""Operation -> the series name of the broker's share of its time."""

TIMED_OPERATIONS = tuple(sorted({*_PAIRS, *_PAIRS.values()} - {"stats"}))
"""The names of the series. `stats` has only the series of the broker's share."""

# A slot: second and count, then the shortest, longest and total duration (ns), of the whole and of the broker's share.
_FIELDS = 8
_WHOLE, _SHARE = 2, 5
_NEVER = -1
_UNUSED = [_NEVER, 0, 2**62, 0, 0, 2**62, 0, 0]

_PLACES = {name: (name, _WHOLE) for name in _PAIRS} | {share: (name, _SHARE) for name, share in _PAIRS.items()}
"""Series name -> the operation, and the index in a slot where its three durations start."""


class TimingPoint(TypedDict):
    """One second of one operation; durations in whole microseconds, rounded down."""

    t_epoch_s: int
    count: int
    min_us: int
    max_us: int
    total_us: int


class Timings:
    """Durations of operations. Seconds are wall time and may come out of order.

    Requirements: API-0028, API-0029
    """

    __slots__ = ("_rings", "_running", "histograms")

    def __init__(self) -> None:
        self.histograms = {name: Histogram() for name in _PAIRS}
        """The whole durations since the start, by operation."""
        self._running = {name: _UNUSED.copy() for name in _PAIRS}
        self._rings: dict[str, array[int]] = {}

    def record(self, operation: str, whole_ns: int, share_ns: int, now_s: int) -> None:
        """Record one run of `operation`: its whole duration and the broker's share of it.

        Raises KeyError when the operation is not a timed one.
        """
        slot = self._running[operation]
        if slot[0] != now_s:
            self._turn(operation, slot, now_s)
        histogram = self.histograms[operation]
        histogram.counts[whole_ns.bit_length()] += 1  # as `Histogram.add`, without a call
        histogram.total += whole_ns
        slot[1] += 1
        if whole_ns < slot[2]:
            slot[2] = whole_ns
        if whole_ns > slot[3]:
            slot[3] = whole_ns
        slot[4] += whole_ns
        if share_ns < slot[5]:
            slot[5] = share_ns
        if share_ns > slot[6]:
            slot[6] = share_ns
        slot[7] += share_ns

    def series(self, name: str, seconds: int, now_s: int) -> Iterator[list[TimingPoint]]:
        """The current second and the `seconds` before it, oldest first. Seconds without a run are left out.

        `name` is one of `TIMED_OPERATIONS`. Yields the series in pieces, which may be empty. A piece includes what was
        recorded before it was asked for.
        """
        operation, first = _PLACES[name]
        oldest = now_s - min(seconds, WINDOW_SECONDS - 1)
        for start in range(oldest, now_s + 1, SERIES_PIECE):
            points: list[TimingPoint] = []
            ring = self._rings.get(operation)
            running = self._running[operation]
            for second in range(start, min(start + SERIES_PIECE, now_s + 1)):
                if second == running[0]:
                    points.append(_point(running, first))
                elif ring is not None:
                    place = second % WINDOW_SECONDS * _FIELDS
                    if ring[place] == second:
                        points.append(_point(ring[place : place + _FIELDS], first))
            yield points

    def _turn(self, operation: str, slot: list[int], now_s: int) -> None:
        """Store the current second and start `now_s`. If the clock went back, continue with what `now_s` has."""
        ring = self._rings.get(operation)
        if ring is None:
            ring = self._rings[operation] = array("q", _UNUSED * WINDOW_SECONDS)
        place = slot[0] % WINDOW_SECONDS * _FIELDS
        ring[place : place + _FIELDS] = array("q", slot)
        place = now_s % WINDOW_SECONDS * _FIELDS
        slot[:] = ring[place : place + _FIELDS] if ring[place] == now_s else (now_s, *_UNUSED[1:])


def _point(slot: list[int] | array[int], first: int) -> TimingPoint:
    return {
        "t_epoch_s": slot[0],
        "count": slot[1],
        "min_us": slot[first] // 1000,
        "max_us": slot[first + 1] // 1000,
        "total_us": slot[first + 2] // 1000,
    }
