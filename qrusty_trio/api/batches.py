"""Operations on many messages at a time: publish-batch, consume-batch.

Rule: see `api.operations`. A batch runs in steps. What one step changes is one write of the store. So a batch of up to
PER_STEP messages is stored as a whole or not at all. Of a longer one, a crash in between leaves the messages of the
first steps, and its client had no response.

Requirements: DLV-0037, DLV-0038, DLV-0039
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import in_body, in_path
from qrusty_trio.api.batch_bodies import (
    MESSAGE_FIELDS,
    PER_STEP,
    TOO_MANY_MESSAGES,
    NewMessage,
    look_closer_at_messages,
    quotes_of,
    surely_too_many,
)
from qrusty_trio.api.call import Call, Operation, Reply, Services, Steps, Wait
from qrusty_trio.api.delivered import encoded
from qrusty_trio.api.json_bodies import ALLOWED, UNREADABLE, Shape, check_consumer, check_syntax, names_of, refusal
from qrusty_trio.api.messages import LARGE_BYTES
from qrusty_trio.api.schema import CONSUME_FIELDS, DEFAULT_MAX_RETRIES, lock_seconds, wait_ms
from qrusty_trio.core.model import MAX_BATCH_DELIVERIES, MAX_BATCH_MESSAGES, Delivery
from qrusty_trio.errors import InvalidQueueName, LimitReached, QrustyError, QueueNotFound, StorageFault

PUBLISHED_CHARACTERS = 256 * 1024
"""Payload characters published in one step, or a single larger payload."""
CONSUMED_PER_STEP = 128
"""Messages consumed in one step, which takes about 1 ms."""
CONSUMED_BYTES = 256 * 1024
"""Bytes of messages consumed in one step, or a single larger message."""
MAX_RESPONSE_BYTES = 2 * 1024 * 1024
"""A response to consume-batch is at most this long, unless its only message is longer."""

_RESPONSE = b'{"messages":[%b]}'
_RESPONSE_BYTES = len(_RESPONSE % b"") - 1
"""What a response has besides its messages and a comma for each; the last has none."""

_encode = msgspec.json.encode


class PublishBatchBody(msgspec.Struct):
    queue: str
    messages: list[NewMessage]


class ConsumeBatchBody(msgspec.Struct):
    consumer_id: str
    max_messages: int
    timeout_seconds: int | None = None
    wait_seconds: float | None = None
    details: bool | None = None


class Rejected(msgspec.Struct):
    """A message of a batch that was refused."""

    index: int
    """Its place in the batch, from 0."""
    error: str
    code: str


_BATCH_FIELDS = {**ALLOWED, **MESSAGE_FIELDS}
_BATCH = names_of(PublishBatchBody)
_decode_batch = msgspec.json.Decoder(PublishBatchBody).decode
_CONSUME_BATCH = Shape(
    ConsumeBatchBody, {**CONSUME_FIELDS, "max_messages": f"an integer from 1 to {MAX_BATCH_DELIVERIES}"}
)


class Publishing(Protocol):
    """What publishing a batch needs of the broker."""

    def publish(
        self, name: str, priority: int | str, payload: str, max_retries: int, now: int, create: bool = True
    ) -> str: ...


class BatchPublisher:
    """Publishes the messages of a batch, some at a time."""

    def __init__(self, broker: Publishing, queue: str, messages: list[NewMessage], create: bool = True) -> None:
        """`create`: an unknown queue is created; otherwise `step` raises QueueNotFound."""
        self._broker = broker
        self._queue = queue
        self._messages = messages
        self._create = create
        self._next = 0
        self.ids: list[str] = []
        """Of the accepted messages, in order."""
        self.rejected: list[Rejected] = []
        self.needs_sync = False
        """Whether the outcome tells of something that has to be durable first. See `Reply.needs_sync`."""

    def step(self, now: int, limit: int = PER_STEP) -> bool:
        """Publish up to `limit` messages. Returns whether some are left.

        Raises StorageFault; before any message was accepted also InvalidQueueName, LimitReached and QueueNotFound.
        """
        publish = self._broker.publish
        queue, create, ids = self._queue, self._create, self.ids
        characters = 0
        for index in range(self._next, min(self._next + limit, len(self._messages))):
            message = self._messages[index]
            retries = message.max_retries
            try:
                ids.append(
                    publish(
                        queue,
                        message.priority,
                        message.payload,
                        DEFAULT_MAX_RETRIES if retries is None else retries,
                        now,
                        create,
                    )
                )
            except StorageFault:
                raise
            except QrustyError as error:
                if not ids and isinstance(error, InvalidQueueName | LimitReached | QueueNotFound):
                    raise
                self.needs_sync |= error.tells_of_change
                self.rejected.append(Rejected(index, str(error), error.code))
            self._next = index + 1
            characters += len(message.payload)
            if characters >= PUBLISHED_CHARACTERS:
                break
        self.needs_sync |= bool(ids)
        return self._next < len(self._messages)

    def outcome(self) -> dict[str, object]:
        """What is told of the batch."""
        return {"ids": self.ids, "rejected": self.rejected}


def _publish_batch(services: Services, call: Call, now: int) -> Steps:
    if (refused := services.gate.publish_refusal()) is not None:
        raise refused
    body = call.body
    if surely_too_many(body):
        check_syntax(body)
        raise LimitReached(f"'messages' {TOO_MANY_MESSAGES}")
    try:
        request = _decode_batch(body)
    except UNREADABLE as error:
        raise refusal(error, body, _BATCH_FIELDS) from None
    messages = request.messages
    if len(messages) > MAX_BATCH_MESSAGES:
        raise LimitReached(f"'messages' {TOO_MANY_MESSAGES}")
    call.require(request.queue, len(messages))
    if len(body) > LARGE_BYTES:
        yield
    if body.count(b'"') != 6 + quotes_of(messages):
        yield from look_closer_at_messages(body, _BATCH, messages)
    publisher = BatchPublisher(services.broker, request.queue, messages)
    while publisher.step(now):
        yield
    return Reply(200, _encode(publisher.outcome()), publisher.needs_sync)


def _consume_batch(services: Services, call: Call, now: int) -> Steps:
    request = _CONSUME_BATCH.read(call.body)
    check_consumer(request.consumer_id)
    if not 1 <= request.max_messages <= MAX_BATCH_DELIVERIES:
        raise _CONSUME_BATCH.wrong("max_messages")
    seconds = lock_seconds(request.timeout_seconds)
    wait, details = wait_ms(request.wait_seconds), request.details is True
    broker, consumer = services.broker, request.consumer_id
    deliveries: list[Delivery] = []
    call.handed_out = deliveries
    messages: list[bytes] = []
    whole, step = _RESPONSE_BYTES, 0
    queue = broker.catalog.by_name.get(call.queue)
    if queue is None:
        broker.catalog.missed(call.queue)
    while queue is not None and len(deliveries) < request.max_messages:
        # By number: after a rename, all are of the same queue.
        delivery = broker.consume_number(queue.number, consumer, seconds, now)
        if delivery is None:
            break
        message = encoded(delivery, details)
        size = len(message) + 1
        if deliveries and whole + size > MAX_RESPONSE_BYTES:
            broker.take_back(delivery.queue_number, delivery.lock_number, delivery.id)
            break
        deliveries.append(delivery)
        messages.append(message)
        whole += size
        step += size
        if len(deliveries) % CONSUMED_PER_STEP == 0 or step >= CONSUMED_BYTES:
            step = 0
            yield
    if not deliveries and wait:
        name, most = call.queue, request.max_messages
        reply = partial(_consume_batch_reply, consumer, details)
        return Wait((name,), consumer, seconds, most, now + wait, reply, _RESPONSE % b"")
    needs_sync = services.sync_locks and bool(deliveries)
    return Reply(200, _RESPONSE % b",".join(messages), needs_sync, deliveries, consumer)


def _consume_batch_reply(
    consumer: str, details: bool, services: Services, deliveries: Sequence[Delivery], asked: str
) -> Reply:
    """The reply to a batch that waited, with as many of the messages as fit into it."""
    messages = [encoded(deliveries[0], details)]
    whole = _RESPONSE_BYTES + len(messages[0]) + 1
    for delivery in deliveries[1:]:
        message = encoded(delivery, details)
        whole += len(message) + 1
        if whole > MAX_RESPONSE_BYTES:
            break
        messages.append(message)
    return Reply(200, _RESPONSE % b",".join(messages), services.sync_locks, deliveries[: len(messages)], consumer)


OPERATIONS = (
    Operation(
        "publish_batch", "POST", "/publish-batch", in_body(Grant.PUBLISH), True, _publish_batch, PublishBatchBody, True
    ),
    Operation(
        "consume_batch",
        "POST",
        "/consume-batch/{queue}",
        in_path(Grant.CONSUME),
        True,
        _consume_batch,
        ConsumeBatchBody,
        True,
    ),
)
