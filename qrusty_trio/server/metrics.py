"""What `/metrics` shows, in the text format of Prometheus.

Rule: a scrape delays nobody. Families are rendered one at a time, with a turn for others in between, and each is small:
at most MAX_QUEUES_SHOWN queues are shown, by name. `?queue=` chooses others, and a counter says how many are left out.
Counters of queues are those that the store keeps, so they outlive a restart, unless the text says otherwise.

Source of the names: https://prometheus.io/docs/practices/naming/

Requirements: API-0075, API-0094
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import trio
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from qrusty_trio import __version__
from qrusty_trio.api.routes import read_queries
from qrusty_trio.core.histogram import Histogram
from qrusty_trio.core.queue import Queue
from qrusty_trio.http.context import HttpContext
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.sampler import Lag

MAX_QUEUES_SHOWN = 100
"""Most queues with series of their own in a response: a family of them takes about 0.5 ms to render."""
QUEUES_PER_STEP = 256
"""Queues added up in a step."""
_FASTEST, _SLOWEST = 10, 33
"""Durations are told apart from 1 µs (2**10 ns) to 8.6 s (2**33 ns)."""
_LARGEST_GROUP = 14
_SECOND = 1e9


@dataclass(slots=True)
class _Totals:
    """Sums over all queues."""

    queues: int = 0
    available: int = 0
    locked: int = 0
    dead: int = 0
    tiers: int = 0


class _One:
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return [self._family]


class Metrics:
    """Renders the state of a server."""

    def __init__(self, engine: Engine, lag: Lag) -> None:
        self._engine = engine
        self._lag = lag
        self._process = ProcessCollector(registry=None)
        self._limiter = trio.CapacityLimiter(1)

    async def render(self, context: HttpContext, query: str) -> bytes:
        """The body of a response. `query`: `queue=...`, any number of times. Raises BadRequest."""
        catalog = self._engine.broker.catalog
        names = list(dict.fromkeys(read_queries(query, "queue"))) or catalog.names()[:MAX_QUEUES_SHOWN]
        shown = [catalog.by_name[name] for name in names if name in catalog.by_name]
        totals = await self._totals()
        # It reads /proc, and lists the descriptors.
        process = await trio.to_thread.run_sync(lambda: list(self._process.collect()), limiter=self._limiter)
        parts: list[bytes] = []
        for family in (
            *process,
            *self._of_server(context, totals, totals.queues - len(shown)),
            *_of_queues(shown, self._engine.clock.now_ms()),
        ):
            parts.append(generate_latest(_One(family)))
            await trio.lowlevel.checkpoint()
        return b"".join(parts)

    async def _totals(self) -> _Totals:
        totals = _Totals()
        for index, queue in enumerate(self._engine.broker.catalog.everything(), 1):
            totals.queues += 1
            totals.available += queue.available
            totals.locked += queue.locked
            totals.dead += queue.dead
            totals.tiers += len(queue.tier)
            if index % QUEUES_PER_STEP == 0:
                await trio.lowlevel.checkpoint()
        return totals

    def _of_server(self, context: HttpContext, totals: _Totals, left_out: int) -> Iterator[Metric]:
        engine = self._engine
        broker, services, committer = engine.broker, engine.services, engine.committer
        memory, gate = services.memory, services.gate
        info = GaugeMetricFamily("qrusty_build_info", "Always 1; the version is a label", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield _gauge("qrusty_ready", "Whether /readyz answers 200", gate.ready)
        messages = GaugeMetricFamily("qrusty_messages", "Messages of all queues, by state", labels=["state"])
        for state, value in (("available", totals.available), ("locked", totals.locked), ("dead_letter", totals.dead)):
            messages.add_metric([state], value)
        yield messages
        yield _gauge("qrusty_queues", "Queues", totals.queues)
        yield _gauge("qrusty_queues_without_series", "Queues that this response has no series of", left_out)
        yield _gauge("qrusty_hot_tier_messages", "Messages in the hot tiers", totals.tiers)
        yield _gauge("qrusty_locked_index_limit", "Most messages that may be locked", broker.locks.limit)
        yield _counter(
            "qrusty_consumes_refused",
            "Consumes that got nothing because of that limit, since the start",
            broker.refused_for_locks,
        )
        yield _counter(
            "qrusty_dead_lettered",
            "Messages that became dead letters since the start",
            broker.dead_letters.buried_total,
        )
        operations = HistogramMetricFamily(
            "qrusty_operation_seconds", "Time to run an operation, without waiting for a sync", labels=["operation"]
        )
        for name, histogram in services.timings.histograms.items():
            operations.add_metric([name], *_seconds(histogram))
        yield operations
        syncs = HistogramMetricFamily("qrusty_sync_seconds", "Time of a sync, with the write before it")
        syncs.add_metric([], *_seconds(committer.sync_ns))
        yield syncs
        groups = HistogramMetricFamily("qrusty_sync_responses", "Responses that waited for the same sync")
        groups.add_metric([], *_sizes(committer.group_sizes))
        yield groups
        yield _gauge(
            "qrusty_store_failed", "Whether changes are refused after a fault of the store", gate.fault is not None
        )
        yield _gauge(
            "qrusty_disk_short",
            "Whether publishes are refused for want of room on the disk",
            gate.disk_short is not None,
        )
        yield _gauge("qrusty_memory_usage_bytes", "Memory that counts towards the limit", memory.usage_bytes)
        yield _gauge("qrusty_memory_limit_bytes", "The memory limit", memory.limit_bytes)
        yield _gauge("qrusty_memory_level", "Memory pressure: 0 normal, 1 warning, 2 critical", memory.level)
        yield _gauge("qrusty_payload_store_bytes", "Size of the payload segments", services.payload_disk_bytes())
        yield _gauge("qrusty_connections", "Open connections", context.connections.value)
        yield _gauge("qrusty_connections_limit", "Most open connections", context.max_connections)
        yield _counter(
            "qrusty_connections_refused",
            "Connections refused for their address, or for what a proxy said of it, since the start",
            context.admission.refused,
        )
        yield _gauge("qrusty_websockets", "Open WebSockets", len(context.websocket.connections))
        yield _gauge("qrusty_websocket_held_bytes", "Bytes held for WebSocket peers", context.websocket.budget.held)
        yield _gauge("qrusty_requests_held_bytes", "Bytes of requests without a response yet", context.received.held)
        yield _gauge("qrusty_responses_held_bytes", "Bytes of responses that wait to be sent", context.unsent.held)
        yield _counter(
            "qrusty_connections_failed", "Connections ended by an error of the server's own", context.bulkheads.failures
        )
        if services.audit is not None:
            yield _counter("qrusty_audit_lost", "Records of the audit that were not written", services.audit.file.lost)
            yield _gauge(
                "qrusty_audit_failing", "Whether records of the audit wait for their file", services.audit.file.failing
            )
        if context.tokens is not None:
            yield _counter(
                "qrusty_tokens_refused",
                "Tokens and logins that were none, since the start",
                context.tokens.failures.count,
            )
            yield _gauge("qrusty_sessions", "Open sessions of browsers", len(context.tokens.sessions))
        yield _gauge("qrusty_loop_lag_seconds", "How late the event loop ran its last timer", self._lag.last)
        yield _gauge("qrusty_loop_lag_highest_seconds", "The same, the highest since the start", self._lag.highest)


def _of_queues(queues: list[Queue], now: int) -> Iterator[Metric]:
    gauges: tuple[tuple[str, str, Callable[[Queue], float]], ...] = (
        ("qrusty_queue_available", "Messages that can be consumed", lambda queue: queue.available),
        ("qrusty_queue_locked", "Messages that consumers hold", lambda queue: queue.locked),
        ("qrusty_queue_dead_letters", "Dead letters", lambda queue: queue.dead),
        (
            "qrusty_queue_oldest_age_seconds",
            "How long the oldest message that can be consumed has waited; 0 without one",
            lambda queue: _age(queue, now),
        ),
    )
    counters: tuple[tuple[str, str, Callable[[Queue], float]], ...] = (
        ("qrusty_queue_published", "Messages published", lambda queue: queue.next_sequence),
        ("qrusty_queue_delivered", "Deliveries to consumers", lambda queue: queue.next_lock),
        ("qrusty_queue_dead_lettered", "Messages that became dead letters", lambda queue: queue.next_dead),
        ("qrusty_queue_acked", "Acks since the start of the server", lambda queue: queue.rates.acked_total),
        ("qrusty_queue_nacked", "Nacks since the start of the server", lambda queue: queue.rates.nacked_total),
    )
    for kind, rows in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
        for name, text, value in rows:
            family = kind(name, text, labels=["queue"])
            for queue in queues:
                family.add_metric([queue.name], value(queue))
            yield family


def _age(queue: Queue, now: int) -> float:
    """Seconds since the oldest available message was published; see `core.ages` for how exact that is."""
    oldest, _ = queue.oldest_now()
    return max(now - oldest, 0) / 1000 if oldest is not None else 0.0


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _seconds(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Buckets and sum of durations in nanoseconds, in seconds."""
    buckets = [(f"{bound / _SECOND:g}", float(below)) for bound, below in histogram.cumulated(_FASTEST, _SLOWEST)]
    return [*buckets, ("+Inf", float(histogram.count))], histogram.total / _SECOND


def _sizes(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Buckets and sum of whole numbers. A bucket includes its bound."""
    buckets = [(str(bound - 1), float(below)) for bound, below in histogram.cumulated(1, _LARGEST_GROUP)]
    return [*buckets, ("+Inf", float(histogram.count))], float(histogram.total)
