"""Where a queue is heading, judged by the samples of its last ten seconds.

Rule: pure, and cheap enough for every queue of a list. A trend needs evidence: a queue that has just been created, or
has just received its first message, is neither growing nor stalled.

Requirements: API-0072
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from qrusty_trio.core.rates import POINTS, Point

NOTABLE_RATE = 0.5
"""Messages/s by which a queue has to grow or shrink. Less is a few messages in ten seconds."""
NOTABLE_SHARE = 0.05
"""The same as a share of what is published or acked: a busy queue goes up and down."""


class Trend(StrEnum):
    """What the depth does."""

    EMPTY = "empty"
    STEADY = "steady"
    DRAINING = "draining"
    GROWING = "growing"
    STALLED = "stalled"
    """Messages have been waiting for ten seconds, and none was taken."""


class Forecast(NamedTuple):
    """A trend, and for a queue that drains the seconds until it is empty."""

    trend: Trend
    drain_seconds: float | None = None


_EMPTY, _STEADY, _GROWING, _STALLED = (
    Forecast(trend) for trend in (Trend.EMPTY, Trend.STEADY, Trend.GROWING, Trend.STALLED)
)


def forecast(points: Sequence[Point], total: int) -> Forecast:
    """The forecast for a queue with these samples, a second apart and oldest first, and `total` messages now."""
    if not total:
        return _EMPTY
    if len(points) < 2:
        return _STEADY
    first, last = points[0], points[-1]
    if not (last.ack_rate or last.nack_rate or last.locked):
        waited = len(points) == POINTS and all(point.total and not point.locked for point in points)
        return _STALLED if waited else _STEADY
    change = (last.total - first.total) * 1000 / max(last.t_ms - first.t_ms, 1)
    notable = max(NOTABLE_RATE, NOTABLE_SHARE * max(last.publish_rate, last.ack_rate))
    if change >= notable:
        return _GROWING
    if change <= -notable:
        return Forecast(Trend.DRAINING, total / -change)
    return _STEADY
