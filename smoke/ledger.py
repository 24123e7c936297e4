"""The ledger of one queue: what was published, who got it when, and what that says about the promises.

Rule: no sockets and no clock; times are arguments, in seconds of one monotonic clock. Every time is on the safe side.
A message is surely available from the moment its publish (or nack) was confirmed to the moment somebody asked for what
turned out to be it. So nothing that a correct server does is called a fault, whatever the network delays.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from smoke.failures import BrokenPromise

SHOWN = 3
"""Most messages that a failure names."""


@dataclass(slots=True)
class Delivery:
    """One time that a message was handed out."""

    number: int
    """1 for the first delivery of a message."""
    consumer: str
    asked: float
    """The server can't have handed it out earlier."""
    received: float
    settling: float = math.inf
    """When the ack or nack was sent."""
    settled: float = math.inf
    """When it was confirmed."""
    acked: bool = False


@dataclass(slots=True)
class Message:
    """What is known of one message."""

    payload: str
    rank: int
    """Index of its priority among those of the queue, best first."""
    sent: float
    confirmed: float = math.inf
    id: str = ""
    deliveries: list[Delivery] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return bool(self.deliveries) and self.deliveries[-1].acked and self.deliveries[-1].settled < math.inf

    def available(self) -> Iterator[tuple[float, float]]:
        """The spans of time in which it surely was available."""
        begin = self.confirmed
        for delivery in self.deliveries:
            if begin < delivery.asked:
                yield begin, delivery.asked
            begin = math.inf if delivery.acked else delivery.settled
        if begin < math.inf:
            yield begin, math.inf


class Ledger:
    """All messages of a queue. `priorities` are those in use, best first."""

    def __init__(self, queue: str, config: dict[str, str], priorities: Sequence[int | str]) -> None:
        self.queue = queue
        self.config = config
        """The `config` of a create-queue request."""
        self.priorities = priorities
        self._messages: dict[str, Message] = {}
        self._in_vain: list[tuple[float, float]] = []
        """When consumers asked and got nothing: asked, received."""
        self.confirmed = 0
        self.acked = 0
        self.nacked = 0

    @property
    def open(self) -> int:
        """Messages that were sent and whose ack is not confirmed."""
        return len(self._messages) - self.acked

    def compose(self, rank: int, now: float) -> Message:
        """A new message, about to be published."""
        message = Message(f"{self.queue} {len(self._messages)}", rank, now)
        self._messages[message.payload] = message
        return message

    def published(self, message: Message, id: str, now: float) -> None:
        message.id = id
        message.confirmed = now
        self.confirmed += 1

    def delivered(self, id: str, payload: str, consumer: str, asked: float, now: float) -> Delivery:
        """Someone got a message. Raises BrokenPromise if it is not one of ours, or not free to be delivered."""
        message = self._messages.get(payload)
        if message is None:
            raise BrokenPromise(
                f"what {self.queue} delivers", "a message that was published to it", f"{payload[:80]!r} (id {id})"
            )
        if message.id and message.id != id:
            raise BrokenPromise(f"the id of {payload!r}", message.id, id)
        if message.deliveries:
            last = message.deliveries[-1]
            if last.settling == math.inf:
                raise BrokenPromise(
                    "nothing is with two consumers at once",
                    f"{payload!r} with {last.consumer} only, who has not settled it",
                    f"it was delivered to {consumer}, too",
                )
            if last.acked:
                raise BrokenPromise(
                    "what is acked is gone", f"{payload!r} gone after the ack of {last.consumer}", f"{consumer} got it"
                )
        number = len(message.deliveries) + 1
        message.deliveries.append(Delivery(number, consumer, max(asked, message.sent), now))
        return message.deliveries[-1]

    def delivered_nothing(self, asked: float, now: float) -> None:
        """A consumer asked and got nothing."""
        self._in_vain.append((asked, now))

    def settling(self, delivery: Delivery, acked: bool, now: float) -> None:
        """The ack or nack is about to be sent."""
        delivery.settling = now
        delivery.acked = acked

    def settled(self, delivery: Delivery, now: float) -> None:
        delivery.settled = now
        if delivery.acked:
            self.acked += 1
        else:
            self.nacked += 1

    def check_nothing_lost(self) -> None:
        """When all is drained. Raises BrokenPromise if a confirmed message was not acked."""
        left = [message for message in self._messages.values() if not message.done]
        if left:
            named = ", ".join(f"{message.payload!r} ({_story(message)})" for message in left[:SHOWN])
            raise BrokenPromise(
                f"nothing of {self.queue} is lost",
                f"{len(self._messages)} messages published, delivered and acked",
                f"{len(left)} that were not: {named}" + (", ..." if len(left) > SHOWN else ""),
            )

    def check_order(self) -> None:
        """Raises BrokenPromise if a message was handed out while a better one surely was available.

        Better is a better priority, or an equal one that was confirmed before the other was sent.
        """
        spans = sorted(
            (begin, message.rank, message.confirmed, end, message.payload)
            for message in self._messages.values()
            for begin, end in message.available()
        )
        responses: list[tuple[float, float, Message | None]] = [
            (delivery.asked, delivery.received, message)
            for message in self._messages.values()
            for delivery in message.deliveries
        ]
        responses += [(asked, received, None) for asked, received in self._in_vain]
        waiting: list[tuple[int, float, float, str]] = []
        """A heap of what is available: rank, when confirmed, until when, payload."""
        index = 0
        for asked, received, message in sorted(responses, key=lambda response: response[:2]):
            while index < len(spans) and spans[index][0] < asked:
                heapq.heappush(waiting, spans[index][1:])
                index += 1
            better = _first_that_stays(waiting, asked, received)
            if better is None or (message is not None and (message.rank, message.sent) <= better[:2]):
                continue
            got = f"{message.payload!r} (priority {self.priorities[message.rank]!r})" if message else "nothing"
            raise BrokenPromise(
                f"the order of {self.queue}",
                f"{better[3]!r} (priority {self.priorities[better[0]]!r}) first, as it was available",
                f"{got} was handed out",
            )


def _first_that_stays(
    waiting: list[tuple[int, float, float, str]], asked: float, received: float
) -> tuple[int, float, float, str] | None:
    """The best entry that is available from `asked` to `received`. Entries that ended before are dropped for good."""
    aside = []
    found = None
    while waiting:
        best = waiting[0]
        if best[2] > received:
            found = best
            break
        heapq.heappop(waiting)
        if best[2] > asked:
            aside.append(best)
    for entry in aside:
        heapq.heappush(waiting, entry)
    return found


def _story(message: Message) -> str:
    if not message.deliveries:
        return "never delivered"
    last = message.deliveries[-1]
    if last.settling == math.inf:
        return f"with {last.consumer}"
    if last.settled == math.inf:
        return f"{'ack' if last.acked else 'nack'} of {last.consumer} not confirmed"
    return f"nacked by {last.consumer}, not delivered again"
