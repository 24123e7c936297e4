"""Dispatch: the waiting subscribers of a queue get its messages in turn.

Rule: a message is locked only for a subscriber that has credit and room for it. The cost of a delivery does not depend
on the number of subscribers. Every queue has a ring of the subscribers that can take a message now. The one at the head
gets the next message and moves to the tail. One without credit or room leaves the ring. It is ignored until `resume`
brings it back.

A subscriber names its queue once. The subscription follows that queue through a rename, of which its sink is told
before it is given anything more. When the queue is deleted, or there was none (NO_QUEUE), the subscription waits for
the next queue of the name it was made with, whether newly created or renamed to it.

Pure and synchronous, like the broker: nothing here waits or knows a socket. `dispatch` runs inside a transaction of the
engine, after its operations, so that a publish and its delivery share one batch.

Requirements: SCH-0022
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol, TypeVar

from qrusty_trio.core.deadlines import Deadlines
from qrusty_trio.core.model import Delivery
from qrusty_trio.core.unsynced import Unsynced
from qrusty_trio.errors import PayloadUnreadable

TURN = 32
"""Messages delivered from one queue before the next queue with messages gets its turn."""
MOVED_PER_STEP = 500
"""Subscriptions that leave a deleted queue, join a new one, or are told of a rename, in one step: under 1 ms."""
NO_QUEUE = -1
"""The queue number of a subscription whose queue does not exist."""
STEP_CHARACTERS = 512 * 1024
"""Payload characters delivered in one step, or a single larger payload: 2 MiB take at most 2 ms."""


class Locks(Protocol):
    """What the dispatcher needs of the lock index.

    Requirements: SCH-0027
    """

    @property
    def full(self) -> bool: ...


class Names(Protocol):
    """What the dispatcher needs of the catalog of queues."""

    named: list[tuple[int, str | int | None]]

    def take_named(self) -> list[tuple[int, str | int | None]]: ...


class Source(Protocol):
    """What the dispatcher needs of the broker.

    Requirements: DLV-0035
    """

    watched: set[int]
    ready: set[int]

    @property
    def locks(self) -> Locks: ...

    @property
    def catalog(self) -> Names: ...

    def take_ready(self) -> set[int]: ...

    def consume_number(self, queue_number: int, consumer: str, lock_seconds: int, now: int) -> Delivery | None: ...


class Sink(Protocol):
    """Where the deliveries of a subscription go: one connection.

    Requirements: WS-0018
    """

    def room(self) -> bool:
        """Whether it can take one more delivery."""

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """Take a delivery. Never refuses: `room` was asked just before."""

    def paused(self, subscription: Subscription) -> None:
        """The subscription left the ring for lack of room. Call `Dispatcher.resume` when there is room again."""

    def renamed(self, subscription: Subscription) -> None:
        """Its queue has another name now, `called`. Must not add or remove subscriptions."""


class Subscription:
    """A consumer waiting for messages of one queue.

    Requirements: SCH-0025
    """

    __slots__ = (
        "active",
        "called",
        "consumer",
        "credits",
        "generation",
        "lock_seconds",
        "name",
        "queue_number",
        "sink",
    )

    def __init__(
        self, name: str, queue_number: int, consumer: str, lock_seconds: int, credits: int | None, sink: Sink
    ) -> None:
        self.name = name
        """The name the subscriber asked for. A rename of the queue does not change it."""
        self.called = name
        """The name of its queue that it knows: before a delivery, that of now. Changed by the dispatcher only."""
        self.queue_number = queue_number
        """Changed by the dispatcher only."""
        self.consumer = consumer
        self.lock_seconds = lock_seconds
        self.credits = credits
        """Deliveries it may still get; None: no limit."""
        self.sink = sink
        self.active = False
        """True from `Dispatcher.add` to `Dispatcher.remove`. A removed subscription can't be added again."""
        self.generation: int
        """`Dispatcher.generation` when it was added."""


_Subscriptions = OrderedDict[Subscription, None]


