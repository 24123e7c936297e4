"""One WebSocket connection without its socket: text frames in, frames out, deliveries under credit.

Rule: the frames that arrived together are one burst. A carrier takes it through three steps:

    burst = session.receive(frames)            # decoded; nothing has happened yet
    session.run(burst, broker, now, budget)    # inside Engine.transact, again while it returns True
    session.finish(burst)                      # the changes are durable: now the answers may leave

and sends what `take` gives until `close_code` is set and nothing is left. Answers come in the order of the requests.
Deliveries come from the dispatcher, to which this session is a sink; they are locked only when there is room to send
them. The connection is one consumer: when it ends, `leave` and then
`give_back` return whatever it still holds.

No sockets, no Trio, no clock: times are wall milliseconds, passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from qrusty_trio.api import ws_frames, ws_requests
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.api.ws_frames import Misshapen, Request
from qrusty_trio.api.ws_logs import LogReader, LogRing
from qrusty_trio.api.ws_outbox import Outbox
from qrusty_trio.api.ws_requests import Refusal, SessionBroker
from qrusty_trio.core.dispatch import Dispatcher, Subscription
from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import StorageFault

MAX_FRAME_BYTES = 2 * 1024 * 1024
MAX_LOG_FRAMES = 50
"""Log frames sent in one go, so that deliveries never wait behind many of them."""
SWEEP_FROM = 1024
"""Held messages from which on those whose lock has ended are looked for."""

NORMAL = 1000
GOING_AWAY = 1001
UNSUPPORTED_DATA = 1003
INVALID_DATA = 1007
TOO_BIG = 1009
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013


class Held(NamedTuple):
    """A message that the connection was delivered and has not settled."""

    queue_number: int
    name: str
    """What the client calls its queue."""
    until: int
    """End of the lock, wall milliseconds. A guess that is never too early."""
    frame: int
    """Number of the delivery's frame in the outbox."""


class QueueSubscription(Subscription):
    """A subscription of a session."""

    __slots__ = ("asked_credits", "prefix")

    prefix: bytes
    """The start of its delivery frames."""
    asked_credits: int | None
    """What it began with."""


class Burst:
    """The frames that arrived together, on their way through the engine."""

    __slots__ = ("answers", "changes", "counts", "next", "position", "released", "requests", "weight")

    def __init__(self, requests: list[Request | Misshapen]) -> None:
        self.requests = requests
        self.changes = any(type(each) is Request and each.type in ws_requests.CHANGING for each in requests)
        """Whether the answers have to wait until the changes are durable."""
        self.weight = sum(1 + len(each.ids) if type(each) is Request and each.ids else 1 for each in requests)
        """Roughly how many operations it is."""
        self.next = 0
        """The request to run next."""
        self.position = 0
        """How many ids of a batch-ack or batch-nack are done, when it is too long for one step."""
        self.counts: dict[str, int] = {}
        """What came of those ids so far."""
        self.answers: list[bytes | None] = []
        """One for each request that was run; None for `no_reply`."""
        self.released: list[tuple[str, Held]] = []
        """What the connection ceased to hold: it holds it again if the changes could not be stored."""


