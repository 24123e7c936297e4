"""What the model test does to many messages at a time, and the consumes that wait.

Rule: a batch does what its messages would do one by one. Who waits is served after each step, as in the engine; whoever
gets a message gets the first of its queue, and nobody waits while there is one for him.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from qrusty_trio.api.call import Wait
from qrusty_trio.api.waiting import Waiter
from qrusty_trio.core.dispatch import Dispatcher, Subscription
from qrusty_trio.core.model import Delivery, Kind, Priority
from qrusty_trio.errors import MessageNotLocked, QrustyError, QueueNotFound
from tests.core.model import Message, Model
from tests.core.steps import Steps

NAMES = st.sampled_from(["a", "a", "a", "b", "ü/%2F", "n" * 255])
CONSUMERS = st.sampled_from(["c", "d"])
SECONDS = st.sampled_from([300, 300, 30, 2, 0])
PICK = st.integers(0, 15)
NEW = st.tuples(
    st.sampled_from([0, 1, 2, 2**53 + 1, 2**64 - 1]),
    st.sampled_from([False] * 7 + [True]),
    st.sampled_from(["", "p", "q", "ü" * 5, "long enough"]),
    st.sampled_from([None, 9, 2, 1, 0]),
)
BATCHES = st.one_of(
    st.tuples(st.just("publish_batch"), NAMES, st.lists(NEW, max_size=5)),
    st.tuples(st.just("consume_batch"), NAMES, CONSUMERS, SECONDS, st.sampled_from([1, 3, 500]), st.booleans()),
    st.tuples(st.just("settle_batch"), st.lists(PICK, max_size=4), st.sampled_from(["ack", "nack", "nack"])),
    st.tuples(st.just("consume_from"), st.lists(NAMES, min_size=1, max_size=3, unique=True), CONSUMERS, SECONDS),
)
WAITS = st.one_of(
    st.tuples(
        st.just("wait_for_messages"),
        st.lists(st.sampled_from(["a", "b", "ü/%2F"]), min_size=1, max_size=3, unique=True),
        CONSUMERS,
        SECONDS,
        st.sampled_from([None, 1, 3]),
        st.sampled_from([1, 5, 60]),
        st.sampled_from([True, True, True, False]),
        st.sampled_from([True, True, True, False]),
    ),
    st.tuples(st.just("wait_no_more"), PICK),
)
DELIVERED_AT_ONCE = 3
"""Most messages of one `Dispatcher.dispatch`."""


class Waiting:
    """A consume that waits: its connection, and what the model knows of it."""

    def __init__(self, wait: Wait, has_room: bool, stays: bool, log: list[tuple[Waiting, Delivery]]) -> None:
        self.wait = wait
        self.has_room = has_room
        self.stays = stays
        """Whether its client is still there when it gets something."""
        self.numbers: dict[str, int | None] = dict.fromkeys(wait.names)
        """Name -> the queue that it waits for."""
        self.waiter = _Logged(wait, self, log)

    def follow(self, model: Model) -> None:
        """A queue that is renamed is waited for on. One that is gone makes way for the next of its name."""
        there = {queue.number for queue in model.queues.values()}
        for name, number in self.numbers.items():
            if number not in there:
                self.numbers[name] = model.queues[name].number if name in model.queues else None

    # For the waiter

    def room(self) -> bool:
        return self.has_room

    def took(self, characters: int) -> None:
        pass

    def wake(self) -> None:
        pass


class _Logged(Waiter):
    """Tells in which order messages were handed out."""

    def __init__(self, wait: Wait, waiting: Waiting, log: list[tuple[Waiting, Delivery]]) -> None:
        super().__init__(wait, waiting)
        self._note = partial(_note, waiting, log)

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        self._note(delivery)
        super().deliver(subscription, delivery)


def _note(waiting: Waiting, log: list[tuple[Waiting, Delivery]], delivery: Delivery) -> None:
    log.append((waiting, delivery))


class BatchSteps(Steps):
    """Steps of `machine.BrokerMachine`."""

    # Batches

    def publish_batch(self, name: str, messages: list[tuple[int, bool, str, int | None]]) -> None:
        self.before()
        queue = self.model.queues.get(name)
        textual = queue is not None and queue.config.kind is Kind.TEXT
        given: list[dict[str, Any]] = []
        for number, wrong, payload, retries in messages:
            priority: Priority = str(number) if textual is not wrong else number
            given.append({"priority": priority, "payload": payload, "max_retries": retries})
        status, response = self.http("POST", "/publish-batch", body={"queue": name, "messages": given})
        assert status == 200, response
        ids = iter(response["ids"])
        rejected = []
        for index, each in enumerate(given):
            try:
                self.model.check_publish(name, each["priority"], each["payload"], True)
            except QrustyError as error:
                rejected.append((index, error.code))
                continue
            retries = 3 if each["max_retries"] is None else each["max_retries"]
            self.model.publish(name, next(ids), each["priority"], each["payload"], retries, self.now)
        assert list(ids) == []
        assert [(each["index"], each["code"]) for each in response["rejected"]] == rejected
        # It is so short that it is stored as a whole or not at all: nothing is noted in between.
        self.after()

    def consume_batch(self, name: str, consumer: str, seconds: int, most: int, details: bool) -> None:
        self.before()
        body = {"consumer_id": consumer, "max_messages": most, "timeout_seconds": seconds, "details": details}
        status, response = self.http("POST", f"/consume-batch/{quote(name, safe='')}", body=body)
        expected: list[dict[str, Any]] = []
        while len(expected) < most and (message := self.model.consume(name, consumer, seconds, self.now)) is not None:
            expected.append(told(message) | (self.details(message, seconds) if details else {}))
            self.note()
        assert (status, response) == (200, {"messages": expected})
        self.after()

    def consume_from(self, names: list[str], consumer: str, seconds: int) -> None:
        self.before()
        body = {"queues": names, "consumer_id": consumer, "timeout_seconds": seconds}
        expected = None
        for name in names:
            message = self.model.consume(name, consumer, seconds, self.now)
            if message is not None:
                expected = told(message) | {"queue": name}
                break
        assert self.http("POST", "/consume", body=body) == (200, expected)
        self.after()

    def details(self, message: Message, seconds: int) -> dict[str, Any]:
        end = self.now + seconds * 1000
        return {"priority": message.priority, "created_at": message.created, "lock_until": end}

    def settle_batch(self, numbers: list[int], verb: str) -> None:
        self.before()
        picked = [self.pick(number) for number in numbers]
        name, _, consumer = picked[0] if picked else ("a", "", "c")
        done = ["acked"] if verb == "ack" else ["unlocked", "dead_lettered", "dropped"]
        expected: dict[str, list[str]] = {outcome: [] for outcome in [*done, "not_found"]}
        for _, id, _ in picked:
            try:
                if verb == "ack":
                    self.model.ack(name, id, consumer)
                    outcome = "acked"
                else:
                    outcome = self.model.nack(name, id, consumer, self.now, "").value
            except (MessageNotLocked, QueueNotFound):
                outcome = "not_found"
            expected[outcome].append(id)
            self.settled.append((name, id, consumer))
            self.note()
        body = {"consumer_id": consumer, "message_ids": [id for _, id, _ in picked]}
        assert self.http("POST", f"/{verb}-batch/{quote(name, safe='')}", body=body) == (200, expected)
        self.after()

    # Waiting

    def nobody_waits(self) -> None:
        """At the begin, and after a restart."""
        self.dispatcher = Dispatcher()
        self.waiting: list[Waiting] = []
        self.handed_out: list[tuple[Waiting, Delivery]] = []

    def wait_for_messages(
        self, names: list[str], consumer: str, seconds: int, most: int | None, wait: int, has_room: bool, stays: bool
    ) -> None:
        """Consume from one queue, several or (`most`) a batch of one, and wait if there is nothing."""
        self.before()
        body: dict[str, Any] = {"consumer_id": consumer, "timeout_seconds": seconds, "wait_seconds": wait}
        if most is not None:
            path, names = f"/consume-batch/{quote(names[0], safe='')}", names[:1]
            body["max_messages"] = most
        elif len(names) == 1:
            path = f"/consume/{quote(names[0], safe='')}"
        else:
            path = "/consume"
            body["queues"] = names
        queues = [self.model.queues[name] for name in names if name in self.model.queues]
        if self.model.locked() >= self.model.max_locked or not any(queue.available for queue in queues):
            response = self.ask("POST", path, body=body)
            assert isinstance(response, Wait)
            waiting = Waiting(response, has_room, stays, self.handed_out)
            waiting.waiter.join(self.dispatcher, self.broker.catalog)
            self.waiting.append(waiting)
        self.after()

    def wait_no_more(self, number: int) -> None:
        """A client that waits goes away."""
        self.before()
        if self.waiting:
            self.waiting.pop(number % len(self.waiting)).waiter.leave(self.dispatcher)
        self.after()

    def serve_waiting(self) -> None:
        """What the engine does at the end of each transaction, and what the tasks of the connections do then."""
        while True:
            for waiting in self.waiting:
                waiting.follow(self.model)
            while self.dispatcher.dispatch(self.broker, self.now, DELIVERED_AT_ONCE):
                pass
            for waiting, delivery in self.handed_out:
                self.check_delivery(waiting, delivery)
            self.handed_out.clear()
            served = [each for each in self.waiting if each.waiter.deliveries]
            for waiting in served:
                self.waiting.remove(waiting)
                self.reply(waiting)
            if not served:
                break
        self.check_that_nobody_waits_in_vain()
        for waiting in list(self.waiting):
            if waiting.waiter.short or waiting.wait.until_ms <= self.now:
                waiting.waiter.leave(self.dispatcher)
            if waiting.wait.until_ms <= self.now:
                self.waiting.remove(waiting)
            elif waiting.waiter.short:
                waiting.has_room = True
                waiting.numbers = dict.fromkeys(waiting.wait.names)
                waiting.waiter.join(self.dispatcher, self.broker.catalog)

    def check_delivery(self, waiting: Waiting, delivery: Delivery) -> None:
        name = self.model_name(delivery.queue_number)
        assert delivery.queue_number in waiting.numbers.values()
        wait = waiting.wait
        message = self.model.consume(name, wait.consumer, wait.lock_seconds, self.now)
        assert message is not None
        assert (delivery.id, delivery.payload, delivery.retry_count) == (
            message.id,
            message.payload,
            message.deliveries,
        )
        self.note()

    def model_name(self, number: int) -> str:
        return next(name for name, queue in self.model.queues.items() if queue.number == number)

    def reply(self, waiting: Waiting) -> None:
        """Its task wakes: the reply has what it was handed out. If its client is gone, that goes back uncounted."""
        waiter, wait = waiting.waiter, waiting.wait
        waiter.leave(self.dispatcher)
        assert len(waiter.deliveries) <= wait.most
        assert len({each.queue_number for each in waiter.deliveries}) == 1
        if waiting.stays:
            reply = wait.make_reply(self.services(), waiter.deliveries, waiter.name)
            body = json.loads(reply.body)
            messages: Sequence[Any] = body.get("messages", [body])
            assert [each["id"] for each in messages] == [each.id for each in waiter.deliveries]
            if len(wait.names) > 1:
                assert body["queue"] == self.model_name(waiter.deliveries[0].queue_number)
            return
        for each in waiter.deliveries:
            self.broker.take_back(each.queue_number, each.lock_number, each.id)
            self.model.give_back(self.model_name(each.queue_number), each.id, wait.consumer, False, self.now)
            self.note()

    def check_that_nobody_waits_in_vain(self) -> None:
        if self.model.locked() >= self.model.max_locked:
            return
        available = {queue.number for queue in self.model.queues.values() if queue.available}
        for waiting in self.waiting:
            assert waiting.waiter.short or not available & {*waiting.numbers.values()}


def told(message: Message) -> dict[str, Any]:
    """A message as a consume tells it."""
    return {"id": message.id, "payload": message.payload, "retry_count": message.deliveries}
