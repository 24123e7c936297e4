"""What `GET /server` tells: facts about the process that are no queue's.

Rule: plain values that are fixed at the start, and gauges that others keep.

Requirements: API-0069
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qrusty_trio.core.pressure import Thresholds


@dataclass(slots=True)
class Gauge:
    """A number that its owner keeps up to date."""

    value: int = 0


@dataclass(frozen=True, slots=True)
class About:
    """The facts. The defaults are those of a server that nobody started."""

    storage_mode: str = "memory"
    fsync: str = "never"
    payload_store: bool = False
    """Whether new large payloads go to segment files."""
    environment: str = ""
    """The name that the operator gave this server; empty if none."""
    environment_colour: str = ""
    started_ms: int = 0
    """When the process started to serve, wall milliseconds."""
    max_connections: int = 0
    connections: Gauge = field(default_factory=Gauge)
    """Open connections, WebSockets included."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Of memory pressure."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Name of a limit -> its value."""
