"""Operations on queues: create, update, purge, delete.

Rule: see `api.operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import in_body, in_path, on_every
from qrusty_trio.api import schema, trash
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import QueueConfig, Retention
from qrusty_trio.core.queue import Queue

QUEUES_PIECE = 32
"""Queues purged or deleted between two yields."""

_encode = msgspec.json.encode


def _create_queue(services: Services, call: Call, now: int) -> Reply:
    request = schema.create_queue_body(call.body)
    call.require(request.name)
    wanted = request.config
    config = QueueConfig(
        wanted.ordering,
        wanted.allow_duplicates,
        wanted.priority_kind,
        wanted.dead_letter_ttl_seconds,
        wanted.dead_letter_max,
        wanted.protected,
    )
    services.broker.catalog.create(request.name, config)
    return Reply(200, b"", True)


def _update_queue(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    request = schema.update_queue_body(call.body)
    changes = request.config
    call.require(request.name)
    if changes.name is not None:
        call.require(changes.name)
    retention: Retention = {}
    if changes.dead_letter_ttl_seconds is not msgspec.UNSET:
        retention["dead_letter_ttl_seconds"] = changes.dead_letter_ttl_seconds
    if changes.dead_letter_max is not msgspec.UNSET:
        retention["dead_letter_max"] = changes.dead_letter_max
    yield from services.broker.catalog.update(
        request.name, changes.name, changes.allow_duplicates, now, retention, changes.protected
    )
    return Reply(200, b"", True)


# The next four sync even when they find nothing: the change that emptied the queue may not be durable yet.


def _purge_queue(services: Services, call: Call, now: int) -> Reply:
    name = call.queue
    if seconds := trash.undo_seconds(call):
        purged, kept = services.broker.trash.purge(name, seconds, now)
        return Reply(200, _encode({"queue": name, "purged_messages": purged, "undo": trash.undo(kept)}), True)
    purged = services.broker.catalog.purge(name)
    return Reply(200, _encode({"queue": name, "purged_messages": purged}), True)


def _delete_queue(services: Services, call: Call, now: int) -> Reply:
    name = call.queue
    if seconds := trash.undo_seconds(call):
        deleted, kept = services.broker.trash.delete(name, seconds, now)
        return Reply(200, _encode({"queue": name, "deleted_messages": deleted, "undo": trash.undo(kept)}), True)
    deleted = services.broker.catalog.delete(name)
    return Reply(200, _encode({"queue": name, "deleted_messages": deleted}), True)


def _purge_all(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    return _for_all(services.broker, call, services.broker.catalog.purge_queue, "purged")


def _delete_all(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    return _for_all(services.broker, call, services.broker.catalog.delete_queue, "deleted")


def _for_all(broker: Broker, call: Call, clear: Callable[[Queue], int], done: str) -> Generator[None, None, Reply]:
    """Apply `clear` to every queue that exists now and is not protected, even if it is renamed or purged meanwhile.

    The reply has the numbers of queues and messages, and that of protected queues if there are any.

    Requirements: SCH-0031
    """
    queues, messages, protected = f"{done}_queues", f"{done}_messages", "protected_queues"
    told = {queues: 0, messages: 0}
    call.done = told.copy
    for index, listed in enumerate(broker.catalog.everything(), 1):
        if index % QUEUES_PIECE == 0:
            yield
        # One that was purged meanwhile may go on under another number, with its dead letters.
        queue = broker.catalog.by_dead_number.get(listed.dead_number, listed)
        if not broker.catalog.exists(queue):
            continue
        if queue.config.protected:
            told[protected] = told.get(protected, 0) + 1
            continue
        told[queues] += 1
        told[messages] += clear(queue)
    return Reply(200, _encode(told), True)


OPERATIONS = (
    Operation(
        "create_queue", "POST", "/create-queue", in_body(Grant.MANAGE), True, _create_queue, schema.CreateQueueBody
    ),
    Operation(
        "update_queue", "POST", "/update-queue", in_body(Grant.MANAGE), True, _update_queue, schema.UpdateQueueBody
    ),
    Operation("purge_queue", "POST", "/purge-queue/{queue}", in_path(Grant.MANAGE), True, _purge_queue),
    Operation("delete_queue", "DELETE", "/delete-queue/{queue}", in_path(Grant.MANAGE), True, _delete_queue),
    Operation("purge_all", "POST", "/purge-all", on_every(Grant.ADMIN), True, _purge_all),
    Operation("delete_all", "POST", "/delete-all", on_every(Grant.ADMIN), True, _delete_all),
)
