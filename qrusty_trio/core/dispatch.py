"""Who gets the next message: the waiting subscribers of a queue, in turn.

Rule: a message is locked only for a subscriber that has credit and room for it, and a delivery costs the same whatever
the number of subscribers. Every queue has a ring of the subscribers that can take a message now. The one at the head
gets the next message and goes to the tail. One that has no credit or no room leaves the ring and is not looked at
again until `resume` brings it back.

A subscription means a queue by name: it stays with its queue through a rename. When its queue is deleted it waits, and
goes on with the next queue that gets that name, made anew or renamed to it.

Pure and synchronous, like the broker: nothing here waits or knows a socket. `pump` runs inside an engine transaction,
after the operations of that transaction, so that a publish and its delivery are one batch.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol, TypeVar

from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import PayloadUnreadable

TURN = 32
"""Messages one queue may hand out before the next queue with messages gets its turn."""
STEP_CHARACTERS = 512 * 1024
"""Characters of payload handed out in one step, or one payload: those of 2 MiB take 2 ms at most."""


class Locks(Protocol):
    """What the dispatcher needs of the index of locks."""

    @property
    def full(self) -> bool: ...


class Names(Protocol):
    """What the dispatcher needs of the catalog of queues."""

    def take_named(self) -> list[tuple[int, str | None]]: ...


class Source(Protocol):
    """What the dispatcher needs of the broker."""

    watched: set[int]

    @property
    def ready(self) -> bool: ...

    @property
    def locks(self) -> Locks: ...

    @property
    def catalog(self) -> Names: ...

    def take_ready(self) -> set[int]: ...

    def consume_number(self, queue_number: int, consumer: str, lock_seconds: int, now: int) -> Delivery | None: ...


class Sink(Protocol):
    """Where the deliveries of a subscription go: one connection."""

    def room(self) -> bool:
        """Whether one more delivery may be handed over."""

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """Take a delivery. Never refuses: `room` was asked just before."""

    def parked(self, subscription: Subscription) -> None:
        """The subscription left the ring for want of room; call `Dispatcher.resume` when there is room again."""


class Subscription:
    """A consumer waiting for messages of one queue."""

    __slots__ = ("active", "consumer", "credits", "generation", "lock_seconds", "name", "queue_number", "sink")

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
        self.active = False
        """From `Dispatcher.add` to `Dispatcher.remove`; it can't come back."""
        self.generation = 0
        """That of the dispatcher when it was added."""


_Subscriptions = OrderedDict[Subscription, None]


