"""What the operations that only look have to say: queues, rates, timings, health.

Rule: nothing here changes anything, so these are answered while the server starts and under memory pressure too. What
grows with the number of queues or seconds yields between pieces.
"""

from __future__ import annotations

from collections.abc import Generator
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import msgspec

from qrusty_trio.api.engine import Call, Reply
from qrusty_trio.api.routes import read_query
from qrusty_trio.core.model import QueueConfig, QueueStats
from qrusty_trio.core.timings import TIMED_OPERATIONS, WINDOW_SECONDS
from qrusty_trio.errors import BadRequest

if TYPE_CHECKING:
    from qrusty_trio.api.operations import Services

DEFAULT_TIMING_SECONDS = 300
STATS_PIECE = 64
"""Queues that are described between two yields."""
STARTING_MESSAGE = "Qrusty is initialising. Retry shortly."

_encode = msgspec.json.encode
_clock = perf_counter_ns


def queues(services: Services, call: Call, now: int) -> Reply:
    return Reply(200, _encode(services.broker.names()))


def queue_stats(services: Services, call: Call, now: int) -> Reply:
    begin = _clock()
    name = call.params[0]
    stats = services.broker.stats(name)
    stored = _clock() - begin
    if stats is None:
        stats = QueueStats(name, QueueConfig(), 0, 0, 0, 0.0, 0.0, 0.0)
    reply = Reply(200, _encode(_described(stats)))
    services.timings.record("queue_stats", _clock() - begin, stored, now // 1000)
    return reply


def _described(stats: QueueStats) -> dict[str, Any]:
    config = stats.config
    return {
        "name": stats.name,
        "available": stats.available,
        "locked": stats.locked,
        "total": stats.available + stats.locked,
        "config": {
            "ordering": config.ordering,
            "allow_duplicates": config.allow_duplicates,
            "priority_kind": config.kind,
        },
        "publish_rate_per_sec": stats.publish_rate,
        "ack_rate_per_sec": stats.ack_rate,
        "nack_rate_per_sec": stats.nack_rate,
    }


def stats(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    described: list[bytes] = []
    available = locked = stored = 0
    begin = _clock()
    for stats in services.broker.all_stats():
        described.append(_encode(_described(stats)))
        available += stats.available
        locked += stats.locked
        if len(described) % STATS_PIECE == 0:
            stored += _clock() - begin
            yield
            begin = _clock()
    stored += _clock() - begin
    memory = services.memory
    summary = {
        "total_queues": len(described),
        "total_available": available,
        "total_locked": locked,
        "total_messages": available + locked,
        "memory_pressure": memory.under_pressure,
        "memory_usage_bytes": memory.usage_bytes,
        "memory_limit_bytes": memory.limit_bytes,
        "storage": {
            "hot_tier_sizes": services.broker.hot_tier_sizes(),
            "locked_index_size": services.broker.locked_index_size,
            "payload_store_disk_bytes": services.payload_disk_bytes(),
        },
    }
    services.timings.record("stats", stored, stored, now // 1000)
    return Reply(200, b'{"queues":[%b],"summary":%b}' % (b",".join(described), _encode(summary)))


def metrics(services: Services, call: Call, now: int) -> Reply:
    points = [
        {
            "t_ms": point.t_ms,
            "total": point.total,
            "locked": point.locked,
            "publish_rate_per_sec": point.publish_rate,
            "ack_rate_per_sec": point.ack_rate,
            "nack_rate_per_sec": point.nack_rate,
        }
        for point in services.broker.metrics(call.params[0])
    ]
    return Reply(
        200, _encode({"queue": call.params[0], "window_seconds": 10, "resolution_seconds": 1, "points": points})
    )


def operation_timings(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    seconds = _seconds(call.query)
    parts: list[bytes] = []
    for name in TIMED_OPERATIONS:
        parts.append(b'%b"%b":[' % (b"," if parts else b"{", name.encode()))
        comma = b""
        for points in services.timings.series(name, seconds, now // 1000):
            if points:
                parts += (comma, _encode(points)[1:-1])
                comma = b","
            yield
        parts.append(b"]")
    parts.append(b"}")
    return Reply(200, b"".join(parts))


def _seconds(query: str) -> int:
    given = read_query(query, ("seconds",)).get("seconds")
    if given is None:
        return DEFAULT_TIMING_SECONDS
    if not (given.isascii() and given.isdigit()):
        raise BadRequest(f"'seconds' must be an integer; it is taken as from 1 to {WINDOW_SECONDS}")
    # A number that is longer than this is also larger, and int() takes only so many digits.
    digits = given.lstrip("0")
    return WINDOW_SECONDS if len(digits) > 4 else min(max(int(digits or "0"), 1), WINDOW_SECONDS)


def health(services: Services, call: Call, now: int) -> Reply:
    if services.gate.starting:
        return Reply(200, _encode({"status": "starting", "message": STARTING_MESSAGE}))
    return Reply(200, _encode({"status": "ok", "memory_pressure": services.memory.under_pressure}))
