"""Names that come near a misspelt one."""

from __future__ import annotations

import random

import pytest

from qrusty_trio.core.nearest import MAX_CHARACTERS, MAX_NAMES, nearest

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
