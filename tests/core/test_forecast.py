"""Where a queue is heading, from its samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qrusty_trio.core.forecast import Forecast, Trend, forecast
from qrusty_trio.core.rates import POINTS, Point


def samples(
    depth: Callable[[int], int], *, locked: int = 0, publish: float = 0.0, ack: float = 0.0, count: int = POINTS
) -> list[Point]:
    return [Point(1000 * second, depth(second), locked, publish, ack, 0.0, 0) for second in range(count)]


def test_a_queue_without_messages_is_empty_whatever_happened() -> None:
    assert forecast(samples(lambda second: 10 - second, ack=1), 0) == Forecast(Trend.EMPTY)


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_samples_there_is_no_trend(count: int) -> None:
    assert forecast(samples(lambda _: 5, ack=1, count=count), 5) == Forecast(Trend.STEADY)


# Verifies: API-0072
def test_a_queue_that_drains_tells_when_it_is_empty() -> None:
    assert forecast(samples(lambda second: 1000 - 20 * second, ack=20), 800) == Forecast(Trend.DRAINING, 40.0)


# Verifies: API-0072
def test_a_queue_that_gets_more_than_it_gives_grows() -> None:
    assert forecast(samples(lambda second: 20 * second, publish=40, ack=20), 200).trend is Trend.GROWING


# Verifies: API-0072
@pytest.mark.parametrize("change", [0.4, -0.4])
def test_a_few_messages_are_no_trend(change: float) -> None:
    assert forecast(samples(lambda second: int(100 + change * second), ack=1), 100).trend is Trend.STEADY


@pytest.mark.parametrize("change", [4, -4])
def test_a_busy_queue_goes_up_and_down(change: int) -> None:
    points = samples(lambda second: 10_000 + change * second, publish=1000, ack=1000)
    assert forecast(points, 10_000).trend is Trend.STEADY


# Verifies: API-0072
@pytest.mark.parametrize(
    ("change", "trend"), [(5, Trend.GROWING), (4, Trend.STEADY), (-4, Trend.STEADY), (-5, Trend.DRAINING)]
)
def test_a_twentieth_of_what_passes_is_a_trend(change: int, trend: Trend) -> None:
    points = samples(lambda second: 1000 + change * second, publish=100, ack=50)
    assert forecast(points, 1000).trend is trend


# Verifies: API-0072
def test_messages_that_nobody_takes_for_ten_seconds_are_stalled() -> None:
    assert forecast(samples(lambda _: 5), 5) == Forecast(Trend.STALLED)
    assert forecast(samples(lambda second: 5 + 10 * second, publish=10), 105).trend is Trend.STALLED


def test_messages_that_have_just_come_are_not_stalled() -> None:
    assert forecast(samples(lambda second: 5 if second else 0), 5).trend is Trend.STEADY
    assert forecast(samples(lambda _: 5, count=POINTS - 1), 5).trend is Trend.STEADY


def test_a_queue_whose_messages_are_being_worked_on_is_not_stalled() -> None:
    assert forecast(samples(lambda _: 5, locked=1), 5).trend is Trend.STEADY
    was_locked = samples(lambda _: 5, locked=1, count=1)
    assert forecast([*was_locked, *samples(lambda _: 5)[1:]], 5).trend is Trend.STEADY


def test_two_samples_are_enough() -> None:
    assert forecast(samples(lambda second: 100 - 20 * second, ack=20, count=2), 80) == Forecast(Trend.DRAINING, 4.0)


def test_samples_of_the_same_moment_are_no_fault() -> None:
    points = samples(lambda _: 5, ack=1, count=1) * 2
    assert forecast(points, 5).trend is Trend.STEADY
