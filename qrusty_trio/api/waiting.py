"""A consume that waits: it subscribes to its queues until the first message, with everyone else in turn.

Rule: a message is locked for a waiting consume only while its client is there, its token may still take it, and there
is room for the response. What waiting means is here and in `core.dispatch`; who wakes the task of a connection, and
what it watches meanwhile, is up to the connection (`Pause`). No sockets, no Trio, no clock.

Requirements: DLV-0055, DLV-0056
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from qrusty_trio.access.grants import Grant, Principal
from qrusty_trio.api.call import Call, Wait
from qrusty_trio.core.dispatch import NO_QUEUE, Dispatcher, Subscription
from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import QrustyError, StorageFault

MAX_PLACES = 100_000
"""Places in the rings of all queues that waiting consumes take together, one for each queue they name: 50 MB."""
FULL_CHARACTERS = 64 * 1024
"""A waiting batch takes no more messages in the step that woke it once it has this much payload."""


class Room(Protocol):
    """What the connection has to say to a delivery."""

    def room(self) -> bool:
        """Whether a response of any size may be made now."""

    def took(self, characters: int) -> None:
        """So much payload waits to be sent."""

    def wake(self) -> None:
        """There is something to see: the task of the connection should look."""


class Names(Protocol):
    """What waiting needs of the catalog of queues."""

    def find_number(self, name: str) -> int | None: ...


Renew = Callable[[Principal], Principal]
"""What a token may do now. Raises Unauthenticated if it was revoked or has expired."""


class Waiter:
    """One consume that waits: a sink of the dispatcher."""

    __slots__ = (
        "_call",
        "_characters",
        "_renew",
        "_room",
        "_subscriptions",
        "_wait",
        "deliveries",
        "fault",
        "name",
        "short",
        "strayed",
    )

    def __init__(self, wait: Wait, room: Room, call: Call | None = None, renew: Renew | None = None) -> None:
        """`call`: the call that waits. `renew`: what its token may do now; None where the server has no tokens."""
        self._wait = wait
        self._room = room
        self._call = call
        self._renew = renew
        self._subscriptions: list[Subscription] = []
        self._characters = 0
        self.deliveries: list[Delivery] = []
        """What it was handed out."""
        self.name = ""
        """The queue that this came from, by the name that was asked for."""
        self.fault: StorageFault | None = None
        """Why it waits no more."""
        self.short = False
        """A message was there, but no room for its response."""
        self.strayed = False
        """A queue that it waits for has a name by now whose messages its token may not take: it has to join anew."""

    @property
    def places(self) -> int:
        """What it takes of MAX_PLACES."""
        return len(self._wait.names)

    def join(self, dispatcher: Dispatcher, catalog: Names) -> None:
        """Wait for each of its queues. An unknown one is waited for by its name, until it is made."""
        self.short = self.strayed = False
        for name in self._wait.names:
            number = catalog.find_number(name)
            subscription = Subscription(
                name, NO_QUEUE if number is None else number, self._wait.consumer, self._wait.lock_seconds, None, self
            )
            self._subscriptions.append(subscription)
            dispatcher.add(subscription)

    def leave(self, dispatcher: Dispatcher) -> None:
        """Wait no more."""
        for subscription in self._subscriptions:
            dispatcher.remove(subscription)
        self._subscriptions.clear()

    def refusal(self) -> QrustyError | None:
        """Why its call would be refused now: its token was revoked, has expired or lost a grant. None if it would not.

        Requirements: API-0189
        """
        call = self._call
        held = call.principal if call is not None else None
        if call is None or held is None or self._renew is None:
            return None
        try:
            current = self._renew(held)
            if current is not held:
                for name in self._wait.names:
                    current.require(Grant.CONSUME, name)
                call.principal = current
                for each in self._subscriptions:
                    self.renamed(each)
        except QrustyError as refusal:
            return refusal
        return None

    # For the dispatcher

    def room(self) -> bool:
        if self.refusal() is not None or self.strayed:
            return False
        if not self.deliveries:
            return self._room.room()
        if len(self.deliveries) >= self._wait.most or self._characters >= FULL_CHARACTERS:
            return False
        # Before its task runs, another queue may have got the name. What a reply hands out is of one queue.
        number = self.deliveries[0].queue_number
        return all(each.queue_number == number for each in self._subscriptions) and self._room.room()

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.name = subscription.name
        self._characters += len(delivery.payload)
        self._room.took(self._characters)
        self._room.wake()

    def paused(self, subscription: Subscription) -> None:
        if not self.deliveries and not self.short:
            self.short = True
            self._room.wake()

    def renamed(self, subscription: Subscription) -> None:
        principal = self._call.principal if self._call is not None else None
        if principal is not None and not principal.may(Grant.CONSUME, subscription.called):
            self.strayed = True
            self._room.wake()
