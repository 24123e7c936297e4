"""The hot tier against a sorted dict: it always holds every message before its frontier."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qrusty_trio.core import hot_tier
from qrusty_trio.core.hot_tier import READ_BYTES, HotTier, TierLimits

KEYS = st.integers(0, 40)


def key_of(number: int) -> bytes:
    return number.to_bytes(2, "big")


class TierMachine(RuleBasedStateMachine):
    """`self.all` is the queue: what is available, tier or not."""

    @initialize(
        entries=st.integers(1, 8), low=st.integers(1, 8), octets=st.integers(1, 300), stored=st.lists(KEYS, unique=True)
    )
    def begin(self, entries: int, low: int, octets: int, stored: list[int]) -> None:
        self.limits = TierLimits(entries, low, octets)
        self.all = {key_of(number): b"r" * number for number in stored}
        self.tier = HotTier(self.limits, b"" if stored else None)

    @rule(number=KEYS, size=st.integers(1, 200))
    def add(self, number: int, size: int) -> None:
        key = key_of(number)
        if key not in self.all:
            self.all[key] = b"n" * size
            self.tier.add(key, self.all[key])

    @precondition(lambda self: len(self.tier) > 0)
    @rule(times=st.integers(1, 3))
    def pop(self, times: int) -> None:
        for _ in range(min(times, len(self.tier))):
            first = min(self.all)
            assert self.tier.pop() == (first, self.all.pop(first))

    @rule(number=KEYS)
    def discard(self, number: int) -> None:
        self.tier.discard(key_of(number))
        self.all.pop(key_of(number), None)

    @rule(number=KEYS, size=st.integers(1, 200))
    def replace(self, number: int, size: int) -> None:
        if key_of(number) in self.all:
            self.all[key_of(number)] = b"x" * size
            self.tier.replace(key_of(number), b"x" * size)

    @precondition(lambda self: self.tier.frontier is not None)
    @rule(most=st.integers(1, 5))
    def read_on(self, most: int) -> None:
        frontier = self.tier.frontier
        assert frontier is not None
        behind = [(key, self.all[key]) for key in sorted(self.all) if key >= frontier]
        limit = min(most, self.tier.room())
        assert limit >= 1
        self.tier.extend(behind[:limit], end=len(behind) < limit)

    @rule(entries=st.integers(1, 8))
    def resize(self, entries: int) -> None:
        self.limits.resize(entries, 3)
        self.tier.trim()

    @rule()
    def reset(self) -> None:
        self.tier.reset(min(self.all, default=None))

    @invariant()
    def it_holds_all_before_the_frontier(self) -> None:
        tier = self.tier
        expected = {key: self.all[key] for key in self.all if tier.frontier is None or key < tier.frontier}
        assert tier._records == expected
        assert tier._keys[tier._start :] == sorted(expected)
        assert tier.octets == sum(map(len, expected.values()))
        assert len(tier) <= self.limits.entries

    @invariant()
    def an_empty_one_reads_on(self) -> None:
        if not self.tier and self.all:
            assert self.tier.low()


TestTier = TierMachine.TestCase
TestTier.settings = settings(deadline=None, max_examples=200, derandomize=True)


def filled(limits: TierLimits, sizes: list[int], frontier: bytes | None = b"\xff") -> HotTier:
    tier = HotTier(limits, frontier)
    for number, size in enumerate(sizes):
        tier.add(key_of(number), b"r" * size)
    return tier


# Verifies: SCH-0011
def test_bytes_are_bounded_and_one_message_always_stays() -> None:
    assert len(filled(TierLimits(100, 10, 1000), [300] * 10)) == 3
    large = filled(TierLimits(100, 10, 1000), [5000, 10])
    assert (len(large), large.frontier) == (1, key_of(1))


def test_one_that_is_full_by_bytes_does_not_read_on() -> None:
    assert not filled(TierLimits(100, 50, 1000), [300] * 3).low()
    assert filled(TierLimits(100, 50, 10_000), [300] * 3).low()


# Verifies: SCH-0013
def test_it_reads_on_in_pieces_however_high_the_threshold() -> None:
    assert TierLimits(100, 1000).low == 50
    tier = filled(TierLimits(100, 1000), [10] * 100)
    assert not tier.low()
    for _ in range(51):
        tier.pop()
    assert tier.low()
    assert tier.room() >= 8


# Verifies: SCH-0013
def test_what_is_read_at_once_is_bounded_in_bytes() -> None:
    tier = HotTier(TierLimits(1000, 250), b"")
    # Nothing known yet: a few.
    assert tier.room() == READ_BYTES // hot_tier._UNKNOWN_RECORD
    # A few small ones don't mean that all are.
    tier.extend([(b"", b"r")], end=False)
    tier.reset(b"")
    assert tier.room() == 2 * READ_BYTES // hot_tier._UNKNOWN_RECORD
    for piece in range(20):
        tier.extend([(key_of(piece * 10 + n), b"r" * 100) for n in range(10)], end=False)
        tier.reset(b"")
    assert tier.room() == 1000
    # A large one goes behind the frontier: to be met there.
    tier.add(b"\xff", b"r" * READ_BYTES)
    assert tier.room() == 1


def test_one_that_comes_back_to_the_frontier_stays_behind_it() -> None:
    tier = filled(TierLimits(2, 1), [1, 2, 3], frontier=None)
    assert tier.frontier == key_of(2)
    tier.pop()
    tier.add(key_of(2), b"rrr")
    assert tier.following(b"", 9) == [(key_of(1), b"rr")]
