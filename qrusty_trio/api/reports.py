"""The read-only operations: queues, rates, timings, health.

Rule: nothing here changes anything, so these work even while the server starts and under memory pressure. A response
that grows with the number of queues or seconds is encoded and joined in pieces, with a yield in between: `/stats` of
10,000 queues is 2.5 MB.

Requirements: SYS-0017, API-0025, API-0030
"""

from __future__ import annotations

from collections.abc import Generator
from io import BytesIO
from time import perf_counter_ns
from typing import Any

import msgspec

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import ANY_TOKEN, OPEN, in_path, shown
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.routes import read_query
from qrusty_trio.core.model import QueueConfig, QueueStats
from qrusty_trio.core.timings import TIMED_OPERATIONS, WINDOW_SECONDS
from qrusty_trio.errors import BadRequest

DEFAULT_TIMING_SECONDS = 300
NAMES_PIECE = 256
"""Queue names listed between two yields."""
STATS_PIECE = 64
"""Queues described between two yields."""
JOIN_BYTES = 256 * 1024
"""Bytes joined between two yields: 0.2 ms, most of it for touching new memory."""
RATE_DIGITS = 3
"""Rates are rounded to a thousandth of a message a second; smaller digits are floating-point noise."""
STARTING_MESSAGE = "Qrusty is initialising. Retry shortly."

_encode = msgspec.json.encode
_clock = perf_counter_ns


def queues(services: Services, call: Call, now: int) -> Reply | Generator[None, None, Reply]:
    names = services.broker.catalog.names()
    if len(names) <= NAMES_PIECE:
        return Reply(200, _encode(_shown(call, names)))
    return _names_in_pieces(call, names)


def _names_in_pieces(call: Call, names: list[str]) -> Generator[None, None, Reply]:
    members = _Members()
    for start in range(0, len(names), NAMES_PIECE):
        piece = _shown(call, names[start : start + NAMES_PIECE])
        if piece:
            members.add(_encode(piece)[1:-1])
        yield
    return (yield from joined([b"[", *members.close(), b"]"]))


def _shown(call: Call, names: list[str]) -> list[str]:
    return names if call.principal is None else [name for name in names if call.shows(name)]


