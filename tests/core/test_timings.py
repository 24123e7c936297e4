"""Timings: what is counted, for how long, and in how much memory."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.core.timings import SERIES_PIECE, TIMED_OPERATIONS, WINDOW_SECONDS, TimingPoint, Timings

NOW = 1_700_000_000


def series(timings: Timings, name: str, seconds: int, now_s: int) -> list[TimingPoint]:
    return [point for piece in timings.series(name, seconds, now_s) for point in piece]


# Verifies: API-0028
def test_one_second() -> None:
    timings = Timings()
    for duration in (2_900, 1_200, 3_999):
        timings.record("publish", duration, duration - 300, NOW)
    assert series(timings, "publish", 10, NOW) == [
        {"t_epoch_s": NOW, "count": 3, "min_us": 1, "max_us": 3, "total_us": 8}
    ]
    assert series(timings, "storage_push", 10, NOW) == [
        {"t_epoch_s": NOW, "count": 3, "min_us": 0, "max_us": 3, "total_us": 7}
    ]
    assert series(timings, "consume", 10, NOW) == []


# Verifies: API-0028
def test_the_names_are_those_of_the_contract() -> None:
    assert (
        *("ack", "ack_batch", "consume", "nack", "nack_batch", "publish", "queue_stats"),
        *("storage_ack", "storage_batch_ack", "storage_batch_nack", "storage_get_all_queue_stats"),
        *("storage_get_queue_stats", "storage_nack", "storage_pop", "storage_push"),
    ) == TIMED_OPERATIONS


def test_seconds_without_a_run_are_left_out() -> None:
    timings = Timings()
    for second in (NOW, NOW + 1, NOW + 5):
        timings.record("ack", 1_000, 500, second)
    assert [point["t_epoch_s"] for point in series(timings, "ack", 300, NOW + 5)] == [NOW, NOW + 1, NOW + 5]


def test_the_running_second_and_those_before() -> None:
    timings = Timings()
    for second in range(NOW - 10, NOW + 1):
        timings.record("ack", 1_000, 500, second)
    assert [point["t_epoch_s"] for point in series(timings, "ack", 2, NOW)] == [NOW - 2, NOW - 1, NOW]
    assert series(timings, "ack", 2, NOW + 10) == []


def test_going_back_in_time_adds_to_the_second() -> None:
    timings = Timings()
    for second in (NOW, NOW + 1, NOW, NOW + 1):
        timings.record("nack", 5_000, 5_000, second)
    points = series(timings, "nack", 10, NOW + 1)
    assert [(point["t_epoch_s"], point["count"]) for point in points] == [(NOW, 2), (NOW + 1, 2)]


def test_a_long_series_comes_in_pieces() -> None:
    timings = Timings()
    for second in range(NOW - 2 * SERIES_PIECE, NOW + 1):
        timings.record("ack", 1_000, 500, second)
    assert [len(piece) for piece in timings.series("ack", 2 * SERIES_PIECE, NOW)] == [SERIES_PIECE, SERIES_PIECE, 1]


def test_what_is_later_is_left_out() -> None:
    timings = Timings()
    for second in (NOW, NOW + 1):
        timings.record("ack", 1_000, 500, second)
    assert [point["t_epoch_s"] for point in series(timings, "ack", 10, NOW)] == [NOW]


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(KeyError):
        Timings().record("conjure", 1, 1, NOW)


def _size(thing: Any) -> int:
    if isinstance(thing, dict):
        return sys.getsizeof(thing) + sum(map(_size, thing.values()))
    return sys.getsizeof(thing)


# Verifies: API-0029
def test_memory_is_bounded() -> None:
    timings = Timings()
    for second in range(NOW, NOW + 2 * WINDOW_SECONDS):
        for name in TIMED_OPERATIONS:
            if not name.startswith("storage_"):
                timings.record(name, 1_000, 500, second)
    assert sum(_size(getattr(timings, slot)) for slot in Timings.__slots__) < 3_000_000
    points = series(timings, "publish", 10 * WINDOW_SECONDS, NOW + 2 * WINDOW_SECONDS - 1)
    assert len(points) == WINDOW_SECONDS
    assert points[0]["t_epoch_s"] == NOW + WINDOW_SECONDS


# Verifies: API-0028
@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 10**9)), max_size=200), st.integers(0, WINDOW_SECONDS))
def test_against_a_model(records: list[tuple[int, int]], seconds: int) -> None:
    """Seconds in order, as the server's clock gives them."""
    records.sort(key=lambda record: record[0])
    timings = Timings()
    model: dict[int, list[int]] = {}
    for second, duration in records:
        timings.record("consume", 2 * duration, duration, NOW + second)
        model.setdefault(NOW + second, []).append(duration)
    end = NOW + (records[-1][0] if records else 0)
    oldest = end - min(seconds, WINDOW_SECONDS - 1)
    for name, factor in (("consume", 2), ("storage_pop", 1)):
        assert series(timings, name, seconds, end) == [
            {
                "t_epoch_s": second,
                "count": len(durations),
                "min_us": factor * min(durations) // 1000,
                "max_us": factor * max(durations) // 1000,
                "total_us": factor * sum(durations) // 1000,
            }
            for second, durations in model.items()
            if oldest <= second <= end
        ]
