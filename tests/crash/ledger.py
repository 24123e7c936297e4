"""What clients know about their messages, and what follows from it.

Rule: the ledger believes responses only. It notes a request before it is sent and its outcome after the response came,
each with a tick of one counter, so "before" and "after" are certain. A promise that was broken is an AssertionError at
the moment it is seen, or in `check_order` and `check_stored` afterwards.

Locks are taken for so long that none ends during a test.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

QUEUES = {"urgent first": True, "first in, first out": False}
"""Queue -> whether the priority counts (MaxFirst) or not (Fifo)."""
LOCK_SECONDS = 100_000
LARGE = 6_000
"""Bytes of a large payload: it goes to a segment file."""


@dataclass(eq=False, slots=True)
class Message:
    """One publish, whatever became of it."""

    name: str
    queue: str
    priority: int
    payload: str
    publisher: str
    sent: int
    """Tick at which its publish was sent."""
    published: float = inf
    """Tick at which the publish was answered."""
    id: str = ""
    acked: bool = False
    ack_sent: bool = False
    unclear: bool = False
    """Its ack was sent and its connection died: it may be there or not."""
    deliveries: int = 0
    holder: str | None = None
    """The consumer that has it, and has sent neither ack nor nack."""
    available: list[list[float]] = field(default_factory=list)
    """Spans of ticks in which it was certainly available."""

    @property
    def rank(self) -> int:
        """Smaller is first."""
        return -self.priority if QUEUES[self.queue] else 0


@dataclass(slots=True)
class Consume:
    """One request for a message."""

    queue: str
    sent: int
    answered: float = inf
    message: Message | None = None


class Ledger:
    """The books of all clients of one store."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.messages: dict[str, Message] = {}
        """By name."""
        self.consumes: list[Consume] = []
        self.responses = 0
        """Responses that came, of any kind."""
        self._last = 0
        self._at_last: Callable[[], None]
        self._ticks = itertools.count()
        self._numbers = itertools.count()

    def tick(self) -> int:
        return next(self._ticks)

    def answered(self) -> None:
        """Any response came."""
        self.responses += 1
        if self.responses == self._last:
            self._at_last()

    def call_after(self, responses: int, function: Callable[[], None]) -> None:
        """Call `function` with that many more responses, before a client sends a thing because of the last of them."""
        self._last = self.responses + responses
        self._at_last = function

    # Publish

    def publishing(self, publisher: str, queue: str | None = None) -> Message:
        """A new message, about to be sent to `queue`, or to any."""
        name = f"{publisher}-{next(self._numbers)}"
        queue = queue or self.random.choice(list(QUEUES))
        padding = "." * (LARGE if self.random.random() < 0.05 else 0)
        message = Message(name, queue, self.random.randrange(5), f"{name}|{padding}", publisher, self.tick())
        self.messages[name] = message
        return message

    def published(self, message: Message, id: str) -> None:
        self.answered()
        assert id, message
        assert message.id in ("", id), f"another id than it was delivered with: {message}"
        message.id = id
        message.published = self.tick()
        if not message.deliveries:
            message.available.append([message.published, inf])

    # Consume

    def consuming(self, queue: str) -> Consume:
        consume = Consume(queue, self.tick())
        self.consumes.append(consume)
        return consume

    def nothing(self, consume: Consume) -> None:
        self.answered()
        consume.answered = self.tick()

    def delivered(self, consume: Consume, consumer: str, id: str, payload: str) -> Message:
        """A message came: it may be nobody else's, and never one that was acked."""
        self.answered()
        consume.answered = self.tick()
        message = self.received(consumer, consume.queue, id, payload, consume.sent)
        consume.message = message
        return message

    def received(self, consumer: str, queue: str, id: str, payload: str, since: float) -> Message:
        """The same for a delivery that was pushed; it was asked for at tick `since`."""
        message = self.messages.get(payload.partition("|")[0])
        assert message is not None, f"a payload that nobody sent: {payload[:100]!r}"
        assert message.payload == payload, f"not the payload that was sent: {message.name}"
        assert message.queue == queue, f"in queue {queue!r}: {message}"
        assert message.id in ("", id), f"two ids, {id} now: {message}"
        assert not message.acked, f"delivered to {consumer} after its ack was answered: {message}"
        assert message.holder is None, f"delivered to {consumer} while {message.holder} holds it: {message}"
        assert not message.ack_sent, f"delivered to {consumer} while an ack under a lock is on its way: {message}"
        message.id = id
        message.holder = consumer
        message.deliveries += 1
        message.unclear = False
        if message.available and message.available[-1][1] == inf:
            message.available[-1][1] = since
        return message

    # Settle

    def settling(self, message: Message, ack: bool) -> int:
        """An ack or nack is about to be sent. Returns what `nacked` wants to know."""
        assert message.holder is not None
        message.holder = None
        message.ack_sent = ack
        self.tick()
        return message.deliveries

    def acked(self, message: Message) -> None:
        self.answered()
        message.acked = True

    def nacked(self, message: Message, deliveries: int) -> None:
        """`deliveries`: what `settling` returned. Who was faster than the response may have it by now."""
        self.answered()
        if message.deliveries == deliveries:
            message.available.append([self.tick(), inf])

    def connection_died(self, consumer: str, unanswered: Iterable[Message]) -> None:
        """What a WebSocket held may go to others. `unanswered`: acks that were sent; they were done or not."""
        for message in self.messages.values():
            if message.holder == consumer:
                message.holder = None
        for message in unanswered:
            message.ack_sent = False
            message.unclear = True

    # Afterwards

    def check_order(self, available: Iterable[str]) -> None:
        """No consume was given a message while one before it in the order was certainly available all the time.

        `available`: the payloads of those that are available at the end.
        """
        still = {payload.partition("|")[0] for payload in available}
        for queue in QUEUES:
            consumes = [consume for consume in self.consumes if consume.queue == queue]
            lost = [consume.sent for consume in consumes if consume.answered == inf]
            spans = []
            for message in self.messages.values():
                if message.queue != queue:
                    continue
                for begin, end in message.available:
                    if end == inf and message.name not in still:
                        # A consume took it whose response was lost: at the earliest, the first of those.
                        end = lost[0] if lost else inf
                    spans.append((begin, end, message))
            spans.sort(key=lambda span: span[0])
            self._sweep([consume for consume in consumes if consume.message is not None], spans)

    def _sweep(self, consumes: list[Consume], spans: list[tuple[float, float, Message]]) -> None:
        heap: list[tuple[int, float, int, float]] = []
        position = 0
        for consume in consumes:
            got = consume.message
            assert got is not None
            while position < len(spans) and spans[position][0] < consume.sent:
                _, end, message = spans[position]
                heapq.heappush(heap, (message.rank, message.published, position, end))
                position += 1
            aside = []
            while heap and heap[0][3] <= consume.answered:
                entry = heapq.heappop(heap)
                if entry[3] > consume.sent:
                    aside.append(entry)
            if heap:
                rank, published, index, _ = heap[0]
                before = rank < got.rank or (rank == got.rank and published < got.sent)
                assert not before, f"{got} was given while {spans[index][2]} came before it and was available"
            for entry in aside:
                heapq.heappush(heap, entry)

    def check_stored(self, queue: str, available: list[str], locked: list[str]) -> None:
        """All payloads that a queue holds, in its order: nothing answered is missing, nothing acked is there."""
        found = self._check_sound(queue, available) + self._check_sound(queue, locked)
        assert len(set(found)) == len(found), "a message is stored twice"
        expected = {
            message
            for message in self.messages.values()
            if message.queue == queue and message.published < inf and not message.ack_sent and not message.unclear
        }
        missing = expected - set(found)
        assert not missing, f"{len(missing)} answered messages are lost, such as {min(missing, key=lambda m: m.sent)}"

    def _check_sound(self, queue: str, payloads: list[str]) -> list[Message]:
        found: list[Message] = []
        for payload in payloads:
            message = self.messages.get(payload.partition("|")[0])
            assert message is not None, f"a payload that nobody sent: {payload[:100]!r}"
            assert message.payload == payload, f"not the payload that was sent: {message.name}"
            assert message.queue == queue, f"in queue {queue!r}: {message}"
            assert not message.acked, f"still stored after its ack was answered: {message}"
            found.append(message)
        ranks = [message.rank for message in found]
        assert ranks == sorted(ranks), "not in the order of priorities"
        last: dict[tuple[str, int], int] = {}
        for message in found:
            place = message.publisher, message.rank
            assert last.get(place, -1) < message.sent, f"not first in, first out: {message}"
            last[place] = message.sent
        return found
