"""What an operator looks at first: the state of the server, and the queues a page at a time.

Rule: nothing here changes anything. A list is searched, sorted and cut to a page here, so that the client needs only
what it shows. Sorting goes in pieces that are merged: 10,000 queues at once would hold the loop for 5 ms.

Requirements: API-0070, API-0071
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple

import msgspec

from qrusty_trio import __version__
from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import ANY_TOKEN, shown
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.reports import configured, joined, rounded
from qrusty_trio.api.routes import read_query
from qrusty_trio.core.forecast import Forecast, Trend, forecast
from qrusty_trio.core.model import MAX_QUEUES, NEVER
from qrusty_trio.core.queue import Queue
from qrusty_trio.core.rates import NO_RATES
from qrusty_trio.errors import BadRequest

DEFAULT_ROWS = 50
MAX_ROWS = 200
"""Most queues of a page of `GET /queue-list`."""
WALK_PIECE = 128
"""Queues judged, or merged, between two yields: about a millisecond."""
ROWS_PIECE = 25
"""Queues described between two yields."""

_encode = msgspec.json.encode


def server(services: Services, call: Call, now: int) -> Reply:
    about, gate, memory = services.about, services.gate, services.memory
    principal = call.principal
    token = {} if principal is None else {"token": {"name": principal.name, "grants": list(map(str, principal.grants))}}
    return Reply(
        200,
        _encode(
            {
                "version": __version__,
                "state": gate.state,
                "message": gate.trouble,
                "environment": {"name": about.environment, "colour": about.environment_colour}
                if about.environment
                else None,
                "read_only": gate.read_only,
                "now_ms": now,
                "started_at_ms": about.started_ms,
                "uptime_seconds": max(now - about.started_ms, 0) / 1000,
                "storage": {
                    "mode": about.storage_mode,
                    "fsync": about.fsync,
                    "fsync_locks": services.sync_locks,
                    "payload_store": about.payload_store,
                    "payload_disk_bytes": services.payload_disk_bytes(),
                    "publishes_refused": gate.disk_short is not None,
                },
                "connections": {"open": about.connections.value, "limit": about.max_connections},
                "memory": {
                    "level": memory.level.name.lower(),
                    "publishes_refused": gate.memory_critical,
                    "usage_bytes": memory.usage_bytes,
                    "limit_bytes": memory.limit_bytes,
                    "thresholds": {
                        "exit": about.thresholds.exit,
                        "warning": about.thresholds.warning,
                        "critical": about.thresholds.critical,
                    },
                },
                "limits": about.limits,
                **token,
            }
        ),
    )


class _Listed(NamedTuple):
    """A queue and what it is sorted by."""

    key: Any
    queue: Queue
    outlook: Forecast


def _trouble(queue: Queue, outlook: Forecast) -> tuple[int, int, int]:
    """Dead letters first, then queues nobody takes from, then those that grow; among equals the one with more."""
    rank = {Trend.STALLED: 2, Trend.GROWING: 1}.get(outlook.trend, 0)
    return 3 if queue.dead else rank, queue.dead, queue.available + queue.locked


def _oldest(queue: Queue) -> int:
    """When the oldest available message was published, wall milliseconds; `NEVER` if there is none."""
    oldest, _ = queue.oldest_now()
    return NEVER if oldest is None else oldest


def _last_rate(name: str) -> Callable[[Queue, Forecast], float]:
    return lambda queue, _: getattr(queue.rates.points[-1] if queue.rates.points else NO_RATES, name)


SORTS: Final[dict[str, Callable[[Queue, Forecast], Any]]] = {
    "name": lambda queue, _: queue.name,
    "available": lambda queue, _: queue.available,
    "locked": lambda queue, _: queue.locked,
    "dead": lambda queue, _: queue.dead,
    "total": lambda queue, _: queue.available + queue.locked,
    # The oldest is the least time, so it sorts as the greatest age; none is younger than any.
    "oldest": lambda queue, _: -_oldest(queue),
    "publish_rate": _last_rate("publish_rate"),
    "ack_rate": _last_rate("ack_rate"),
    "nack_rate": _last_rate("nack_rate"),
    "trouble": _trouble,
}


class _Filter(NamedTuple):
    """What a client wants to see."""

    name: str | None
    search: str
    sort: str
    descending: bool
    limit: int
    offset: int


def queue_list(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    wanted = _read_filter(call.query)
    catalog = services.broker.catalog
    key = SORTS[wanted.sort]
    pieces: list[list[_Listed]] = []
    sums = _Sums()
    names = catalog.names() if wanted.name is None else [wanted.name]
    for start in range(0, len(names), WALK_PIECE):
        piece: list[_Listed] = []
        for name in names[start : start + WALK_PIECE]:
            queue = catalog.by_name.get(name)
            if queue is not None and call.shows(name) and (not wanted.search or wanted.search in name.casefold()):
                outlook = forecast(queue.rates.points, queue.available + queue.locked)
                sums.add(queue, outlook)
                piece.append(_Listed(key(queue, outlook), queue, outlook))
        piece.sort(key=_by_key, reverse=wanted.descending)
        pieces.append(piece)
        yield
    rows: list[bytes] = []
    merged = heapq.merge(*pieces, key=_by_key, reverse=wanted.descending)
    for index, listed in enumerate(merged):
        if index >= wanted.offset + wanted.limit:
            break
        if index >= wanted.offset:
            rows.append(_encode(_row(listed, now)))
        if index % (ROWS_PIECE if rows else WALK_PIECE) == 0:
            yield
    head = b'{"offset":%d,"totals":%b,"queues":[' % (wanted.offset, _encode(sums.described()))
    return (yield from joined([head, b",".join(rows), b"]}"]))


def _by_key(listed: _Listed) -> Any:
    return listed.key


class _Sums:
    """Sums over the queues that match."""

    def __init__(self) -> None:
        self._queues = self._troubled = self._available = self._locked = self._dead = 0
        self._rates = [0.0, 0.0, 0.0]

    def add(self, queue: Queue, outlook: Forecast) -> None:
        self._queues += 1
        self._available += queue.available
        self._locked += queue.locked
        self._dead += queue.dead
        if queue.dead or outlook.trend in (Trend.GROWING, Trend.STALLED):
            self._troubled += 1
        if queue.rates.points:
            last = queue.rates.points[-1]
            self._rates[0] += last.publish_rate
            self._rates[1] += last.ack_rate
            self._rates[2] += last.nack_rate

    def described(self) -> dict[str, float]:
        publish, ack, nack = map(rounded, self._rates)
        return {
            "queues": self._queues,
            "troubled": self._troubled,
            "available": self._available,
            "locked": self._locked,
            "dead": self._dead,
            "publish_rate_per_sec": publish,
            "ack_rate_per_sec": ack,
            "nack_rate_per_sec": nack,
        }


def _row(listed: _Listed, now: int) -> dict[str, Any]:
    queue, outlook = listed.queue, listed.outlook
    points = queue.rates.points
    last = points[-1] if points else NO_RATES
    oldest, exact = queue.oldest_now()
    return {
        "name": queue.name,
        "available": queue.available,
        "locked": queue.locked,
        "dead": queue.dead,
        "config": configured(queue.config),
        "oldest_age_seconds": max(now - oldest, 0) / 1000 if oldest is not None else None,
        "oldest_age_exact": exact,
        "publish_rate_per_sec": rounded(last.publish_rate),
        "ack_rate_per_sec": rounded(last.ack_rate),
        "nack_rate_per_sec": rounded(last.nack_rate),
        "trend": outlook.trend,
        "drain_seconds": rounded(outlook.drain_seconds) if outlook.drain_seconds is not None else None,
        "recent": [point.total for point in points],
    }


def _read_filter(query: str) -> _Filter:
    """Raises BadRequest."""
    given = read_query(query, ("name", "search", "sort", "order", "limit", "offset"))
    sort = given.get("sort", "name")
    if sort not in SORTS:
        raise BadRequest(f"'sort' must be one of {', '.join(SORTS)}")
    order = given.get("order", "asc")
    if order not in ("asc", "desc"):
        raise BadRequest("'order' must be asc or desc")
    return _Filter(
        given.get("name"),
        given.get("search", "").casefold(),
        sort,
        order == "desc",
        _number(given, "limit", DEFAULT_ROWS, MAX_ROWS),
        _number(given, "offset", 0, MAX_QUEUES),
    )


def _number(given: dict[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most:
        return int(text)
    raise BadRequest(f"'{name}' must be an integer from 0 to {most}")


OPERATIONS = (
    Operation("server", "GET", "/server", ANY_TOKEN, False, server),
    Operation("queue_list", "GET", "/queue-list", shown(Grant.READ), False, queue_list, large=True),
)
