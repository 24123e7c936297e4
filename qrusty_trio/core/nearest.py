"""The names that come nearest to one that does not exist, for people who misspell.

Rule: this takes under a millisecond. Comparing a name with 10,000 others would take 100. So only a few are compared:
those that are one slip of a finger away, those that differ in upper and lower case only, and the neighbours in
alphabetical order. What is misspelt in two places, one of them at its beginning, may be missed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice

MAX_NAMES = 3
"""Most names that are returned."""
MAX_CHARACTERS = 32
"""Of a longer name, only the neighbours in alphabetical order are compared, up to this length."""
NEIGHBOURS = 6
"""Neighbours compared on each side."""
MAX_COMPARED = 16
"""Most names compared: 10 to 20 µs each."""
MIN_RATIO = 0.6
"""Names less alike than this are not returned: 1 means the same, 0 that they have nothing in common."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-_./: "


def nearest(name: str, known: Container[str], ordered: Sequence[str]) -> list[str]:
    """Up to MAX_NAMES of the known names, the most alike first. `ordered`: the known names, sorted."""
    at = bisect_left(ordered, name)
    candidates = dict.fromkeys(ordered[max(0, at - NEIGHBOURS) : at + NEIGHBOURS])
    if len(name) <= MAX_CHARACTERS:
        slips = (slip for slip in _slips(name) if slip in known)
        candidates = dict.fromkeys(islice(slips, MAX_COMPARED - len(candidates))) | candidates
    matcher: SequenceMatcher[str] = SequenceMatcher()
    matcher.set_seq2(name[:MAX_CHARACTERS].lower())
    found: list[tuple[float, str]] = []
    for candidate in candidates:
        matcher.set_seq1(candidate[:MAX_CHARACTERS].lower())
        if matcher.real_quick_ratio() >= MIN_RATIO and matcher.quick_ratio() >= MIN_RATIO:
            ratio = matcher.ratio()
            if ratio >= MIN_RATIO:
                found.append((-ratio, candidate))
    return [candidate for _, candidate in sorted(found)[:MAX_NAMES]]


def _slips(name: str) -> Iterator[str]:
    """What may have been meant: other cases; two characters swapped; one too many, too few or wrong."""
    yield from (name.strip(), name.lower(), name.upper(), name.title(), name.swapcase(), name.casefold())
    halves = [(name[:index], name[index:]) for index in range(len(name) + 1)]
    for before, after in halves:
        yield before + after[1:]
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]
    letters = dict.fromkeys(_LETTERS + name)
    for before, after in halves:
        for letter in letters:
            yield before + letter + after
            yield before + letter + after[1:]
