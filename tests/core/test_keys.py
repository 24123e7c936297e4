"""Message keys: their bytes compare as the queue promises and hold the priority exactly."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qrusty_trio.core.keys import KeyCoder, prefix, prefix_end
from qrusty_trio.core.model import MAX_TEXT_PRIORITY_BYTES, U64_MAX, Kind, Ordering, Priority, QueueConfig
from qrusty_trio.errors import InvalidPriority, PriorityKindMismatch

NUMBERS = st.integers(0, U64_MAX) | st.sampled_from([0, 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, U64_MAX - 1, U64_MAX])
TEXTS = st.text(st.sampled_from("\0\1ab\x7fé\uffff\U0001f600"), min_size=1, max_size=5)
SEQUENCES = st.integers(0, 3) | st.integers(0, U64_MAX)
ORDERINGS = st.sampled_from(Ordering)
QUEUE = 7


def coder(ordering: Ordering, kind: Kind) -> KeyCoder:
    return KeyCoder(QUEUE, QueueConfig(ordering, True, kind))


def rank(priority: Priority) -> int | bytes:
    return priority.encode() if isinstance(priority, str) else priority


def check_order(keys: KeyCoder, ordering: Ordering, one: tuple[Priority, int], other: tuple[Priority, int]) -> None:
    assume(one[1] != other[1])  # a queue uses none twice
    first, second = keys.encode(*one), keys.encode(*other)
    if ordering is Ordering.FIFO or one[0] == other[0]:
        assert (first < second) is (one[1] < other[1])
    else:
        less = rank(one[0]) < rank(other[0])  # type: ignore[operator]  # both are of one kind
        assert (first < second) is (less if ordering is Ordering.MIN_FIRST else not less)


# Verifies: SCH-0001, SCH-0002
@given(ORDERINGS, NUMBERS, SEQUENCES, NUMBERS, SEQUENCES)
def test_numbers_sort_as_promised(ordering: Ordering, a: int, a_sequence: int, b: int, b_sequence: int) -> None:
    check_order(coder(ordering, Kind.NUMERIC), ordering, (a, a_sequence), (b, b_sequence))


# Verifies: SCH-0005
@given(ORDERINGS, TEXTS, SEQUENCES, TEXTS, SEQUENCES)
def test_texts_sort_by_their_bytes(ordering: Ordering, a: str, a_sequence: int, b: str, b_sequence: int) -> None:
    check_order(coder(ordering, Kind.TEXT), ordering, (a, a_sequence), (b, b_sequence))


# Verifies: SCH-0006
@given(ORDERINGS, NUMBERS, TEXTS, SEQUENCES)
def test_a_key_holds_its_priority(ordering: Ordering, number: int, text: str, sequence: int) -> None:
    for kind, priority in ((Kind.NUMERIC, number), (Kind.TEXT, text)):
        keys = coder(ordering, kind)
        assert keys.priority(keys.encode(priority, sequence)) == priority


@given(ORDERINGS, NUMBERS, TEXTS, SEQUENCES)
def test_a_key_stays_within_its_queue(ordering: Ordering, number: int, text: str, sequence: int) -> None:
    for kind, priority in ((Kind.NUMERIC, number), (Kind.TEXT, text)):
        assert prefix(QUEUE) < coder(ordering, kind).encode(priority, sequence) < prefix_end(QUEUE)


# Verifies: SCH-0005
@pytest.mark.parametrize("ordering", Ordering)
def test_no_key_of_a_text_is_the_start_of_another(ordering: Ordering) -> None:
    keys = coder(ordering, Kind.TEXT)
    texts = ["a", "a\0", "a\0\0", "a\0\xff", "ab", "\0", "\0\0"]
    made = [keys.encode(text, sequence) for text in texts for sequence in (0, 1, U64_MAX)]
    if ordering is not Ordering.FIFO:
        assert not [(a, b) for a in made for b in made if a != b and b.startswith(a)]
    assert len(set(made)) == len(made)


# Verifies: SCH-0007
@pytest.mark.parametrize("ordering", Ordering)
def test_a_kind_takes_only_its_own(ordering: Ordering) -> None:
    with pytest.raises(PriorityKindMismatch, match=r"^Priority kind mismatch: queue expects Numeric but got Text$"):
        coder(ordering, Kind.NUMERIC).encode("1", 0)
    with pytest.raises(PriorityKindMismatch, match=r"^Priority kind mismatch: queue expects Text but got Numeric$"):
        coder(ordering, Kind.TEXT).encode(1, 0)


# Verifies: API-0021
@pytest.mark.parametrize("ordering", Ordering)
def test_the_length_of_a_text_is_bounded_in_bytes(ordering: Ordering) -> None:
    keys = coder(ordering, Kind.TEXT)
    longest = "é" * (MAX_TEXT_PRIORITY_BYTES // 2)
    assert keys.priority(keys.encode(longest, 1)) == longest
    for text in (longest + "a", ""):
        with pytest.raises(InvalidPriority):
            keys.encode(text, 1)
