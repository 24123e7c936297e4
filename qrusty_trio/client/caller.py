"""One request of the HTTP client: sent, sent again where that does no harm, and its response understood.

Rule: a request is sent once, unless it is certain that sending it again does no harm: it never left, or the server
refused it before it did anything, or it only looks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import anyio

from qrusty_trio.client.errors import ClientError, ConnectionLost, NotSent
from qrusty_trio.client.operations import TABLE, Operation, content, nothing_was_done, outcome, request_for
from qrusty_trio.client.pool import Pool, address_of

BACKOFF_SECONDS = 0.1
"""Wait before a request is sent again; doubled for each further time."""
MAX_BACKOFF_SECONDS = 5.0


class Caller:
    """Sends the requests of an `HttpClient`, whose docstring says what the arguments mean."""

    def __init__(self, url: str, connections: int, timeout_seconds: float, patience_seconds: float) -> None:
        address = address_of(url)
        self.pool = Pool(address, connections)
        self._prefix = address.prefix
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds

    async def call(
        self,
        name: str,
        params: Mapping[str, str] | None = None,
        fields: Mapping[str, object] | None = None,
        *,
        wait_seconds: float = 0,
        repeat: bool = False,
        patience_seconds: float | None = None,
    ) -> Any:
        """Send a request, again if that does no harm, and return the JSON of its response."""
        operation = TABLE[name]
        request = request_for(operation, params or {}, fields or {}, self._prefix)
        patience = self._patience_seconds if patience_seconds is None else patience_seconds
        deadline = anyio.current_time() + patience
        pause = BACKOFF_SECONDS
        while True:
            try:
                response = await self.pool.request(request, self._timeout_seconds + wait_seconds)
                refusal = outcome(response)
                if refusal is None:
                    return content(response)
                raise refusal
            except ClientError as error:
                again = anyio.current_time() + pause
                if again > deadline or not _may_be_sent_again(operation, error, repeat):
                    raise
                await anyio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, MAX_BACKOFF_SECONDS)


def _may_be_sent_again(operation: Operation, error: ClientError, repeat: bool) -> bool:
    if isinstance(error, NotSent) or nothing_was_done(error):
        return True
    return (operation.repeatable or repeat) and isinstance(error, ConnectionLost)
