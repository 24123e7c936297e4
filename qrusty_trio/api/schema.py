"""The JSON bodies of the contract's operations, and what may be in their fields.

Rule: what passes is exactly what the contract allows; see `api.json_bodies` for what is refused and how. A number out
of range gets 422. Unknown fields are ignored. `null` means the same as leaving the field out where the type here has
`| None`, and is wrong anywhere else.

Requirements: API-0004, API-0006
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from qrusty_trio.api.json_bodies import (
    ALLOWED,
    UNREADABLE,
    Shape,
    check_consumer,
    check_error,
    look_closer,
    names_of,
    refusal,
    wrong,
)
from qrusty_trio.core.model import (
    MAX_DEAD_LETTER_SECONDS,
    MAX_LOCK_SECONDS,
    MAX_QUEUE_NAME_BYTES,
    U32_MAX,
    U64_MAX,
    Kind,
    Ordering,
)
from qrusty_trio.errors import InvalidQueueName, WrongShape

DEFAULT_MAX_RETRIES = 3
DEFAULT_LOCK_SECONDS = 30
MAX_WAIT_SECONDS = 60
MAX_WAITED_QUEUES = 100
"""Queues that one consume may name."""
MAX_KEPT_BODIES = 1024
MAX_KEPT_BODY_BYTES = 256
"""Longer bodies of consumes and of acks are not cached."""

T = TypeVar("T")


class PublishBody(msgspec.Struct, gc=False):
    queue: str
    priority: int | str
    payload: str
    max_retries: int | None = None


class ConsumeBody(msgspec.Struct, gc=False):
    consumer_id: str
    timeout_seconds: int | None = None
    """Length of the lock in seconds. With 0 it expires at once."""
    wait_seconds: float | None = None
    """How long to wait for a message."""
    details: bool | None = None
    """Whether to tell more of the message than the contract does."""
    queues: list[str] | None = None
    """Refused: the queue is in the path."""


class ConsumeFromBody(msgspec.Struct):
    queues: list[str]
    consumer_id: str
    timeout_seconds: int | None = None
    wait_seconds: float | None = None
    details: bool | None = None


class ConsumeTerms(msgspec.Struct, frozen=True, gc=False):
    """What a consume asks for."""

    consumer: str
    lock_seconds: int
    wait_ms: int = 0
    details: bool = False


class SettleBody(msgspec.Struct, gc=False):
    consumer_id: str


class NackBody(msgspec.Struct, gc=False):
    consumer_id: str
    error: str | None = None
    """The consumer's own reason, which a dead letter keeps."""


class SettleBatchBody(msgspec.Struct):
    consumer_id: str
    message_ids: list[str]


class NackBatchBody(SettleBatchBody):
    error: str | None = None


class NewQueue(msgspec.Struct):
    ordering: Ordering
    allow_duplicates: bool = True
    priority_kind: Kind = Kind.NUMERIC
    dead_letter_ttl_seconds: int | None = None
    dead_letter_max: int | None = None
    protected: bool = False


class CreateQueueBody(msgspec.Struct):
    name: str
    config: NewQueue


class QueueChanges(msgspec.Struct):
    name: str | None = None
    allow_duplicates: bool | None = None
    dead_letter_ttl_seconds: int | msgspec.UnsetType | None = msgspec.UNSET
    """null ends it; so it is not the same as leaving the field out, as for the next one."""
    dead_letter_max: int | msgspec.UnsetType | None = msgspec.UNSET
    protected: bool | None = None


class UpdateQueueBody(msgspec.Struct):
    name: str
    config: QueueChanges


_decode_publish = msgspec.json.Decoder(PublishBody).decode
_decode_consume = msgspec.json.Decoder(ConsumeBody).decode
_decode_settle = msgspec.json.Decoder(SettleBody).decode
_decode_nack = msgspec.json.Decoder(NackBody).decode