class WsSession:
    """One connection. `wake` is called when `take` has something new to give, on the caller's thread, often."""

    def __init__(
        self,
        consumer: str,
        dispatcher: Dispatcher,
        gate: Gate,
        logs: LogRing,
        wake: Callable[[], None],
        budget: Budget | None = None,
    ) -> None:
        self.consumer = consumer
        self.dispatcher = dispatcher
        self.gate = gate
        self.outbox = Outbox(wake, budget)
        self.subscriptions: dict[str, QueueSubscription] = {}
        """By the name that the client used."""
        self.close_code: int | None = None
        """Set when the connection has to be closed, once everything in the outbox has been sent."""
        self.close_reason = ""
        self.ending: Ending | None = None
        """Why it is over; None while it is not."""
        self._wake = wake
        self._logs = logs
        self._log_reader: LogReader | None = None
        self.held: OrderedDict[str, Held] = OrderedDict()
        """By message id."""
        self._parked: dict[QueueSubscription, None] = {}

    # Requests

    def receive(self, frames: Iterable[str | bytes]) -> Burst:
        """Decode frames: str is a text frame, bytes a binary one.

        A frame that ends the connection sets `close_code`; the burst holds what came before it.
        """
        requests: list[Request | Misshapen] = []
        for frame in frames:
            if self.close_code is not None:
                break
            if isinstance(frame, bytes):
                self.end(UNSUPPORTED_DATA, "binary frames are not taken")
            elif len(frame) > MAX_FRAME_BYTES // 4 and len(frame.encode()) > MAX_FRAME_BYTES:
                self.end(TOO_BIG, f"a frame may have {MAX_FRAME_BYTES} bytes")
            else:
                try:
                    requests.append(ws_frames.decode(frame))
                except ws_frames.BadFrame as error:
                    self.end(INVALID_DATA, f"not JSON: {error}")
        return Burst(requests)

    def run(self, burst: Burst, broker: SessionBroker, now: int, budget: int) -> bool:
        """Run about `budget` requests of a burst; returns True while some are left.

        Raises StorageFault: call `fail` then. A request that is refused is an answer, not an exception.
        """
        requests = burst.requests
        while burst.next < len(requests):
            if budget <= 0:
                return True
            request = requests[burst.next]
            answer: bytes | None
            try:
                answer = ws_requests.run(self, burst, request, broker, now)
            except Refusal as refusal:
                answer = ws_frames.error(refusal.code, str(refusal), request.req_id)
            if answer is None:
                budget -= ws_requests.BATCH_PIECE
                continue
            budget -= 1
            burst.next += 1
            burst.answers.append(None if request.no_reply else answer)
        return False

    def finish(self, burst: Burst) -> None:
        """The changes of the burst are as durable as promised: release its answers."""
        self.outbox.put_answers([answer for answer in burst.answers if answer is not None])

    def fail(self, burst: Burst, fault: StorageFault) -> None:
        """The changes of the burst were not stored: every request that wanted to change something fails."""
        for id, held in burst.released:
            self.held[id] = held
        for index, request in enumerate(burst.requests):
            answered = index < len(burst.answers)
            if answered and not (type(request) is Request and request.type in ws_requests.STORING):
                continue
            answer = None if request.no_reply else ws_frames.error("storage_error", str(fault), request.req_id)
            if answered:
                burst.answers[index] = answer
            else:
                burst.answers.append(answer)
        self.finish(burst)

    def end(self, code: int, reason: str, ending: Ending = Ending.REFUSED) -> None:
        """Close the connection once the outbox is empty. The first code stands."""
        if self.close_code is None:
            self.close_code = code
            self.close_reason = reason
            self._wake()
        self.ended(ending)

    def ended(self, ending: Ending) -> None:
        """The connection is over. The first reason stands."""
        if self.ending is None:
            self.ending = ending

    # What the requests do to the session

    def subscribe(self, name: str, queue_number: int, lock_seconds: int, credits: int | None) -> None:
        subscription = QueueSubscription(name, queue_number, self.consumer, lock_seconds, credits, self)
        subscription.prefix = ws_frames.deliver_prefix(name)
        subscription.asked_credits = credits
        self.subscriptions[name] = subscription
        self.outbox.hold()
        self.dispatcher.add(subscription)

    def unsubscribe(self, name: str) -> None:
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self._parked.pop(subscription, None)
            self.dispatcher.remove(subscription)

    def holding(self, broker: SessionBroker, queue: str, id: str) -> str | None:
        """The present name of the queue whose message `id` this connection holds; None when it does not.

        `queue` is its present name or the one under which it was delivered: a client does not hear of a rename.
        """
        held = self.held.get(id)
        if held is None:
            return None
        name = broker.name_of(held.queue_number)
        return name if queue in (name, held.name) else None

    def release(self, burst: Burst, id: str) -> None:
        """The message was acked or nacked."""
        held = self.held.pop(id, None)
        if held is not None:
            burst.released.append((id, held))

    def extend(self, id: str, until: int) -> None:
        """The lock was renewed; it ends at `until`, wall milliseconds."""
        held = self.held.get(id)
        if held is not None:
            self.held[id] = held._replace(until=until)

    def follow_logs(self) -> None:
        if self._log_reader is None:
            self._log_reader = LogReader(self._logs, self._wake)

    def ignore_logs(self) -> None:
        if self._log_reader is not None:
            self._log_reader.close()
            self._log_reader = None

    # Deliveries: what the dispatcher calls

    def room(self) -> bool:
        return self.close_code is None and self.outbox.room()

    def deliver(self, subscription: Subscription, delivery: Delivery, now: int) -> None:
        assert isinstance(subscription, QueueSubscription)
        frame = self.outbox.put(ws_frames.deliver(subscription.prefix, delivery))
        held = self.held
        held[delivery.id] = Held(
            delivery.queue_number, subscription.name, now + subscription.lock_seconds * 1000, frame
        )
        if len(held) > SWEEP_FROM:
            # Two looked at for each one that comes in: what expired unsettled can't pile up.
            for _ in range(2):
                oldest = next(iter(held))
                if held[oldest].until < now:
                    del held[oldest]
                else:
                    held.move_to_end(oldest)

    def retract(self, subscription: Subscription, delivery: Delivery) -> None:
        self.outbox.take_back(self.held.pop(delivery.id).frame)
        if self._parked and self.room():
            self.resume()

    def parked(self, subscription: Subscription) -> None:
        assert isinstance(subscription, QueueSubscription)
        self._parked[subscription] = None

    # Output

    def take(self) -> list[bytes]:
        """Everything that may leave now, in order: UTF-8 JSON, one text frame each. Call `sent` when it has left."""
        if self._log_reader is not None and self.outbox.room():
            for frame in self._log_reader.read(MAX_LOG_FRAMES):
                self.outbox.put(frame)
        return self.outbox.take()

    def sent(self) -> bool:
        """What was taken has left. Returns True when `resume` has to be called, and the dispatcher to be pumped."""
        self.outbox.sent()
        return self.can_resume()

    def can_resume(self) -> bool:
        return bool(self._parked) and self.room()

    def resume(self) -> None:
        """There is room again: let the subscriptions that were parked take part."""
        for subscription in self._parked:
            self.dispatcher.resume(subscription)
        self._parked.clear()

    # The end

    def leave(self) -> None:
        """The connection is gone: no more deliveries."""
        for name in list(self.subscriptions):
            self.unsubscribe(name)
        self.ignore_logs()
        self.outbox.close()

    def give_back(self, broker: SessionBroker, now: int, limit: int) -> None:
        """Give back up to `limit` of what the connection holds, until `held` is empty.

        A delivery counts when its frame left and the ending counts.
        """
        counts = self.ending is None or self.ending.counts
        while self.held and limit > 0:
            id, held = self.held.popitem()
            counted = counts and held.frame < self.outbox.taken
            broker.give_back(held.queue_number, id, self.consumer, now, counted=counted)
            limit -= 1
