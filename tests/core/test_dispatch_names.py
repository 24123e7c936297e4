"""Subscriptions mean a queue by its name: who follows when queues are deleted, renamed and made anew."""

from __future__ import annotations

from collections import Counter

import pytest

from qrusty_trio.core.dispatch import MOVED_PER_STEP, NO_QUEUE, Dispatcher, Subscription
from tests.core.test_dispatch import Basket, Shelf, able, dispatch, subscribe


# Verifies: DLV-0029
def test_a_queue_that_is_made_anew_has_the_old_ones_subscribers() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    waiting, basket = subscribe(dispatcher, 1)
    spent, other = subscribe(dispatcher, 1, credits=0)
    _, bystander = subscribe(dispatcher, 2)
    dispatch(dispatcher, shelf)
    shelf.named.append((1, None))
    dispatch(dispatcher, shelf)
    assert waiting.queue_number == 1
    assert shelf.watched == {2}
    dispatcher.resume(waiting)
    assert able(dispatcher, 1) == 0
    shelf.named.append((100, "q1"))
    shelf.put(100, 3)
    dispatch(dispatcher, shelf)
    assert waiting.queue_number == spent.queue_number == 100
    assert basket.got == ["100-0", "100-1", "100-2"]
    assert shelf.watched == {2, 100}
    spent.credits = 1
    dispatcher.resume(spent)
    shelf.put(100, 4)
    dispatch(dispatcher, shelf)
    assert len(other.got) == 1
    assert bystander.got == []
    dispatcher.remove(waiting)
    dispatcher.remove(spent)
    dispatch(dispatcher, shelf)
    assert shelf.watched == {2}


