"""Rates: smoothed with alpha 1/5, late samples taken for what they cover, eleven points."""

from __future__ import annotations

import pytest

from qrusty_trio.core.rates import POINTS, Rates


# Verifies: API-0026
def test_one_sample() -> None:
    rates = Rates()
    rates.published, rates.acked, rates.nacked = 10, 5, 1
    rates.sample(1_000, 7, 2, 3)
    (point,) = rates.points
    assert (point.t_ms, point.total, point.locked, point.dead) == (1_000, 9, 2, 3)
    assert (point.publish_rate, point.ack_rate, point.nack_rate) == pytest.approx((2.0, 1.0, 0.2))


# Verifies: API-0026
def test_a_steady_rate_is_approached_by_a_fifth_each_second() -> None:
    rates = Rates()
    expected = 0.0
    for second in range(1, 8):
        rates.published = 100
        rates.sample(second * 1000, 0, 0, 0)
        expected += (100 - expected) / 5
        assert rates.points[-1].publish_rate == pytest.approx(expected)
    assert rates.published == 0


def test_a_late_sample_covers_the_time_since_the_last() -> None:
    rates = Rates()
    rates.sample(1_000, 0, 0, 0)
    rates.published, rates.acked, rates.nacked = 15, 30, 45
    rates.sample(4_000, 0, 0, 0)
    point = rates.points[-1]
    assert (point.publish_rate, point.ack_rate, point.nack_rate) == pytest.approx((1.0, 2.0, 3.0))


def test_a_rate_that_has_decayed_is_zero() -> None:
    rates = Rates()
    rates.nacked = 1
    rates.sample(0, 0, 0, 0)
    for second in range(1, 60):
        rates.sample(second * 1000, 0, 0, 0)
    assert rates.points[-1].nack_rate == 0.0


# Verifies: API-0027
def test_the_window_holds_eleven_points() -> None:
    rates = Rates()
    for second in range(20):
        rates.sample(second * 1000, second, 0, 0)
    assert [point.t_ms for point in rates.points] == [second * 1000 for second in range(9, 20)]
    assert POINTS == 11


def test_totals_go_on_over_samples() -> None:
    rates = Rates()
    for second in range(3):
        assert (rates.acked_total, rates.nacked_total) == (5 * second, 2 * second)
        rates.acked, rates.nacked = 5, 2
        assert (rates.acked_total, rates.nacked_total) == (5 * second + 5, 2 * second + 2)
        rates.sample(second * 1000, 0, 0, 0)


def test_a_second_sample_in_the_same_millisecond() -> None:
    rates = Rates()
    for _ in range(2):
        rates.published = 1
        rates.sample(1_000, 0, 0, 0)
    assert rates.points[-1].publish_rate == pytest.approx(0.2 + (1_000 - 0.2) / 5)


def test_a_rate_of_one_in_two_thousand_seconds_is_shown() -> None:
    rates = Rates()
    rates.sample(0, 0, 0, 0)
    rates.published = 1
    rates.sample(400_000, 0, 0, 0)
    assert rates.points[-1].publish_rate == pytest.approx(0.0005)
