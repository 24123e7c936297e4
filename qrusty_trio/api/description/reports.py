"""The described routes that report: queues, stats, durations, the state of the server, probes."""

from __future__ import annotations

from typing import Final

from qrusty_trio.api import auditing, overview, probes, reports
from qrusty_trio.api.description import report_shapes as shapes
from qrusty_trio.api.description.fields import CURSOR, LIMIT
from qrusty_trio.api.description.model import Described, Example, Parameter
from qrusty_trio.core.model import MAX_QUEUES
from qrusty_trio.core.timings import WINDOW_SECONDS

_OF = {
    operation.name: operation
    for operation in (*reports.OPERATIONS, *overview.OPERATIONS, *auditing.OPERATIONS, *probes.OPERATIONS)
}
_CONFIG: Final = {"ordering": "MaxFirst", "allow_duplicates": True, "priority_kind": "Numeric"}
_RATES: Final = {"publish_rate_per_sec": 0.0, "ack_rate_per_sec": 0.0, "nack_rate_per_sec": 0.0}
_STATS: Final = {
    "name": "jobs",
    "available": 1,
    "locked": 0,
    "total": 1,
    "dead_letters": 0,
    "oldest_age_seconds": 12.5,
    "oldest_age_exact": True,
    "config": _CONFIG,
    **_RATES,
}
_SORTS = tuple(overview.SORTS)