class Dispatcher:
    """The rings of all queues that have subscribers."""

    def __init__(self) -> None:
        self.generation = 0
        """Counts the storage faults. Subscriptions from before the last one are void."""
        self._members: dict[int, _Subscriptions] = {}
        """Queue number -> its subscribers, whether they can take a message or not."""
        self._orphans: dict[str, _Subscriptions] = {}
        """Name -> subscribers whose queue does not exist. They wait for a new queue of that name."""
        self._leaving: deque[_Subscriptions] = deque()
        """The subscribers of deleted queues: they join `_orphans` bit by bit."""
        self._adopting: OrderedDict[int, str] = OrderedDict()
        """New queues, number -> name, that some in `_orphans` or `_leaving` may wait for: these join bit by bit."""
        self._names: dict[int, str] = {}
        """Queue number -> its name, of those renamed of which some subscribers were not told yet."""
        self._to_tell: _Subscriptions = OrderedDict()
        """Those that may not have been told. They are told bit by bit, or when it is their turn for a message."""
        self._rings: dict[int, _Subscriptions] = {}
        """Queue number -> the subscribers that can take a message, next one first. No empty rings."""
        self._turns: OrderedDict[int, None] = OrderedDict()
        """Queues that may have messages for a waiting subscriber, next one first."""
        self._starved: OrderedDict[int, None] = OrderedDict()
        """Queues that wait for a free lock, next one first. While there are any, all others queue up behind them."""
        self._changed: set[int] = set()
        """Queues whose ring was created or removed since the last `dispatch`, so `Source.watched` must be updated."""
        self._unreadable: set[int] = set()
        """Queues whose first payload can't be read for now."""
        self.uncommitted = False
        """Whether there are deliveries that are not committed yet. Whoever commits them sets it to False."""
        self.unsynced: Unsynced | None = None
        """Who holds back its deliveries until the next sync; None: they leave at once."""
        self.deadlines = Deadlines()
        """The subscribers that want to be warned before their locks end."""
        self._characters: int
        """Payload characters that may still be delivered in this step."""

    def add(self, subscription: Subscription) -> None:
        """Add a new subscription. The next `dispatch` delivers messages that are already in its queue."""
        subscription.active = True
        subscription.generation = self.generation
        if subscription.queue_number == NO_QUEUE:
            self._orphans.setdefault(subscription.name, OrderedDict())[subscription] = None
            return
        self._members.setdefault(subscription.queue_number, OrderedDict())[subscription] = None
        self.resume(subscription)

    def resume(self, subscription: Subscription) -> None:
        """Bring back a subscription that has credit or room again.

        No effect when it is void, is still in the ring, or has no credit.
        """
        if not subscription.active or subscription.credits == 0 or subscription.generation != self.generation:
            return
        number = subscription.queue_number
        if number not in self._members:
            return  # its queue was deleted; `_move` resumes it when there is a new one of that name
        ring = self._rings.get(number)
        if ring is None:
            ring = self._rings[number] = OrderedDict()
            self._changed.add(number)
        elif subscription in ring:
            return  # it gets its turn
        ring[subscription] = None
        self._line_up(number)

    def remove(self, subscription: Subscription) -> None:
        """End a subscription. Its delivered messages stay locked; returning them is up to the owner.

        Requirements: WS-0015
        """
        subscription.active = False
        number = subscription.queue_number
        ring = self._rings.get(number)
        if ring is not None and subscription in ring:
            self._leave(subscription, ring)
        if not _take_out(self._members, number, subscription):
            _take_out(self._orphans, subscription.name, subscription)

    def clear(self) -> None:
        """Drop all subscriptions after a storage fault. Uncommitted deliveries count as never made."""
        self.generation += 1
        self._changed.update(self._rings)
        self._members, self._orphans, self._rings = {}, {}, {}
        self._leaving.clear()
        self._adopting.clear()
        self._names.clear()
        self._to_tell.clear()
        self._turns.clear()
        self._starved.clear()
        self._unreadable.clear()
        self.deadlines.clear()
        self.uncommitted = False
        if self.unsynced is not None:
            self.unsynced = Unsynced()

    def retry_unreadable(self) -> bool:
        """Retry the queues whose first payload could not be read. Returns whether there were any.

        Requirements: SCH-0028
        """
        found = [number for number in self._unreadable if number in self._rings]
        self._unreadable.clear()
        for number in found:
            self._line_up(number)
        return bool(found)

    def dispatch(self, broker: Source, now: int, limit: int) -> bool:
        """Deliver up to `limit` messages, of about STEP_CHARACTERS in total. Returns True when there may be more.

        `now` is wall time in milliseconds. Takes the ready queues from the broker and the renames from the catalog.
        Unfinished work is kept for the next call.

        Requirements: SCH-0021
        """
        if broker.catalog.named:
            self._follow(broker.catalog.take_named())
        if self._leaving or self._adopting:
            self._move()
        if self._to_tell:
            self._tell_of_renames()
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
                # One message each, so that every waiting queue gets its share of the locks that become free.
                number, share, line = next(iter(starved)), 1, starved
            else:
                break
            ring = self._rings.get(number)
            left = self._serve(broker, number, ring, share, now) if ring is not None else share
            # An empty queue costs a little, too.
            limit -= max(1, share - left)
            del line[number]
            if not left:
                line[number] = None
            elif ring and broker.locks.full:
                # The full lock index may be why it got less than its share.
                starved[number] = None
        if self._changed:
            self._set_watched(broker)
        return bool(turns or self._leaving or self._adopting or self._to_tell) or (
            bool(starved) and not broker.locks.full
        )

    def _set_watched(self, broker: Source) -> None:
        for number in self._changed:
            if number in self._rings:
                broker.watched.add(number)
            else:
                broker.watched.discard(number)
        self._changed.clear()

    def _line_up(self, number: int) -> None:
        """Give a turn to a queue that may have a message for a waiting subscriber.

        Requirements: SCH-0024
        """
        if self._starved:
            if number not in self._turns:
                self._starved.setdefault(number)
        else:
            self._turns[number] = None

    def _follow(self, named: list[tuple[int, str | int | None]]) -> None:
        """Note where subscriptions go: from deleted queues to those that have their names now, or to another number.

        Requirements: DLV-0029
        """
        for number, name in named:
            if isinstance(name, int):
                self._renumber(number, name)
                continue
            self._adopting.pop(number, None)  # Whatever that queue was called before, it is not any more.
            if name is None:
                members = self._members.pop(number, None)
                if members is not None:
                    self._leaving.append(members)
                if self._rings.pop(number, None) is not None:
                    self._changed.add(number)
                self._turns.pop(number, None)
                self._starved.pop(number, None)
                self._names.pop(number, None)
                continue
            if number in self._members:
                self._names[number] = name
                self._to_tell.update(self._members[number])
            if self._leaving or name in self._orphans:
                self._adopting[number] = name

    def _tell_of_renames(self) -> None:
        """Tell subscribers of the names that their queues have now, up to MOVED_PER_STEP."""
        for _ in range(min(MOVED_PER_STEP, len(self._to_tell))):
            subscription, _ = self._to_tell.popitem(last=False)
            if subscription.active:
                self._tell(subscription)
        if not self._to_tell:
            self._names.clear()

    def _tell(self, subscription: Subscription) -> None:
        """Tell a subscriber of the name that its queue has now, if it does not know."""
        name = self._names.get(subscription.queue_number, subscription.called)
        if subscription.called != name:
            subscription.called = name
            subscription.sink.renamed(subscription)

    def _renumber(self, number: int, successor: int) -> None:
        members = self._members.pop(number, None)
        for names in (self._names, self._adopting):
            if number in names:
                names[successor] = names.pop(number)
        if members is not None:
            for subscription in members:
                subscription.queue_number = successor
            self._members[successor] = members
        self._turns.pop(number, None)
        self._starved.pop(number, None)
        ring = self._rings.pop(number, None)
        if ring is not None:
            self._rings[successor] = ring
            self._changed.update((number, successor))
            self._line_up(successor)

    def _move(self) -> None:
        """Let subscribers leave deleted queues and then join the new ones of their names, up to MOVED_PER_STEP."""
        for _ in range(MOVED_PER_STEP):
            if self._leaving:
                leaving = self._leaving[0]
                subscription, _ = leaving.popitem(last=False)
                if subscription.active:
                    subscription.called = subscription.name
                    self._orphans.setdefault(subscription.name, OrderedDict())[subscription] = None
                if not leaving:
                    self._leaving.popleft()
            elif self._adopting:
                number, name = next(iter(self._adopting.items()))
                orphans = self._orphans.get(name)
                if orphans:
                    subscription, _ = orphans.popitem(last=False)
                    subscription.queue_number = number
                    self._members.setdefault(number, OrderedDict())[subscription] = None
                    self.resume(subscription)
                if not orphans:
                    self._orphans.pop(name, None)
                    del self._adopting[number]
            else:
                return

    def _serve(self, broker: Source, number: int, ring: _Subscriptions, share: int, now: int) -> int:
        """Deliver up to `share` messages of one queue.

        Returns the unused part of the share; 0 when there may be more, also when STEP_CHARACTERS are used up.

        Requirements: SCH-0023
        """
        while share:
            if not ring:
                return share
            subscription = next(iter(ring))
            sink = subscription.sink
            if self._names:
                self._tell(subscription)
            if not sink.room():
                self._leave(subscription, ring)
                sink.paused(subscription)
                share -= 1  # Very many may have no room at the same time.
                continue
            try:
                delivery = broker.consume_number(number, subscription.consumer, subscription.lock_seconds, now)
            except PayloadUnreadable:
                self._unreadable.add(number)
                return share
            if delivery is None:
                # The queue is empty or the lock index is full. The broker reports when to try again.
                return share
            share -= 1
            if subscription.credits is not None:
                subscription.credits -= 1
            if subscription.credits == 0:
                self._leave(subscription, ring)
            else:
                ring.move_to_end(subscription)
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


def _take_out(groups: dict[K, _Subscriptions], key: K, subscription: Subscription) -> bool:
    """Take it out of a group. Returns whether it was there."""
    if subscription not in groups.get(key, ()):
        return False
    del groups[key][subscription]
    if not groups[key]:
        del groups[key]
    return True