@pytest.mark.parametrize("end", ["fault", "deleted"])
def test_a_rename_that_is_undone_is_not_told_of(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """By a fault before everybody was told, or by the end of that queue."""
    monkeypatch.setattr("qrusty_trio.core.dispatch.MOVED_PER_STEP", 2)
    shelf, dispatcher = Shelf(), Dispatcher()
    baskets = [subscribe(dispatcher, 1)[1] for _ in range(4)]
    shelf.named.append((1, "new"))
    assert dispatcher.dispatch(shelf, 0, 100)
    assert [basket.names for basket in baskets] == [["new"], ["new"], [], []]
    if end == "fault":
        dispatcher.clear()
        baskets += [subscribe(dispatcher, 1)[1]]
    else:
        shelf.named += [(1, None), (2, "q1")]
    dispatch(dispatcher, shelf)
    for number in (1, 2):
        shelf.put(number, 4)
    dispatch(dispatcher, shelf)
    assert [basket.names for basket in baskets[2:]] == [[]] * len(baskets[2:])
    assert baskets[-1].got


@pytest.mark.parametrize("joined", [False, True])
def test_after_a_fault_only_new_subscribers_wait_for_a_queue(monkeypatch: pytest.MonkeyPatch, joined: bool) -> None:
    """The others may have been about to join one, or to leave it."""
    monkeypatch.setattr("qrusty_trio.core.dispatch.MOVED_PER_STEP", 1)
    shelf, dispatcher = Shelf(), Dispatcher()
    void = [subscribe(dispatcher, 1)[1] if joined else waiting_for(dispatcher, "q1")[1] for _ in range(3)]
    shelf.named.append((1, None if joined else "q1"))
    assert dispatcher.dispatch(shelf, 0, 100)
    dispatcher.clear()
    _, basket = waiting_for(dispatcher, "q1")
    dispatch(dispatcher, shelf)
    for name in ("q1", "q2"):
        shelf.named.append((8, name))
        dispatch(dispatcher, shelf)
    shelf.put(8)
    dispatch(dispatcher, shelf)
    assert (basket.got, basket.names) == (["8-0"], ["q2"])
    assert [each.names for each in void] == [[], [], []]


# Verifies: DLV-0029
def test_names_are_followed_one_by_one() -> None:
    """Deleted, another one renamed to its name, that one deleted, and a new one made: all between two dispatches."""
    shelf, dispatcher = Shelf(), Dispatcher()
    by_first_name, basket = subscribe(dispatcher, 1)
    by_later_name, other = subscribe(dispatcher, 1)
    by_later_name.name = "q7"
    shelf.named += [(1, "q7"), (1, None), (8, "q1"), (8, None), (9, "q1"), (10, "q7")]
    shelf.put(9, 1)
    shelf.put(10, 1)
    dispatch(dispatcher, shelf)
    assert (by_first_name.queue_number, by_later_name.queue_number) == (9, 10)
    assert (by_first_name.called, by_later_name.called) == ("q1", "q7")
    assert basket.names == other.names == []  # Nobody was given anything under another name.
    assert (len(basket.got), len(other.got)) == (1, 1)


def test_an_orphan_that_ends_does_not_come_back() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    subscription, basket = subscribe(dispatcher)
    shelf.named.append((1, None))
    dispatch(dispatcher, shelf)
    dispatcher.remove(subscription)
    shelf.named.append((2, "q1"))
    shelf.put(2, 1)
    dispatch(dispatcher, shelf)
    assert not basket.got
    assert not dispatcher._orphans
    assert not dispatcher._members


@pytest.mark.parametrize("order", [["q1", "q7"], ["q7", "q1"]])
def test_of_several_names_for_one_queue_each_goes_its_own_way(order: list[str]) -> None:
    """Two subscribers by either name; one name comes back, then the other."""
    shelf, dispatcher = Shelf(), Dispatcher()
    everyone = {name: [subscribe(dispatcher, 1) for _ in range(2)] for name in ("q1", "q7")}
    for subscription, _ in everyone["q7"]:
        subscription.name = "q7"
    dispatch(dispatcher, shelf)
    shelf.named.append((1, None))
    dispatch(dispatcher, shelf)
    for number, name in enumerate(order, 100):
        shelf.named.append((number, name))
        shelf.put(number, 2)
        dispatch(dispatcher, shelf)
        assert not shelf.named
        for subscription, basket in everyone[name]:
            assert subscription.queue_number == number
            assert len(basket.got) == 1
    assert shelf.watched == {100, 101}


def waiting_for(dispatcher: Dispatcher, name: str, basket: Basket | None = None) -> tuple[Subscription, Basket]:
    basket = basket or Basket()
    subscription = Subscription(name, NO_QUEUE, "c", 30, None, basket)
    dispatcher.add(subscription)
    return subscription, basket


def test_a_queue_that_does_not_exist_is_waited_for() -> None:
    dispatcher, shelf = Dispatcher(), Shelf()
    gone, nothing = waiting_for(dispatcher, "later")
    _, basket = waiting_for(dispatcher, "later")
    dispatch(dispatcher, shelf)
    dispatcher.resume(gone)
    dispatcher.remove(gone)
    shelf.named = [(7, "later")]
    shelf.put(7)
    dispatch(dispatcher, shelf)
    assert (basket.got, nothing.got) == (["7-0"], [])
    shelf.named = [(7, None)]
    dispatch(dispatcher, shelf)
    shelf.named = [(8, "later")]
    shelf.put(8)
    dispatch(dispatcher, shelf)
    assert basket.got == ["7-0", "8-0"]


def test_many_join_their_new_queue_bit_by_bit() -> None:
    dispatcher, shelf = Dispatcher(), Shelf()
    shared = Basket()
    for _ in range(2 * MOVED_PER_STEP + 1):
        waiting_for(dispatcher, "later", shared)
    shelf.named = [(7, "later")]
    steps = 1
    while dispatcher.dispatch(shelf, 0, 1000):
        steps += 1
    assert steps == 3
    shelf.put(7, 5)
    dispatch(dispatcher, shelf)
    assert len(shared.got) == 5


def test_a_queue_that_goes_while_many_join_it() -> None:
    """Those that joined wait for its name again, and so do those that did not. A rename is such an end, too."""
    for end in (None, "other"):
        dispatcher, shelf = Dispatcher(), Shelf()
        baskets = [waiting_for(dispatcher, "later")[1] for _ in range(MOVED_PER_STEP + 5)]
        shelf.named = [(7, "later")]
        assert dispatcher.dispatch(shelf, 0, 1000)
        shelf.named = [(7, end), (8, "later")]
        dispatch(dispatcher, shelf)
        shelf.put(8, len(baskets))
        shelf.put(7, len(baskets))
        dispatch(dispatcher, shelf)
        assert Counter(id[:1] for basket in baskets for id in basket.got) == (
            {"8": len(baskets)} if end is None else {"8": len(baskets), "7": len(baskets)}
        )


# Verifies: DLV-0029
def test_many_leave_a_deleted_queue_bit_by_bit() -> None:
    """None is lost: neither one that ends meanwhile, nor the next queue of their name, made before all have left."""
    shelf, dispatcher = Shelf(), Dispatcher()
    members = [subscribe(dispatcher, 1) for _ in range(2 * MOVED_PER_STEP + 1)]
    dispatch(dispatcher, shelf)
    shelf.named = [(1, None)]
    assert dispatcher.dispatch(shelf, 0, 1000)
    waits = len(dispatcher._orphans["q1"])
    assert waits == MOVED_PER_STEP
    gone, nothing = members.pop()
    dispatcher.remove(gone)
    shelf.named = [(7, "other"), (8, "q1"), (8, 9)]
    steps = 1
    while dispatcher.dispatch(shelf, 0, 1000):
        steps += 1
    assert steps > 3
    shelf.put(9, len(members))
    dispatch(dispatcher, shelf)
    assert [len(basket.got) for _, basket in members] == [1] * len(members)
    assert {subscription.queue_number for subscription, _ in members} == {9}
    assert nothing.got == []
    assert not dispatcher._orphans
    assert not dispatcher._adopting


# Verifies: API-0189
def test_many_are_told_of_a_rename_bit_by_bit_and_each_before_its_next_message() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    spent = [subscribe(dispatcher, 1, credits=0)[1] for _ in range(2 * MOVED_PER_STEP)]
    waiting, basket = subscribe(dispatcher, 1)
    dispatch(dispatcher, shelf)
    shelf.named = [(1, "renamed")]
    shelf.put(1)
    assert dispatcher.dispatch(shelf, 0, 1000)
    assert (basket.got, basket.names, waiting.called) == (["1-0"], ["renamed"], "renamed")
    assert sum(len(each.names) for each in spent) == MOVED_PER_STEP
    dispatch(dispatcher, shelf)
    assert [each.names for each in spent] == [["renamed"]] * len(spent)
    assert basket.names == ["renamed"]
    assert not dispatcher._names


# Verifies: API-0189
@pytest.mark.parametrize("then", [None, "q1", "other", 7])
def test_a_queue_that_changes_again_while_many_are_told_of_its_name(then: str | int | None) -> None:
    """It is deleted, called as before, called otherwise, or gets another number."""
    shelf, dispatcher = Shelf(), Dispatcher()
    members = [subscribe(dispatcher, 1, credits=0) for _ in range(MOVED_PER_STEP + 5)]
    gone, untold = subscribe(dispatcher, 1, credits=0)
    shelf.named = [(1, "renamed")]
    assert dispatcher.dispatch(shelf, 0, 1000)
    dispatcher.remove(gone)
    shelf.named = [(1, then)]
    dispatch(dispatcher, shelf)
    name = "renamed" if then == 7 else then or "q1"
    assert {subscription.called for subscription, _ in members} == {name}
    assert all(basket.names[-1:] in ([], [name]) for _, basket in members if then is not None)
    assert untold.names == []
    assert not dispatcher._names


# Verifies: DLV-0029
def test_a_queue_that_goes_on_under_another_number_keeps_its_subscribers() -> None:
    """Whatever name they asked for: the queue may have been renamed since."""
    shelf, dispatcher = Shelf(), Dispatcher()
    renamed, basket = subscribe(dispatcher, 1)
    spent, _ = subscribe(dispatcher, 1, credits=0)
    shelf.named = [(1, "renamed")]
    dispatch(dispatcher, shelf)
    shelf.named = [(1, 7)]
    dispatch(dispatcher, shelf)
    assert renamed.queue_number == spent.queue_number == 7
    assert shelf.watched == {7}
    shelf.put(7, 2)
    dispatch(dispatcher, shelf)
    assert basket.got == ["7-0", "7-1"]
    dispatcher.remove(renamed)
    dispatch(dispatcher, shelf)
    assert shelf.watched == set()


def test_a_queue_that_gets_another_number_while_many_join_it() -> None:
    dispatcher, shelf = Dispatcher(), Shelf()
    shared = Basket()
    for _ in range(MOVED_PER_STEP + 5):
        waiting_for(dispatcher, "later", shared)
    shelf.named = [(7, "later")]
    assert dispatcher.dispatch(shelf, 0, 1000)
    shelf.named = [(7, 8)]
    dispatch(dispatcher, shelf)
    assert able(dispatcher, 8) == MOVED_PER_STEP + 5
    assert able(dispatcher, 7) == 0
