"""Tokens that are none, by a clock of the test."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.access.failures import (
    FORGIVEN_SECONDS,
    FREE_FAILURES,
    MAX_ADDRESSES,
    MAX_DELAY_SECONDS,
    MAX_LINES,
    MAX_WAIT_SECONDS,
    PERIOD_SECONDS,
    Failures,
    neighbourhood,
)
from qrusty_trio.errors import TooManyFailures

HERE, THERE = "192.0.2.1", "192.0.2.2"


def fail(failures: Failures, times: int, now: float = 0.0, address: str = HERE) -> None:
    for _ in range(times):
        failures.failed(address, now)


# Verifies: API-0190
def test_the_delay_grows_for_that_address_alone() -> None:
    failures, now, waits = Failures(), 0.0, []
    for _ in range(12):
        wait = failures.turn(HERE, now)
        waits.append(wait)
        failures.failed(HERE, now)
        now += wait
    assert waits[:FREE_FAILURES] == [0.0] * FREE_FAILURES
    assert waits == sorted(waits)
    assert 0 < waits[FREE_FAILURES] < 1
    assert waits[-1] == MAX_DELAY_SECONDS
    assert failures.turn(THERE, now) == 0.0


# Verifies: API-0190
def test_whoever_comes_at_once_takes_turns_and_the_rest_is_refused() -> None:
    failures = Failures()
    fail(failures, 20)
    assert failures.turn(HERE, 0.0) == MAX_DELAY_SECONDS
    assert failures.turn(HERE, 0.0) == 2 * MAX_DELAY_SECONDS == MAX_WAIT_SECONDS
    with pytest.raises(TooManyFailures) as refusal:
        failures.turn(HERE, 0.0)
    assert refusal.value.retry_after == MAX_WAIT_SECONDS + MAX_DELAY_SECONDS
    # A refusal takes no turn.
    assert failures.turn(HERE, MAX_DELAY_SECONDS) == MAX_WAIT_SECONDS


def test_an_address_that_is_quiet_is_forgiven() -> None:
    failures = Failures()
    fail(failures, 20)
    assert failures.turn(HERE, FORGIVEN_SECONDS - 1) > 0
    assert failures.turn(HERE, FORGIVEN_SECONDS) == 0
    assert len(failures) == 0
    assert failures.count == 20


# Verifies: API-0190
def test_what_is_remembered_is_bounded() -> None:
    failures = Failures()
    fail(failures, 20)
    for number in range(MAX_ADDRESSES + 10):
        failures.failed(f"peer {number}", 0.0)
        if number == 5000:
            fail(failures, 1)
    assert len(failures) == MAX_ADDRESSES
    assert failures.turn(HERE, 0.0) > 0
    fail(failures, 4, address=THERE)
    assert failures.turn(THERE, 0.0) > 0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (HERE, HERE),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9%eth0", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", HERE),
        ("", ""),
    ],
)
def test_a_network_of_ipv6_counts_as_one_address(address: str, expected: str) -> None:
    assert neighbourhood(address) == expected


# Verifies: API-0190
def test_failures_are_logged_with_the_address_but_not_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    failures = Failures()
    fail(failures, MAX_LINES + 5)
    assert len(caplog.messages) == MAX_LINES
    assert caplog.messages[0] == f"a token from {HERE} is none (failure 1 of this address)"
    fail(failures, 1, PERIOD_SECONDS, "")
    assert caplog.messages[-1].startswith("a token from a local peer is none")
    assert caplog.messages[-1].endswith("5 such lines were left out")


@given(st.lists(st.tuples(st.sampled_from([HERE, THERE]), st.floats(0, 100)), max_size=60))
def test_no_wait_is_longer_than_the_limit(steps: list[tuple[str, float]]) -> None:
    failures, now = Failures(), 0.0
    for address, step in steps:
        now += step
        try:
            wait = failures.turn(address, now)
        except TooManyFailures:
            continue
        assert 0 <= wait <= MAX_WAIT_SECONDS
        failures.failed(address, now)