WAIT_FIELDS: Final = {"wait_seconds": f"a number from 0 to {MAX_WAIT_SECONDS}"}
CONSUME_FIELDS: Final = {
    **ALLOWED,
    **WAIT_FIELDS,
    "details": "true or false",
    "queues": f"a list of 1 to {MAX_WAITED_QUEUES} different names",
}
"""What each field of a consume may be, for the text of a refusal."""

_PUBLISH = names_of(PublishBody)
_CONSUME = names_of(ConsumeBody)
_SETTLE = names_of(SettleBody)
_NACK = names_of(NackBody)
_CONSUME_FROM = Shape(ConsumeFromBody, CONSUME_FIELDS)
_SETTLE_BATCH = Shape(SettleBatchBody, ids="message_ids")
_NACK_BATCH = Shape(NackBatchBody, ids="message_ids")
RETENTION: Final = {"dead_letter_ttl_seconds": MAX_DEAD_LETTER_SECONDS, "dead_letter_max": U32_MAX}
"""The fields of a queue's retention of dead letters -> the highest value of each. None may be 0: a message would end
where nobody sees it."""
_RETENTION = {f"config.{name}": f"an integer from 1 to {most}, or null" for name, most in RETENTION.items()}
_CREATE_QUEUE = Shape(CreateQueueBody, _RETENTION, inner=("config", NewQueue))
_UPDATE_QUEUE = Shape(UpdateQueueBody, _RETENTION, inner=("config", QueueChanges))


def publish_body(body: bytes) -> tuple[str, int | str, str, int]:
    """Queue, priority, payload and max_retries. Like all functions here, it raises MalformedJson or WrongShape.

    Requirements: SCH-0006
    """
    try:
        request = _decode_publish(body)
    except UNREADABLE as error:
        raise refusal(error, body) from None
    priority = request.priority
    quotes = 10
    if isinstance(priority, str):
        quotes = 12
    elif not 0 <= priority <= U64_MAX:
        raise wrong("priority")
    retries = request.max_retries
    if retries is None:
        retries = DEFAULT_MAX_RETRIES
    elif 0 <= retries <= U32_MAX:
        quotes += 2
    else:
        raise wrong("max_retries")
    surplus = body.count(b'"') - quotes
    if surplus:
        look_closer(body, _PUBLISH, surplus)
    return request.queue, priority, request.payload, retries


_kept_consumes: dict[bytes, ConsumeTerms] = {}
_kept_settles: dict[bytes, str] = {}
_kept_nacks: dict[bytes, tuple[str, str]] = {}


def _keep(kept: dict[bytes, T], body: bytes, meaning: T) -> T:
    """Cache what a body means: a consumer often sends the same one again."""
    if len(body) <= MAX_KEPT_BODY_BYTES:
        if len(kept) >= MAX_KEPT_BODIES:
            kept.clear()
        kept[body] = meaning
    return meaning


def consume_body(body: bytes) -> ConsumeTerms:
    """The terms of a consume from one queue. Also raises LimitReached, like the next functions.

    Requirements: SCH-0014
    """
    kept = _kept_consumes.get(body)
    if kept is not None:
        return kept
    try:
        request = _decode_consume(body)
    except UNREADABLE as error:
        raise refusal(error, body, CONSUME_FIELDS) from None
    terms = _terms(request)
    quotes = 4
    for value in (request.timeout_seconds, request.wait_seconds, request.details):
        if value is not None:
            quotes += 2
    surplus = body.count(b'"') - quotes
    if surplus:
        look_closer(body, _CONSUME, surplus)
        if request.queues is not None:
            raise WrongShape("'queues' must not be given: the path names the queue")
    return _keep(_kept_consumes, body, terms)


