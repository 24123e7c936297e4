"""Whose turn it is when a step ends, who comes first, and what is kept of those that went."""

from __future__ import annotations

import gc
import weakref

import pytest

from qrusty_trio.core.dispatch import NO_QUEUE, STEP_CHARACTERS, TURN, Dispatcher, Subscription
from tests.core.test_dispatch import Basket, Shelf, dispatch, subscribe


def test_a_step_makes_as_many_deliveries_from_many_queues() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    basket = Basket()
    for number in range(1, 11):
        subscribe(dispatcher, number, basket=basket)
        shelf.put(number)
    assert dispatcher.dispatch(shelf, 0, 6)
    assert len(basket.got) == 6
    assert not dispatcher.dispatch(shelf, 0, 5)
    assert len(basket.got) == 10


# Verifies: SCH-0024
def test_the_next_step_begins_with_the_next_queue() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    baskets = [subscribe(dispatcher, number)[1] for number in (1, 2, 3)]
    for number in (1, 2, 3):
        shelf.put(number, 10 * TURN)
    for turn in range(6):
        assert dispatcher.dispatch(shelf, 0, TURN)
        assert [len(basket.got) for basket in baskets] == [TURN * ((turn + 3 - index) // 3) for index in range(3)]


def test_a_step_ends_when_its_characters_are_used_up() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    _, basket = subscribe(dispatcher)
    shelf.payload = "x" * (STEP_CHARACTERS // 2)
    shelf.put(1, 3)
    assert dispatcher.dispatch(shelf, 0, 100)
    assert len(basket.got) == 2


# Verifies: DLV-0029
@pytest.mark.parametrize("deleted", [False, True])
def test_those_that_wait_for_a_queue_are_served_in_the_order_in_which_they_came(deleted: bool) -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    baskets = []
    for _ in range(4):
        baskets.append(Basket())
        dispatcher.add(Subscription("q", 1 if deleted else NO_QUEUE, "c", 30, None, baskets[-1]))
    shelf.named.append((1, None))
    dispatch(dispatcher, shelf)
    shelf.named.append((2, "q"))
    for number in range(4):
        shelf.put(2)
        dispatch(dispatcher, shelf)
        assert [len(basket.got) for basket in baskets] == [1] * (number + 1) + [0] * (3 - number)


class Watched(set[int]):
    """Counts how often it is told something."""

    told = 0

    def add(self, number: int) -> None:
        self.told += 1
        super().add(number)

    def discard(self, number: object) -> None:
        self.told += 1
        super().discard(number)


# Verifies: SCH-0025
def test_a_delivery_tells_nothing_of_other_queues() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    shelf.watched = watched = Watched()
    for number in range(1, 11):
        subscribe(dispatcher, number)
    dispatch(dispatcher, shelf)
    for _ in range(3):
        shelf.put(1)
        dispatch(dispatcher, shelf)
    assert watched.told == 10


@pytest.mark.parametrize("number", [1, NO_QUEUE])
@pytest.mark.parametrize("credits", [None, 0, 1])
def test_nothing_is_kept_of_a_subscriber_that_went(number: int, credits: int | None) -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    shelf.put(number)
    subscription, basket = subscribe(dispatcher, number, credits)
    dispatch(dispatcher, shelf)
    dispatcher.remove(subscription)
    dispatch(dispatcher, shelf)
    kept = weakref.ref(basket)
    del subscription, basket
    assert kept() is None


@pytest.mark.parametrize("exist", [False, True])
def test_nothing_is_kept_of_the_queues_that_nobody_waits_for_any_more(exist: bool) -> None:
    shelf, dispatcher, basket = Shelf(), Dispatcher(), Basket()
    gc.collect()
    before = len(gc.get_objects())
    for number in range(200):
        subscription = Subscription(f"q{number}", number if exist else NO_QUEUE, "c", 30, None, basket)
        dispatcher.add(subscription)
        dispatch(dispatcher, shelf)
        dispatcher.remove(subscription)
        dispatch(dispatcher, shelf)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
