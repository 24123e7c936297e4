"""How long operations took, second by second, for the last hour.

Rule: recording costs a dictionary look-up and four list updates, and memory is bounded: one open second per operation
and a ring of `WINDOW_SECONDS` packed slots each (144 KB), made when the operation first runs.
"""

from __future__ import annotations

from array import array
from typing import TypedDict

WINDOW_SECONDS = 3600
"""How far back a series reaches."""

TIMED_OPERATIONS = (
    "ack",
    "ack_batch",
    "consume",
    "nack",
    "nack_batch",
    "publish",
    "queue_stats",
    "storage_ack",
    "storage_batch_ack",
    "storage_batch_nack",
    "storage_get_all_queue_stats",
    "storage_get_queue_stats",
    "storage_nack",
    "storage_pop",
    "storage_push",
)
"""What is measured: whole operations, and `storage_*`, the broker's share of them."""

_FIELDS = 5
_NEVER = -1


class TimingPoint(TypedDict):
    """One second of one operation; durations in whole microseconds, rounded down."""

    t_epoch_s: int
    count: int
    min_us: int
    max_us: int
    total_us: int


class Timings:
    """Durations of the `TIMED_OPERATIONS`. Seconds are wall time; they may be given out of order."""

    __slots__ = ("_open", "_rings")

    def __init__(self) -> None:
        # second, count, shortest, longest, total (ns): the running second of each operation.
        self._open: dict[str, list[int]] = {name: [_NEVER, 0, 0, 0, 0] for name in TIMED_OPERATIONS}
        self._rings: dict[str, array[int]] = {}

    def record(self, operation: str, duration_ns: int, now_s: int) -> None:
        """Count one run of `operation`. Raises KeyError when it is none of `TIMED_OPERATIONS`."""
        slot = self._open[operation]
        if slot[0] != now_s:
            self._turn(operation, slot, now_s)
        slot[1] += 1
        if duration_ns < slot[2]:
            slot[2] = duration_ns
        if duration_ns > slot[3]:
            slot[3] = duration_ns
        slot[4] += duration_ns

    def series(self, operation: str, seconds: int, now_s: int) -> list[TimingPoint]:
        """The running second and the `seconds` before it, oldest first, leaving out those in which nothing happened.

        About 0.1 µs for each second looked at, 0.5 µs for each returned.
        """
        points: list[TimingPoint] = []
        ring = self._rings.get(operation)
        running = self._open[operation]
        for second in range(now_s - min(seconds, WINDOW_SECONDS - 1), now_s + 1):
            if second == running[0]:
                points.append(_point(running))
            elif ring is not None:
                place = second % WINDOW_SECONDS * _FIELDS
                if ring[place] == second:
                    points.append(_point(ring[place : place + _FIELDS]))
        return points

    def _turn(self, operation: str, slot: list[int], now_s: int) -> None:
        """Put the open second away and open `now_s`, going on with what is known of it if the clock went back."""
        ring = self._rings.get(operation)
        if ring is None:
            ring = self._rings[operation] = array("q", [_NEVER, 0, 0, 0, 0] * WINDOW_SECONDS)
        if slot[0] != _NEVER:
            place = slot[0] % WINDOW_SECONDS * _FIELDS
            ring[place : place + _FIELDS] = array("q", slot)
        place = now_s % WINDOW_SECONDS * _FIELDS
        slot[:] = ring[place : place + _FIELDS] if ring[place] == now_s else (now_s, 0, 2**62, 0, 0)


def _point(slot: list[int] | array[int]) -> TimingPoint:
    second, count, shortest, longest, total = slot
    return {
        "t_epoch_s": second,
        "count": count,
        "min_us": shortest // 1000,
        "max_us": longest // 1000,
        "total_us": total // 1000,
    }
