"""What is measured against what: the workloads of `bench.run`.

Rule: every side of a workload gets the same messages, connections and time; where a protocol has no like step, its
note says what stands in for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.postgresql import POSTGRESQL
from bench.servers import (
    BEANSTALKD,
    BEANSTALKD_SYNC,
    OURS_ALWAYS,
    OURS_NEVER,
    QRUSTY_NEW,
    QRUSTY_OLD,
    RABBITMQ_SERVER,
    REDIS,
    Server,
)

DEEP = 1_000_000
WS_WINDOW = 64
DURABLE = (OURS_ALWAYS, QRUSTY_NEW, QRUSTY_OLD, BEANSTALKD_SYNC, REDIS, RABBITMQ_SERVER, POSTGRESQL)
EVERYONE = (OURS_ALWAYS, OURS_NEVER, QRUSTY_NEW, QRUSTY_OLD, BEANSTALKD_SYNC, BEANSTALKD, *DURABLE[-3:])
HTTP = (OURS_ALWAYS, OURS_NEVER, QRUSTY_NEW, QRUSTY_OLD)
SOCKETS = (OURS_ALWAYS, OURS_NEVER, QRUSTY_NEW, QRUSTY_OLD, BEANSTALKD)


@dataclass(frozen=True, slots=True)
class Side:
    """One server in a workload, with `depth` messages in its queue beforehand."""

    server: Server
    depth: int = 0

    @property
    def key(self) -> str:
        return f"{self.server.key}@{self.depth}" if self.depth else self.server.key

    @property
    def label(self) -> str:
        return f"{self.server.label}, {self.depth:,} deep" if self.depth else self.server.label


@dataclass(frozen=True, slots=True)
class Workload:
    """`socket`: over WebSocket where the server has it (a step after the other, over its own protocol, where not).
    `changing_headers`: every request has a traceparent and an X-Request-Id of its own."""

    key: str
    title: str
    mode: str
    connections: int
    payload: int
    sides: tuple[Side, ...]
    socket: bool = False
    note: str = ""
    changing_headers: bool = False
    rate: float = 0
    """Messages/s that are due, whatever the server does; 0: each connection sends its next when the last is done."""
    batch: int = 0
    """Messages in each request; 0: one, without the routes for batches."""
    constant: str = ""
    """The key of the same workload with headers that are always the same."""
    closed: str = ""
    """The key of the same workload in a closed loop."""


def _sides(servers: tuple[Server, ...], *depths: int) -> tuple[Side, ...]:
    return tuple(Side(server, depth) for server in servers for depth in depths or (0,))


def _steps(mode: str, connections: int, payload: int = 100) -> Workload:
    size = f"{payload} B" if payload < 1024 else f"{payload // 1024} KB"
    what = "Publish" if mode == "publish" else "Cycle (publish, consume, ack)"
    plural = "connection" if connections == 1 else "connections"
    return Workload(
        key=f"{mode}-{connections}-{payload}",
        title=f"{what}, {connections} {plural}, {size}",
        mode=mode,
        connections=connections,
        payload=payload,
        sides=_sides(EVERYONE),
    )


def _sockets(mode: str, connections: int) -> Workload:
    what = "publish" if mode == "publish" else "publish, deliver and ack"
    plural = "socket" if connections == 1 else "sockets"
    return Workload(
        key=f"ws-{mode}-{connections}",
        title=f"WebSocket {what}, {connections} {plural}, {WS_WINDOW} in flight on each, 100 B",
        mode=mode,
        connections=connections,
        payload=100,
        sides=_sides(SOCKETS),
        socket=True,
        note="beanstalkd has no WebSocket. It does the same over as many connections of its own, one step at a time.",
    )


def _changing(mode: str, connections: int) -> Workload:
    """The same as `_steps`, with headers that are never the same. Over HTTP only."""
    constant = _steps(mode, connections)
    return replace(
        constant,
        key=f"{constant.key}-changing",
        title=f"{constant.title}, headers that change",
        sides=_sides(HTTP),
        note="Every request has a `traceparent` and an `X-Request-Id` of its own.",
        changing_headers=True,
        constant=constant.key,
    )


def _due(mode: str, connections: int, rate: int) -> Workload:
    """The same as `_steps`, at a rate that does not depend on the server: what counts is the latency."""
    closed = _steps(mode, connections)
    return replace(
        closed,
        key=f"{closed.key}-due-{rate}",
        title=f"{closed.title}, {rate:,} messages/s due",
        note="Messages are due at random times. A latency counts from when its message was due, so what waits behind a "
        "slow response counts as slow. The ratios compare the median latencies: over 1, ours is the shorter one.",
        sides=_sides(DURABLE),
        rate=rate,
        closed=closed.key,
    )


def _batches(mode: str, connections: int, batch: int) -> Workload:
    """The same as `_steps`, with many messages a request. Only this project's server has the routes."""
    one = _steps(mode, connections)
    return replace(
        one,
        key=f"{one.key}-batch-{batch}",
        title=f"{one.title}, batches of {batch}",
        sides=_sides((OURS_ALWAYS, OURS_NEVER)),
        batch=batch,
    )


WORKLOADS: tuple[Workload, ...] = (
    *(_steps("cycle", connections) for connections in (1, 8, 32, 128)),
    *(_steps("publish", connections) for connections in (1, 8, 32, 128)),
    *(_changing(mode, 32) for mode in ("cycle", "publish")),
    *(_batches(mode, 4, 100) for mode in ("cycle", "publish")),
    *(_due("publish", 32, rate) for rate in (500, 2000)),
    _steps("cycle", 8, 4096),
    _steps("publish", 8, 4096),
    *(_sockets("publish", connections) for connections in (1, 4)),
    *(_sockets("cycle", connections) for connections in (1, 4)),
    Workload(
        key="deep",
        title=f"Cycle, 8 connections, 100 B, with {DEEP:,} messages in the queue and with none",
        mode="cycle",
        connections=8,
        payload=100,
        sides=_sides(DURABLE, 0, DEEP),
        note="beanstalkd was filled without fsync and then started again with `-f0`.",
    ),
)


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio that a side of this project should reach against another side."""

    workload: str
    ours: str
    other: str
    ratio: float


GOALS: tuple[Goal, ...] = (
    Goal("cycle-8-100", "ours-always", "qrusty-0.26.0", 2.7),
    Goal("cycle-8-100", "ours-always", "beanstalkd-f0", 1.0),
    Goal("cycle-32-100", "ours-always", "qrusty-0.26.0", 8),
    Goal("cycle-32-100", "ours-always", "beanstalkd-f0", 1.8),
    Goal("cycle-32-100", "ours-always", "rabbitmq", 1.5),
    Goal("cycle-128-100", "ours-always", "qrusty-0.26.0", 18),
    Goal("cycle-8-100", "ours-never", "qrusty-0.26.0", 6),
    Goal("publish-8-100", "ours-never", "qrusty-0.26.0", 1.0),
    Goal("ws-publish-4", "ours-always", "qrusty-0.26.0", 1.1),
    Goal("ws-publish-4", "ours-never", "qrusty-0.26.0", 1.7),
    Goal("ws-cycle-4", "ours-always", "qrusty-0.26.0", 30),
    Goal("deep", f"ours-always@{DEEP}", "ours-always", 0.9),
)
