"""The rings: turns, credit, room, wake-up, and the cost of a delivery."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.core.dispatch import STEP_CHARACTERS, TURN, Dispatcher, Subscription
from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import PayloadUnreadable


class Shelf:
    """A source of messages: queues of ids, and the two sets that a broker keeps."""

    def __init__(self) -> None:
        self.queues: dict[int, deque[str]] = {}
        self.ready: set[int] = set()
        self.watched: set[int] = set()
        self.broken: set[int] = set()
        self.named: list[tuple[int, str | int | None]] = []
        self.locks_left = 10**9
        self.asked = 0
        self.payload = ""

    def put(self, number: int, count: int = 1) -> None:
        queue = self.queues.setdefault(number, deque())
        first = len(queue)
        queue.extend(f"{number}-{first + each}" for each in range(count))
        if number in self.watched:
            self.ready.add(number)

    def take_ready(self) -> set[int]:
        ready, self.ready = self.ready, set()
        return ready

    @property
    def catalog(self) -> Shelf:
        return self

    def take_named(self) -> list[tuple[int, str | int | None]]:
        named, self.named = self.named, []
        return named

    @property
    def locks(self) -> Shelf:
        return self

    @property
    def full(self) -> bool:
        return self.locks_full

    @property
    def locks_full(self) -> bool:
        return self.locks_left <= 0

    @locks_full.setter
    def locks_full(self, full: bool) -> None:
        self.locks_left = 0 if full else 10**9

    def available(self, number: int) -> int:
        return len(self.queues.get(number, ()))

    def consume_number(self, queue_number: int, consumer: str, lock_seconds: int, now: int) -> Delivery | None:
        self.asked += 1
        assert (consumer, lock_seconds) == ("c", 30)
        if queue_number in self.broken:
            raise PayloadUnreadable("no descriptor")
        if self.locks_full or not self.queues.get(queue_number):
            return None
        self.locks_left -= 1
        return Delivery(queue_number, self.queues[queue_number].popleft(), self.payload, 1, 0, now)


class Basket:
    """A sink with room for `capacity` deliveries."""

    def __init__(self, capacity: int = 10**9) -> None:
        self.capacity = capacity
        self.got: list[str] = []
        self.out: list[Subscription] = []
        self.names: list[str] = []

    def room(self) -> bool:
        return len(self.got) < self.capacity

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        assert self.room()
        assert delivery.queue_number == subscription.queue_number
        self.got.append(delivery.id)

    def paused(self, subscription: Subscription) -> None:
        self.out.append(subscription)

    def renamed(self, subscription: Subscription) -> None:
        self.names.append(subscription.called)


def subscribe(
    dispatcher: Dispatcher, number: int = 1, credits: int | None = None, basket: Basket | None = None
) -> tuple[Subscription, Basket]:
    basket = basket or Basket()
    subscription = Subscription(f"q{number}", number, "c", 30, credits, basket)
    dispatcher.add(subscription)
    return subscription, basket


def dispatch(dispatcher: Dispatcher, shelf: Shelf) -> None:
    while dispatcher.dispatch(shelf, 0, 100):
        pass


def able(dispatcher: Dispatcher, number: int) -> int:
    """How many subscribers of a queue could take a message now."""
    return len(dispatcher._rings.get(number, ()))


def test_backlog_is_handed_out_to_a_new_subscriber() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    shelf.put(1, 3)
    _, basket = subscribe(dispatcher)
    assert not dispatcher.dispatch(shelf, 0, 100)
    assert len(basket.got) == 3
    assert shelf.watched == {1}


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_step_makes_as_many_deliveries_as_it_may(limit: int) -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    shelf.put(1, 3)
    _, basket = subscribe(dispatcher)
    dispatcher.dispatch(shelf, 0, limit)
    assert len(basket.got) == limit


# Verifies: SCH-0021
def test_a_message_reaches_a_waiting_subscriber() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    _, basket = subscribe(dispatcher)
    dispatch(dispatcher, shelf)
    assert shelf.watched == {1}
    shelf.put(1)
    assert shelf.ready == {1}
    dispatch(dispatcher, shelf)
    assert len(basket.got) == 1
    assert not shelf.ready


# Verifies: SCH-0023
def test_subscribers_are_served_in_turn() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    baskets = [subscribe(dispatcher)[1] for _ in range(7)]
    shelf.put(1, 7 * 11 + 3)
    dispatch(dispatcher, shelf)
    assert [len(basket.got) for basket in baskets] == [12, 12, 12, 11, 11, 11, 11]


# Verifies: SCH-0023
def test_turns_go_on_where_they_stopped_when_messages_come_one_by_one() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    baskets = [subscribe(dispatcher)[1] for _ in range(3)]
    for _ in range(9):
        shelf.put(1)
        dispatch(dispatcher, shelf)
    assert [len(basket.got) for basket in baskets] == [3, 3, 3]


# Verifies: WS-0014
def test_credit_is_spent_and_comes_back() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    subscription, basket = subscribe(dispatcher, credits=2)
    shelf.put(1, 5)
    dispatch(dispatcher, shelf)
    assert len(basket.got) == 2
    assert subscription.credits == 0
    assert able(dispatcher, 1) == 0
    assert shelf.watched == set()
    subscription.credits = 1
    dispatcher.resume(subscription)
    dispatch(dispatcher, shelf)
    assert len(basket.got) == 3


def test_no_credit_no_place() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    shelf.put(1, 5)
    subscription, basket = subscribe(dispatcher, credits=0)
    dispatcher.resume(subscription)
    dispatch(dispatcher, shelf)
    assert not basket.got
    assert shelf.asked == 0


def test_without_room_a_subscriber_leaves_and_others_are_served() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    slow, slow_basket = subscribe(dispatcher, basket=Basket(capacity=2))
    _, fast_basket = subscribe(dispatcher)
    shelf.put(1, 20)
    assert not dispatcher.dispatch(shelf, 0, 22)
    assert len(slow_basket.got) == 2
    assert len(fast_basket.got) == 18
    assert slow_basket.out == [slow]
    slow_basket.capacity = 4
    dispatcher.resume(slow)
    shelf.put(1, 8)
    dispatch(dispatcher, shelf)
    assert len(slow_basket.got) == 4
    assert len(fast_basket.got) == 24


def test_many_without_room_leave_in_steps() -> None:
    dispatcher, shelf = Dispatcher(), Shelf()
    full = Basket(0)
    for _ in range(250):
        subscribe(dispatcher, basket=full)
    _, basket = subscribe(dispatcher)
    shelf.put(1)
    left = []
    while dispatcher.dispatch(shelf, 0, 100):
        left.append(len(full.out))
    assert left == [100, 200]
    assert (len(full.out), len(basket.got)) == (250, 1)


@pytest.mark.parametrize("why", ["no room", "no credit"])
def test_one_that_can_take_nothing_ends_beside_others_that_can(why: str) -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    idle, basket = subscribe(dispatcher, credits=1 if why == "no credit" else None, basket=Basket(capacity=1))
    _, other = subscribe(dispatcher)
    shelf.put(1, 4)
    dispatch(dispatcher, shelf)
    assert len(basket.got) == 1
    dispatcher.remove(idle)
    shelf.put(1, 4)
    dispatch(dispatcher, shelf)
    assert (len(basket.got), len(other.got)) == (1, 7)
    assert able(dispatcher, 1) == 1


# Verifies: SCH-0024
def test_the_limit_cuts_short_and_queues_take_turns() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    baskets = {number: subscribe(dispatcher, number)[1] for number in (1, 2, 3)}
    for number in baskets:
        shelf.put(number, 10 * TURN)
    assert dispatcher.dispatch(shelf, 0, 3 * TURN)
    assert [len(basket.got) for basket in baskets.values()] == [TURN, TURN, TURN]
    assert dispatcher.dispatch(shelf, 0, 5)
    assert sum(len(basket.got) for basket in baskets.values()) == 3 * TURN + 5
    dispatch(dispatcher, shelf)
    assert all(len(basket.got) == 10 * TURN for basket in baskets.values())


# Verifies: SCH-0024
def test_large_payloads_end_a_step_early_and_queues_take_turns() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    baskets = [subscribe(dispatcher, number)[1] for number in (1, 2)]
    shelf.put(1, 3)
    shelf.put(2, 3)
    shelf.payload = "x" * (STEP_CHARACTERS // 2 + 1)
    assert dispatcher.dispatch(shelf, 0, 100)
    assert [len(basket.got) for basket in baskets] == [2, 0]
    assert dispatcher.dispatch(shelf, 0, 100)
    assert [len(basket.got) for basket in baskets] == [2, 2]
    assert dispatcher.dispatch(shelf, 0, 100)
    assert [len(basket.got) for basket in baskets] == [3, 3]
    assert not dispatcher.dispatch(shelf, 0, 100)
    assert shelf.asked == 8


def test_a_full_index_of_locks_does_not_spin() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    _, basket = subscribe(dispatcher)
    shelf.put(1, 3)
    shelf.locks_full = True
    assert not dispatcher.dispatch(shelf, 0, 100)
    assert shelf.asked == 1
    assert not dispatcher.dispatch(shelf, 0, 100)
    assert shelf.asked == 1
    shelf.locks_full = False
    assert not dispatcher.dispatch(shelf, 0, 100)
    assert len(basket.got) == 3


def test_a_deleted_queue_is_forgotten_with_its_last_subscriber() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    subscription, _ = subscribe(dispatcher)
    shelf.put(1, 2)
    del shelf.queues[1]
    assert not dispatcher.dispatch(shelf, 0, 100)
    dispatcher.remove(subscription)
    dispatcher.remove(subscription)
    assert not dispatcher.dispatch(shelf, 0, 100)
    assert shelf.watched == set()
    assert able(dispatcher, 1) == 0


# Verifies: WS-0015
def test_a_removed_subscription_does_not_come_back() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    subscription, basket = subscribe(dispatcher)
    other, _ = subscribe(dispatcher)
    for left in ({1}, set()):
        dispatcher.remove(subscription)
        dispatcher.resume(subscription)
        shelf.put(1, 2)
        dispatch(dispatcher, shelf)
        assert not basket.got
        assert shelf.watched == left
        dispatcher.remove(other)


# Verifies: SCH-0025
def test_idle_subscribers_cost_nothing() -> None:
    """Ten thousand without credit or room: a delivery asks neither them nor the broker more than once."""
    shelf, dispatcher = Shelf(), Dispatcher()
    full = Basket(capacity=0)
    for _ in range(5000):
        subscribe(dispatcher, credits=0)
        subscribe(dispatcher, basket=full)
    dispatch(dispatcher, shelf)
    _, basket = subscribe(dispatcher)
    shelf.put(1, 10)
    dispatch(dispatcher, shelf)
    assert len(basket.got) == 10
    paused = len(full.out)
    shelf.asked = 0
    shelf.put(1, 10)
    dispatch(dispatcher, shelf)
    assert shelf.asked == 11
    assert len(full.out) == paused


@given(st.lists(st.sampled_from(["add", "remove", "credit", "room", "put", "dispatch", "fill", "drain"]), max_size=60))
def test_random_sequences_deliver_all_that_can_be_delivered(steps: list[str]) -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    alive: list[tuple[Subscription, Basket]] = []
    put = 0
    seen: Counter[str] = Counter()
    for index, step in enumerate(steps):
        if step == "add":
            alive.append(subscribe(dispatcher, 1 + index % 2, credits=[None, 0, 2][index % 3], basket=Basket(5)))
        elif step == "put":
            shelf.queues.setdefault(1 + index % 2, deque()).extend([f"{index}-{each}" for each in range(3)])
            put += 3
            if 1 + index % 2 in shelf.watched:
                shelf.ready.add(1 + index % 2)
        elif step == "dispatch":
            dispatcher.dispatch(shelf, 0, 1 + index % 5)
        elif step == "fill":
            shelf.locks_full = True
        elif step == "drain":
            shelf.locks_full = False
            shelf.ready |= shelf.watched
        elif alive:
            subscription, basket = alive[index % len(alive)]
            if step == "remove":
                dispatcher.remove(subscription)
                alive.remove((subscription, basket))
            elif step == "credit" and subscription.credits is not None:
                subscription.credits += 1
                dispatcher.resume(subscription)
            elif step == "room":
                basket.capacity += 1
                dispatcher.resume(subscription)
    shelf.locks_full = False
    shelf.ready |= shelf.watched
    dispatch(dispatcher, shelf)
    for number, queue in shelf.queues.items():
        takers = [s for s, b in alive if s.queue_number == number and s.credits != 0 and b.room()]
        assert not (queue and takers)
        assert (number in shelf.watched) == bool(able(dispatcher, number)) == bool(takers)
    for _, basket in alive:
        seen.update(basket.got)
    assert not seen or seen.most_common(1)[0][1] == 1


def test_after_a_fault_nobody_is_subscribed() -> None:
    """A subscription of before can do nothing any more, whatever is called for it, and a new one is not in its way."""
    shelf, dispatcher = Shelf(), Dispatcher()
    void, basket = subscribe(dispatcher)
    waiting, _ = subscribe(dispatcher, 2, credits=0)
    shelf.put(1, 1)
    uncommitted = [dispatcher.uncommitted]
    dispatch(dispatcher, shelf)
    uncommitted.append(dispatcher.uncommitted)
    dispatcher.clear()
    assert [*uncommitted, dispatcher.uncommitted] == [False, True, False]
    dispatch(dispatcher, shelf)
    assert shelf.watched == set()
    _, again = subscribe(dispatcher)
    waiting.credits = 1
    for done in (dispatcher.resume, dispatcher.remove):
        for subscription in (void, waiting):
            done(subscription)
        shelf.put(1, 3)
        shelf.put(2, 3)
        dispatch(dispatcher, shelf)
        assert shelf.watched == {1}
    assert (len(basket.got), len(again.got)) == (1, 6)


# Verifies: SCH-0027
@pytest.mark.parametrize("free", [1, 3])
def test_those_that_wait_for_a_lock_get_one_in_turn(free: int) -> None:
    """So many free locks at a time; who asks for more, or gets new messages meanwhile, waits as well."""
    shelf, dispatcher = Shelf(), Dispatcher()
    subscriptions = [subscribe(dispatcher, number) for number in (1, 2, 3)]
    for number in (1, 2, 3):
        shelf.put(number, 100)
    shelf.locks_full = True
    dispatch(dispatcher, shelf)
    greedy = subscriptions[0][0]
    for _ in range(30 // free):
        shelf.ready.add(1)
        dispatcher.resume(greedy)
        shelf.locks_left = free
        dispatch(dispatcher, shelf)
    assert [len(basket.got) for _, basket in subscriptions] == [10, 10, 10]


def test_a_queue_that_can_use_no_lock_leaves_it_to_the_next() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    gone, _ = subscribe(dispatcher, 1)
    _, patient = subscribe(dispatcher, 2)
    subscribe(dispatcher, 3)
    _, last = subscribe(dispatcher, 4)
    shelf.locks_full = True
    for number in (1, 2, 4):
        shelf.put(number, 1)
    dispatch(dispatcher, shelf)
    dispatcher.remove(gone)
    shelf.locks_left = 2
    dispatch(dispatcher, shelf)
    assert (len(patient.got), len(last.got)) == (1, 1)


# Verifies: SCH-0025
def test_many_queues_with_nothing_to_hand_out_are_looked_at_in_steps() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    for number in range(1, 1000):
        subscribe(dispatcher, number)
    steps = 1
    while dispatcher.dispatch(shelf, 0, 100):
        steps += 1
        assert shelf.asked <= 100 * steps
    assert steps >= 9


# Verifies: SCH-0028
def test_a_payload_that_cannot_be_read_just_now_stops_its_queue_only() -> None:
    shelf, dispatcher = Shelf(), Dispatcher()
    _, first = subscribe(dispatcher, 1)
    _, second = subscribe(dispatcher, 2)
    shelf.broken.add(1)
    shelf.put(1, 2)
    shelf.put(2, 2)
    dispatch(dispatcher, shelf)
    assert (len(first.got), len(second.got)) == (0, 2)
    shelf.broken.clear()
    dispatch(dispatcher, shelf)
    assert not first.got, "it is not tried again by itself"
    assert dispatcher.retry_unreadable()
    assert not dispatcher.retry_unreadable()
    dispatch(dispatcher, shelf)
    assert len(first.got) == 2
