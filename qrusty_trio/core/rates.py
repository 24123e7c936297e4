"""Rates of a queue: messages published, acked and nacked per second, with the last eleven samples.

Rule: operations only count. Once a second, `sample` turns the counts into rates, smoothed exponentially with alpha 1/5.

Requirements: API-0026
"""

from __future__ import annotations

from collections import deque

import msgspec

ALPHA = 1 / 5
WINDOW_SECONDS = 10
RESOLUTION_SECONDS = 1
POINTS = WINDOW_SECONDS // RESOLUTION_SECONDS + 1


class Point(msgspec.Struct, frozen=True, gc=False):
    """One sample. Rates are messages/s.

    Not tracked by the cycle collector: with 10,000 queues there are 110,000 of them.
    """

    t_ms: int
    total: int
    locked: int
    publish_rate: float
    ack_rate: float
    nack_rate: float
    dead: int
    """Dead letters."""


NO_RATES = Point(0, 0, 0, 0.0, 0.0, 0.0, 0)


class Rates:
    """Counts since the last sample, and the samples.

    Requirements: API-0027
    """

    __slots__ = ("_acked_before", "_nacked_before", "_sampled_at", "acked", "nacked", "points", "published")

    def __init__(self) -> None:
        self.published = 0
        self.acked = 0
        self.nacked = 0
        self.points: deque[Point] = deque(maxlen=POINTS)
        self._sampled_at: int | None = None
        self._acked_before = 0
        self._nacked_before = 0

    @property
    def acked_total(self) -> int:
        """Acks since the start of the process."""
        return self._acked_before + self.acked

    @property
    def nacked_total(self) -> int:
        """Nacks since the start of the process."""
        return self._nacked_before + self.nacked

    def sample(self, now: int, available: int, locked: int, dead: int) -> None:
        """Add the sample for the second that ends at `now` (wall milliseconds)."""
        last = self.points[-1] if self.points else NO_RATES
        # A late sample covers more than a second.
        seconds = max((now - self._sampled_at) / 1000, 0.001) if self._sampled_at is not None else 1.0
        self._sampled_at = now
        self.points.append(
            Point(
                now,
                available + locked,
                locked,
                _smooth(last.publish_rate, self.published / seconds),
                _smooth(last.ack_rate, self.acked / seconds),
                _smooth(last.nack_rate, self.nacked / seconds),
                dead,
            )
        )
        self._acked_before += self.acked
        self._nacked_before += self.nacked
        self.published = self.acked = self.nacked = 0


def _smooth(last: float, current: float) -> float:
    rate = last + ALPHA * (current - last)
    # A rate this small is noise.
    return rate if rate >= 0.0005 else 0.0
