"""Requests that are timed, and the errors of a ledger."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

from bench.soak.watch import Watch
from tests.wire.http_client import HttpClient


class BrokenPromise(Exception):
    """The server did what the contract rules out."""


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise BrokenPromise(f"{what}: {str(found)[:300]} in place of {str(wanted)[:300]}")


class Requests:
    """HTTP requests of one client, on a connection that can be made anew."""

    def __init__(self, port: int, watch: Watch) -> None:
        self._port = port
        self._watch = watch
        self._client = HttpClient("127.0.0.1", port)

    async def send(self, method: str, path: str, *allowed: int, **body: Any) -> tuple[int, Any]:
        """Status and JSON of the answer. Raises BrokenPromise when the status is neither 200 nor allowed."""
        began = time.perf_counter()
        response = await self._client.request(method, path, json.dumps(body).encode() if body else None)
        self._watch.answered(time.perf_counter() - began)
        if response.status != 200 and response.status not in allowed:
            raise BrokenPromise(f"{method} {path}: {response.status} {response.body[:300]!r}")
        return response.status, json.loads(response.body) if response.body else None

    async def post(self, path: str, **body: Any) -> Any:
        return (await self.send("POST", path, **body))[1]

    async def counters(self, queue: str) -> tuple[int, int]:
        """Available and locked."""
        _, stats = await self.send("GET", f"/queue-stats/{quote(queue, safe='')}")
        return stats["available"], stats["locked"]

    async def leave(self) -> None:
        """Close the connection; the next request opens another."""
        await self._client.aclose()
