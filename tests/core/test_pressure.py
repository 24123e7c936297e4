"""The state machine of memory pressure: no flapping, critical is warning and more, all is undone exactly once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.core.pressure import (
    COMPACTION_COOLDOWN_SECONDS,
    REPEAT_SECONDS,
    Level,
    PressureMachine,
    Step,
    Thresholds,
)
from qrusty_trio.errors import StartupRefused

LIMIT = 1000
WARNING_STEPS = {Step.DROP_IDLE, Step.SHRINK_INDEXES, Step.FLUSH_MEMTABLES}
READINGS = st.lists(st.tuples(st.integers(0, 1200), st.floats(0.1, 400.0)), max_size=60)
"""Usage of `LIMIT`, and the seconds since the reading before."""


def machine() -> PressureMachine:
    return PressureMachine(Thresholds())


def replay(readings: list[tuple[int, float]]) -> list[tuple[int, float, Level, Level, tuple[Step, ...]]]:
    """(usage, time, level before, level after, steps) of each reading."""
    pressure, now, history = machine(), 0.0, []
    for usage, seconds in readings:
        now += seconds
        before = pressure.level
        steps = pressure.observe(usage, LIMIT, now)
        history.append((usage, now, before, pressure.level, steps))
    return history


# Verifies: SCH-0038
@pytest.mark.parametrize(
    ("usages", "levels"),
    [
        ([799, 800], [Level.NORMAL, Level.WARNING]),
        ([800, 899, 900], [Level.WARNING, Level.WARNING, Level.CRITICAL]),
        ([800, 700, 699], [Level.WARNING, Level.WARNING, Level.NORMAL]),
        ([900, 800, 799, 700, 699], [Level.CRITICAL, Level.CRITICAL, Level.WARNING, Level.WARNING, Level.NORMAL]),
        ([1100, 0], [Level.CRITICAL, Level.NORMAL]),
    ],
)
def test_levels_change_at_the_thresholds(usages: list[int], levels: list[Level]) -> None:
    assert [after for *_, after, _ in replay([(usage, 1.0) for usage in usages])] == levels


# Verifies: SCH-0038
@given(READINGS)
def test_a_level_is_left_only_past_the_threshold_of_its_way_out(readings: list[tuple[int, float]]) -> None:
    for usage, _, before, after, _ in replay(readings):
        if after > before:
            assert usage >= (900 if after is Level.CRITICAL else 800)
        if after < before:
            assert usage < (700 if after is Level.NORMAL else 800)


# Verifies: SCH-0038
@given(st.sampled_from([(700, 799), (800, 899)]), st.data())
def test_nothing_flaps_between_two_thresholds(band: tuple[int, int], data: st.DataObject) -> None:
    pressure = machine()
    pressure.observe(data.draw(st.integers(0, 1200)), LIMIT, 0.0)
    usages = data.draw(st.lists(st.integers(*band), min_size=1))
    levels = []
    for second, usage in enumerate(usages, 1):
        pressure.observe(usage, LIMIT, float(second))
        levels.append(pressure.level)
    assert len(set(levels)) == 1


@given(READINGS)
def test_critical_is_warning_and_more(readings: list[tuple[int, float]]) -> None:
    for _, _, before, after, steps in replay(readings):
        if after > before:
            assert set(steps) >= WARNING_STEPS
            assert Step.QUARTER_CACHE in steps or Step.MINIMAL_CACHE in steps
        if after > before and after is Level.CRITICAL:
            assert steps[0] is Step.REFUSE_PUBLISHES
            assert {Step.MINIMAL_CACHE, Step.TRIM_TIERS, Step.COMPACT_PAYLOADS} < set(steps)
        if after is not Level.CRITICAL:
            assert not {Step.MINIMAL_CACHE, Step.TRIM_TIERS, Step.COMPACT_PAYLOADS} & set(steps)
        if before is after is Level.NORMAL:
            assert steps == ()


# Verifies: SCH-0041
@given(READINGS)
def test_what_was_set_is_undone_exactly_once(readings: list[tuple[int, float]]) -> None:
    refusing, cache, tiers = False, "full", "full"
    for _, _, before, after, steps in replay(readings):
        assert (Step.RESTORE in steps) == (before > after is Level.NORMAL)
        for step in steps:
            match step:
                case Step.REFUSE_PUBLISHES | Step.ACCEPT_PUBLISHES:
                    assert refusing == (step is Step.ACCEPT_PUBLISHES)
                    refusing = not refusing
                case Step.QUARTER_CACHE:
                    assert cache != "quarter"
                    cache = "quarter"
                case Step.MINIMAL_CACHE:
                    assert cache != "minimal"
                    cache = "minimal"
                case Step.TRIM_TIERS:
                    assert tiers == "full"
                    tiers = "trimmed"
                case Step.WIDEN_TIERS:
                    assert tiers == "trimmed"
                    tiers = "full"
                case Step.RESTORE:
                    assert cache != "full"
                    cache, tiers = "full", "full"
        assert refusing == (after is Level.CRITICAL)
        assert cache == ("full", "quarter", "minimal")[after]
        assert tiers == ("full", "full", "trimmed")[after]


# Verifies: SCH-0042
@given(READINGS)
def test_the_whole_store_is_compacted_once_per_cooldown(readings: list[tuple[int, float]]) -> None:
    last = -math.inf
    for _, now, _, after, steps in replay(readings):
        assert steps.count(Step.COMPACT_STORE) <= 1
        due = after >= Level.WARNING and now - last >= COMPACTION_COOLDOWN_SECONDS
        assert (Step.COMPACT_STORE in steps) == due
        if due:
            last = now


# Verifies: SCH-0039
@pytest.mark.parametrize("usage", [800, 900])
def test_passing_steps_are_repeated_while_the_level_lasts(usage: int) -> None:
    pressure = machine()
    first = set(pressure.observe(usage, LIMIT, 100.0))
    assert pressure.observe(usage, LIMIT, 100.0 + REPEAT_SECONDS - 0.5) == ()
    again = set(pressure.observe(usage, LIMIT, 100.0 + REPEAT_SECONDS))
    assert WARNING_STEPS <= again < first
    assert (Step.COMPACT_PAYLOADS in again) == (usage == 900)


@pytest.mark.parametrize(
    ("warning", "critical", "way_out"),
    [
        (0.8, 0.8, 0.7),
        (0.9, 0.8, 0.7),
        (0.8, 0.9, 0.8),
        (0.8, 1.01, 0.7),
        (0.8, 0.9, 0.0),
        (0.8, 0.9, -1.0),
        (math.nan, 0.9, 0.7),
        (0.8, math.inf, 0.7),
        (80.0, 90.0, 70.0),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(warning: float, critical: float, way_out: float) -> None:
    with pytest.raises(StartupRefused, match=r"QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD=.* must rise"):
        Thresholds(warning, critical, way_out)


@pytest.mark.parametrize("share", [0.1, 0.7, 0.8, 0.85, 0.9, 0.95])
@pytest.mark.parametrize("name", ["warning", "critical", "way_out"])
def test_the_defaults_fit_whatever_one_is_given(name: str, share: float) -> None:
    one: dict[str, float | None] = {"warning": None, "critical": None, "way_out": None}
    made = Thresholds.around(**one | {name: share})
    assert {"warning": made.warning, "critical": made.critical, "way_out": made.exit}[name] == share


@given(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3, unique=True))
def test_thresholds_that_rise_are_taken(shares: list[float]) -> None:
    low, middle, high = sorted(shares)
    assert Thresholds(middle, high, low).exit == low


@pytest.mark.parametrize(
    ("name", "share", "expected"),
    [
        ("warning", 0.6, (0.525, 0.6, 0.9)),
        ("warning", 0.92, (0.7, 0.92, 0.96)),
        ("critical", 0.72, (0.56, 0.64, 0.72)),
        ("critical", 0.95, (0.7, 0.8, 0.95)),
        ("way_out", 0.75, (0.75, 0.8, 0.9)),
        ("way_out", 0.84, (0.84, 0.87, 0.9)),
        ("way_out", 0.92, (0.92, 0.94, 0.96)),
    ],
)
def test_the_other_thresholds_keep_their_distance(name: str, share: float, expected: tuple[float, ...]) -> None:
    """Where the defaults do not fit, they come down in proportion, or stand in the middle of what is left."""
    one: dict[str, float | None] = {"warning": None, "critical": None, "way_out": None}
    made = Thresholds.around(**one | {name: share})
    assert (made.exit, made.warning, made.critical) == pytest.approx(expected)


# Verifies: SCH-0039
def test_what_rises_again_soon_frees_again_at_once() -> None:
    pressure = machine()
    for now, usage, freed in (
        (0.0, 800, True),
        (1.0, 0, False),
        (2.0, 800, True),
        (31.0, 800, False),
        (32.0, 800, True),
    ):
        steps = pressure.observe(usage, LIMIT, now)
        assert (set(steps) >= WARNING_STEPS, bool(WARNING_STEPS & set(steps))) == (freed, freed), now


def test_the_whole_store_is_compacted_again_after_that_very_time() -> None:
    pressure = machine()
    times = [0.0, 899.0, 900.0, 1799.0, 1800.0]
    assert [Step.COMPACT_STORE in pressure.observe(900, LIMIT, now) for now in times] == [
        True,
        False,
        True,
        False,
        True,
    ]
