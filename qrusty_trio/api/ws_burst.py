"""Frames of a WebSocket that arrived together, and how far they have come. Also which of their types change something.

Rule: nothing here runs them; `ws_requests` does.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from sys import getsizeof

from qrusty_trio.api.batches import BatchPublisher
from qrusty_trio.api.ws_frames import Misshapen, Request
from qrusty_trio.errors import StorageFault

CHANGING = frozenset({"publish", "batch-publish", "ack", "nack", "batch-ack", "batch-nack"})
"""Types whose response must wait until the change is durable."""
BATCHES = frozenset({"batch-publish", "batch-ack", "batch-nack"})
STORING = CHANGING | {"renew"}
"""Types that fail if the burst can't be stored."""

REQUEST_BYTES = 256
"""Memory that a decoded request takes besides the text of its frame, roughly, as are all of these."""
ID_BYTES = 64
"""The same for an id in a list: a short one has 5 bytes of text."""
MESSAGE_BYTES = 256
"""The same for a message of a batch, and for its id in the response."""
RESPONSE_BYTES = 48
"""The same for a response."""


class Burst:
    """Frames that arrived together, while the engine runs them.

    Requirements: WS-0056
    """

    __slots__ = (
        "_batches_size",
        "_requests_size",
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

    def __init__(
        self, requests: list[Request | Misshapen], frames: Sequence[str | bytes], changing: Set[str] = CHANGING
    ) -> None:
        """`frames`: those that the requests were decoded from, and perhaps more."""
        self.requests = requests
        types: set[str | None] = set()
        weight = len(requests)
        size = REQUEST_BYTES * weight + sum(map(getsizeof, frames))
        batches: list[int] = []
        for index, each in enumerate(requests):
            if type(each) is Request:
                types.add(each.type)
                if each.ids is not None or each.messages is not None:
                    ids, messages = len(each.ids or ()), len(each.messages or ())
                    octets = ID_BYTES * ids + MESSAGE_BYTES * messages
                    weight += ids + messages
                    size += octets
                    if each.type in BATCHES:
                        batches.append(octets + getsizeof(frames[index]))
        self._batches_size = sum(batches)
        self.size = self._requests_size = size
        """Memory that it takes, in bytes, roughly."""
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

    def count_responses(self) -> int:
        """Count the responses so far as well. Returns by how many bytes `size` has grown."""
        before = self.size
        responses = self.responses
        self.size = self._requests_size + RESPONSE_BYTES * len(responses) + sum(map(len, responses))
        return self.size - before

    def drop_batches(self) -> None:
        """All requests have run: keep nothing of the batches but what an error response needs."""
        requests = self.requests
        if not self._batches_size:
            return
        self._requests_size -= self._batches_size
        self._batches_size = 0
        for index, each in enumerate(requests):
            if type(each) is not Request or each.type not in BATCHES:
                continue
            if each.ids is not None or each.messages is not None:
                requests[index] = Request(type=each.type, req_id=each.req_id, no_reply=each.no_reply)
