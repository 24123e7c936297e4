"""Who gets the next message: the waiting subscribers of a queue, in turn.

Rule: a message is locked only for a subscriber that has credit and room for it, and a delivery costs the same whatever
the number of subscribers. Every queue has a ring of the subscribers that can take a message now. The one at the head
gets the next message and goes to the tail. One that has no credit or no room leaves the ring and is not looked at
again until `resume` brings it back.

A subscription means a queue by name: it stays with its queue through a rename, and when the queue was deleted and one
of that name is made anew, it goes on with that one.

Pure and synchronous, like the broker: nothing here waits or knows a socket. `pump` runs inside an engine transaction,
after the operations of that transaction, so that a publish and its delivery are one batch.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import QueueNotFound

TURN = 32
"""Messages one queue may hand out before the next queue with messages gets its turn."""
STEP_CHARACTERS = 512 * 1024
"""Characters of payload handed out in one step, or one payload: those of 2 MiB take 2 ms at most."""


class Source(Protocol):
    """What the dispatcher needs of the broker."""

    ready: set[int]
    watched: set[int]

    @property
    def by_number(self) -> dict[int, Any]:
        """The queues that exist, the newest one last."""

    def queue_number(self, name: str) -> int: ...

    def consume_number(self, queue_number: int, consumer: str, lock_seconds: int, now: int) -> Delivery | None: ...


class Sink(Protocol):
    """Where the deliveries of a subscription go: one connection."""

    def room(self) -> bool:
        """Whether one more delivery may be handed over."""

    def deliver(self, subscription: Subscription, delivery: Delivery, now: int) -> None:
        """Take a delivery. Never refuses: `room` was asked just before. `now` is wall time in milliseconds."""

    def retract(self, subscription: Subscription, delivery: Delivery) -> None:
        """That delivery could not be stored: it never happened. Called before anything else can run."""

    def parked(self, subscription: Subscription) -> None:
        """The subscription left the ring for want of room; call `Dispatcher.resume` when there is room again."""


class Subscription:
    """A consumer waiting for messages of one queue."""

    __slots__ = ("active", "consumer", "credits", "lock_seconds", "name", "queue_number", "sink")

    def __init__(
        self, name: str, queue_number: int, consumer: str, lock_seconds: int, credits: int | None, sink: Sink
    ) -> None:
        self.name = name
        """The queue's name when the subscription was made: what the subscriber calls it, also after a rename."""
        self.queue_number = queue_number
        """Changed by the dispatcher only."""
        self.consumer = consumer
        self.lock_seconds = lock_seconds
        self.credits = credits
        """Deliveries it may still get; None is without limit."""
        self.sink = sink
        self.active = True
        """False once it was removed; it can't come back."""


