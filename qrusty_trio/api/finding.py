"""The operation that finds a message by its id, whatever queue it is in.

Rule: see `api.operations` and `core.locating`. It looks only into queues that the token may read, and its refusal does
not tell whether there are others.

Requirements: DLV-0061
"""

from __future__ import annotations

import zlib
from collections.abc import Generator
from typing import Any

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import shown
from qrusty_trio.api.browsing import message_fields, place_bytes, read_place
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.dead_letters import letter_fields
from qrusty_trio.api.paging import Cursor, Listed, another_list, unpack_cursor
from qrusty_trio.api.routes import read_query
from qrusty_trio.core.finding import Place
from qrusty_trio.core.keys import prefix
from qrusty_trio.core.locating import Located, Locator, Spot
from qrusty_trio.core.model import ID_CHARACTERS
from qrusty_trio.errors import BadRequest, MessageNotFound

_encode = msgspec.json.encode


def _find(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    given = read_query(call.query, ("id", "cursor"))
    id = given.get("id")
    if id is None:
        raise BadRequest("'id' is missing in the query")
    if len(id) != ID_CHARACTERS:
        raise BadRequest(f"'id' must be the id of a message, which has {ID_CHARACTERS} characters")
    start = _read_spot(given.get("cursor"), id)
    broker = services.broker
    locator = Locator(broker.journal, broker.catalog, broker.dead_letters, id, call.shows)
    search = yield from locator.search(start)
    outcome: dict[str, Any] = {
        "looked_at": search.looked_at,
        "available": search.available,
        "complete": search.further is None,
        "cursor": None,
    }
    if search.located is not None:
        return Reply(200, _encode(_located(services, search.located) | outcome))
    if search.further is None:
        readable = " that this token may read" if call.principal is not None else ""
        raise MessageNotFound(f"There is no message '{id}' in any queue{readable}")
    outcome["cursor"] = _spot_text(search.further, id)
    return Reply(200, _encode({"id": id, "state": None} | outcome))


def _located(services: Services, located: Located) -> dict[str, Any]:
    queue, lock = located.queue, located.lock
    payloads = services.broker.payloads
    named = {"queue": queue.name}
    if located.letter is not None:
        return named | letter_fields(services, located.letter)
    if lock is not None:
        record = queue.read_lock(services.broker.journal, lock).record
        return named | message_fields(payloads, queue, lock.key, record, lock, whole=True)
    assert located.place is not None
    found = message_fields(payloads, queue, located.place.key, located.record, whole=True)
    return named | found | {"before": located.place.before}


# A cursor: the queue; the checksum of the id, as it is good for no other one; the place in the queue.


def _spot_text(spot: Spot, id: str) -> str:
    position = place_bytes(spot.place if spot.place is not None else Place(b"", 0))
    return Cursor(Listed.SEARCHED_EVERYWHERE, spot.queue_number, zlib.crc32(id.encode()), position).text()


def _read_spot(text: str | None, id: str) -> Spot | None:
    """Raises BadRequest."""
    cursor = unpack_cursor(text, Listed.SEARCHED_EVERYWHERE)
    if cursor is None:
        return None
    if cursor.upper != zlib.crc32(id.encode()):
        raise another_list()
    place = read_place(cursor)
    if not place.key:
        return Spot(cursor.queue_number)
    if not place.key.startswith(prefix(cursor.queue_number)):
        raise BadRequest("'cursor' must be one that an earlier page gave")
    return Spot(cursor.queue_number, place)


OPERATIONS = (Operation("find", "GET", "/find", shown(Grant.READ), False, _find, large=True, reads_store=True),)
