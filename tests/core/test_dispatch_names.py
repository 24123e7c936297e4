"""Subscriptions mean a queue by its name: who follows when queues are deleted, renamed and made anew."""

from __future__ import annotations

import pytest

from qrusty_trio.core.dispatch import Dispatcher
from tests.core.test_dispatch import Shelf, able, pump, subscribe


# Verifies: DLV-0029
def test_a_queue_that_is_made_anew_has_the_old_ones_subscribers() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    waiting, basket = subscribe(dispatcher, 1)
    spent, other = subscribe(dispatcher, 1, credits=0)
    _, bystander = subscribe(dispatcher, 2)
    pump(dispatcher, shelf)
    shelf.named.append((1, None))
    pump(dispatcher, shelf)
    assert waiting.queue_number == 1
    assert shelf.watched == {2}
    dispatcher.resume(waiting)
    assert able(dispatcher, 1) == 0
    shelf.named.append((100, "q1"))
    shelf.put(100, 3)
    pump(dispatcher, shelf)
    assert waiting.queue_number == spent.queue_number == 100
    assert basket.got == ["100-0", "100-1", "100-2"]
    assert shelf.watched == {2, 100}
    spent.credits = 1
    dispatcher.resume(spent)
    shelf.put(100, 4)
    pump(dispatcher, shelf)
    assert len(other.got) == 1
    assert bystander.got == []
    dispatcher.remove(waiting)
    dispatcher.remove(spent)
    pump(dispatcher, shelf)
    assert shelf.watched == {2}


# Verifies: DLV-0029
def test_names_are_followed_one_by_one() -> None:
    """Deleted, another one renamed to its name, that one deleted, and a new one made: all between two pumps."""
    shelf, dispatcher = Shelf(), Dispatcher()
    by_first_name, basket = subscribe(dispatcher, 1)
    by_later_name, other = subscribe(dispatcher, 1)
    by_later_name.name = "q7"
    shelf.named += [(1, "q7"), (1, None), (8, "q1"), (8, None), (9, "q1"), (10, "q7")]
    shelf.put(9, 1)
    shelf.put(10, 1)
    pump(dispatcher, shelf)
    assert (by_first_name.queue_number, by_later_name.queue_number) == (9, 10)
    assert (len(basket.got), len(other.got)) == (1, 1)


def test_an_orphan_that_ends_does_not_come_back() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    subscription, basket = subscribe(dispatcher)
    shelf.named.append((1, None))
    pump(dispatcher, shelf)
    dispatcher.remove(subscription)
    shelf.named.append((2, "q1"))
    shelf.put(2, 1)
    pump(dispatcher, shelf)
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
    pump(dispatcher, shelf)
    shelf.named.append((1, None))
    pump(dispatcher, shelf)
    for number, name in enumerate(order, 100):
        shelf.named.append((number, name))
        shelf.put(number, 2)
        pump(dispatcher, shelf)
        assert not shelf.named
        for subscription, basket in everyone[name]:
            assert subscription.queue_number == number
            assert len(basket.got) == 1
    assert shelf.watched == {100, 101}
