"""Operations on the trash: list, put back, erase.

Rule: see `api.operations`. Putting back goes in steps of about a millisecond.

Requirements: DLV-0059, DLV-0060
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import on_kept, shown
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.routes import read_query
from qrusty_trio.core.model import MAX_UNDO_SECONDS
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.trash import Outcome
from qrusty_trio.errors import BadRequest, NotFound, UndoNotPossible
from qrusty_trio.wording import counted

UNDO_SECONDS = f"an integer from 0 to {MAX_UNDO_SECONDS}"

_MAX_DIGITS = 10
"""No number of a queue has more."""

_encode = msgspec.json.encode


def undo_seconds(call: Call) -> int:
    """The `undo_seconds` of a purge or delete; 0 if it is not given. Raises BadRequest."""
    given = read_query(call.query, ("undo_seconds",)).get("undo_seconds")
    if given is None:
        return 0
    if not _is_number(given, len(str(MAX_UNDO_SECONDS))) or int(given) > MAX_UNDO_SECONDS:
        raise BadRequest(f"'undo_seconds' must be {UNDO_SECONDS}")
    return int(given)


def undo(queue: Queue | None) -> dict[str, int] | None:
    """What a response says of what is kept aside; None for nothing."""
    if queue is None or queue.kept is None:
        return None
    return {"id": queue.number, "expires_at": queue.kept.until}


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= most


def _kept(services: Services, call: Call) -> Queue:
    """What is meant. To a token that may not manage its queue, it is not there. Raises NotFound."""
    (id,) = call.params
    if _is_number(id, _MAX_DIGITS):
        queue = services.broker.trash.get(int(id))
        if call.shows(queue.name):
            return queue
    raise NotFound(f"Nothing with id '{id[:64]}' is kept aside: GET /trash lists what is")


def _list(services: Services, call: Call, now: int) -> Reply:
    kept = [queue for queue in services.broker.trash.everything() if call.shows(queue.name)]
    return Reply(200, _encode({"trash": [_described(queue) for queue in kept]}))


def _described(queue: Queue) -> dict[str, Any]:
    kept = queue.kept
    assert kept is not None
    return {
        "id": queue.number,
        "queue": queue.name,
        "what": "purged" if kept.purged else "deleted",
        "kept_at": kept.at,
        "expires_at": kept.until,
        "messages": queue.available + queue.locked,
        "dead_letters": queue.dead,
    }


def _restore(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    queue = _kept(services, call)
    to = read_query(call.query, ("to",)).get("to")
    if to is not None:
        call.require(to)
    elif (into := services.broker.trash.goes_back_to(queue)) is not None:
        call.require(into.name)
    outcome = Outcome(queue.name)
    call.done = lambda: {"restored_messages": outcome.restored}
    try:
        yield from services.broker.trash.restore(queue, to, outcome)
    except (NotFound, UndoNotPossible) as refusal:
        if not outcome.restored:
            raise
        # What is back stays back, and nothing else tells of it: the rest may be gone.
        told = f"{refusal}. Put back into '{outcome.queue}' before that: {counted(outcome.restored, 'message')}"
        raise type(refusal)(told) from None
    response = {"queue": outcome.queue, "restored_messages": outcome.restored, "refused": outcome.refused}
    return Reply(200, _encode(response), True)


def _erase(services: Services, call: Call, now: int) -> Reply:
    queue = _kept(services, call)
    return Reply(200, _encode({"queue": queue.name, "erased_messages": services.broker.trash.erase(queue)}), True)


OPERATIONS = (
    Operation("trash", "GET", "/trash", shown(Grant.MANAGE), False, _list, large=True),
    Operation("restore", "POST", "/trash/{id}/restore", on_kept(Grant.MANAGE), True, _restore),
    Operation("erase", "POST", "/trash/{id}/erase", on_kept(Grant.MANAGE), True, _erase),
)
