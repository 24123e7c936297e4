"""Frames of a WebSocket that arrived together, and how far they have come. Also which of their types change something.

Rule: nothing here runs them; `ws_requests` does.
"""

from __future__ import annotations

from collections.abc import Set

from qrusty_trio.api.batches import BatchPublisher
from qrusty_trio.api.ws_frames import Misshapen, Request
from qrusty_trio.errors import StorageFault

CHANGING = frozenset({"publish", "batch-publish", "ack", "nack", "batch-ack", "batch-nack"})
"""Types whose response must wait until the change is durable."""
STORING = CHANGING | {"renew"}
"""Types that fail if the burst can't be stored."""


class Burst:
    """Frames that arrived together, while the engine runs them."""

    __slots__ = (
        "admitted",
        "begun",
        "changes",
        "counts",
        "fault",
        "next",
        "over",
        "position",
        "publisher",
        "requests",
        "responses",
        "size",
        "subscribes",
        "weight",
    )

    def __init__(self, requests: list[Request | Misshapen], changing: Set[str] = CHANGING, size: int = 0) -> None:
        self.requests = requests
        self.size = size
        """Memory that it takes, in bytes, roughly."""
        types: set[str | None] = set()
        weight = len(requests)
        for each in requests:
            if type(each) is Request:
                types.add(each.type)
                if each.ids is not None:
                    weight += len(each.ids)
                if each.messages is not None:
                    weight += len(each.messages)
        self.weight = weight
        """Approximate number of operations."""
        self.changes = not changing.isdisjoint(types)
        """Whether the responses must wait until the changes are durable."""
        self.subscribes = not types.isdisjoint(("subscribe", "subscribe-logs"))
        self.next = 0
        """Index of the next request to run."""
        self.admitted = False
        """The next request has been authorized: it is a long batch that has begun."""
        self.position = 0
        """Ids done so far of a batch-ack or batch-nack that is too long for one step."""
        self.counts: dict[str, int] = {}
        """Outcomes of those ids so far."""
        self.publisher: BatchPublisher | None = None
        """A batch-publish that is too long for one step."""
        self.responses: list[bytes] = []
        """The response to each request that ran, also where it is not to be sent (`no_reply`)."""
        self.over = False
        """It was run, and the responses may leave."""
        self.fault: StorageFault | None = None
        """Why its changes are not stored."""
        self.begun = 0
        """Wall time in nanoseconds, where somebody takes notes."""