def consume_from_body(body: bytes) -> tuple[tuple[str, ...], ConsumeTerms]:
    """The queues, in order, and the terms of a consume from several. Also raises InvalidQueueName."""
    request = _CONSUME_FROM.read(body)
    queues = tuple(request.queues)
    if not 1 <= len(queues) <= MAX_WAITED_QUEUES or len(set(queues)) < len(queues):
        raise _CONSUME_FROM.wrong("queues")
    for index, name in enumerate(queues):
        if not 1 <= len(name.encode()) <= MAX_QUEUE_NAME_BYTES:
            raise InvalidQueueName(f"'queues[{index}]' must be 1 to {MAX_QUEUE_NAME_BYTES} bytes of UTF-8")
    return queues, _terms(request)


def _terms(request: ConsumeBody | ConsumeFromBody) -> ConsumeTerms:
    seconds = lock_seconds(request.timeout_seconds)
    check_consumer(request.consumer_id)
    return ConsumeTerms(request.consumer_id, seconds, wait_ms(request.wait_seconds), request.details is True)


def lock_seconds(given: int | None) -> int:
    """The length of a lock, from a `timeout_seconds`. Raises WrongShape."""
    if given is None:
        return DEFAULT_LOCK_SECONDS
    if not 0 <= given <= U64_MAX:
        raise wrong("timeout_seconds")
    return min(given, MAX_LOCK_SECONDS)


def wait_ms(given: float | None) -> int:
    """Milliseconds to wait, from a `wait_seconds`. Raises WrongShape."""
    if given is None:
        return 0
    if not 0 <= given <= MAX_WAIT_SECONDS:
        raise WrongShape(f"'wait_seconds' must be {CONSUME_FIELDS['wait_seconds']}")
    return int(given * 1000)


def settle_body(body: bytes) -> str:
    """The consumer id of an ack.

    Requirements: API-0021
    """
    kept = _kept_settles.get(body)
    if kept is not None:
        return kept
    try:
        consumer = _decode_settle(body).consumer_id
    except UNREADABLE as error:
        raise refusal(error, body) from None
    surplus = body.count(b'"') - 4
    if surplus:
        look_closer(body, _SETTLE, surplus)
    check_consumer(consumer)
    return _keep(_kept_settles, body, consumer)


def nack_body(body: bytes) -> tuple[str, str]:
    """The consumer id of a nack, and the consumer's reason, "" for none."""
    kept = _kept_nacks.get(body)
    if kept is not None:
        return kept
    try:
        request = _decode_nack(body)
    except UNREADABLE as failure:
        raise refusal(failure, body) from None
    consumer, error = request.consumer_id, request.error
    surplus = body.count(b'"') - (4 if error is None else 8)
    if surplus:
        look_closer(body, _NACK, surplus)
    check_consumer(consumer)
    error = error or ""
    check_error(error)
    return _keep(_kept_nacks, body, (consumer, error))


def nack_batch_body(body: bytes) -> NackBatchBody:
    """The consumer id and message ids of a nack-batch, and the consumer's reason, like `settle_batch_body`."""
    request = _NACK_BATCH.read(body)
    check_consumer(request.consumer_id)
    check_error(request.error or "")
    return request


def create_queue_body(body: bytes) -> CreateQueueBody:
    """The name and configuration of a new queue."""
    request = _CREATE_QUEUE.read(body)
    _check_retention(_CREATE_QUEUE, request.config)
    return request


def update_queue_body(body: bytes) -> UpdateQueueBody:
    """The name of a queue, and what is to change in it."""
    request = _UPDATE_QUEUE.read(body)
    _check_retention(_UPDATE_QUEUE, request.config)
    return request


def _check_retention(shape: Shape[Any], config: NewQueue | QueueChanges) -> None:
    for field, most in RETENTION.items():
        value = getattr(config, field)
        if isinstance(value, int) and not 1 <= value <= most:
            raise shape.wrong(f"config.{field}")


def settle_batch_body(body: bytes) -> SettleBatchBody:
    """The consumer id and message ids of an ack-batch.

    There may be at most MAX_BATCH_IDS ids, although 700,000 fit into a body.

    Requirements: API-0022
    """
    request = _SETTLE_BATCH.read(body)
    check_consumer(request.consumer_id)
    return request
