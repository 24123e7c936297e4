"""What the listener, the fast path and the fallback are given.

Rule: everything that connections share comes from here. The only module globals are caches.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import trio

from qrusty_trio.access.access import Access
from qrusty_trio.api.about import Gauge
from qrusty_trio.api.call import Engine
from qrusty_trio.http.access_log import AccessLog
from qrusty_trio.http.admission import Admission
from qrusty_trio.http.bulkheads import Bulkheads
from qrusty_trio.http.byte_budget import Budget
from qrusty_trio.http.request_log import RequestLog
from qrusty_trio.http.websocket import WebSocketServices
from qrusty_trio.http.webui import Files

TlsContexts = Callable[[], ssl.SSLContext]
"""Gives the context of the next TLS handshake."""
MAX_TURNED_AWAY = 128
"""Connections being turned away at a time. Further ones are closed without a response."""


async def no_metrics(context: HttpContext, query: str) -> bytes:
    """The metrics of a server that keeps none."""
    return b""


@dataclass(frozen=True, slots=True)
class HttpContext:
    """What all connections of a server share."""

    engine: Engine
    websocket: WebSocketServices
    """Its `stopping` must be the same event as `stopping` here."""
    webui_dir: Path
    """The directory with index.html."""
    max_connections: int
    """Open connections over all listening sockets. Further ones are turned away."""
    fast_path: bool
    """False: Hypercorn serves every connection from its first byte."""
    allowed_origins: Collection[str] = ()
    """Origins of browser pages that may use the API, such as `https://ops.example`."""
    stopping: trio.Event = field(default_factory=trio.Event)
    """Set when the server shuts down."""
    allowed_hosts: Collection[str] = ()
    """Host names, in lower case, that browsers may use for the server besides localhost and IP addresses."""
    bulkheads: Bulkheads = field(default_factory=Bulkheads)
    """Keeps a failure within its connection."""
    received: Budget = field(default_factory=Budget)
    """Bytes of requests that are not answered yet."""
    unsent: Budget = field(default_factory=Budget)
    """Bytes of responses that are not sent yet."""
    max_turned_away: int = MAX_TURNED_AWAY
    """Surplus connections that get a response at a time; fewer where descriptors are scarce."""
    access: AccessLog | None = None
    """None: there is no access log."""
    admission: Admission = field(default_factory=Admission)
    """Decides which connections are served."""
    connections: Gauge = field(default_factory=Gauge)
    """Open connections; the listener counts them."""
    requests: RequestLog = field(default_factory=RequestLog)
    """Logs requests that fail or take long."""
    metrics: Callable[[HttpContext, str], Awaitable[bytes]] = no_metrics
    """Renders the response to `GET /metrics` from its query. Raises BadRequest."""
    tls: TlsContexts | None = None
    """None: plain HTTP."""
    tokens: Access | None = None
    """The tokens; None: whoever connects may do everything."""
    files: Files = field(default_factory=dict)
    """The files of the web UI that are kept in memory. The others are read when they are asked for."""
