"""How much a token may ask for, by a clock of the test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.access.limits import Limit
from qrusty_trio.errors import RateLimited

NOW = 1_700_000_000_000


# Verifies: API-0138
def test_requests_beyond_those_of_a_second_are_refused_until_there_is_room() -> None:
    limit = Limit(5, None)
    for _ in range(5):
        limit.admit(NOW)
    with pytest.raises(RateLimited, match=r"^The token may have 5 requests a second$") as refusal:
        limit.admit(NOW)
    assert refusal.value.retry_after == 1
    limit.admit(NOW + 200)
    with pytest.raises(RateLimited):
        limit.admit(NOW + 200)


# Verifies: API-0138
def test_messages_may_exceed_the_limit_once_and_are_made_up_for() -> None:
    limit = Limit(None, 10)
    limit.admit(NOW)
    limit.charge(100)
    with pytest.raises(RateLimited, match="10 messages a second") as refusal:
        limit.admit(NOW)
    assert refusal.value.retry_after == 10
    limit.admit(NOW, refusable=False)
    with pytest.raises(RateLimited):
        limit.admit(NOW + 9000)
    limit.admit(NOW + 9100)


def test_a_clock_that_is_set_back_holds_nobody_up() -> None:
    limit = Limit(1, None)
    limit.admit(NOW)
    with pytest.raises(RateLimited):
        limit.admit(NOW - 3_600_000)
    limit.admit(NOW - 3_600_000 + 1000)


def test_a_limit_below_one_a_second_lets_one_through() -> None:
    limit = Limit(0.1, None)
    limit.admit(NOW)
    with pytest.raises(RateLimited, match=r"0\.1 requests") as refusal:
        limit.admit(NOW)
    assert refusal.value.retry_after == 10
    limit.admit(NOW + 10_000)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=200))
def test_never_more_than_the_rate_and_one_second_s_worth(steps: list[int]) -> None:
    limit, now, taken = Limit(7, None), NOW, 0
    for step in steps:
        now += step
        try:
            limit.admit(now)
        except RateLimited:
            continue
        taken += 1
    assert taken <= 7 + 7 * (now - NOW) / 1000 + 1e-6


# Verifies: API-0138
def test_what_is_used_up_stays_used_up_when_the_tokens_are_read_anew() -> None:
    """Unless the rate is another one."""
    used = Limit(1, 10)
    used.admit(NOW)
    used.charge(30)
    same, other = Limit(1, 10), Limit(2, 20)
    for each in (same, other):
        each.go_on_from(used)
    with pytest.raises(RateLimited, match="1 requests a second"):
        same.admit(NOW)
    with pytest.raises(RateLimited, match="10 messages a second"):
        same.admit(NOW + 1000)
    other.admit(NOW)
