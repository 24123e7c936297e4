"""The response to `GET /`: a browser is redirected to the web UI, other clients get a list of what is served here.

Rule: all addresses are relative, so they also work behind a proxy that adds a path prefix.

Requirements: API-0054
"""

from __future__ import annotations

import msgspec

from qrusty_trio import __version__
from qrusty_trio.api.operations import OPERATIONS

MAX_ACCEPT_CHARACTERS = 2048
"""Most characters read of an Accept header; browsers send 100 to 200."""
UI_ADDRESS = "ui/"
"""The address of the web UI, relative to the root and to `/ui`."""

DESCRIPTION = msgspec.json.encode(
    {
        "name": "Qrusty on Trio",
        "version": __version__,
        "links": {
            "ui": UI_ADDRESS,
            "health": "health",
            "stats": "stats",
            "queues": "queues",
            "operation_timings": "operation-timings",
            "websocket": "ws",
            "docs": "docs",
            "openapi": "openapi.json",
            "asyncapi": "asyncapi.json",
        },
        "routes": [f"{operation.method} {operation.path}" for operation in OPERATIONS],
        "documents": "README.md (a walk through it), docs/reference (every route and frame) and docs/operating.md "
        "(settings, limits), with the source code",
    }
)


def is_browser(accept: str | None) -> bool:
    """Whether an Accept header asks for a page: it names text/html and prefers it to JSON."""
    qualities = {"text/html": 0.0, "application/json": 0.0}
    for media_range in (accept or "")[:MAX_ACCEPT_CHARACTERS].lower().split(","):
        media_type, *parameters = (part.strip() for part in media_range.split(";"))
        if media_type in qualities:
            weights = [parameter[2:].strip() for parameter in parameters if parameter.startswith("q=")]
            qualities[media_type] = _quality(weights[0]) if weights else 1.0
    return qualities["text/html"] > qualities["application/json"]


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0
