"""The index of locks: what is due, and that it costs the same however many there are."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.core import locks as locks_module
from qrusty_trio.core.hot_tier import TierLimits
from qrusty_trio.core.locks import Lock, LockIndex
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.core.queue import Queue

_numbers = count()


def new_queue(number: int = 1) -> Queue:
    return Queue(number, "q", QueueConfig(), TierLimits(1, 1))


def new_lock(queue: Queue, until: int, key: bytes = b"") -> Lock:
    number = next(_numbers)
    return Lock(f"id-{number}", queue, number, key or number.to_bytes(8, "big"), "c", until, 1, b"", b"", 0)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans())), st.integers(0, 20))
def test_due_is_what_has_ended_earliest_first(made: list[tuple[int, int, bool]], now: int) -> None:
    index, queue = LockIndex(), new_queue()
    alive = []
    for until, later, removed in made:
        lock = new_lock(queue, until)
        index.add(lock)
        index.extend(lock, later)
        if removed:
            index.remove(lock)
        else:
            alive.append(lock)
    assert index.count == len(alive)
    assert index.next_end() == min((lock.until for lock in alive), default=None)
    expected = sorted((lock for lock in alive if lock.until <= now), key=lambda lock: (lock.until, lock.key))
    assert index.due(now, 1000) == expected
    assert index.due(now, 1000) == expected  # they stay


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 4))
def test_due_in_pieces_misses_nothing(ends: list[int], limit: int) -> None:
    index, queue = LockIndex(), new_queue()
    for until in ends:
        index.add(new_lock(queue, until))
    taken = []
    while due := index.due(5, limit):
        for lock in due:
            index.remove(lock)
            taken.append(lock.until)
    assert taken == sorted(ends)
    assert index.next_end() is None


def test_those_that_end_together_go_by_their_message_keys() -> None:
    index, queue = LockIndex(), new_queue()
    second, first = new_lock(queue, 5, b"b"), new_lock(queue, 5, b"a")
    index.add(second)
    index.add(first)
    assert index.due(5, 10) == [first, second]


def test_ends_without_locks_do_not_pile_up() -> None:
    index, queue = LockIndex(), new_queue()
    stays = new_lock(queue, 10**9)
    index.add(stays)
    for end in range(20_000):
        index.extend(stays, 10**9 + end)
    assert len(index._ends) <= 2 * len(index._by_end) + locks_module._STALE_SLACK + 1
    assert index.next_end() == stays.until


def test_a_queue_is_forgotten_at_once_and_its_memory_bit_by_bit() -> None:
    index, gone, other = LockIndex(), new_queue(1), new_queue(2)
    for until in range(100):
        index.add(new_lock(gone, until))
    kept = new_lock(other, 50)
    index.add(kept)
    index.forget(gone)
    assert index.count == 1
    assert gone.locks == {}
    # Nothing of it is ever due, even before it is tidied; what is looked at is bounded all the same.
    assert index.due(1000, 10) == []
    assert index.due(1000, 1000) == [kept]
    for _ in range(11):
        index.tidy(10)
    assert list(index._by_end) == [50]
    assert index.due(1000, 10) == [kept]
    assert index.next_end() == 50


def test_a_queue_goes_on_after_it_was_forgotten() -> None:
    index, queue = LockIndex(), new_queue()
    index.add(new_lock(queue, 5))
    index.forget(queue)
    index.forget(queue)
    again = new_lock(queue, 5)
    index.add(again)
    assert index.due(5, 10) == [again]
    index.tidy(1000)
    assert index.due(5, 10) == [again]
    index.remove(again)
    assert (index.count, index.next_end()) == (0, None)
