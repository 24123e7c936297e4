"""The shapes of reports: stats, samples, durations, the state of the server. See `shapes`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from qrusty_trio.api.auditing import Outcome
from qrusty_trio.api.description.shapes import Config, Rate
from qrusty_trio.core.forecast import Trend

Available = Annotated[int, Meta(ge=0, description="Messages that can be consumed.")]
Locked = Annotated[int, Meta(ge=0, description="Messages that consumers hold.")]
Total = Annotated[int, Meta(ge=0, description="Both together.")]
Dead = Annotated[int, Meta(ge=0, description="Dead letters.")]
OldestAge = Annotated[float | None, Meta(description="Age of the oldest available message; null: none, or not known.")]
OldestExact = Annotated[bool, Meta(description="false: there may be an older one.")]


class QueueStats(msgspec.Struct):
    name: Annotated[str, Meta(description="The queue.")]
    available: Available
    locked: Locked
    total: Total
    dead_letters: Dead
    oldest_age_seconds: OldestAge
    oldest_age_exact: OldestExact
    config: Config
    publish_rate_per_sec: Rate
    ack_rate_per_sec: Rate
    nack_rate_per_sec: Rate


class StoreFigures(msgspec.Struct):
    hot_tier_sizes: Annotated[dict[str, int], Meta(description="Messages of each queue that are in memory.")]
    locked_index_size: Annotated[int, Meta(ge=0, description="Locks of all queues.")]
    payload_store_disk_bytes: Annotated[int, Meta(ge=0, description="Size of the segment files.")]


class Summary(msgspec.Struct):
    total_queues: Annotated[int, Meta(ge=0, description="Queues.")]
    total_available: Available
    total_locked: Locked
    total_messages: Total
    total_dead_letters: Dead
    memory_pressure: Annotated[bool, Meta(description="Whether memory is short.")]
    memory_usage_bytes: Annotated[int, Meta(ge=0, description="Memory in use.")]
    memory_limit_bytes: Annotated[int, Meta(ge=0, description="Memory that may be used.")]
    storage: StoreFigures


class Stats(msgspec.Struct):
    queues: Annotated[list[QueueStats], Meta(description="Every queue, by name.")]
    summary: Annotated[Summary, Meta(description="Sums over all.")]


class Point(msgspec.Struct):
    t_ms: Annotated[int, Meta(description="When, milliseconds since 1970.")]
    total: Total
    locked: Locked
    dead_letters: Dead
    publish_rate_per_sec: Rate
    ack_rate_per_sec: Rate
    nack_rate_per_sec: Rate


class Metrics(msgspec.Struct):
    queue: Annotated[str, Meta(description="The queue.")]
    window_seconds: Annotated[int, Meta(description="How far the points reach back.")]
    resolution_seconds: Annotated[int, Meta(description="Time between two points.")]
    points: Annotated[list[Point], Meta(max_length=11, description="The oldest first. None for an unknown queue.")]


class TimingPoint(msgspec.Struct):
    t_epoch_s: Annotated[int, Meta(description="The second, since 1970.")]
    count: Annotated[int, Meta(ge=1, description="Operations in it.")]
    min_us: Annotated[int, Meta(ge=0, description="The shortest, microseconds.")]
    max_us: Annotated[int, Meta(ge=0, description="The longest, microseconds.")]
    total_us: Annotated[int, Meta(ge=0, description="All together, microseconds.")]


class OperationHistogram(msgspec.Struct):
    count: Annotated[int, Meta(ge=0, description="Operations since the start.")]
    total_ns: Annotated[int, Meta(ge=0, description="Their durations together, nanoseconds.")]
    buckets: Annotated[
        list[tuple[int, int]], Meta(description="[bound, count]: less than `bound` ns, and at least half of that.")
    ]


class Histograms(msgspec.Struct):
    operations: Annotated[dict[str, OperationHistogram], Meta(description="By the name of the operation.")]


class Health(msgspec.Struct):
    status: Annotated[Literal["ok", "starting"], Meta(description="Whether changes are served.")]
    memory_pressure: Annotated[bool | UnsetType, Meta(description="Whether memory is short; not while starting.")] = (
        UNSET
    )
    message: Annotated[str | UnsetType, Meta(description="While starting: a sentence.")] = UNSET


State = Literal["ok", "starting", "stopping", "storage_fault"]


class Live(msgspec.Struct):
    status: Literal["ok"]


class Ready(msgspec.Struct):
    status: Annotated[State, Meta(description="`ok`, or what keeps it from being ready.")]
    memory_pressure: Annotated[bool, Meta(description="Whether memory is short.")]
    message: Annotated[str | UnsetType, Meta(description="With `storage_fault`: what is wrong.")] = UNSET


class Environment(msgspec.Struct):
    name: Annotated[str, Meta(description="QRUSTY_ENVIRONMENT.")]
    colour: Annotated[str, Meta(description="QRUSTY_ENVIRONMENT_COLOUR.")]


class StorageFacts(msgspec.Struct):
    mode: Literal["rocksdb", "memory"]
    fsync: Literal["always", "everysec", "never"]
    fsync_locks: Annotated[bool, Meta(description="Whether a message leaves only after a sync of its lock, too.")]
    payload_store: Annotated[bool, Meta(description="Whether long payloads go to segment files.")]
    payload_disk_bytes: Annotated[int, Meta(ge=0, description="Size of these files.")]
    publishes_refused: Annotated[bool, Meta(description="Whether publishes get 507, as the disk has little room.")]


class Connections(msgspec.Struct):
    open: Annotated[int, Meta(ge=0, description="Open connections, WebSockets included.")]
    limit: Annotated[int, Meta(ge=0, description="How many may be.")]


class Thresholds(msgspec.Struct):
    exit: Annotated[float, Meta(description="Below this share of the limit, the level is normal again.")]
    warning: Annotated[float, Meta(description="The level `warning` begins.")]
    critical: Annotated[float, Meta(description="The level `critical` begins, and publishes are refused.")]


class MemoryFacts(msgspec.Struct):
    level: Literal["normal", "warning", "critical"]
    publishes_refused: Annotated[bool, Meta(description="Whether publishes get 503.")]
    usage_bytes: Annotated[int, Meta(ge=0, description="Memory in use.")]
    limit_bytes: Annotated[int, Meta(ge=0, description="Memory that may be used.")]
    thresholds: Thresholds


class AskingToken(msgspec.Struct):
    name: Annotated[str, Meta(description="Its name.")]
    grants: Annotated[list[str], Meta(description="What it may do, such as `read:orders.*`.")]


class Server(msgspec.Struct):
    version: Annotated[str, Meta(description="Of the server.")]
    state: Annotated[State, Meta(description="What it does.")]
    message: Annotated[str | None, Meta(description="With `storage_fault`: what is wrong.")]
    environment: Annotated[Environment | None, Meta(description="The name that the operator gave it.")]
    read_only: Annotated[bool, Meta(description="Whether every change is refused.")]
    now_ms: Annotated[int, Meta(description="Its clock, milliseconds since 1970.")]
    started_at_ms: Annotated[int, Meta(description="When it began to serve.")]
    uptime_seconds: Annotated[float, Meta(ge=0, description="Since then.")]
    storage: StorageFacts
    connections: Connections
    memory: MemoryFacts
    limits: Annotated[dict[str, int], Meta(description="Limits of the server by name.")]
    token: Annotated[AskingToken | UnsetType, Meta(description="The token that asks, where the server has tokens.")] = (
        UNSET
    )


class AuditRecord(msgspec.Struct):
    number: Annotated[int, Meta(ge=1, description="Counts the records. A gap: something could not be written.")]
    time: Annotated[str, Meta(description="When it was done, RFC 3339 in UTC.")]
    who: Annotated[str, Meta(description="The name of the token, or else the peer.")]
    peer: Annotated[str, Meta(description="The address of the client, or what a trusted proxy said.")]
    request_id: Annotated[str, Meta(description="Of the request; empty if it had none.")]
    operation: Annotated[str, Meta(description="What was done.")]
    queue: Annotated[str | None, Meta(description="The queue; null if it was all of them.")]
    request: Annotated[Any, Meta(description="The body of the request; its size alone if it is over 2 KiB.")]
    response: Annotated[Any, Meta(description="The body of the response, likewise.")]
    outcome: Annotated[Outcome, Meta(description="With the last two, a part may be done.")]
    so_far: Annotated[
        dict[str, int] | UnsetType, Meta(description="If it took several steps and broke off: what was done before.")
    ] = UNSET


class Audit(msgspec.Struct):
    enabled: Annotated[bool, Meta(description="Whether there is an audit.")]
    records: Annotated[list[AuditRecord], Meta(description="The newest first.")]
    cursor: Annotated[str | None, Meta(description="For the next page; null at the end of what is kept in memory.")]
    lost: Annotated[int, Meta(ge=0, description="Records that could not be written, since the start.")]
    failing: Annotated[bool, Meta(description="Whether records wait because the file can't be written.")]


class QueueTotals(msgspec.Struct):
    queues: Annotated[int, Meta(ge=0, description="Queues that match.")]
    troubled: Annotated[int, Meta(ge=0, description="Those with dead letters, that stall, or that grow.")]
    available: Available
    locked: Locked
    dead: Dead
    publish_rate_per_sec: Rate
    ack_rate_per_sec: Rate
    nack_rate_per_sec: Rate


class QueueRow(msgspec.Struct):
    name: Annotated[str, Meta(description="The queue.")]
    available: Available
    locked: Locked
    dead: Dead
    config: Config
    oldest_age_seconds: OldestAge
    oldest_age_exact: OldestExact
    publish_rate_per_sec: Rate
    ack_rate_per_sec: Rate
    nack_rate_per_sec: Rate
    trend: Annotated[Trend, Meta(description="What its depth does, by the last ten seconds.")]
    drain_seconds: Annotated[float | None, Meta(description="Of a queue that drains: the time until it is empty.")]
    recent: Annotated[list[int], Meta(max_length=11, description="Its depth, second by second.")]


class QueueList(msgspec.Struct):
    offset: Annotated[int, Meta(ge=0, description="As asked.")]
    totals: Annotated[QueueTotals, Meta(description="Over all queues that match, not only this page.")]
    queues: Annotated[list[QueueRow], Meta(description="The page.")]
