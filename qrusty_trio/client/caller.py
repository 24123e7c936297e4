"""One request of the HTTP client: sent, sent again where that does no harm, and its response understood.

Rule: `retries` decides what is sent again. `make blocking` writes the same for threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio

from qrusty_trio.client.addresses import address_of, authorization_of
from qrusty_trio.client.errors import ClientError
from qrusty_trio.client.operations import TABLE, Watch, content, outcome, request_for
from qrusty_trio.client.pool import Pool
from qrusty_trio.client.retries import Retries
from qrusty_trio.client.tls import Tls


class Caller:
    """Sends the requests of an `HttpClient`, whose docstring says what the arguments mean."""

    def __init__(
        self,
        url: str,
        connections: int,
        timeout_seconds: float,
        patience_seconds: float,
        token: str | None,
        tls: Tls,
        watch: Watch | None,
    ) -> None:
        address = address_of(url)
        self._pool = Pool(address, connections, authorization_of(token), tls)
        self._prefix = address.prefix
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
        self._watch = watch

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
        retries = Retries(operation.repeatable or repeat, anyio.current_time() + patience)
        if self._watch is not None:
            self._watch.asked(name, request)
        while True:
            try:
                response = await self._pool.request(request, self._timeout_seconds + wait_seconds)
                refusal = outcome(response)
                if refusal is None:
                    answer = content(response)
                    if self._watch is not None:
                        self._watch.answered(name, answer)
                    return answer
                raise refusal
            except ClientError as error:
                pause = retries.pause_after(error, anyio.current_time())
                if pause is None:
                    raise
                await anyio.sleep(pause)

    async def aclose(self) -> None:
        """Close what is idle. A connection with a request on it is closed when that has ended."""
        await self._pool.aclose()
