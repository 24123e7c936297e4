"""Operations that look at messages without taking them: list, find by id, count by priority.

Rule: see `api.operations` and `core.browsing`. Nothing is locked, counted or moved, and nothing is removed, not even a
message whose payload is broken.

Requirements: DLV-0052
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import in_path
from qrusty_trio.api import dead_letters
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.locking import NUMBER_BYTES, lock_fields, queue_of
from qrusty_trio.api.paging import Cursor, Listed, read_cursor, read_limit
from qrusty_trio.api.routes import read_query
from qrusty_trio.core.browsing import lock_page, read_on
from qrusty_trio.core.finding import Place, find
from qrusty_trio.core.payloads import Payloads
from qrusty_trio.core.priorities import count_priorities
from qrusty_trio.core.queue import Lock, Queue
from qrusty_trio.core.records import unpack_message
from qrusty_trio.errors import BadRequest, MessageNotFound, Unavailable
from qrusty_trio.storage.payloads import PayloadBroken

SHOWN_BYTES = 16 * 1024
"""A larger payload is not shown in a list, only how it begins."""
PREVIEW_BYTES = 1024
MAX_LIST_BYTES = 512 * 1024
"""Size of a page. Once the next message would exceed it, the page ends."""
MESSAGES_PER_STEP = 32
"""Messages read and encoded in one step: 0.1 ms, and 1.5 ms if their payloads are as large as a list shows."""
STATES = ("available", "locked", "dead")
MAX_BEFORE = 2**63
"""Most messages that a search, of many pages, has counted before a place."""
_COUNT_BYTES = 8
"""Bytes of that number in a cursor."""

_encode = msgspec.json.encode
T = TypeVar("T")


def _messages(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    given = read_query(call.query, ("limit", "cursor", "state"))
    limit = read_limit(given.get("limit"))
    state = given.get("state", "available")
    if state not in STATES:
        raise BadRequest(f"'state' must be one of {', '.join(STATES)}")
    if state == "dead":
        return (yield from dead_letters.listed(services, call, now))
    queue = queue_of(services, call.queue)
    page = _Page(limit)
    list_of = _available if state == "available" else _locked
    cursor = yield from _while_there(services, queue, list_of(services, queue, given.get("cursor"), page))
    body = b'{"messages":[%b],"cursor":%b}' % (b",".join(page.members), _encode(cursor.text() if cursor else None))
    return Reply(200, body)


class _Page:
    """The messages of a response, encoded."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.members: list[bytes] = []
        self._octets = 0

    def add(self, message: dict[str, Any]) -> bool:
        """Add a message; returns whether there was room for it."""
        member = _encode(message)
        if not self.left or (self.members and self._octets + len(member) > MAX_LIST_BYTES):
            return False
        self.members.append(member)
        self._octets += len(member) + 1
        self.left -= 1
        return True


def _available(
    services: Services, queue: Queue, given: str | None, page: _Page
) -> Generator[None, None, Cursor | None]:
    """Fill a page with available messages in the order of the queue. Returns where the next one begins."""
    start = read_cursor(given, Listed.AVAILABLE, queue.number, queue.purged_sequence, queue.next_sequence)
    upper = start.upper if start is not None else queue.next_sequence
    last = start.position if start is not None else None
    begin = last + b"\x00" if last is not None else queue.head
    while True:
        chunk = read_on(services.broker.journal, queue, begin, MESSAGES_PER_STEP)
        for key, record in chunk.pairs:
            if not page.add(message_fields(services.broker.payloads, queue, key, record)):
                assert last is not None
                return Cursor(Listed.AVAILABLE, queue.number, upper, last)
            last = key
        if chunk.begin is None:
            return None
        begin = chunk.begin
        yield


def _locked(services: Services, queue: Queue, given: str | None, page: _Page) -> Generator[None, None, Cursor | None]:
    """Fill a page with locked messages in the order in which they were locked. Returns where the next one begins."""
    start = read_cursor(given, Listed.LOCKED, queue.number, queue.purged_lock, queue.next_lock, NUMBER_BYTES)
    upper, after = (start.upper, int.from_bytes(start.position, "big")) if start is not None else (queue.next_lock, -1)
    journal = services.broker.journal
    found = yield from lock_page(journal, queue, None, after, page.left)
    further = found.after
    for index, lock in enumerate(found.locks):
        if index and index % MESSAGES_PER_STEP == 0:
            yield
        if queue.locks.get(lock.id) is not lock:
            continue  # it was settled since the last step
        record = queue.read_lock(journal, lock).record
        if not page.add(message_fields(services.broker.payloads, queue, lock.key, record, lock)):
            further = lock.number - 1
            break
    return (
        Cursor(Listed.LOCKED, queue.number, upper, further.to_bytes(NUMBER_BYTES, "big"))
        if further is not None
        else None
    )