class Dispatcher:
    """The rings of all queues that have subscribers."""

    def __init__(self) -> None:
        self.generation = 0
        """Counts the faults of the store: subscriptions from before the last one are void."""
        self._members: dict[int, _Subscriptions] = {}
        """Queue number -> its subscribers, whether they can take a message or not."""
        self._orphans: dict[str, _Subscriptions] = {}
        """Name -> subscribers whose queue is gone: they wait for one of that name."""
        self._rings: dict[int, _Subscriptions] = {}
        """Queue number -> the subscribers that can take a message, next one first. No empty rings."""
        self._turns: OrderedDict[int, None] = OrderedDict()
        """Queues that may have messages for a waiting subscriber, next one first."""
        self._starved: OrderedDict[int, None] = OrderedDict()
        """Those that have to wait for a free lock, next one first. While there are any, all others wait behind them."""
        self._changed: set[int] = set()
        """Queues whose ring came or went since the last pump, so that `Source.watched` has to follow."""
        self._unreadable: set[int] = set()
        """Queues whose first payload could not be read for now."""
        self.uncommitted = False
        """Whether deliveries were made that are not written yet."""
        self._characters = 0
        """Of payload that may still be handed out in this step."""

    def add(self, subscription: Subscription) -> None:
        """Let a new subscription take part. What is already in its queue is handed out by the next `pump`."""
        subscription.active = True
        subscription.generation = self.generation
        self._members.setdefault(subscription.queue_number, OrderedDict())[subscription] = None
        self.resume(subscription)

    def resume(self, subscription: Subscription) -> None:
        """Credit or room came back. No effect when the subscription is void, still waits, or has no credit."""
        if not subscription.active or subscription.credits == 0 or subscription.generation != self.generation:
            return
        number = subscription.queue_number
        if number not in self._members:
            return  # its queue is gone: it comes back with the next one of that name
        ring = self._rings.get(number)
        if ring is None:
            ring = self._rings[number] = OrderedDict()
            self._changed.add(number)
        elif subscription in ring:
            return
        ring[subscription] = None
        self._line_up(number)

    def remove(self, subscription: Subscription) -> None:
        """The subscription ends. What it was delivered stays locked; giving it back is the owner's business."""
        if not subscription.active or subscription.generation != self.generation:
            return
        subscription.active = False
        number = subscription.queue_number
        ring = self._rings.get(number)
        if ring is not None and subscription in ring:
            self._leave(subscription, ring)
        members = self._members.get(number)
        if members is not None and subscription in members:
            _take_out(self._members, number, subscription)
        else:
            _take_out(self._orphans, subscription.name, subscription)

    def clear(self) -> None:
        """The store had a fault: nobody is subscribed any more, and what was not committed has never been."""
        self.generation += 1
        self._changed.update(self._rings)
        self._members, self._orphans, self._rings = {}, {}, {}
        self._turns.clear()
        self._starved.clear()
        self._unreadable.clear()
        self.uncommitted = False

    def retry_unreadable(self) -> bool:
        """Try again where a payload could not be read; returns whether there is such a queue."""
        found = [number for number in self._unreadable if number in self._rings]
        self._unreadable.clear()
        for number in found:
            self._line_up(number)
        return bool(found)

    def committed(self) -> None:
        """The deliveries made so far have been written."""
        self.uncommitted = False

    def pump(self, broker: Source, now: int, limit: int) -> bool:
        """Hand out up to `limit` messages of together about STEP_CHARACTERS; returns True when there may be more.

        `now` is wall time in milliseconds. Takes what became available and what was renamed; what it could not finish
        is kept here for the next call.
        """
        named = broker.catalog.take_named()
        if named:
            self._follow(named)
        if broker.ready:
            for number in broker.take_ready():
                if number in self._rings:
                    self._line_up(number)
        turns, starved = self._turns, self._starved
        self._characters = STEP_CHARACTERS
        while limit > 0 and self._characters > 0:
            if turns:
                number, share, line = next(iter(turns)), min(TURN, limit), turns
            elif starved and not broker.locks.full:
                # One message each, so that every one that waits gets its share of the locks that come free.
                number, share, line = next(iter(starved)), 1, starved
            else:
                break
            ring = self._rings.get(number)
            left = self._serve(broker, number, ring, share, now) if ring is not None else share
            # A queue that had nothing costs a little, too.
            limit -= max(1, share - left)
            del line[number]
            if not left:
                line[number] = None
            elif ring and broker.locks.full:
                # It may have been refused for that.
                starved[number] = None
        if self._changed:
            self._tell(broker)
        return bool(turns) or (bool(starved) and not broker.locks.full)

    def _tell(self, broker: Source) -> None:
        for number in self._changed:
            if number in self._rings:
                broker.watched.add(number)
            else:
                broker.watched.discard(number)
        self._changed.clear()

    def _line_up(self, number: int) -> None:
        """A queue may have a message for a waiting subscriber."""
        if self._starved:
            if number not in self._turns:
                self._starved.setdefault(number)
        else:
            self._turns[number] = None

    def _follow(self, named: list[tuple[int, str | None]]) -> None:
        """Lead subscriptions from queues that were deleted to those that have their names now."""
        for number, name in named:
            if name is None:
                for subscription in self._members.pop(number, ()):
                    self._orphans.setdefault(subscription.name, OrderedDict())[subscription] = None
                if self._rings.pop(number, None) is not None:
                    self._changed.add(number)
                self._turns.pop(number, None)
                self._starved.pop(number, None)
            elif name in self._orphans:
                for subscription in self._orphans.pop(name):
                    subscription.queue_number = number
                    self._members.setdefault(number, OrderedDict())[subscription] = None
                    self.resume(subscription)

    def _serve(self, broker: Source, number: int, ring: _Subscriptions, share: int, now: int) -> int:
        """Hand out up to `share` messages of one queue.

        Returns what is left of the share; 0 when there may be more, also when the characters are used up.
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
            try:
                delivery = broker.consume_number(number, subscription.consumer, subscription.lock_seconds, now)
            except PayloadUnreadable:
                self._unreadable.add(number)
                return share
            if delivery is None:
                # Empty, or the index of locks is full: the broker says when it is worth another look.
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
            self.uncommitted = True
            sink.deliver(subscription, delivery)
            self._characters -= len(delivery.payload)
            if self._characters <= 0:
                break
        return 0

    def _leave(self, subscription: Subscription, ring: _Subscriptions) -> None:
        del ring[subscription]
        if not ring:
            number = subscription.queue_number
            self._rings.pop(number, None)
            self._changed.add(number)


K = TypeVar("K")


def _take_out(groups: dict[K, _Subscriptions], key: K, subscription: Subscription) -> None:
    group = groups.get(key)
    if group is not None:
        group.pop(subscription, None)
        if not group:
            del groups[key]
