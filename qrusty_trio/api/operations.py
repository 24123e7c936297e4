"""The table of operations: what each HTTP request means, from bytes to bytes.

Rule: a function takes the services, one call and the time. It returns a reply, or raises a QrustyError and has then
changed nothing. It knows no socket and no transport, and never waits. An operation that may take more than about a
millisecond is a generator: it yields between pieces and returns the reply. At each yield the engine commits and lets
others run.

Statuses, fields and texts are those of the wire contract.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import perf_counter_ns
from typing import Final

import msgspec

from qrusty_trio.api import reports, schema
from qrusty_trio.api.call import Answer, Call, Operation, Reply, Services
from qrusty_trio.api.json_faults import MISSING_BODY
from qrusty_trio.api.routes import Router
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import NackOutcome, QueueConfig
from qrusty_trio.core.queue import Queue
from qrusty_trio.errors import (
    MalformedJson,
    MemoryPressure,
    MessageNotLocked,
    QrustyError,
    QueueNotFound,
    Starting,
    WrongContentType,
)
from qrusty_trio.wording import shortened

MAX_BODY_BYTES = 2 * 1024 * 1024
"""Transports refuse a larger body with BodyTooLarge."""
RETRY_AFTER_SECONDS = 2
"""How long a 503 tells the client to wait."""
BATCH_PIECE = 64
"""Message ids settled between two yields: about 0.5 ms."""
QUEUES_PIECE = 32
"""Queues purged or deleted between two yields."""

PRESSURE_MESSAGE = "Server is under memory pressure. Try again later."


LARGE_BYTES = 256 * 1024
"""A publish with a larger body takes two steps."""

_encode = msgspec.json.encode
_clock = perf_counter_ns


def _publish(services: Services, call: Call, now: int) -> Reply | Generator[None, None, Reply]:
    if len(call.body) > LARGE_BYTES:
        return _publish_large(services, call, now)
    begin = _clock()
    if services.gate.memory_critical:
        raise MemoryPressure(PRESSURE_MESSAGE)
    queue, priority, payload, max_retries = schema.publish_body(call.body)
    before = _clock()
    message_id = services.broker.publish(queue, priority, payload, max_retries, now)
    after = _clock()
    services.timings.record("publish", after - begin, after - before, now // 1000)
    return Reply(200, b'{"id":"%b"}' % message_id.encode(), True)


def _publish_large(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    """The same in two steps: 2 MiB take 1.1 ms to parse and 1.3 ms to store."""
    begin = _clock()
    if services.gate.memory_critical:
        raise MemoryPressure(PRESSURE_MESSAGE)
    queue, priority, payload, max_retries = schema.publish_body(call.body)
    read = _clock() - begin
    yield
    before = _clock()
    message_id = services.broker.publish(queue, priority, payload, max_retries, now)
    stored = _clock() - before
    services.timings.record("publish", read + stored, stored, now // 1000)
    return Reply(200, b'{"id":"%b"}' % message_id.encode(), True)


def _consume(services: Services, call: Call, now: int) -> Reply:
    begin = _clock()
    consumer, lock_seconds = schema.consume_body(call.body)
    before = _clock()
    delivery = services.broker.consume(call.params[0], consumer, lock_seconds, now)
    after = _clock()
    if delivery is None:
        reply = Reply(200, b"null")
    else:
        body = b'{"id":"%b","payload":%b,"retry_count":%d}' % (
            delivery.id.encode(),
            _encode(delivery.payload),
            delivery.retry_count,
        )
        reply = Reply(200, body, False, delivery, consumer)
    services.timings.record("consume", _clock() - begin, after - before, now // 1000)
    return reply


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
    consumer = schema.settle_body(call.body)
    queue, message_id = call.params
    before = _clock()
    services.broker.nack(queue, message_id, consumer, now)
    after = _clock()
    services.timings.record("nack", after - begin, after - before, now // 1000)
    return Reply(200, b"", True)


def _ack_batch(services: Services, call: Call, now: int) -> Answer:
    outcomes: dict[str, list[str]] = {"acked": [], "not_found": []}

    def settle(message_id: str, consumer: str) -> str:
        services.broker.ack(call.params[0], message_id, consumer, now)
        return "acked"

    return _settle_batch(services, call, now, outcomes, settle, "ack_batch")


def _nack_batch(services: Services, call: Call, now: int) -> Answer:
    # A message is dropped if the queue refuses duplicates and holds an equal one.
    outcomes: dict[str, list[str]] = {"unlocked": [], "dead_lettered": [], "dropped": [], "not_found": []}

    def settle(message_id: str, consumer: str) -> str:
        outcome: NackOutcome = services.broker.nack(call.params[0], message_id, consumer, now)
        return outcome.value

    return _settle_batch(services, call, now, outcomes, settle, "nack_batch")


def _settle_batch(
    services: Services,
    call: Call,
    now: int,
    outcomes: dict[str, list[str]],
    settle: Callable[[str, str], str],
    timed: str,
) -> Generator[None, None, Reply]:
    begin = _clock()
    request = schema.settle_batch_body(call.body)
    whole = _clock() - begin
    stored = 0
    ids = request.message_ids
    for start in range(0, len(ids), BATCH_PIECE):
        if start:
            yield
        before = _clock()
        for message_id in ids[start : start + BATCH_PIECE]:
            try:
                outcome = settle(message_id, request.consumer_id)
            except (MessageNotLocked, QueueNotFound):
                outcome = "not_found"
            outcomes[outcome].append(message_id)
        stored += _clock() - before
    begin = _clock()
    reply = Reply(200, _encode(outcomes), len(outcomes["not_found"]) < len(ids))
    services.timings.record(timed, whole + stored + _clock() - begin, stored, now // 1000)
    return reply


def _create_queue(services: Services, call: Call, now: int) -> Reply:
    request = schema.create_queue_body(call.body)
    wanted = request.config
    config = QueueConfig(wanted.ordering, wanted.allow_duplicates, wanted.priority_kind)
    services.broker.catalog.create(request.name, config)
    return Reply(200, b"", True)


def _update_queue(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    request = schema.update_queue_body(call.body)
    yield from services.broker.catalog.update(request.name, request.config.name, request.config.allow_duplicates, now)
    return Reply(200, b"", True)


# The next four sync even when they find nothing: the change that emptied the queue may not be durable yet.


def _purge_queue(services: Services, call: Call, now: int) -> Reply:
    purged = services.broker.catalog.purge(call.params[0])
    return Reply(200, _encode({"queue": call.params[0], "purged_messages": purged}), True)


def _delete_queue(services: Services, call: Call, now: int) -> Reply:
    deleted = services.broker.catalog.delete(call.params[0])
    return Reply(200, _encode({"queue": call.params[0], "deleted_messages": deleted}), True)


def _purge_all(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    queues, messages = yield from _for_all(services.broker, services.broker.catalog.purge_queue)
    return Reply(200, _encode({"purged_queues": queues, "purged_messages": messages}), True)


def _delete_all(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    queues, messages = yield from _for_all(services.broker, services.broker.catalog.delete_queue)
    return Reply(200, _encode({"deleted_queues": queues, "deleted_messages": messages}), True)


def _for_all(broker: Broker, clear: Callable[[Queue], int]) -> Generator[None, None, tuple[int, int]]:
    """Apply `clear` to every queue that exists now, even if it is renamed meanwhile.

    Returns the numbers of queues and messages.
    """
    queues = messages = 0
    for index, queue in enumerate(broker.catalog.everything(), 1):
        if index % QUEUES_PIECE == 0:
            yield
        if broker.catalog.exists(queue):
            queues += 1
            messages += clear(queue)
    return queues, messages


OPERATIONS: Final = (
    Operation("create_queue", "POST", "/create-queue", True, _create_queue, schema.CreateQueueBody),
    Operation("update_queue", "POST", "/update-queue", True, _update_queue, schema.UpdateQueueBody),
    Operation("publish", "POST", "/publish", True, _publish, schema.PublishBody),
    Operation("consume", "POST", "/consume/{queue}", True, _consume, schema.ConsumeBody, True),
    Operation("ack", "POST", "/ack/{queue}/{id}", True, _ack, schema.SettleBody),
    Operation("nack", "POST", "/nack/{queue}/{id}", True, _nack, schema.SettleBody),
    Operation("ack_batch", "POST", "/ack-batch/{queue}", True, _ack_batch, schema.SettleBatchBody, True),
    Operation("nack_batch", "POST", "/nack-batch/{queue}", True, _nack_batch, schema.SettleBatchBody, True),
    Operation("purge_queue", "POST", "/purge-queue/{queue}", True, _purge_queue),
    Operation("delete_queue", "DELETE", "/delete-queue/{queue}", True, _delete_queue),
    Operation("purge_all", "POST", "/purge-all", True, _purge_all),
    Operation("delete_all", "POST", "/delete-all", True, _delete_all),
    Operation("queues", "GET", "/queues", False, reports.queues, large=True),
    Operation("queue_stats", "GET", "/queue-stats/{queue}", False, reports.queue_stats),
    Operation("stats", "GET", "/stats", False, reports.stats, large=True),
    Operation("metrics", "GET", "/queues/{queue}/metrics", False, reports.metrics, large=True),
    Operation("operation_timings", "GET", "/operation-timings", False, reports.operation_timings, large=True),
    Operation("health", "GET", "/health", False, reports.health),
)
"""Every HTTP route of the contract except /ws and the web UI."""

resolve: Final = Router(OPERATIONS).resolve
"""`resolve(method, raw_path, query)`: see `Router.resolve`."""


def error_reply(error: QrustyError) -> Reply:
    """The reply to a refused request."""
    if isinstance(error, Starting):
        body = {"status": "starting", "message": reports.STARTING_MESSAGE, "retry_after_secs": RETRY_AFTER_SECONDS}
        return Reply(error.status, _encode(body))
    return Reply(error.status, _encode({"error": shortened(str(error)), "code": error.code}))


def check_content_type(operation: Operation, content_type: str | None, no_body: bool = False) -> None:
    """Raise WrongContentType if the operation takes a JSON body and the content type is not JSON.

    Raises MalformedJson if there is neither a body nor a content type: then it is the body that is missing.
    """
    if content_type == "application/json" or operation.request is None:
        return
    if no_body and not content_type:
        raise MalformedJson(MISSING_BODY)
    essence = (content_type or "").partition(";")[0].strip().lower()
    if essence != "application/json" and not (essence.startswith("application/") and essence.endswith("+json")):
        sentence = "the Content-Type of the request must be application/json"
        raise WrongContentType(f"{MISSING_BODY}, and {sentence}" if no_body else sentence)