DESCRIBED: Final = (
    Described(
        _OF["queues"],
        "List the names of all queues, sorted.",
        list[str],
        Example("/queues", None, ["jobs"], "queue"),
    ),
    Described(
        _OF["queue_stats"],
        "Count the messages of a queue.",
        shapes.QueueStats,
        Example("/queue-stats/jobs", None, _STATS, "message"),
        errors=("queue_not_found",),
        notes="An unknown queue gets zeros and the configuration that a publish would make it with; where "
        "`QRUSTY_UNKNOWN_QUEUE=refuse` is set, `queue_not_found`.",
    ),
    Described(
        _OF["stats"],
        "Count the messages of every queue.",
        shapes.Stats,
        Example(
            "/stats",
            None,
            {
                "queues": [_STATS],
                "summary": {
                    "total_queues": 1,
                    "total_available": 1,
                    "total_locked": 0,
                    "total_messages": 1,
                    "total_dead_letters": 0,
                    "memory_pressure": False,
                    "memory_usage_bytes": 61440000,
                    "memory_limit_bytes": 8589934592,
                    "storage": {"hot_tier_sizes": {"jobs": 1}, "locked_index_size": 0, "payload_store_disk_bytes": 0},
                },
            },
            "message",
        ),
        notes="Of 10,000 queues it is 2.5 MB; `GET /queue-list` gives a page of them.",
    ),
    Described(
        _OF["metrics"],
        "Show the last ten seconds of a queue.",
        shapes.Metrics,
        Example(
            "/queues/jobs/metrics",
            None,
            {
                "queue": "jobs",
                "window_seconds": 10,
                "resolution_seconds": 1,
                "points": [{"t_ms": 1790000000123, "total": 1, "locked": 0, "dead_letters": 0, **_RATES}],
            },
            "message",
        ),
    ),
    Described(
        _OF["operation_timings"],
        "Show how long operations took, second by second.",
        dict[str, list[shapes.TimingPoint]],
        Example(
            "/operation-timings?seconds=60",
            None,
            {"publish": [{"t_epoch_s": 1790000000, "count": 1, "min_us": 31, "max_us": 31, "total_us": 31}]},
            "message",
        ),
        query=(
            Parameter(
                "seconds",
                "an integer",
                f"How far back, from 1 to {WINDOW_SECONDS:,}; what is beyond is taken as the nearest of these.",
                f"{reports.DEFAULT_TIMING_SECONDS}",
                {"type": "integer", "minimum": 0},
            ),
        ),
        notes="The `storage_` series are the share that the core and the store took, without reading the request.",
    ),
    Described(
        _OF["operation_histograms"],
        "Show how long operations took since the start, for percentiles.",
        shapes.Histograms,
        Example(
            "/operation-histograms",
            None,
            {"operations": {"publish": {"count": 1, "total_ns": 31000, "buckets": [[32768, 1]]}}},
            "message",
        ),
    ),
    Described(
        _OF["health"],
        "Say whether the server has started.",
        shapes.Health,
        Example("/health", None, {"status": "ok", "memory_pressure": False}),
        notes="The status is always 200. `/readyz` tells by its status.",
    ),
    Described(
        _OF["audit"],
        "Show who created, changed, purged or deleted what.",
        shapes.Audit,
        Example(
            "/audit?limit=1",
            None,
            {
                "enabled": True,
                "records": [
                    {
                        "number": 2,
                        "time": "2031-05-04T03:02:01.006Z",
                        "who": "127.0.0.1:50412",
                        "peer": "127.0.0.1:50412",
                        "request_id": "",
                        "operation": "create_queue",
                        "queue": "jobs",
                        "request": {"name": "jobs", "config": {"ordering": "MaxFirst"}},
                        "response": None,
                        "outcome": "done",
                    }
                ],
                "cursor": "2",
                "lost": 0,
                "failing": False,
            },
            "queue",
        ),
        query=(LIMIT, CURSOR),
        notes="It shows the last 1,000 records, or 2 MiB of them. The file of `QRUSTY_AUDIT_FILE` has more.",
    ),
    Described(
        _OF["server"],
        "Tell what no queue tells: version, state, storage, memory, connections, limits.",
        shapes.Server,
        Example(
            "/server",
            None,
            {
                "version": "0.1.0",
                "state": "ok",
                "message": None,
                "environment": None,
                "read_only": False,
                "now_ms": 1790000012623,
                "started_at_ms": 1790000000123,
                "uptime_seconds": 12.5,
                "storage": {
                    "mode": "rocksdb",
                    "fsync": "always",
                    "fsync_locks": False,
                    "payload_store": True,
                    "payload_disk_bytes": 0,
                    "publishes_refused": False,
                },
                "connections": {"open": 1, "limit": 10000},
                "memory": {
                    "level": "normal",
                    "publishes_refused": False,
                    "usage_bytes": 61440000,
                    "limit_bytes": 8589934592,
                    "thresholds": {"exit": 0.7, "warning": 0.8, "critical": 0.9},
                },
                "limits": {"queues": MAX_QUEUES},
            },
        ),
    ),
    Described(
        _OF["queue_list"],
        "Search, sort and page the queues.",
        shapes.QueueList,
        Example(
            "/queue-list?search=job&sort=trouble&order=desc&limit=10",
            None,
            {
                "offset": 0,
                "totals": {"queues": 1, "troubled": 0, "available": 1, "locked": 0, "dead": 0, **_RATES},
                "queues": [
                    {
                        "name": "jobs",
                        "available": 1,
                        "locked": 0,
                        "dead": 0,
                        "config": _CONFIG,
                        "oldest_age_seconds": 12.5,
                        "oldest_age_exact": True,
                        **_RATES,
                        "trend": "steady",
                        "drain_seconds": None,
                        "recent": [1, 1, 1],
                    }
                ],
            },
            "message",
        ),
        query=(
            Parameter("search", "a string", "Queues with this in their name, in any case.", "all"),
            Parameter("name", "a string", "The queue of this name alone.", "all"),
            Parameter(
                "sort",
                "one of " + ", ".join(_SORTS),
                "By what. `trouble`: by dead letters, then queues that stall, then those that grow.",
                "name",
                {"type": "string", "enum": list(_SORTS)},
            ),
            Parameter(
                "order",
                "one of asc, desc",
                "From the least or the most.",
                "asc",
                {"type": "string", "enum": ["asc", "desc"]},
            ),
            Parameter(
                "limit",
                f"an integer from 0 to {overview.MAX_ROWS}",
                "Most queues of the page.",
                f"{overview.DEFAULT_ROWS}",
                {"type": "integer", "minimum": 0, "maximum": overview.MAX_ROWS},
            ),
            Parameter(
                "offset",
                f"an integer from 0 to {MAX_QUEUES}",
                "The first one shown.",
                "0",
                {"type": "integer", "minimum": 0, "maximum": MAX_QUEUES},
            ),
        ),
        notes="`trend` is `empty`, `steady`, `draining`, `growing`, or `stalled`: messages have waited for ten "
        "seconds, "
        "and none was taken.",
    ),
    Described(
        _OF["live"],
        "Say by the status that the process answers.",
        shapes.Live,
        Example("/livez", None, {"status": "ok"}),
    ),
    Described(
        _OF["ready"],
        "Say by the status whether clients should be sent here: 200 or 503.",
        shapes.Ready,
        Example("/readyz", None, {"status": "ok", "memory_pressure": False}),
        notes="A 503 has the same shape, and not that of an error.",
    ),
)
