"""What the listener and both lanes are given.

Rule: everything a connection shares with others comes from here; there are no module globals beside caches.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import trio

from qrusty_trio.api.call import Engine
from qrusty_trio.http.bulkheads import Bulkheads
from qrusty_trio.http.byte_budget import Budget
from qrusty_trio.http.websocket import WebSocketServices

MAX_TURNED_AWAY = 128
"""Connections that are being turned away at once; what comes beyond that is closed without a word."""


@dataclass(frozen=True, slots=True)
class HttpContext:
    """What all connections of a server share."""

    engine: Engine
    websocket: WebSocketServices
    """Its `stopping` is to be the same event as `stopping` here."""
    webui_dir: Path
    """The directory with index.html."""
    max_connections: int
    """Open connections over all sockets; one more is turned away."""
    fast_lane: bool = True
    """False: Hypercorn serves every connection from its first byte."""
    allowed_origins: Collection[str] = ()
    """Origins of browser pages that may use the API, such as `https://ops.example`."""
    stopping: trio.Event = field(default_factory=trio.Event)
    """Set when the server shuts down."""
    allowed_hosts: Collection[str] = ()
    """Hosts, in lower case, under which browsers may use the server, besides localhost and IP addresses."""
    bulkheads: Bulkheads = field(default_factory=Bulkheads)
    """What ends with one connection."""
    received: Budget = field(default_factory=Budget)
    """Requests that are not answered yet."""
    unsent: Budget = field(default_factory=Budget)
    """Answers that are not sent yet."""
    max_turned_away: int = MAX_TURNED_AWAY
    """Connections too many that are told so at once; fewer where descriptors are short."""
