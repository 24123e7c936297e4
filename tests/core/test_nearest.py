"""Names that come near a misspelt one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from difflib import SequenceMatcher

import pytest

from qrusty_trio.core import nearest as nearest_module
from qrusty_trio.core.nearest import MAX_CHARACTERS, MAX_COMPARED, MAX_NAMES, nearest

KNOWN = ["Mail", "billing", "billing-eu", "images", "orders", "orders-eu", "orders-eu-retry", "payments", "überweisung"]


def near(name: str, known: list[str] = KNOWN) -> list[str]:
    return nearest(name, frozenset(known), sorted(known))


# Verifies: API-0077
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("order", "orders"),
        ("ordesr", "orders"),
        ("rders", "orders"),
        ("oorders", "orders"),
        ("0rders", "orders"),
        ("ORDERS", "orders"),
        ("mail", "Mail"),
        (" mail", "Mail"),
        ("orders_eu", "orders-eu"),
        ("orders-eu-rtery", "orders-eu-retry"),
        ("orders-eu-retires", "orders-eu-retry"),
        ("pyaments", "payments"),
        ("uberweisung", "überweisung"),
        ("überweisungen", "überweisung"),
    ],
)
def test_the_one_that_was_meant_comes_first(given: str, meant: str) -> None:
    assert near(given)[0] == meant


@pytest.mark.parametrize("given", ["", "x", "zzzzzzzz", "\0", "😀", "q" * 255])
def test_nothing_comes_near(given: str) -> None:
    assert near(given) == []


def test_at_most_three_the_most_alike_first() -> None:
    known = [f"jobs-{number}" for number in range(50)]
    found = near("jobs-1x", known)
    assert len(found) == MAX_NAMES
    assert found[0] == "jobs-1"
    assert near("jobs", []) == []


def slips(name: str) -> set[str]:
    """One too few, too many or wrong, and two swapped, at every place; other cases."""
    places = range(len(name))
    return {
        *(name[:at] + name[at + 1 :] for at in places),
        *(f"{name[:at]}x{name[at:]}" for at in (*places, len(name))),
        *(f"{name[:at]}x{name[at + 1 :]}" for at in places),
        *(f"{name[:at]}{name[at + 1]}{name[at]}{name[at + 2 :]}" for at in places[:-1]),
        *(f" {name} ", name.upper(), name.lower(), name.title(), name.swapcase()),
    }


@pytest.mark.parametrize("meant", ["orders", "mail", "abc"])
def test_a_slip_is_found_wherever_it_stands_in_the_order(meant: str) -> None:
    """Both neighbours in the order are many, and unlike it."""
    for slip in slips(meant) - {meant}:
        tail = "~" * 3 * len(slip)
        before = [slip[:-1] + chr(ord(slip[-1]) - 1) + tail + str(number) for number in range(10, 30)]
        after = [slip + "!" * len(tail) + str(number) for number in range(10, 30)]
        assert before[-1] < slip < after[0]
        assert near(slip, [*before, *after, meant]) == [meant], slip


def test_the_longest_name_that_is_looked_for_everywhere() -> None:
    meant = "abcdefghijklmnopqrstuvwxyz012345"
    assert len(meant) == MAX_CHARACTERS
    others = [f"x{sign * 40}{number}" for sign in "!~" for number in range(10, 30)]
    assert near("x" + meant[1:], [*others, meant]) == [meant]
    assert near("x" + meant, [*others, meant]) == []


def test_what_sorts_like_a_small_letter() -> None:
    assert near("STRASSE", ["straße", *(f"STRASSE{'~' * 30}{number}" for number in range(20))]) == []
    assert near("straße", ["strasse", *(f"straße{'~' * 30}{number}" for number in range(20))]) == ["strasse"]


def test_three_of_five_characters_are_alike_enough() -> None:
    assert near("abcde", ["abcxy", "abxyz"]) == ["abcxy"]
    assert near("abcdefg", ["abc", "ab"]) == ["abc"]


def test_few_names_are_compared_however_many_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    class Counting(SequenceMatcher[str]):
        def set_seq1(self, a: Sequence[str]) -> None:
            nonlocal compared
            compared += bool(a)
            super().set_seq1(a)

    monkeypatch.setattr(nearest_module, "SequenceMatcher", Counting)
    assert len(near("jobs-0", [f"jobs-{letter}" for letter in "abcdefghijklmnopqrstuvwxyz123456789"])) == MAX_NAMES
    assert 0 < compared <= MAX_COMPARED


def test_long_names_are_compared_at_their_beginning() -> None:
    known = ["n" * 254, "m" * MAX_CHARACTERS]
    assert near("n" * 255, known) == ["n" * 254]


def test_of_ten_thousand_names_nearly_all_slips_are_found() -> None:
    dice = random.Random(1)
    words = [
        "orders",
        "billing",
        "mail",
        "jobs",
        "events",
        "payments",
        "users",
        "images",
        "reports",
        "eu",
        "us",
        "retry",
    ]
    known = list({"-".join(dice.choices(words, k=dice.randint(1, 4))) + str(number) for number in range(10_000)})
    names, ordered = frozenset(known), sorted(known)
    found = tried = 0
    for name in dice.sample(known, 300):
        at = dice.randrange(len(name))
        slip = dice.choice((name[:at] + name[at + 1 :], f"{name[:at]}x{name[at:]}", f"{name[:at]}q{name[at + 1 :]}"))
        if slip not in names:
            tried += 1
            found += name in nearest(slip, names, ordered)
    assert found > 0.9 * tried
