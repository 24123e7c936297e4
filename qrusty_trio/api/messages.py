"""Operations on messages: publish, consume, ack, nack, and the last two in batches.

Rule: see `api.operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from time import perf_counter_ns
from typing import TypeVar

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import SETTLES, in_body, in_path
from qrusty_trio.api import schema
from qrusty_trio.api.call import Call, Operation, Reply, Result, Services, Wait
from qrusty_trio.api.delivered import encoded
from qrusty_trio.core.model import Delivery, NackOutcome
from qrusty_trio.errors import MessageNotLocked, QueueNotFound

BATCH_PIECE = 64
"""Message ids settled between two yields: about 0.5 ms."""
LARGE_BYTES = 256 * 1024
"""A publish with a larger body takes two steps."""

SettleBatch = TypeVar("SettleBatch", bound=schema.SettleBatchBody)

_encode = msgspec.json.encode
_clock = perf_counter_ns


def _publish(services: Services, call: Call, now: int) -> Reply | Generator[None, None, Reply]:
    if len(call.body) > LARGE_BYTES:
        return _publish_large(services, call, now)
    begin = _clock()
    if (refused := services.gate.publish_refusal()) is not None:
        raise refused
    queue, priority, payload, max_retries = schema.publish_body(call.body)
    call.require(queue, 1)
    before = _clock()
    message_id = services.broker.publish(queue, priority, payload, max_retries, now)
    after = _clock()
    services.timings.record("publish", after - begin, after - before, now // 1000)
    return Reply(200, b'{"id":"%b"}' % message_id.encode(), True)


def _publish_large(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    """The same in two steps: 2 MiB take 1.1 ms to parse and 1.3 ms to store.

    Requirements: SCH-0030
    """
    begin = _clock()
    if (refused := services.gate.publish_refusal()) is not None:
        raise refused
    queue, priority, payload, max_retries = schema.publish_body(call.body)
    call.require(queue, 1)
    read = _clock() - begin
    yield
    before = _clock()
    message_id = services.broker.publish(queue, priority, payload, max_retries, now)
    stored = _clock() - before
    services.timings.record("publish", read + stored, stored, now // 1000)
    return Reply(200, b'{"id":"%b"}' % message_id.encode(), True)


def _consume(services: Services, call: Call, now: int) -> Reply | Wait:
    begin = _clock()
    terms = schema.consume_body(call.body)
    before = _clock()
    delivery = services.broker.consume(call.queue, terms.consumer, terms.lock_seconds, now)
    after = _clock()
    if delivery is not None:
        reply = Reply(200, encoded(delivery, terms.details), services.sync_locks, (delivery,), terms.consumer)
    elif terms.wait_ms:
        return _wait((call.queue,), terms, now, partial(_consume_reply, terms))
    else:
        reply = Reply(200, b"null")
    services.timings.record("consume", _clock() - begin, after - before, now // 1000)
    return reply


def _consume_from(services: Services, call: Call, now: int) -> Reply | Wait:
    """The same from several queues, in the order in which they are named."""
    begin = _clock()
    queues, terms = schema.consume_from_body(call.body)
    for name in queues:
        call.require(name)
    share = 0
    for name in queues:
        before = _clock()
        delivery = services.broker.consume(name, terms.consumer, terms.lock_seconds, now)
        share += _clock() - before
        if delivery is not None:
            reply = Reply(200, encoded(delivery, terms.details, name), services.sync_locks, (delivery,), terms.consumer)
            break
    else:
        if terms.wait_ms:
            return _wait(queues, terms, now, partial(_consume_from_reply, terms))
        reply = Reply(200, b"null")
    services.timings.record("consume", _clock() - begin, share, now // 1000)
    return reply


def _wait(
    names: tuple[str, ...],
    terms: schema.ConsumeTerms,
    now: int,
    make_reply: Callable[[Services, Sequence[Delivery], str], Reply],
) -> Wait:
    return Wait(names, terms.consumer, terms.lock_seconds, 1, now + terms.wait_ms, make_reply, b"null")


def _consume_reply(terms: schema.ConsumeTerms, services: Services, deliveries: Sequence[Delivery], asked: str) -> Reply:
    return Reply(200, encoded(deliveries[0], terms.details), services.sync_locks, deliveries, terms.consumer)


def _consume_from_reply(
    terms: schema.ConsumeTerms, services: Services, deliveries: Sequence[Delivery], asked: str
) -> Reply:
    # By its name of now: that is where it can be acked.
    name = services.broker.catalog.name_of(deliveries[0].queue_number) or asked
    return Reply(200, encoded(deliveries[0], terms.details, name), services.sync_locks, deliveries, terms.consumer)


def _ack(services: Services, call: Call, now: int) -> Reply:
    begin = _clock()
    consumer = schema.settle_body(call.body)
    queue, message_id = call.params
    before = _clock()
    services.broker.ack(queue, message_id, consumer, now)
    after = _clock()
    services.timings.record("ack", after - begin, after - before, now // 1000)
    return Reply(200, b"", True)


def _nack(services: Services, call: Call, now: int) -> Reply:
    begin = _clock()
    consumer, error = schema.nack_body(call.body)
    queue, message_id = call.params
    before = _clock()
    services.broker.nack(queue, message_id, consumer, now, error)
    after = _clock()
    services.timings.record("nack", after - begin, after - before, now // 1000)
    return Reply(200, b"", True)


def _ack_batch(services: Services, call: Call, now: int) -> Result:
    queue = call.queue
    outcomes: dict[str, list[str]] = {"acked": [], "not_found": []}

    def settle(message_id: str, request: schema.SettleBatchBody) -> str:
        services.broker.ack(queue, message_id, request.consumer_id, now)
        return "acked"

    return _settle_batch(services, call, now, outcomes, schema.settle_batch_body, settle, "ack_batch")


def _nack_batch(services: Services, call: Call, now: int) -> Result:
    queue = call.queue
    # A message is dropped if the queue refuses duplicates and holds an equal one.
    outcomes: dict[str, list[str]] = {"unlocked": [], "dead_lettered": [], "dropped": [], "not_found": []}

    def settle(message_id: str, request: schema.NackBatchBody) -> str:
        error = request.error or ""
        outcome: NackOutcome = services.broker.nack(queue, message_id, request.consumer_id, now, error)
        return outcome.value

    return _settle_batch(services, call, now, outcomes, schema.nack_batch_body, settle, "nack_batch")


def _settle_batch(
    services: Services,
    call: Call,
    now: int,
    outcomes: dict[str, list[str]],
    read: Callable[[bytes], SettleBatch],
    settle: Callable[[str, SettleBatch], str],
    timed: str,
) -> Generator[None, None, Reply]:
    begin = _clock()
    request = read(call.body)
    whole = _clock() - begin
    stored = 0
    ids = request.message_ids
    for start in range(0, len(ids), BATCH_PIECE):
        if start:
            yield
        before = _clock()
        for message_id in ids[start : start + BATCH_PIECE]:
            try:
                outcome = settle(message_id, request)
            except (MessageNotLocked, QueueNotFound):
                outcome = "not_found"
            outcomes[outcome].append(message_id)
        stored += _clock() - before
    begin = _clock()
    reply = Reply(200, _encode(outcomes), len(outcomes["not_found"]) < len(ids))
    services.timings.record(timed, whole + stored + _clock() - begin, stored, now // 1000)
    return reply


OPERATIONS = (
    Operation("publish", "POST", "/publish", in_body(Grant.PUBLISH), True, _publish, schema.PublishBody),
    Operation("consume", "POST", "/consume/{queue}", in_path(Grant.CONSUME), True, _consume, schema.ConsumeBody, True),
    Operation(
        "consume_from", "POST", "/consume", in_body(Grant.CONSUME), True, _consume_from, schema.ConsumeFromBody, True
    ),
    Operation("ack", "POST", "/ack/{queue}/{id}", SETTLES, True, _ack, schema.SettleBody),
    Operation("nack", "POST", "/nack/{queue}/{id}", SETTLES, True, _nack, schema.NackBody),
    Operation("ack_batch", "POST", "/ack-batch/{queue}", SETTLES, True, _ack_batch, schema.SettleBatchBody, True),
    Operation("nack_batch", "POST", "/nack-batch/{queue}", SETTLES, True, _nack_batch, schema.NackBatchBody, True),
)
