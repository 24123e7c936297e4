"""What a carrier hands over and what it gets back.

Rule: carriers (HTTP lanes, WebSocket) know this module and `api.operations` only; they never touch the broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qrusty_trio.api.operations import Operation
    from qrusty_trio.core.model import Delivery


class Call:
    """One request of a burst: which operation, with which bytes."""

    __slots__ = ("body", "operation", "params", "query")

    def __init__(self, operation: Operation, params: tuple[str, ...] = (), body: bytes = b"", query: str = "") -> None:
        self.operation = operation
        self.params = params
        """The path parameters, percent-decoded, in template order."""
        self.body = body
        self.query = query
        """The raw query string without '?', '' when there is none."""


class Reply:
    """One answer. Carriers add Content-Type: application/json to a non-empty body, and Retry-After: 2 to a 503."""

    __slots__ = ("body", "consumer", "delivery", "needs_sync", "status")

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        needs_sync: bool = False,
        delivery: Delivery | None = None,
        consumer: str = "",
    ) -> None:
        self.status = status
        self.body = body
        self.needs_sync = needs_sync
        """True when the change must survive a power cut before the answer leaves (policy `always`)."""
        self.delivery = delivery
        """The message this answer hands out, if any: goes back with `Engine.give_back` when it can't be written."""
        self.consumer = consumer


class Engine(Protocol):
    """The one engine behind all carriers."""

    async def run(self, calls: Sequence[Call]) -> list[Reply]:
        """Run a burst as one batch and one commit; one reply per call, in order.

        Returns when every change is as durable as QRUSTY_FSYNC promises. A bad request or a storage fault is a reply,
        not an exception. If the caller is cancelled while waiting, the changes stand and deliveries are given back.
        """

    def give_back(self, reply: Reply) -> None:
        """The answer could not be written: its message is available again at once, the delivery not counted."""
