"""The audit: who changed what on purpose, beside publishing and consuming, and `GET /audit`, which shows it.

Rule: a record is made after its change is as durable as it will be. Records are numbered from 1 without a gap, so a gap
in the file tells that something could not be written. What is kept here for readers is bounded; the file has the rest.

Requirements: API-0165, API-0166
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import on_every
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.paging import read_limit
from qrusty_trio.api.routes import read_query
from qrusty_trio.errors import BadRequest

AUDITED: Final = frozenset(
    {
        "create_queue",
        "update_queue",
        "purge_queue",
        "delete_queue",
        "purge_all",
        "delete_all",
        "requeue_dead_letters",
        "purge_dead_letters",
        "restore",
        "erase",
        "force_unlock",
    }
)
"""Names of the operations that are recorded."""
MAX_RECORDS = 1000
"""Records kept in memory, for `GET /audit`."""
MAX_KEPT_BYTES = 2 * 1024 * 1024
SHOWN_BYTES = 2048
"""A longer body of a request or a response is recorded by its size alone."""
MAX_NUMBER = 10**16 - 1
"""Of a record: whatever 16 digits hold."""

_encode = msgspec.json.encode


class Outcome(StrEnum):
    """What became of the change."""

    DONE = "done"
    INTERRUPTED = "interrupted"
    """The client was gone before the end: a part may be done."""
    FAILED = "failed"
    """It failed or was refused in the middle: a part may be done."""


class Actor(NamedTuple):
    """Who asked."""

    who: str
    """The name of the token, or else the peer."""
    peer: str


class Kept(NamedTuple):
    """A record, as it is written."""

    number: int
    line: bytes
    """JSON, without the line end."""


class RecordFile(Protocol):
    """Where records are kept for good."""

    lost: int
    """Records that were not written, and will not be."""
    failing: bool
    """Whether records wait because they can't be written."""
    earlier: list[Kept]
    """The last records that were there at the start, the oldest first."""

    def put(self, record: Kept) -> None:
        """Take a record. Must not wait."""


class AuditTrail:
    """The last records, and the way to the file."""

    def __init__(self, file: RecordFile) -> None:
        self.file = file
        self._kept: deque[Kept] = deque()
        self._octets = 0
        self._next = 1
        for each in file.earlier:
            self._keep(each)

    def add(
        self,
        time: str,
        actor: Actor,
        call: Call,
        reply: Reply | None,
        outcome: Outcome = Outcome.DONE,
        so_far: dict[str, int] | None = None,
    ) -> None:
        """Record a change. `time`: RFC 3339. `so_far`: how much of it is done, if it ended in the middle.

        Requirements: API-0199
        """
        fields: dict[str, Any] = {
            "number": self._next,
            "time": time,
            "who": actor.who,
            "peer": actor.peer,
            "request_id": call.identity.name if call.identity is not None else "",
            "operation": call.operation.name,
            "queue": queue_of(call),
            "request": _shown(call.body),
            "response": _shown(reply.body) if reply is not None else None,
            "outcome": outcome.value,
        }
        if so_far is not None:
            fields["so_far"] = so_far
        record = Kept(self._next, _encode(fields))
        self._keep(record)
        self.file.put(record)

    def _keep(self, record: Kept) -> None:
        self._next = max(self._next, record.number + 1)
        self._kept.append(record)
        self._octets += len(record.line)
        while len(self._kept) > MAX_RECORDS or (self._octets > MAX_KEPT_BYTES and len(self._kept) > 1):
            self._octets -= len(self._kept.popleft().line)

    def page(self, before: int, limit: int) -> tuple[list[bytes], int | None]:
        """Up to `limit` records before this number, the newest first; and the number to go on with, None at the end."""
        older = (each for each in reversed(self._kept) if each.number < before)
        found = list(islice(older, limit + 1))
        page = found[:limit]
        return [each.line for each in page], page[-1].number if len(found) > limit else None


def queue_of(call: Call) -> str | None:
    """The queue that a call names; None if it is about all of them, or names one only in its response."""
    if call.params:
        return call.queue if "{queue}" in call.operation.path else None
    named = _shown(call.body)
    name = named.get("name") if isinstance(named, dict) else None
    return name if isinstance(name, str) else None


def _shown(body: bytes) -> Any:
    """A body as it is recorded: its JSON, or its size if it is long or not JSON."""
    if not body:
        return None
    if len(body) <= SHOWN_BYTES:
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    return {"bytes": len(body)}


def _audit(services: Services, call: Call, now: int) -> Reply:
    given = read_query(call.query, ("limit", "cursor"))
    limit, before = read_limit(given.get("limit")), _read_cursor(given.get("cursor"))
    trail = services.audit
    lines, further = trail.page(before, limit) if trail is not None else ([], None)
    told = {
        "enabled": trail is not None,
        "records": [msgspec.Raw(each) for each in lines],
        "cursor": str(further) if further is not None else None,
        "lost": trail.file.lost if trail is not None else 0,
        "failing": trail is not None and trail.file.failing,
    }
    return Reply(200, _encode(told))


def _read_cursor(given: str | None) -> int:
    """The number before which a page begins. Raises BadRequest."""
    if given is None:
        return MAX_NUMBER
    if given.isascii() and given.isdigit() and len(given) <= len(str(MAX_NUMBER)):
        return int(given)
    raise BadRequest("'cursor' must be one that an earlier page gave")


OPERATIONS = (Operation("audit", "GET", "/audit", on_every(Grant.ADMIN), False, _audit, large=True),)
