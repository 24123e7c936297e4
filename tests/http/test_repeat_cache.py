"""What is remembered: bounded, and not displaced by what comes once only."""

from __future__ import annotations

from qrusty_trio.http.repeat_cache import RepeatCache

MOST = 8


def look_up(remembered: RepeatCache[int], text: bytes) -> int | None:
    return remembered.get(text) or remembered.seen_once(text)


def ask(remembered: RepeatCache[int], text: bytes) -> bool:
    """Look something up as those who use it do. Returns whether it was known."""
    if look_up(remembered, text) is not None:
        return True
    remembered.put(text, len(text))
    return False


def test_what_came_once_is_known() -> None:
    remembered: RepeatCache[int] = RepeatCache(MOST)
    assert not ask(remembered, b"abc")
    assert look_up(remembered, b"abc") == 3
    assert look_up(remembered, b"abd") is None


# Verifies: API-0044
def test_what_comes_once_displaces_nothing_that_came_again() -> None:
    remembered: RepeatCache[int] = RepeatCache(MOST)
    constant = [b"client %d" % number for number in range(MOST)]
    for text in constant * 2:
        ask(remembered, text)
    for number in range(100 * MOST):
        ask(remembered, b"changes %d" % number)
        assert remembered.entries <= 2 * MOST
    assert all(ask(remembered, text) for text in constant)


def test_the_oldest_of_too_many_that_came_again_goes() -> None:
    remembered: RepeatCache[int] = RepeatCache(MOST)
    texts = [b"client %d" % number for number in range(MOST + 1)]
    for text in texts:
        ask(remembered, text)
        ask(remembered, text)
    assert look_up(remembered, texts[0]) is None
    assert all(look_up(remembered, text) is not None for text in texts[1:])
    assert not ask(remembered, texts[0])
    assert ask(remembered, texts[0])


# Verifies: API-0044
def test_it_is_bounded_whatever_comes() -> None:
    remembered: RepeatCache[int] = RepeatCache(MOST)
    for number in range(10 * MOST):
        for _ in range(number % 3):
            ask(remembered, b"%d" % number)
            assert remembered.entries <= 2 * MOST