def queue_stats(services: Services, call: Call, now: int) -> Reply:
    begin = _clock()
    name = call.queue
    stats = services.broker.catalog.stats(name)
    stored = _clock() - begin
    if stats is None:
        if not services.gate.starting:
            services.broker.catalog.missed(name)
        stats = QueueStats(name, QueueConfig(), 0, 0, 0, 0.0, 0.0, 0.0)
    reply = Reply(200, _encode(_described(stats, now)))
    services.timings.record("queue_stats", _clock() - begin, stored, now // 1000)
    return reply


def _described(stats: QueueStats, now: int) -> dict[str, Any]:
    return {
        "name": stats.name,
        "available": stats.available,
        "locked": stats.locked,
        "total": stats.available + stats.locked,
        "dead_letters": stats.dead,
        "oldest_age_seconds": max(now - stats.oldest_ms, 0) / 1000 if stats.oldest_ms is not None else None,
        "oldest_age_exact": stats.oldest_exact,
        "config": configured(stats.config),
        "publish_rate_per_sec": rounded(stats.publish_rate),
        "ack_rate_per_sec": rounded(stats.ack_rate),
        "nack_rate_per_sec": rounded(stats.nack_rate),
    }


def configured(config: QueueConfig) -> dict[str, Any]:
    """The configuration of a queue, for a response."""
    shown: dict[str, Any] = {
        "ordering": config.ordering,
        "allow_duplicates": config.allow_duplicates,
        "priority_kind": config.kind,
    }
    # Only where there is one, so that the configuration of any other queue stays as the contract has it.
    if config.dead_letter_ttl_seconds is not None:
        shown["dead_letter_ttl_seconds"] = config.dead_letter_ttl_seconds
    if config.dead_letter_max is not None:
        shown["dead_letter_max"] = config.dead_letter_max
    if config.protected:
        shown["protected"] = True
    return shown


def rounded(rate: float) -> float:
    # Most queues are idle, and rounding would take longer than everything else done for a queue.
    return round(rate, RATE_DIGITS) if rate else 0.0


def stats(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    broker = services.broker
    descriptions = _Members()
    sizes = _Members()
    count = available = locked = dead = stored = 0
    begin = _clock()
    for looked_at, stats in enumerate(broker.catalog.all_stats(), 1):
        if call.shows(stats.name):
            descriptions.add(_encode(_described(stats, now)))
            sizes.add(b"%b:%d" % (_encode(stats.name), broker.catalog.tier_size(stats.name)))
            available += stats.available
            locked += stats.locked
            dead += stats.dead
            count += 1
        if looked_at % STATS_PIECE == 0:
            descriptions.close()
            sizes.close()
            stored += _clock() - begin
            yield
            begin = _clock()
    stored += _clock() - begin
    memory = services.memory
    summary = {
        "total_queues": count,
        "total_available": available,
        "total_locked": locked,
        "total_messages": available + locked,
        "total_dead_letters": dead,
        "memory_pressure": memory.under_pressure,
        "memory_usage_bytes": memory.usage_bytes,
        "memory_limit_bytes": memory.limit_bytes,
    }
    storage = b'"locked_index_size":%d,"payload_store_disk_bytes":%d' % (
        broker.locks.count,
        services.payload_disk_bytes(),
    )
    services.timings.record("stats", stored, stored, now // 1000)
    return (
        yield from joined(
            [
                b'{"queues":[',
                *descriptions.close(),
                b'],"summary":%b,"storage":{"hot_tier_sizes":{' % _encode(summary)[:-1],
                *sizes.close(),
                b"},%b}}}" % storage,
            ]
        )
    )


def joined(pieces: list[bytes]) -> Generator[None, None, Reply]:
    """A response made of these pieces. Empties the list."""
    # The kernel provides zeroed memory page by page, as it is written. Nobody else refers to these bytes, so `BytesIO`
    # writes into them, and returns them in the end, without a copy. A single join would take 2 ms for 2.5 MB.
    body = BytesIO(bytes(sum(map(len, pieces))))
    pieces.reverse()
    joined = 0
    while pieces:
        joined += body.write(pieces.pop())
        if joined >= JOIN_BYTES and pieces:
            joined = 0
            yield
    return Reply(200, body.getvalue())


class _Members:
    """The members of a JSON array or object, comma-separated, in pieces.

    Requirements: SCH-0032
    """

    def __init__(self) -> None:
        self._open: list[bytes] = []
        self._closed: list[bytes] = []

    def add(self, member: bytes) -> None:
        self._open.append(member)

    def close(self) -> list[bytes]:
        """Join the members added since the last call into one piece. Returns all pieces."""
        if self._open:
            comma = b"," if self._closed else b""
            self._closed.append(comma + b",".join(self._open))
            self._open.clear()
        return self._closed


def metrics(services: Services, call: Call, now: int) -> Reply:
    points = [
        {
            "t_ms": point.t_ms,
            "total": point.total,
            "locked": point.locked,
            "dead_letters": point.dead,
            "publish_rate_per_sec": rounded(point.publish_rate),
            "ack_rate_per_sec": rounded(point.ack_rate),
            "nack_rate_per_sec": rounded(point.nack_rate),
        }
        for point in services.broker.catalog.metrics(call.queue)
    ]
    return Reply(200, _encode({"queue": call.queue, "window_seconds": 10, "resolution_seconds": 1, "points": points}))


def operation_timings(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    seconds = _seconds(call.query)
    pieces: list[bytes] = []
    for name in TIMED_OPERATIONS:
        pieces.append(b'%b"%b":[' % (b"]," if pieces else b"{", name.encode()))
        comma = b""
        for points in services.timings.series(name, seconds, now // 1000):
            if points:
                pieces += (comma, _encode(points)[1:-1])
                comma = b","
            yield
    pieces.append(b"]}")
    return (yield from joined(pieces))


def operation_histograms(services: Services, call: Call, now: int) -> Reply:
    operations = {
        name: {
            "count": histogram.count,
            "total_ns": histogram.total,
            "buckets": [[1 << bits, count] for bits, count in enumerate(histogram.counts) if count],
        }
        for name, histogram in services.timings.histograms.items()
    }
    return Reply(200, _encode({"operations": operations}))


def _seconds(query: str) -> int:
    given = read_query(query, ("seconds",)).get("seconds")
    if given is None:
        return DEFAULT_TIMING_SECONDS
    if not (given.isascii() and given.isdigit()):
        raise BadRequest(f"'seconds' must be an integer; it is taken as from 1 to {WINDOW_SECONDS}")
    # A number with more digits than the limit is above it, and int() takes only so many digits.
    digits = given.lstrip("0")
    return WINDOW_SECONDS if len(digits) > 4 else min(max(int(digits or "0"), 1), WINDOW_SECONDS)


def health(services: Services, call: Call, now: int) -> Reply:
    if services.gate.starting:
        return Reply(200, _encode({"status": "starting", "message": STARTING_MESSAGE}))
    return Reply(200, _encode({"status": "ok", "memory_pressure": services.memory.under_pressure}))


OPERATIONS = (
    Operation("queues", "GET", "/queues", shown(Grant.READ), False, queues, large=True),
    Operation("queue_stats", "GET", "/queue-stats/{queue}", in_path(Grant.READ), False, queue_stats),
    Operation("stats", "GET", "/stats", shown(Grant.READ), False, stats, large=True),
    Operation("metrics", "GET", "/queues/{queue}/metrics", in_path(Grant.READ), False, metrics, large=True),
    Operation("operation_timings", "GET", "/operation-timings", ANY_TOKEN, False, operation_timings, large=True),
    Operation(
        "operation_histograms", "GET", "/operation-histograms", ANY_TOKEN, False, operation_histograms, large=True
    ),
    Operation("health", "GET", "/health", OPEN, False, health),
)
