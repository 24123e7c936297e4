"""Patterns, grants and principals, without any request."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.access.grants import MAX_KEPT_NAMES, MAX_PATTERN_CHARACTERS, Grant, Granted, matches
from qrusty_trio.errors import Forbidden, Unauthenticated
from tests.access.asking import principal

NAMES = st.text("ab*.\n", max_size=12)


# Verifies: API-0137
@given(NAMES, NAMES)
def test_a_star_stands_for_any_characters_and_all_else_for_itself(pattern: str, name: str) -> None:
    expression = ".*".join(re.escape(piece) for piece in pattern.split("*"))
    assert matches(pattern, name) is (re.fullmatch(expression, name, re.DOTALL) is not None)


def test_a_pattern_of_many_stars_takes_no_longer() -> None:
    assert not matches("*a" * 100 + "*b", "a" * 255)


# Verifies: API-0137
@pytest.mark.parametrize("grant", Grant)
def test_a_grant_implies_no_other_except_that_admin_implies_all(grant: Grant) -> None:
    who = principal(f"{grant}:orders.*")
    for asked in Grant:
        assert who.may(asked, "orders.new") is (grant in (asked, Grant.ADMIN))
        assert not who.may(asked, "billing")
        assert not who.everywhere(asked)
        assert principal(f"{grant}:*").everywhere(asked) is (grant in (asked, Grant.ADMIN))


def test_a_refusal_names_the_token_the_grant_and_the_queue() -> None:
    with pytest.raises(Forbidden, match=r"^The token 'worker' has no grant manage on queue 'orders.new'$"):
        principal("read:orders.*").require(Grant.MANAGE, "orders.new")
    with pytest.raises(Forbidden, match=r"has no grant admin on all queues, which is admin:\*$"):
        principal("admin:orders.*").require_everywhere(Grant.ADMIN)


def test_what_is_remembered_of_names_is_bounded() -> None:
    who = principal("read:a*")
    for number in range(3 * MAX_KEPT_NAMES):
        assert who.may(Grant.READ, f"a{number}")
        assert not who.may(Grant.READ, f"b{number}")
    assert all(len(known) <= MAX_KEPT_NAMES for known in who._known.values())


def test_a_token_that_has_expired() -> None:
    who = principal("read:*")
    who.check_time(2**60)
    who.expires_ms = 1000
    who.check_time(999)
    with pytest.raises(Unauthenticated, match="'worker' has expired"):
        who.check_time(1000)


def test_a_grant_is_read_from_text() -> None:
    assert Granted.read("publish:orders.*") == (Grant.PUBLISH, "orders.*")
    assert str(Granted.read("read:a:b")) == "read:a:b"
    assert Granted.read("read:a:b").pattern == "a:b"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("publish", "'publish' must be a grant"),
        ("write:q", r"\(read, publish, consume, manage, admin\)"),
        ("Publish:q", "must be a grant"),
        ("publish:", "must have from 1"),
        ("publish:  ", "not be blank"),
        ("publish:" + "a" * (MAX_PATTERN_CHARACTERS + 1), "must have from 1 to 255 characters"),
    ],
)
def test_what_is_no_grant(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Granted.read(text)
