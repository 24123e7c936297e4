"""Operations on locks: renew, renew in batches, force-unlock, list.

Rule: see `api.operations`. The list of locks shows a WebSocket as `ws-` and a UUID, and force-unlock takes that name.
Only the WebSocket itself can renew what it holds.

Requirements: DLV-0041, DLV-0042
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import SETTLES, in_path
from qrusty_trio.api import schema
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.json_bodies import Shape, check_consumer
from qrusty_trio.api.paging import Cursor, Listed, read_cursor, read_limit
from qrusty_trio.api.routes import read_query
from qrusty_trio.core.browsing import lock_page, shown_consumer
from qrusty_trio.core.model import U64_MAX
from qrusty_trio.core.queue import Lock, Queue
from qrusty_trio.errors import MessageNotLocked, WrongShape

BATCH_PIECE = 32
"""Locks renewed or ended between two yields: half a millisecond."""
LOOKED_AT_PIECE = 1024
"""Locks looked at between two yields, if only those of one consumer are meant."""
NUMBER_BYTES = 8
"""Bytes of a lock number in a cursor."""

_encode = msgspec.json.encode


class RenewBody(msgspec.Struct):
    consumer_id: str
    timeout_seconds: int | None = None


class RenewBatchBody(msgspec.Struct):
    consumer_id: str
    message_ids: list[str]
    timeout_seconds: int | None = None


class ForceUnlockBody(msgspec.Struct):
    ids: list[str] | None = None
    consumer_id: str | None = None
    all: bool | None = None


_RENEW = Shape(RenewBody)
_RENEW_BATCH = Shape(RenewBatchBody, ids="message_ids")
_FORCE_UNLOCK = Shape(ForceUnlockBody, {"ids": "a list of strings", "all": "true"}, ids="ids")


def _renew(services: Services, call: Call, now: int) -> Reply:
    request = _RENEW.read(call.body)
    check_consumer(request.consumer_id)
    queue, message_id = call.params
    lock_seconds = schema.lock_seconds(request.timeout_seconds)
    end = services.broker.renew(queue, message_id, request.consumer_id, lock_seconds, now)
    return Reply(200, b'{"lock_until":%d}' % end, services.sync_locks)


def _renew_batch(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    request = _RENEW_BATCH.read(call.body)
    check_consumer(request.consumer_id)
    lock_seconds = request.timeout_seconds
    if lock_seconds is None:
        lock_seconds = schema.DEFAULT_LOCK_SECONDS
    elif not 0 <= lock_seconds <= U64_MAX:
        raise _RENEW_BATCH.wrong("timeout_seconds")
    outcomes: dict[str, list[str]] = {"renewed": [], "not_found": []}
    for index, message_id in enumerate(request.message_ids, 1):
        try:
            services.broker.renew(call.queue, message_id, request.consumer_id, lock_seconds, now)
        except MessageNotLocked:
            outcomes["not_found"].append(message_id)
        else:
            outcomes["renewed"].append(message_id)
        if index % BATCH_PIECE == 0:
            yield
    return Reply(200, _encode(outcomes), services.sync_locks and bool(outcomes["renewed"]))


def _force_unlock(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    request = _FORCE_UNLOCK.read(call.body)
    if sum(given is not None for given in (request.ids, request.consumer_id, request.all)) != 1:
        raise WrongShape("exactly one of 'ids', 'consumer_id' and 'all' must be given")
    if request.all is False:
        raise _FORCE_UNLOCK.wrong("all")
    consumer = request.consumer_id
    if consumer is not None:
        check_consumer(consumer)
    queue = queue_of(services, call.queue)
    if request.ids is not None:
        ids = request.ids
        pages = (ids[start : start + LOOKED_AT_PIECE] for start in range(0, len(ids), LOOKED_AT_PIECE))
    else:
        pages = ([lock.id for lock in page] for page in queue.locks.pages(LOOKED_AT_PIECE))
    # Locks made while this is at work are left alone.
    made = queue.next_lock
    ended = 0
    for page in pages:
        for message_id in page:
            lock = queue.locks.get(message_id)
            if lock is None or lock.number >= made:
                continue
            if consumer is not None and shown_consumer(lock.consumer) != consumer:
                continue
            services.broker.give_back(lock, counts=False, now=now)
            ended += 1
            if ended % BATCH_PIECE == 0:
                yield
        yield
    return Reply(200, b'{"unlocked":%d}' % ended, ended > 0)


def _locks(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    given = read_query(call.query, ("limit", "cursor", "consumer"))
    limit = read_limit(given.get("limit"))
    queue = queue_of(services, call.queue)
    cursor = read_cursor(
        given.get("cursor"), Listed.LOCKED, queue.number, queue.purged_lock, queue.next_lock, NUMBER_BYTES
    )
    after, upper = (
        (int.from_bytes(cursor.position, "big"), cursor.upper) if cursor is not None else (-1, queue.next_lock)
    )
    page = yield from lock_page(services.broker.journal, queue, given.get("consumer"), after, limit)
    further = None
    if page.after is not None:
        further = Cursor(Listed.LOCKED, queue.number, upper, page.after.to_bytes(NUMBER_BYTES, "big")).text()
    return Reply(200, _encode({"locks": [_described(queue, lock) for lock in page.locks], "cursor": further}))


def _described(queue: Queue, lock: Lock) -> dict[str, Any]:
    priority = queue.coder.priority(lock.key)
    shown = {"id": lock.id, "deliveries": lock.deliveries, "priority": priority, "priority_text": str(priority)}
    return shown | lock_fields(lock)


def lock_fields(lock: Lock) -> dict[str, Any]:
    """Who holds a message until when, for a response."""
    return {
        "consumer": shown_consumer(lock.consumer),
        "locked_since": lock.made_ms or None,
        "lock_until": lock.expires_at_ms,
    }


def queue_of(services: Services, name: str) -> Queue:
    """The queue of this name. Raises QueueNotFound."""
    queue = services.broker.catalog.by_name.get(name)
    if queue is None:
        raise services.broker.catalog.not_found(name)
    return queue


OPERATIONS = (
    Operation("renew", "POST", "/renew/{queue}/{id}", SETTLES, True, _renew, RenewBody),
    Operation("renew_batch", "POST", "/renew-batch/{queue}", SETTLES, True, _renew_batch, RenewBatchBody, True),
    Operation(
        "force_unlock", "POST", "/force-unlock/{queue}", in_path(Grant.MANAGE), True, _force_unlock, ForceUnlockBody
    ),
    Operation(
        "locks", "GET", "/queues/{queue}/locks", in_path(Grant.READ), False, _locks, large=True, reads_store=True
    ),
)