def message_fields(
    payloads: Payloads, queue: Queue, key: bytes, record: bytes, lock: Lock | None = None, whole: bool = False
) -> dict[str, Any]:
    """A message, for a response. `whole`: with its payload, however large that is."""
    _, created, max_retries, deliveries, id = unpack_message(record)
    priority = queue.coder.priority(key)
    shown: dict[str, Any] = {"id": id.decode()}
    octets = payloads.octets(record)
    try:
        if whole or octets <= SHOWN_BYTES:
            shown["payload"] = payloads.of(record).decode()
        else:
            # A character may be cut at the end.
            shown["payload_preview"] = payloads.beginning(record, PREVIEW_BYTES).decode(errors="ignore")
            shown["payload_bytes"] = octets
    except PayloadBroken as broken:
        shown |= {"payload": None, "payload_bytes": octets, "payload_error": broken.reason}
    shown |= {
        "priority": priority,
        "priority_text": str(priority),
        "created_at": created,
        "deliveries": deliveries if lock is None else lock.deliveries,
        "max_retries": max_retries,
        "state": "available" if lock is None else "locked",
    }
    return shown if lock is None else shown | lock_fields(lock)


def _one_message(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    name, id = call.params
    given = read_query(call.query, ("cursor",))
    queue = queue_of(services, name)
    cursor = read_cursor(given.get("cursor"), Listed.SEARCHED, queue.number, queue.purged_sequence, queue.next_sequence)
    start = read_place(cursor) if cursor is not None else None
    payloads = services.broker.payloads
    lock = queue.locks.get(id)
    if lock is not None:
        record = queue.read_lock(services.broker.journal, lock).record
        found = message_fields(payloads, queue, lock.key, record, lock, whole=True)
        return Reply(200, _encode(found | {"looked_at": 0, "complete": True, "cursor": None}))
    if queue.dead and cursor is None:
        dead, _ = yield from _while_there(services, queue, dead_letters.found(services, queue, id))
        if dead is not None:
            return Reply(200, _encode(dead | {"looked_at": 0, "complete": True, "cursor": None}))
    search = yield from _while_there(services, queue, find(services.broker.journal, queue, id, start))
    outcome: dict[str, Any] = {"looked_at": search.looked_at, "complete": search.further is None, "cursor": None}
    if search.found is not None:
        found = message_fields(payloads, queue, search.found.key, search.record, whole=True)
        return Reply(200, _encode(found | {"before": search.found.before} | outcome))
    if search.further is None:
        raise MessageNotFound(f"There is no message '{id[:64]}' in queue '{name}'")
    position = place_bytes(search.further)
    upper = cursor.upper if cursor is not None else queue.next_sequence
    outcome["cursor"] = Cursor(Listed.SEARCHED, queue.number, upper, position).text()
    return Reply(200, _encode({"id": id, "state": None} | outcome))


def place_bytes(place: Place) -> bytes:
    """A place, for a cursor."""
    return place.before.to_bytes(_COUNT_BYTES, "big") + place.key


def read_place(cursor: Cursor) -> Place:
    """Where a search goes on. Raises BadRequest."""
    before = int.from_bytes(cursor.position[:_COUNT_BYTES], "big")
    if before > MAX_BEFORE:
        raise BadRequest("'cursor' must be one that an earlier page gave")
    return Place(cursor.position[_COUNT_BYTES:], before)


def _priorities(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    queue = queue_of(services, call.queue)
    found = yield from _while_there(services, queue, count_priorities(services.broker.journal, queue))
    rows = [{"priority": each, "priority_text": str(each), "count": count} for each, count in found.counts]
    return Reply(
        200,
        _encode(
            {"priorities": rows, "others": found.others, "sampled": found.sampled, "looked_at": found.looked_at},
        ),
    )


def _while_there(services: Services, queue: Queue, steps: Generator[None, None, T]) -> Generator[None, None, T]:
    """Take these steps as long as the queue exists. Raises QueueNotFound, Unavailable."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
        yield
        if not services.broker.catalog.exists(queue):
            if services.broker.catalog.by_number.get(queue.number) is None:
                raise services.broker.catalog.gone(queue, queue.name)
            raise Unavailable("the store was read anew; ask again")


OPERATIONS = (
    Operation(
        "messages",
        "GET",
        "/queues/{queue}/messages",
        in_path(Grant.READ),
        False,
        _messages,
        large=True,
        reads_store=True,
    ),
    Operation(
        "message",
        "GET",
        "/queues/{queue}/messages/{id}",
        in_path(Grant.READ),
        False,
        _one_message,
        large=True,
        reads_store=True,
    ),
    Operation(
        "priorities",
        "GET",
        "/queues/{queue}/priorities",
        in_path(Grant.READ),
        False,
        _priorities,
        large=True,
        reads_store=True,
    ),
)
