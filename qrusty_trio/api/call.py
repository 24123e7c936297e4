"""A request on its way: the call that a transport hands over, the reply it gets back, and what an operation is.

Rule: the HTTP transports know this module and `api.operations`, and never touch the broker. Those of WebSocket know the
session, which gets the broker inside a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from qrusty_trio.api.gate import Gate
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import Delivery
from qrusty_trio.core.timings import Timings
from qrusty_trio.errors import StorageFault

RECEIPT_BYTES = 1024
"""A reply that is smaller is kept as it is."""


class Call(msgspec.Struct, gc=False):
    """One request of a burst: which operation, with which bytes."""

    operation: Operation
    params: tuple[str, ...] = ()
    """The path parameters, percent-decoded, in template order."""
    body: bytes = b""
    query: str = ""
    """The raw query string without '?', '' when there is none."""


class Reply(msgspec.Struct, gc=False):
    """One answer. Carriers add Content-Type: application/json to a non-empty body, and Retry-After: 2 to a 503."""

    status: int = 200
    body: bytes = b""
    needs_sync: bool = False
    """True when the change must survive a power cut before the answer leaves (policy `always`)."""
    delivery: Delivery | None = None
    """The message this answer hands out, if any: goes back with `Engine.give_back` when it can't be written."""
    consumer: str = ""

    def receipt(self) -> Reply:
        """What `Engine.give_back` needs of it, without the bytes that it answers with."""
        delivery = self.delivery
        if delivery is None or len(self.body) < RECEIPT_BYTES:
            return self
        return Reply(self.status, b"", False, msgspec.structs.replace(delivery, payload=""), self.consumer)


class MemoryStatus(Protocol):
    """What the memory monitor saw last."""

    @property
    def under_pressure(self) -> bool: ...

    @property
    def usage_bytes(self) -> int: ...

    @property
    def limit_bytes(self) -> int: ...


@dataclass(slots=True)
class Services:
    """What operations work on."""

    broker: Broker
    gate: Gate
    timings: Timings
    memory: MemoryStatus
    payload_disk_bytes: Callable[[], int]
    """Size of the segment files of large payloads, on disk."""


Answer = Reply | Generator[None, None, Reply]


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """A row of the table."""

    name: str
    method: str
    path: str
    """A template such as `/ack/{queue}/{id}`."""
    mutating: bool
    """Whether it is refused while the server is starting."""
    function: Callable[[Services, Call, int], Answer]
    """Called with the wall time in milliseconds. Raises QrustyError: at once, or at the generator's next step."""
    request: type[msgspec.Struct] | None = None
    """The JSON body it takes, None for none."""
    large: bool = False
    """Whether its answer may take more than a few KiB."""


class Engine(Protocol):
    """The one engine behind all carriers."""

    async def run(self, calls: Sequence[Call]) -> list[Reply]:
        """Run a burst as one batch and one commit; the replies to the first of the calls, in order.

        To all, unless there is so much to be answered that it is time to send what there is, and then to run the rest.
        Returns when every change is as durable as QRUSTY_FSYNC promises. A bad request or a storage fault is a reply,
        not an exception. If the caller is cancelled while waiting, the changes stand and deliveries are given back.
        """

    @property
    def waits(self) -> bool:
        """Whether an answer that needs a sync has to wait for it."""

    def run_quick(self, calls: Sequence[Call]) -> list[Reply]:
        """Run a burst of calls, none of them long, without waiting for a sync; the replies to the first of them.

        To all, unless there is so much to be answered that it is time for others. When `waits`, and a reply needs a
        sync, the caller has to call `when_durable` before it awaits anything.
        """

    def when_durable(self, callback: Callable[[StorageFault | None], None], answers: int = 1) -> None:
        """Call back, on the loop, after the sync that covers all changes so far; with the fault if it failed.

        `answers`: how many the callback sends. What one step does not get to is left to the next.
        """

    def give_back(self, reply: Reply) -> None:
        """The answer could not be written: its message is available again at once, the delivery not counted."""