class Dispatcher:
    """The rings of all queues that have subscribers."""

    def __init__(self) -> None:
        self._rings: dict[int, OrderedDict[Subscription, None]] = {}
        """Queue number -> the subscribers that can take a message, next one first. No empty rings."""
        self._turns: OrderedDict[int, None] = OrderedDict()
        """Queues that may have messages for a waiting subscriber, next one first."""
        self._changed: set[int] = set()
        """Queues whose ring came or went since the last pump, so that `Source.watched` has to follow."""
        self._newest: int | None = None
        """The newest queue at the last pump."""
        self.unstored: list[tuple[Subscription, Delivery]] = []
        """Deliveries made and not yet written."""
        self._characters = 0
        """Of payload that may still be handed out in this step."""

    def add(self, subscription: Subscription) -> None:
        """Let a new subscription take part. What is already in its queue is handed out by the next `pump`."""
        self.resume(subscription)

    def resume(self, subscription: Subscription) -> None:
        """Credit or room came back. No effect when the subscription was removed, still waits, or has no credit."""
        if not subscription.active or subscription.credits == 0:
            return
        number = subscription.queue_number
        ring = self._rings.get(number)
        if ring is None:
            ring = self._rings[number] = OrderedDict()
            self._changed.add(number)
        elif subscription in ring:
            return
        ring[subscription] = None
        self._turns[number] = None

    def remove(self, subscription: Subscription) -> None:
        """The subscription ends. What it was delivered stays locked; giving it back is the owner's business."""
        subscription.active = False
        ring = self._rings.get(subscription.queue_number)
        if ring is not None and subscription in ring:
            self._leave(subscription, ring)

    def pump(self, broker: Source, now: int, limit: int) -> bool:
        """Hand out up to `limit` messages of together about STEP_CHARACTERS; returns True when there may be more.

        `now` is wall time in milliseconds. Takes over and clears `broker.ready`; what it could not finish is kept here
        for the next call.
        """
        turns = self._turns
        self._follow(broker)
        if broker.ready:
            for number in broker.ready:
                turns[number] = None
            broker.ready.clear()
        self._characters = STEP_CHARACTERS
        while turns:
            if limit <= 0 or self._characters <= 0:
                break
            number = next(iter(turns))
            ring = self._rings.get(number)
            share = min(TURN, limit)
            left = self._serve(broker, number, ring, share, now) if ring is not None else share
            limit -= share - left
            if left:
                del turns[number]
            else:
                turns.move_to_end(number)
        if self._changed:
            for number in self._changed:
                if number in self._rings:
                    broker.watched.add(number)
                else:
                    broker.watched.discard(number)
            self._changed.clear()
        return bool(turns)

    def _follow(self, broker: Source) -> None:
        """Lead subscriptions from queues that were deleted to those that have their names now."""
        newest = next(reversed(broker.by_number), None)
        if newest == self._newest:
            # No queue was made, so only those that have just come back may have missed one.
            suspects = [number for number in self._changed if number in self._rings]
        else:
            self._newest = newest
            suspects = list(self._rings)
        for number in suspects:
            if number in broker.by_number:
                continue
            for subscription in list(self._rings[number]):
                try:
                    heir = broker.queue_number(subscription.name)
                except QueueNotFound:
                    continue
                self._leave(subscription, self._rings[number])
                subscription.queue_number = heir
                self.resume(subscription)

    def stored(self) -> None:
        """The deliveries made so far have been written."""
        if self.unstored:
            self.unstored.clear()

    def retract(self) -> None:
        """The deliveries made since `stored` could not be written: take them back, last one first."""
        for subscription, delivery in reversed(self.unstored):
            subscription.sink.retract(subscription, delivery)
            if subscription.credits is not None:
                subscription.credits += 1
            self.resume(subscription)
        self.unstored.clear()

    def _serve(self, broker: Source, number: int, ring: OrderedDict[Subscription, None], share: int, now: int) -> int:
        """Hand out up to `share` messages of one queue. Returns what is left of the share: 0 when there may be more.

        Also when it was the characters that came to an end.
        """
        while share:
            if not ring:
                return share
            subscription = next(iter(ring))
            sink = subscription.sink
            if not sink.room():
                self._leave(subscription, ring)
                sink.parked(subscription)
                continue
            delivery = broker.consume_number(number, subscription.consumer, subscription.lock_seconds, now)
            if delivery is None:
                # Empty, deleted, or the index of locks is full: the broker says when it is worth another look.
                return share
            share -= 1
            if subscription.credits is None:
                ring.move_to_end(subscription)
            else:
                subscription.credits -= 1
                if subscription.credits:
                    ring.move_to_end(subscription)
                else:
                    self._leave(subscription, ring)
            sink.deliver(subscription, delivery, now)
            self.unstored.append((subscription, delivery))
            self._characters -= len(delivery.payload)
            if self._characters <= 0:
                break
        return 0

    def _leave(self, subscription: Subscription, ring: OrderedDict[Subscription, None]) -> None:
        del ring[subscription]
        if not ring:
            number = subscription.queue_number
            self._rings.pop(number, None)
            self._changed.add(number)
