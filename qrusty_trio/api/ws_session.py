"""One WebSocket connection without its socket: text frames in, frames out, deliveries under credit.

Rule: frames that arrived together are one burst. `http.websocket` takes it through three steps:

    burst = session.receive(frames)            # decoded; nothing has happened yet
    session.run(burst, broker, now, budget)    # inside Engine.change; repeated while it returns True
    session.finish(burst)                      # the changes are durable: the responses may be sent

It then sends what `take` returns, until `close_code` is set and nothing is left. Responses come in the order of the
requests. Deliveries come from the dispatcher, for which this session is a sink; a message is locked only when there is
room to send it. The connection is one consumer, and the lock index knows what it holds. When the connection ends, it
calls `leave`, and the engine gives those messages back.

A store fault ends the session (`expired`): the messages it holds are given back, and the connection is closed.

No sockets, no Trio, no clock: times are wall-clock milliseconds, passed in.

Requirements: WS-0003
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qrusty_trio.access.grants import Grant, Principal
from qrusty_trio.api import ws_frames, ws_requests
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_burst import CHANGING, STORING, Burst
from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.api.ws_frames import Misshapen, Refusal, Request
from qrusty_trio.api.ws_logs import LogReader, LogRing
from qrusty_trio.api.ws_outbox import Outbox
from qrusty_trio.api.ws_requests import QueueSubscription, SessionBroker
from qrusty_trio.core.dispatch import Dispatcher, Subscription
from qrusty_trio.core.model import Delivery
from qrusty_trio.core.queue import Lock
from qrusty_trio.errors import StorageFault

MAX_FRAME_BYTES = 2 * 1024 * 1024
MAX_LOG_FRAMES = 50
"""Most log frames added at a time, so that deliveries never wait behind many of them."""
MAX_DELIVERED_FROM = 4096
"""Pairs kept of a queue's name and the number of the queue delivered under it. Beyond this, only those of current
subscriptions are kept."""

LOST_A_GRANT = "the token has lost a grant"
STORE_FAILED = "The store failed and is read anew. Connect again."
SYNC_FAILED = "A delivery could not be synced. Connect again."

NORMAL = 1000
GOING_AWAY = 1001
UNSUPPORTED_DATA = 1003
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
TOO_BIG = 1009
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013


class WsSession:
    """One connection. `wake` is called, often and on the caller's thread, when `take` has something new to return.

    Requirements: WS-0012
    """

    def __init__(
        self,
        consumer: str,
        dispatcher: Dispatcher,
        gate: Gate,
        logs: LogRing,
        wake: Callable[[], None],
        budget: Budget | None = None,
        principal: Principal | None = None,
    ) -> None:
        """`principal`: whom the connection speaks for; None where the server has no tokens."""
        self.principal = principal
        self.guarded = principal is not None
        """Whether frames need a token."""
        self.consumer = consumer
        self.dispatcher = dispatcher
        self.gate = gate
        self.outbox = Outbox(wake, budget)
        self.subscriptions: dict[str, QueueSubscription] = {}
        """By the name that the client used."""
        self.close_code: int | None = None
        """Set when the connection must be closed as soon as the outbox has been sent."""
        self.close_reason = ""
        self.ending: Ending | None = None
        """Why the connection ended; None while it is open."""
        self._wake = wake
        self._logs = logs
        self._log_reader: LogReader | None = None
        self._delivered_from: dict[tuple[str, int], None] = {}
        """Pairs (queue name as the client knows it, queue number), as an ordered set."""
        self._generation = dispatcher.generation
        self._paused: dict[QueueSubscription, None] = {}
        self._warned_of: dict[int, QueueSubscription] = {}
        """Queue number -> the subscription that wants to be warned before locks of messages from there end."""

    # Requests

    def receive(self, frames: Sequence[str | bytes]) -> Burst:
        """Decode frames: a str is a text frame, bytes are a binary one.

        A frame that ends the connection sets `close_code`. The burst holds the frames before it.
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
        return Burst(requests, frames, CHANGING if self.dispatcher.unsynced is None else STORING)

    def run(self, burst: Burst, broker: SessionBroker, now: int, budget: int) -> bool:
        """Run about `budget` requests of a burst. Returns True while some are left.

        Raises StorageFault: then call `fail`. A refused request gets a response and raises nothing.
        """
        requests = burst.requests
        while burst.next < len(requests):
            if self.expired:
                self.fail(burst, StorageFault(STORE_FAILED), finish=False)
                burst.next = len(requests)
                break
            if budget <= 0:
                return True
            request = requests[burst.next]
            response: bytes | None
            try:
                response = ws_requests.run(self, burst, request, broker, now)
            except Refusal as refusal:
                response = ws_frames.error(refusal.code, str(refusal), request.req_id)
            if response is None:
                budget -= ws_requests.BATCH_PIECE
                continue
            budget -= 1
            burst.next += 1
            burst.admitted = False
            burst.responses.append(response)
        return False

    def finish(self, burst: Burst) -> None:
        """The changes of the burst are as durable as promised: release its responses."""
        self.outbox.put_responses(
            [
                response
                for request, response in zip(burst.requests, burst.responses, strict=False)
                if not request.no_reply
            ]
        )

    def fail(self, burst: Burst, fault: StorageFault, finish: bool = True) -> None:
        """The burst was not stored: give an error response to every request that would have changed something.

        A request that did not run yet fails too. `finish`: release the responses as well.

        Requirements: WS-0011
        """
        for index, request in enumerate(burst.requests):
            answered = index < len(burst.responses)
            if answered and not (type(request) is Request and request.type in STORING):
                continue
            response = ws_frames.error("storage_error", str(fault), request.req_id)
            if answered:
                burst.responses[index] = response
            else:
                burst.responses.append(response)
        if finish:
            self.finish(burst)

    def end(self, code: int, reason: str, ending: Ending = Ending.REFUSED) -> None:
        """Close the connection once the outbox is empty. The first code stands.

        Requirements: WS-0009
        """
        if self.close_code is None:
            self.close_code = code
            self.close_reason = reason
            self._wake()
        self.ended(ending)

    def ended(self, ending: Ending) -> None:
        """Record why the connection ended. The first reason stands.

        Requirements: DLV-0015
        """
        if self.ending is None:
            self.ending = ending

    @property
    def expired(self) -> bool:
        """Whether the store has failed since the connection began."""
        return self._generation != self.dispatcher.generation

    # For `ws_requests`

    def subscribe(
        self,
        name: str,
        queue_number: int,
        lock_seconds: int,
        credits: int | None,
        warn_seconds: int | None,
        now: int,
        batch: int | None,
    ) -> None:
        """`warn_seconds`: how long before the end of a lock a warning is sent; None for no warning.

        `batch`: most deliveries in a frame; None: each has its own.
        """
        subscription = QueueSubscription(name, queue_number, self.consumer, lock_seconds, credits, self)
        subscription.warn_seconds = warn_seconds
        if warn_seconds is not None:
            self.dispatcher.deadlines.ask(self.consumer, warn_seconds, self, now)
        subscription.batch = batch
        subscription.prefix = ws_frames.deliver_prefix(name) if batch is None else ws_frames.deliver_batch_prefix(name)
        subscription.asked_credits = credits
        subscription.delivered_from = -1
        self.subscriptions[name] = subscription
        self.outbox.hold()
        self.dispatcher.add(subscription)

    def unsubscribe(self, name: str) -> None:
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self._paused.pop(subscription, None)
            self.dispatcher.remove(subscription)
            self._stop_warning(subscription)

    def _stop_warning(self, subscription: QueueSubscription) -> None:
        seconds = subscription.warn_seconds
        if seconds is None:
            return
        if self._warned_of.get(subscription.delivered_from) is subscription:
            del self._warned_of[subscription.delivered_from]
        if all(each.warn_seconds != seconds for each in self.subscriptions.values()):
            self.dispatcher.deadlines.forget(self.consumer, seconds)

    def holding(self, broker: SessionBroker, queue: str, id: str) -> str | None:
        """The current name of the queue whose message `id` this connection holds; None if it does not hold it.

        `queue` is that name, or the one under which the message was delivered: a client is not told of a rename.
        """
        held = broker.held(self.consumer, id)
        if held is None:
            return None
        name, number = held
        return name if queue == name or (queue, number) in self._delivered_from else None

    def follow_logs(self) -> None:
        if self._log_reader is None:
            self.outbox.hold()
            self._log_reader = LogReader(self._logs, self._wake)

    def replace_principal(self, principal: Principal | None) -> None:
        """The tokens were read anew: this is what the connection's token may do now; None: nothing any more.

        The connection is closed if the token or its session is gone, or if it lacks a grant for what it is subscribed
        to: on the name that was asked for, and on the one that the queue has now. What waits to be sent of its
        deliveries is never sent.

        Requirements: API-0189, API-0191
        """
        held, self.principal = self.principal, principal
        if principal is None:
            in_session = held is not None and held.session
            self._end_with_token("the session is over" if in_session else "the token was revoked or has expired")
        elif not all(
            principal.may(Grant.CONSUME, each.name) and principal.may(Grant.CONSUME, each.called)
            for each in self.subscriptions.values()
        ) or (self._log_reader is not None and not principal.everywhere(Grant.ADMIN)):
            self._end_with_token(LOST_A_GRANT)

    def _end_with_token(self, reason: str) -> None:
        self.end(POLICY_VIOLATION, reason)
        self.outbox.withdraw()

    def ignore_logs(self) -> None:
        if self._log_reader is not None:
            self._log_reader.close()
            self._log_reader = None

    # Deliveries: for the dispatcher

    def room(self) -> bool:
        return self.close_code is None and self.outbox.room()

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        assert isinstance(subscription, QueueSubscription)
        if subscription.delivered_from != delivery.queue_number:
            if subscription.warn_seconds is not None:
                self._warned_of.pop(subscription.delivered_from, None)
                self._warned_of[delivery.queue_number] = subscription
            subscription.delivered_from = delivery.queue_number
            if len(self._delivered_from) >= MAX_DELIVERED_FROM:
                self._delivered_from = {(each.name, each.delivered_from): None for each in self.subscriptions.values()}
            self._delivered_from[subscription.name, delivery.queue_number] = None
        unsynced = self.dispatcher.unsynced
        if unsynced is not None:
            unsynced.waiting[self.consumer] = self._wake
        if subscription.batch is None:
            frame = ws_frames.deliver(subscription.prefix, delivery)
            self.outbox.put_delivery(frame, delivery.id, subscription.prefix, unsynced)
        else:
            message = ws_frames.deliver(ws_frames.IN_BATCH, delivery)
            self.outbox.put_in_batch(subscription.prefix, message, delivery.id, subscription.batch, unsynced)

    def has_left(self, id: str) -> bool:
        """Whether no delivery of the message still waits in the outbox."""
        return id not in self.outbox.unsent

    def deadline_soon(self, lock: Lock, seconds: int) -> None:
        """A lock ends within `seconds`: send a warning if its subscription asked for one at that time.

        A client that reads too slowly gets none.
        """
        subscription = self._warned_of.get(lock.queue.number)
        if subscription is not None and subscription.warn_seconds == seconds and self.has_left(lock.id) and self.room():
            self.outbox.put(ws_frames.deadline_soon(subscription.name, lock.id, lock.expires_at_ms))

    def renewed(self, broker: SessionBroker, id: str, lock_seconds: int) -> None:
        """A lock was renewed. If it ends sooner than warnings are given, give one now."""
        lock = broker.locks.held(self.consumer, id)
        if lock is not None and (subscription := self._warned_of.get(lock.queue.number)) is not None:
            seconds = subscription.warn_seconds
            if seconds is not None and lock_seconds <= seconds:
                self.deadline_soon(lock, seconds)

    def paused(self, subscription: Subscription) -> None:
        assert isinstance(subscription, QueueSubscription)
        self._paused[subscription] = None

    def renamed(self, subscription: Subscription) -> None:
        """End if the token may take nothing from a queue of this name.

        Requirements: API-0189
        """
        if self.principal is not None and not self.principal.may(Grant.CONSUME, subscription.called):
            self.end(POLICY_VIOLATION, LOST_A_GRANT)

    # Output

    def take(self) -> list[bytes]:
        """The frames to send next, in order: each is UTF-8 JSON for one text frame. Call `sent` once they are sent."""
        if self.expired:
            self.outbox.withdraw()
        if self._log_reader is not None and self.outbox.room():
            for frame in self._log_reader.read(MAX_LOG_FRAMES):
                self.outbox.put(frame)
        return self.outbox.take()

    def sent(self) -> bool:
        """The frames taken have been sent. If it returns True, call `resume` and then dispatch."""
        self.outbox.sent()
        return self.can_resume()

    def can_resume(self) -> bool:
        return bool(self._paused) and self.room()

    def resume(self) -> None:
        """There is room again: resume the paused subscriptions."""
        for subscription in self._paused:
            self.dispatcher.resume(subscription)
        self._paused.clear()

    # The end

    def leave(self) -> None:
        """The connection has ended: unsubscribe from everything and drop the outbox."""
        for name in list(self.subscriptions):
            self.unsubscribe(name)
        self.ignore_logs()
        self.outbox.close()
