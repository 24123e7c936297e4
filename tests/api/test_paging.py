"""Pages: limits and cursors, and which of them are refused."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.api.paging import (
    DEFAULT_LIMIT,
    MAX_CURSOR_CHARACTERS,
    MAX_LIMIT,
    Cursor,
    Listed,
    read_cursor,
    read_limit,
)
from qrusty_trio.errors import BadRequest


def test_a_limit() -> None:
    assert read_limit(None) == DEFAULT_LIMIT
    assert [read_limit(given) for given in ("1", "7", str(MAX_LIMIT))] == [1, 7, MAX_LIMIT]


@pytest.mark.parametrize("given", ["", "0", "-1", "1.5", "101", "1e1", " 1", "٣", "²", "9" * 5000, "NaN", "null"])
def test_a_limit_that_is_refused(given: str) -> None:
    with pytest.raises(BadRequest, match=f"'limit' must be an integer from 1 to {MAX_LIMIT}"):
        read_limit(given)


@given(st.sampled_from(Listed), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=1100))
def test_a_cursor_comes_back_as_it_was(listed: Listed, number: int, upper: int, position: bytes) -> None:
    cursor = Cursor(listed, number, upper, position)
    text = cursor.text()
    assert text.isascii()
    assert not set(text) & set("+/=&?%# ")
    assert len(text) <= MAX_CURSOR_CHARACTERS
    assert read_cursor(text, listed, number, upper, upper) == cursor


def test_no_cursor_is_the_beginning() -> None:
    assert read_cursor(None, Listed.DEAD, 1, 0, 0) is None


GOOD = Cursor(Listed.DEAD, 7, 100, b"here").text()


@pytest.mark.parametrize(
    "given",
    [
        *("", "x", "é", "!!!!", GOOD + "=", GOOD[:-1], GOOD + "A", "A" * MAX_CURSOR_CHARACTERS, "A" * 10**6),
        urlsafe_b64encode(b"\x02\x03" + bytes(12)).decode(),  # another version
        urlsafe_b64encode(b"\x01\x09" + bytes(12)).decode(),  # another kind
    ],
)
def test_what_is_no_cursor(given: str) -> None:
    with pytest.raises(BadRequest, match="'cursor' must be one that an earlier page gave"):
        read_cursor(given, Listed.DEAD, 7, 0, 100)


def test_a_cursor_of_another_list() -> None:
    for listed, number in ((Listed.LOCKED, 7), (Listed.DEAD, 8)):
        with pytest.raises(BadRequest, match="'cursor' belongs to another list"):
            read_cursor(GOOD, listed, number, 0, 100)
    assert read_cursor(GOOD, Listed.DEAD, 7, 100, 100) is not None
    with pytest.raises(BadRequest, match="'cursor' is from before the queue was purged"):
        read_cursor(GOOD, Listed.DEAD, 7, 101, 101)


def test_a_cursor_that_is_ahead_of_its_queue() -> None:
    """Forged, or from before a crash that took the newest numbers."""
    with pytest.raises(BadRequest, match="'cursor' must be one that an earlier page gave"):
        read_cursor(GOOD, Listed.DEAD, 7, 0, 99)


def test_the_longest_cursor() -> None:
    octets = MAX_CURSOR_CHARACTERS // 4 * 3 - 14
    longest, longer = (Cursor(Listed.DEAD, 7, 100, b"x" * size).text() for size in (octets, octets + 1))
    assert len(longest) == MAX_CURSOR_CHARACTERS
    assert read_cursor(longest, Listed.DEAD, 7, 0, 100) is not None
    with pytest.raises(BadRequest, match="'cursor' must be one that an earlier page gave"):
        read_cursor(longer, Listed.DEAD, 7, 0, 100)
