"""The share of the byte budgets held by a request that Hypercorn serves; see `byte_budget`.

Rule: an HTTP/1.1 body waits in its socket until there is room. An HTTP/2 body shares its connection with other
requests, which must not wait behind it. So it is dropped as it arrives, and the request is answered with 503.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.errors import Unavailable
from qrusty_trio.http.byte_budget import SMALL_BYTES, Budget, Holding

LARGE_RESPONSES = 2
"""Most requests of an HTTP/2 connection that hold a large response at a time."""


class ConnectionShare:
    """What a connection holds of the budgets."""

    def __init__(self, received: Budget, unsent: Budget) -> None:
        self.received = received
        self.unsent = unsent
        self.among = trio.Semaphore(LARGE_RESPONSES)
        self.shares: set[Share] = set()

    def lags(self, now: float, moved: int) -> bool:
        """Whether others wait for room while this peer stalls.

        `now`: seconds. `moved`: bytes that the peer has sent or taken so far.
        """
        if not (self.received.waiting or self.unsent.waiting):
            return False
        return any(share.unsent.lags(now, moved) or share.received.lags(now, moved) for share in self.shares)


class Share:
    """What one request holds of the budgets. Must be closed at its end."""

    def __init__(self, whole: ConnectionShare, http2: bool) -> None:
        self._whole = whole
        self._http2 = http2
        self._dropped = False
        self._arrived = 0
        self.received = Holding(whole.received)
        self.unsent = Holding(whole.unsent, whole.among)
        whole.shares.add(self)

    def close(self) -> None:
        """Release everything."""
        self._whole.shares.discard(self)
        self.received.set(0)
        self.unsent.set(0)

    def check(self) -> None:
        """Raise Unavailable if the body was dropped."""
        if self._dropped:
            raise Unavailable("Too much is being received. Try again later.")

    async def receive(self, receive: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """The next ASGI message, once there is room for its body. An HTTP/2 body without room is dropped."""
        message = await receive()
        if message["type"] == "http.request":
            self._arrived += len(message.get("body", b""))
            if self._arrived > SMALL_BYTES and not self.received.held and not self._dropped:
                if not self._http2:
                    await self.received.reserve(MAX_BODY_BYTES)
                elif not self.received.reserve_now(MAX_BODY_BYTES):
                    self._dropped = True
            if self._dropped:
                message["body"] = b""
        return message
