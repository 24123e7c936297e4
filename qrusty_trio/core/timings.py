"""How long operations took, second by second, for the last hour.

Rule: recording costs one look-up and a few list updates, and memory is bounded: per operation the running second and a
ring of `WINDOW_SECONDS` packed slots (230 KB), made when the operation first runs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TypedDict

WINDOW_SECONDS = 3600
"""How far back a series reaches."""
SERIES_PIECE = 600
"""Seconds that are looked at in one piece: 0.5 ms."""

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
"""Operation -> the name of the broker's share of it."""

TIMED_OPERATIONS = tuple(sorted({*_PAIRS, *_PAIRS.values()} - {"stats"}))
"""The names of the series. Of `stats`, only the broker's share is one."""

# A slot: second, count; then shortest, longest, total (ns) of the whole and of the broker's share.
_FIELDS = 8
_WHOLE, _SHARE = 2, 5
_NEVER = -1
_UNUSED = [_NEVER, 0, 2**62, 0, 0, 2**62, 0, 0]

_PLACES = {name: (name, _WHOLE) for name in _PAIRS} | {share: (name, _SHARE) for name, share in _PAIRS.items()}
"""Name of a series -> the operation, and where its three numbers start in a slot."""


class TimingPoint(TypedDict):
    """One second of one operation; durations in whole microseconds, rounded down."""

    t_epoch_s: int
    count: int
    min_us: int
    max_us: int
    total_us: int


class Timings:
    """Durations of operations. Seconds are wall time; they may be given out of order."""

    __slots__ = ("_rings", "_running")

    def __init__(self) -> None:
        self._running = {name: _UNUSED.copy() for name in _PAIRS}
        self._rings: dict[str, array[int]] = {}

    def record(self, operation: str, whole_ns: int, share_ns: int, now_s: int) -> None:
        """Count one run of `operation`: how long all of it took, and the broker's share of that.

        Raises KeyError when the operation is not a timed one.
        """
        slot = self._running[operation]
        if slot[0] != now_s:
            self._turn(operation, slot, now_s)
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
        """The running second and the `seconds` before it, oldest first, leaving out those in which nothing happened.

        `name` is one of `TIMED_OPERATIONS`. In pieces, the last of which may be empty: what is recorded between two of
        them is in the later one.
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
        """Put the running second away and start `now_s`, going on with what is known of it if the clock went back."""
        ring = self._rings.get(operation)
        if ring is None:
            ring = self._rings[operation] = array("q", _UNUSED * WINDOW_SECONDS)
        if slot[0] != _NEVER:
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
