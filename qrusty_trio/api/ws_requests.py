"""What each frame type of the WebSocket contract means: a table of functions over the session and the broker.

Rule: a function returns the bytes of its response, or raises `Refusal`, which becomes the error response. It checks its
fields itself, in the words of the contract. A `StorageFault` passes through, because it concerns the whole burst.

Requirements: WS-0001, WS-0016
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from qrusty_trio.access.grants import Grant, Principal
from qrusty_trio.access.needs import ANY_TOKEN, SETTLES, Needs, in_body, on_every
from qrusty_trio.api import ws_frames
from qrusty_trio.api.batch_bodies import TOO_MANY_MESSAGES
from qrusty_trio.api.batches import BatchPublisher
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.json_bodies import TOO_MANY_IDS, check_error
from qrusty_trio.api.ws_auth import refusal_of
from qrusty_trio.api.ws_burst import STORING, Burst
from qrusty_trio.api.ws_frames import Misshapen, Refusal, Request
from qrusty_trio.core.deadlines import MAX_SECONDS as MAX_WARN_SECONDS
from qrusty_trio.core.dispatch import Dispatcher, Subscription
from qrusty_trio.core.locks import LockIndex
from qrusty_trio.core.model import (
    MAX_BATCH_DELIVERIES,
    MAX_BATCH_IDS,
    MAX_BATCH_MESSAGES,
    MAX_LOCK_SECONDS,
    U32_MAX,
    U64_MAX,
    NackOutcome,
)
from qrusty_trio.errors import (
    LimitReached,
    MessageNotLocked,
    PayloadNotStored,
    QrustyError,
    QueueNotFound,
    StorageFault,
)

MAX_SUBSCRIPTIONS = 1000
"""Most subscriptions of a connection."""
MAX_CREDITS = 2**53
"""Larger credits are reduced to this."""
BATCH_PIECE = 64
"""Ids of a batch settled in one step."""
DEFAULT_LOCK_SECONDS = 30
DEFAULT_MAX_RETRIES = 3

TOUCHING = STORING | {"subscribe", "credit"}
"""Types refused while the server is starting or read-only."""

T = TypeVar("T")


class SessionCatalog(Protocol):
    """What a session needs from the catalog of queues."""

    def number_of(self, name: str) -> int: ...


class SessionBroker(Protocol):
    """What a session needs from the broker."""

    def publish(
        self, name: str, priority: int | str, payload: str, max_retries: int, now: int, create: bool = True
    ) -> str: ...

    def ack(self, name: str, id: str, consumer: str, now: int) -> None: ...

    def nack(self, name: str, id: str, consumer: str, now: int, error: str = "") -> NackOutcome: ...

    def renew(self, name: str, id: str, consumer: str, lock_seconds: int, now: int) -> int: ...

    def held(self, consumer: str, id: str) -> tuple[str, int] | None:
        """Current name and number of the queue of a message that `consumer` holds; None if it does not hold it.

        Requirements: WS-0004
        """

    @property
    def catalog(self) -> SessionCatalog: ...

    @property
    def locks(self) -> LockIndex: ...


class QueueSubscription(Subscription):
    """A subscription of a session.

    Requirements: WS-0014
    """

    __slots__ = ("asked_credits", "batch", "delivered_from", "prefix", "warn_seconds")

    prefix: bytes
    """The start of its delivery frames."""
    asked_credits: int | None
    """The credits it was made with; None if unlimited."""
    delivered_from: int
    """The number of the queue that the last delivery came from; -1 before the first."""
    warn_seconds: int | None
    """How long before the end of a lock a warning is sent; None for no warning."""
    batch: int | None
    """Most deliveries in a frame; None: each has its own."""


class Session(Protocol):
    """What a request needs from its connection."""

    consumer: str
    gate: Gate
    principal: Principal | None
    guarded: bool
    dispatcher: Dispatcher
    subscriptions: dict[str, QueueSubscription]

    def subscribe(
        self,
        name: str,
        queue_number: int,
        lock_seconds: int,
        credits: int | None,
        warn_seconds: int | None,
        now: int,
        batch: int | None,
    ) -> None: ...

    def renewed(self, broker: SessionBroker, id: str, lock_seconds: int) -> None:
        """The lock of a message that this connection holds now ends `lock_seconds` from now."""

    def unsubscribe(self, name: str) -> None: ...

    def holding(self, broker: SessionBroker, queue: str, id: str) -> str | None:
        """The current name of the queue whose message `id` this connection holds; None if it does not hold it."""

    def follow_logs(self) -> None: ...

    def ignore_logs(self) -> None: ...


def run(session: Session, burst: Burst, request: Request | Misshapen, broker: SessionBroker, now: int) -> bytes | None:
    """Run one request. Returns its response, or None if it is a long batch that must be continued.

    Raises Refusal or StorageFault.

    Requirements: WS-0010
    """
    if type(request) is Misshapen:
        raise Refusal("invalid_request", request.problem)
    assert type(request) is Request
    if request.type is None:
        raise Refusal("invalid_request", "'type' is missing")
    known = _FUNCTIONS.get(request.type)
    if known is None:
        raise Refusal("unknown_type", f"'{request.type[:100]}' is no frame type")
    function, needs = known
    refusal: QrustyError | None = None
    if session.guarded and not burst.admitted:
        refusal = refusal_of(session.principal, needs, request, now)
        burst.admitted = True
    if refusal is None and request.type in TOUCHING:
        refusal = session.gate.refusal()
    if refusal is not None:
        raise Refusal(refusal.code, str(refusal))
    return function(session, burst, request, broker, now)


def _check_publishes(gate: Gate) -> None:
    """Raise Refusal while publishes alone are refused."""
    refused = gate.publish_refusal()
    if refused is not None and gate.memory_critical:
        raise Refusal("memory_pressure", str(refused))
    if refused is not None:
        raise Refusal("storage_error", str(refused))


def _publish(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes:
    queue = _needed("queue", request.queue)
    payload = _needed("payload", request.payload)
    priority = request.priority if request.priority is not None else 0
    if isinstance(priority, int) and not 0 <= priority <= U64_MAX:
        raise Refusal("invalid_request", f"'priority' must be from 0 to {U64_MAX}")
    retries = request.max_retries if request.max_retries is not None else DEFAULT_MAX_RETRIES
    if not 0 <= retries <= U32_MAX:
        raise Refusal("invalid_request", f"'max_retries' must be from 0 to {U32_MAX}")
    _check_publishes(session.gate)
    try:
        id = broker.publish(queue, priority, payload, retries, now, create=False)
    except StorageFault:
        raise
    except QueueNotFound as error:
        raise Refusal("queue_not_found", str(error)) from error
    except PayloadNotStored as error:
        raise Refusal("storage_error", str(error)) from error
    except QrustyError as error:
        raise Refusal("publish_failed", str(error)) from error
    return ws_frames.ok_id(id, request.req_id)


def _batch_publish(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes | None:
    publisher = burst.publisher
    if publisher is None:
        queue, messages = _needed("queue", request.queue), _needed("messages", request.messages)
        if len(messages) > MAX_BATCH_MESSAGES:
            raise Refusal("invalid_request", f"'messages' {TOO_MANY_MESSAGES}")
        _check_publishes(session.gate)
        publisher = burst.publisher = BatchPublisher(broker, queue, messages, create=False)
    try:
        if publisher.step(now, BATCH_PIECE):
            return None
    except QueueNotFound as error:
        burst.publisher = None
        raise Refusal("queue_not_found", str(error)) from error
    burst.publisher = None
    return ws_frames.ok_batch(publisher.outcome(), request.req_id)


def _subscribe(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes:
    queue = _needed("queue", request.queue)
    lock_seconds = _lock_seconds(request)
    credits = request.credits
    if credits is not None and credits < 0:
        raise Refusal("invalid_request", "'credits' must not be negative")
    if credits is not None:
        credits = min(credits, MAX_CREDITS)
    warn_seconds = _warn_seconds(request, lock_seconds)
    batch = request.batch
    if batch is not None and not 1 <= batch <= MAX_BATCH_DELIVERIES:
        raise Refusal("invalid_request", f"'batch' must be from 1 to {MAX_BATCH_DELIVERIES}")
    subscription = session.subscriptions.get(queue)
    if subscription is None:
        try:
            number = broker.catalog.number_of(queue)
        except QueueNotFound as error:
            raise Refusal("queue_not_found", str(error)) from error
        if len(session.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Refusal("invalid_request", f"a connection may have {MAX_SUBSCRIPTIONS} subscriptions")
        if warn_seconds is not None and not session.dispatcher.deadlines.may_ask(warn_seconds):
            taken = ", ".join(map(str, session.dispatcher.deadlines.lengths()))
            raise Refusal("invalid_request", f"'deadline_soon_secs' must be one of {taken} while others use these")
        session.subscribe(queue, number, lock_seconds, credits, warn_seconds, now, batch)
    else:
        asked = subscription.asked_credits, subscription.lock_seconds, subscription.warn_seconds, subscription.batch
        if asked != (credits, lock_seconds, warn_seconds, batch):
            # The contract says that nothing changes; a client that asked for other values is told those in force.
            return ws_frames.ok_unchanged(subscription.credits, *asked[1:], request.req_id)
    return ws_frames.ok(request.req_id)


def _unsubscribe(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes:
    session.unsubscribe(_needed("queue", request.queue))
    return ws_frames.ok(request.req_id)


def _credit(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes:
    queue = _needed("queue", request.queue)
    credits = _needed("credits", request.credits)
    if credits <= 0:
        raise Refusal("invalid_request", "'credits' must be positive")
    subscription = session.subscriptions.get(queue)
    if subscription is None:
        raise Refusal("not_subscribed", f"Not subscribed to '{queue}'")
    if subscription.credits is not None:
        subscription.credits = min(subscription.credits + credits, MAX_CREDITS)
        session.dispatcher.resume(subscription)
    return ws_frames.ok(request.req_id)


def _ack(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes:
    _settle_ack(session, burst, _needed("queue", request.queue), _needed("id", request.id), broker, now)
    return ws_frames.ok(request.req_id)


def _nack(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes:
    queue, id = _needed("queue", request.queue), _needed("id", request.id)
    _settle_nack(session, burst, queue, id, broker, now, _error(request))
    return ws_frames.ok(request.req_id)


def _batch_ack(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes | None:
    return _batch(session, burst, request, broker, now, {"acked": 0}, _settle_ack)


def _batch_nack(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes | None:
    settle = partial(_settle_nack, error=_error(request))
    return _batch(session, burst, request, broker, now, {"unlocked": 0, "dropped": 0}, settle)


def _batch(
    session: Session,
    burst: Burst,
    request: Request,
    broker: SessionBroker,
    now: int,
    zeros: dict[str, int],
    settle: Callable[[Session, Burst, str, str, SessionBroker, int], str | None],
) -> bytes | None:
    queue = _needed("queue", request.queue)
    ids = _needed("ids", request.ids)
    if len(ids) > MAX_BATCH_IDS:
        raise Refusal("invalid_request", f"'ids' {TOO_MANY_IDS}")
    if burst.position == 0:
        burst.counts = zeros
    end = min(burst.position + BATCH_PIECE, len(ids))
    for id in ids[burst.position : end]:
        outcome = settle(session, burst, queue, id, broker, now)
        if outcome is not None:
            burst.counts[outcome] += 1
    burst.position = end
    if end < len(ids):
        return None
    burst.position = 0
    return ws_frames.ok_counts(burst.counts, request.req_id)


def _renew(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes:
    queue = _needed("queue", request.queue)
    id = _needed("id", request.id)
    lock_seconds = _lock_seconds(request)
    name = session.holding(broker, queue, id)
    if name is None:
        raise Refusal("not_locked", f"This connection holds no message '{id[:64]}' of queue '{queue[:255]}'")
    try:
        broker.renew(name, id, session.consumer, lock_seconds, now)
    except MessageNotLocked as error:
        raise Refusal("not_locked", str(error)) from error
    session.renewed(broker, id, lock_seconds)
    return ws_frames.ok(request.req_id)


def _subscribe_logs(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes:
    session.follow_logs()
    return ws_frames.ok(request.req_id)


def _unsubscribe_logs(session: Session, burst: Burst, request: Request, broker: SessionBroker, now: int) -> bytes:
    session.ignore_logs()
    return ws_frames.ok(request.req_id)


def _settle_ack(session: Session, burst: Burst, queue: str, id: str, broker: SessionBroker, now: int) -> str | None:
    name = session.holding(broker, queue, id)
    if name is None:
        return None
    try:
        broker.ack(name, id, session.consumer, now)
    except MessageNotLocked:
        return None
    return "acked"


def _settle_nack(
    session: Session, burst: Burst, queue: str, id: str, broker: SessionBroker, now: int, error: str
) -> str | None:
    name = session.holding(broker, queue, id)
    if name is None:
        return None
    try:
        outcome = broker.nack(name, id, session.consumer, now, error)
    except MessageNotLocked:
        return None
    return "unlocked" if outcome is NackOutcome.UNLOCKED else "dropped"


def _needed(name: str, value: T | None) -> T:
    if value is None:
        raise Refusal("invalid_request", f"'{name}' is missing")
    return value


def _error(request: Request) -> str:
    error = request.error or ""
    try:
        check_error(error)
    except LimitReached as refusal:
        raise Refusal("invalid_request", str(refusal)) from refusal
    return error


def _lock_seconds(request: Request) -> int:
    seconds = request.lock_timeout_secs if request.lock_timeout_secs is not None else DEFAULT_LOCK_SECONDS
    if seconds < 1:
        raise Refusal("invalid_request", "'lock_timeout_secs' must be at least 1")
    return min(seconds, MAX_LOCK_SECONDS)


def _warn_seconds(request: Request, lock_seconds: int) -> int | None:
    seconds = request.deadline_soon_secs
    if seconds is not None and not 1 <= seconds <= min(MAX_WARN_SECONDS, lock_seconds - 1):
        least = f"'deadline_soon_secs' must be from 1 to {MAX_WARN_SECONDS}"
        raise Refusal("invalid_request", f"{least}, and less than 'lock_timeout_secs'")
    return seconds


_Function = Callable[[Session, Burst, Request, SessionBroker, int], bytes | None]
_FUNCTIONS: dict[str, tuple[_Function, Needs]] = {
    "publish": (_publish, in_body(Grant.PUBLISH)),
    "batch-publish": (_batch_publish, in_body(Grant.PUBLISH)),
    "subscribe": (_subscribe, in_body(Grant.CONSUME)),
    "unsubscribe": (_unsubscribe, ANY_TOKEN),
    "ack": (_ack, SETTLES),
    "nack": (_nack, SETTLES),
    "batch-ack": (_batch_ack, SETTLES),
    "batch-nack": (_batch_nack, SETTLES),
    "credit": (_credit, in_body(Grant.CONSUME)),
    "renew": (_renew, SETTLES),
    "subscribe-logs": (_subscribe_logs, on_every(Grant.ADMIN)),
    "unsubscribe-logs": (_unsubscribe_logs, ANY_TOKEN),
}
