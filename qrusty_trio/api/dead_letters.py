"""Operations on dead letters: list, read, requeue, purge.

Rule: see `api.operations`. What looks at many letters does a bounded amount of work for each call, or goes in steps of
about a millisecond.

Requirements: DLV-0046, DLV-0049
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import in_path
from qrusty_trio.api import paging
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.json_bodies import Shape
from qrusty_trio.api.paging import Cursor, Listed
from qrusty_trio.api.routes import read_query
from qrusty_trio.core.catalog import check_unprotected
from qrusty_trio.core.dead_letter_moves import Chosen, Outcome, Target
from qrusty_trio.core.dead_letters import (
    EVERY,
    LOOKED_AT_WITHOUT_INDEX,
    READ_PER_STEP,
    STEP_BYTES,
    DeadLetter,
    Filter,
)
from qrusty_trio.core.keys import lock_key
from qrusty_trio.core.model import MAX_CONSUMER_BYTES, U32_MAX, U64_MAX, DeathReason, Kind
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.records import requeues_of
from qrusty_trio.errors import BadRequest, NotFound, QueueNotFound, WrongShape
from qrusty_trio.storage.payloads import PayloadBroken

MAX_LIST_BYTES = 512 * 1024
"""Size of a page. Once the next letter would exceed it, the page ends."""
MAX_SHOWN_BYTES = 16 * 1024
"""A larger payload is not shown in a list, only how it begins."""
PREVIEW_CHARACTERS = 1024
LOOKED_AT = 10_000
"""Dead letters that one call of a list looks at, those that do not pass its filter included."""
LIST_STEPS = 500
"""Steps of one call of a list: each takes under a millisecond."""
MAX_TEXT_BYTES = 1024
"""Longest text to look for, UTF-8."""

_SECONDS = f"an integer from 0 to {U32_MAX}"
_ALLOWED: Final = {
    "ids": "a list of strings",
    "filter": "an object with some of reason, consumer, older_than_secs and text",
    "filter.reason": "one of " + ", ".join(DeathReason),
    "filter.consumer": f"a string of at most {MAX_CONSUMER_BYTES} bytes of UTF-8",
    "filter.older_than_secs": _SECONDS,
    "filter.text": f"a string of 1 to {MAX_TEXT_BYTES} bytes of UTF-8",
    "all": "true",
    "up_to": f"an integer from 0 to {U64_MAX}",
    "dry_run": "true or false",
    "to": "a string",
}
_FILTERS = ("reason", "consumer", "older_than_secs", "text")

_encode = msgspec.json.encode


class FilterFields(msgspec.Struct, forbid_unknown_fields=True):
    reason: DeathReason | None = None
    consumer: str | None = None
    older_than_secs: int | None = None
    text: str | None = None


# A field that is not known here could be a misspelt limit on what is removed. So these bodies allow none.


class PurgeBody(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[str] | None = None
    filter: FilterFields | None = None
    all: bool | None = None
    up_to: int | None = None
    """No letter with this number or a higher one is touched: what a list or a dry run answered."""
    dry_run: bool | None = None


class RequeueBody(PurgeBody, forbid_unknown_fields=True):
    to: str | None = None
    priority: int | str | None = None


_REQUEUE = Shape(RequeueBody, _ALLOWED, ids="ids", inner=("filter", FilterFields))
_PURGE = Shape(PurgeBody, _ALLOWED, ids="ids", inner=("filter", FilterFields))


def _queue_of(services: Services, call: Call) -> Queue:
    name = call.queue
    queue = services.broker.catalog.by_name.get(name)
    if queue is None:
        raise QueueNotFound(f"Queue '{name}' does not exist")
    return queue


# Reading


@dataclass
class _Page:
    """A page of a list while it is put together."""

    limit: int
    size: int = 0
    looked_at: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        self.entries: list[bytes] = []

    def add(self, entry: bytes) -> bool:
        """Whether there was room for it."""
        if len(self.entries) == self.limit or (self.entries and self.size + len(entry) > MAX_LIST_BYTES):
            return False
        self.entries.append(entry)
        self.size += len(entry)
        return True

    @property
    def over(self) -> bool:
        return len(self.entries) == self.limit or self.looked_at >= LOOKED_AT or self.steps >= LIST_STEPS


def listed(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    """A page of dead letters."""
    queue = _queue_of(services, call)
    query = read_query(call.query, ("limit", "cursor", *_FILTERS))
    limit = paging.read_limit(query.get("limit"))
    # A cursor is only given when there was something before its upper bound, so a purge there came later.
    cursor = paging.read_cursor(query.get("cursor"), Listed.DEAD, queue.number, queue.dead_purged + 1, queue.next_dead)
    wanted = _filter_of_query(query, now)
    # What was purged or requeued from the beginning on is no further page.
    begin, end = queue.dead_from, queue.next_dead
    if cursor is not None:
        begin, end = _number_after(cursor), cursor.upper
    page = _Page(limit)
    letters = services.broker.dead_letters
    number = begin
    for batch in letters.search(queue, wanted, begin, end, READ_PER_STEP if wanted is not EVERY else limit):
        page.steps += 1
        page.looked_at += batch.looked_at
        read = full = 0
        for letter in batch.letters:
            entry, octets = _entry(services, letter)
            if not page.add(entry):
                full = True
                break
            number = letter.number + 1
            read += octets + len(entry)
            if read >= STEP_BYTES:
                read = 0
                page.steps += 1
                yield
        if full:
            break
        number = batch.end
        if page.over:
            break
        yield
    if not services.broker.catalog.exists(queue):
        raise services.broker.catalog.gone(queue, call.queue)
    position = lock_key(queue.number, max(number, 1) - 1)
    further = Cursor(Listed.DEAD, queue.number, end, position).text() if number < end else None
    about = _encode({"cursor": further, "looked_at": page.looked_at, "up_to": end, "dead_letters": queue.dead})
    return Reply(200, b'{"messages":[%b],%b' % (b",".join(page.entries), about[1:]))


def _number_after(cursor: Cursor) -> int:
    if len(cursor.position) != len(lock_key(0, 0)):
        raise BadRequest("'cursor' must be one that an earlier page gave")
    return int.from_bytes(cursor.position[4:], "big") + 1


def _get(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    queue = _queue_of(services, call)
    id = call.params[1]
    shown, looked_at = yield from found(services, queue, id)
    if shown is not None:
        return Reply(200, _encode(shown))
    looked = f"; {looked_at} of an earlier version were looked at" if looked_at else ""
    raise NotFound(f"Message '{id[:64]}' is no dead letter of queue '{queue.name}'{looked}")


def found(services: Services, queue: Queue, id: str) -> Generator[None, None, tuple[dict[str, Any] | None, int]]:
    """A dead letter with its whole payload, for a response; None for none. And how many letters were looked at."""
    looked_at = 0
    for batch in services.broker.dead_letters.find(queue, [id], LOOKED_AT_WITHOUT_INDEX):
        looked_at += batch.looked_at
        for letter in batch.letters:
            shown = letter_fields(services, letter)
            yield
            return shown, looked_at
        yield
    return None, looked_at


def letter_fields(services: Services, letter: DeadLetter) -> dict[str, Any]:
    """A dead letter with its whole payload, for a response."""
    shown = _described(letter)
    try:
        return shown | {"payload": services.broker.dead_letters.payload(letter).decode()}
    except PayloadBroken as broken:
        return shown | {"payload": None, "payload_error": broken.reason}


def _entry(services: Services, letter: DeadLetter) -> tuple[bytes, int]:
    """An entry of a list, and the size of its payload in bytes."""
    shown = _described(letter)
    try:
        payload = services.broker.dead_letters.payload(letter)
    except PayloadBroken as broken:
        return _encode(shown | {"payload": None, "payload_error": broken.reason}), 0
    if len(payload) <= MAX_SHOWN_BYTES:
        shown["payload"] = payload.decode()
    else:
        # A character that is cut in half at the end is left out.
        begin = payload[: 4 * PREVIEW_CHARACTERS].decode(errors="ignore")
        shown |= {"payload_preview": begin[:PREVIEW_CHARACTERS], "payload_bytes": len(payload)}
    return _encode(shown), len(payload)


def _described(letter: DeadLetter) -> dict[str, Any]:
    stored = letter.stored
    return {
        "id": letter.id,
        "priority": letter.priority,
        "priority_text": str(letter.priority),
        "created_at": letter.created_ms,
        "died_at": stored.died_ms,
        "reason": stored.reason,
        "error": stored.error.decode() or None,
        "consumer": stored.consumer.decode() if stored.died_ms is not None else None,
        "deliveries": letter.deliveries,
        "max_retries": letter.max_retries,
        "requeues": requeues_of(stored.record),
        "state": "dead",
    }


# Filters


def _filter_of_query(query: dict[str, str], now: int) -> Filter:
    reason, age = query.get("reason"), query.get("older_than_secs")
    if reason is not None and reason not in set(DeathReason):
        raise BadRequest(f"'reason' must be {_ALLOWED['filter.reason']}")
    seconds = None
    if age is not None:
        if not (age.isascii() and age.isdigit() and len(age) <= len(str(U32_MAX)) and int(age) <= U32_MAX):
            raise BadRequest(f"'older_than_secs' must be {_SECONDS}")
        seconds = int(age)
    fields = FilterFields(
        DeathReason(reason) if reason is not None else None, query.get("consumer"), seconds, query.get("text")
    )
    wrong = _wrong_field(fields)
    if wrong is not None:
        raise BadRequest(f"'{wrong}' must be {_ALLOWED[f'filter.{wrong}']}")
    return _filter(fields, now)


def _wrong_field(fields: FilterFields) -> str | None:
    """The first field of a filter that is out of its range."""
    if fields.consumer is not None and len(fields.consumer.encode()) > MAX_CONSUMER_BYTES:
        return "consumer"
    if fields.older_than_secs is not None and not 0 <= fields.older_than_secs <= U32_MAX:
        return "older_than_secs"
    if fields.text is not None and not 1 <= len(fields.text.encode()) <= MAX_TEXT_BYTES:
        return "text"
    return None


def _filter(fields: FilterFields, now: int) -> Filter:
    if fields == FilterFields():
        return EVERY
    age = fields.older_than_secs
    return Filter(fields.reason, fields.consumer, now - age * 1000 if age is not None else None, fields.text)


# Taking away


def _chosen(shape: Shape[Any], body: PurgeBody, queue: Queue, now: int) -> Chosen:
    given = [name for name in ("ids", "filter", "all") if getattr(body, name) is not None]
    if len(given) != 1:
        named = " and ".join(f"'{name}'" for name in given) + " were given" if given else "none was given"
        raise WrongShape(f"exactly one of 'ids', 'filter' and 'all' must be given: {named}")
    if body.all is False:
        raise shape.wrong("all")
    wanted = EVERY
    if body.filter is not None:
        wrong = _wrong_field(body.filter)
        if wrong is not None:
            raise shape.wrong(f"filter.{wrong}")
        wanted = _filter(body.filter, now)
        if wanted is EVERY:
            raise WrongShape("'filter' must have at least one of reason, consumer, older_than_secs and text")
    end = queue.next_dead
    if body.up_to is not None:
        if not 0 <= body.up_to <= U64_MAX:
            raise shape.wrong("up_to")
        end = min(end, body.up_to)
    return Chosen(body.ids, wanted, end, bool(body.dry_run))


def _requeue(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    body = _REQUEUE.read(call.body)
    if body.to is not None:
        call.require(body.to)
    queue = _queue_of(services, call)
    chosen = _chosen(_REQUEUE, body, queue, now)
    target = Target(_target_queue(services, queue, body), body.priority)
    outcome = Outcome()
    call.done = lambda: {"requeued": 0 if chosen.dry_run else outcome.taken}
    yield from services.broker.dead_letter_moves.requeue(queue, chosen, target, outcome)
    response = yield from _response(services, chosen, outcome, "requeued")
    response["refused"] = outcome.refused_total
    response["not_eligible"] = [
        {"id": id, "error": str(refusal), "code": refusal.code} for id, refusal in outcome.refused
    ]
    return Reply(200, _encode(response), not chosen.dry_run)


def _target_queue(services: Services, queue: Queue, body: RequeueBody) -> Queue:
    to = queue
    if body.to is not None:
        found = services.broker.catalog.by_name.get(body.to)
        if found is None:
            raise QueueNotFound(f"Queue '{body.to}' does not exist")
        to = found
    priority = body.priority
    if isinstance(priority, int) and not 0 <= priority <= U64_MAX:
        raise _REQUEUE.wrong("priority")
    if priority is None and to.config.kind is not queue.config.kind:
        kind = "a number" if to.config.kind is Kind.NUMERIC else "a string"
        raise WrongShape(f"'priority' is missing: it must be {kind}, because '{body.to}' has another kind of priority")
    return to


def _purge(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    body = _PURGE.read(call.body)
    queue = _queue_of(services, call)
    chosen = _chosen(_PURGE, body, queue, now)
    if not chosen.dry_run:
        check_unprotected(queue, "purged")
    outcome = Outcome()
    call.done = lambda: {"purged": 0 if chosen.dry_run else outcome.taken}
    yield from services.broker.dead_letter_moves.purge(queue, chosen, outcome)
    response = yield from _response(services, chosen, outcome, "purged")
    return Reply(200, _encode(response), not chosen.dry_run)


def _response(services: Services, chosen: Chosen, outcome: Outcome, done: str) -> Generator[None, None, dict[str, Any]]:
    response: dict[str, Any] = {done: 0 if chosen.dry_run else outcome.taken, "up_to": chosen.end}
    response["looked_at"] = outcome.looked_at
    if chosen.ids is not None:
        response["not_found"] = outcome.not_found
    if chosen.dry_run:
        samples = []
        for letter in outcome.samples:
            entry, octets = _entry(services, letter)
            samples.append(msgspec.Raw(entry))
            if octets > MAX_SHOWN_BYTES:
                yield
        response |= {"dry_run": True, "count": outcome.taken, "samples": samples}
    return response


_PATH = "/queues/{queue}/dead-letters"

OPERATIONS = (
    Operation("dead_letters", "GET", _PATH, in_path(Grant.READ), False, listed, large=True, reads_store=True),
    Operation(
        "requeue_dead_letters", "POST", f"{_PATH}/requeue", in_path(Grant.MANAGE), True, _requeue, RequeueBody, True
    ),
    Operation("purge_dead_letters", "POST", f"{_PATH}/purge", in_path(Grant.MANAGE), True, _purge, PurgeBody, True),
    Operation("dead_letter", "GET", f"{_PATH}/{{id}}", in_path(Grant.READ), False, _get, large=True, reads_store=True),
)
