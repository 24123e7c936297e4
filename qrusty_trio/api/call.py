"""The types of a request: the Call that `http` hands over, the Reply it gets back, and the Operation between them.

Rule: both paths of HTTP use this module and `api.operations`, and never touch the broker. WebSockets use the session,
which gets the broker inside a transaction.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from qrusty_trio.access.grants import Principal
from qrusty_trio.access.needs import Needs
from qrusty_trio.api.about import About
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.identity import Identity
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import ID_CHARACTERS, Delivery
from qrusty_trio.core.pressure import Level
from qrusty_trio.core.timings import Timings
from qrusty_trio.errors import StorageFault

RECEIPT_BYTES = 1024
"""A smaller reply is kept as its own receipt."""


class Call(msgspec.Struct, gc=False):
    """One request of a burst: an operation and its input bytes."""

    operation: Operation
    params: tuple[str, ...] = ()
    """The path parameters, percent-decoded, in template order."""
    body: bytes = b""
    query: str = ""
    """The raw query string without '?'; '' if there is none."""
    handed_out: list[Delivery] | None = None
    """What the call has handed out, if it takes several steps: the engine gives it back if it comes to no reply. It may
    be in the store before a step ends, as a scan commits."""
    identity: Identity | None = None
    """Who the request is; None if its client did not say."""
    principal: Principal | None = None
    """Whom it speaks for; None if nobody is known, or the server has no tokens."""
    done: Callable[[], dict[str, int]] | None = None
    """How much is done so far, named as in the response, if it takes several steps: the audit tells it if they break
    off."""

    @property
    def queue(self) -> str:
        """The queue that its path names."""
        return self.params[0]

    def require(self, queue: str, messages: int = 0) -> None:
        """Raise Forbidden unless the operation may be done to this queue. Counts messages that it publishes there."""
        principal, grant = self.principal, self.operation.needs.grant
        if principal is not None and grant is not None:
            principal.require(grant, queue)
            if messages and principal.limit is not None:
                principal.limit.charge(messages)

    def shows(self, queue: str) -> bool:
        """Whether a list may have this queue."""
        principal, grant = self.principal, self.operation.needs.grant
        return principal is None or grant is None or principal.would(grant, queue)


class DeliveryReceipts:
    """What `Engine.give_back` needs of the deliveries of a batch, all of one queue, in 44 bytes each.

    A connection keeps it until its next request.
    """

    __slots__ = ("_ids", "_lock_numbers", "_queue_number")

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self._queue_number = deliveries[0].queue_number
        self._lock_numbers = array("Q", [each.lock_number for each in deliveries])
        self._ids = "".join([each.id for each in deliveries])

    def __len__(self) -> int:
        return len(self._lock_numbers)

    def __iter__(self) -> Iterator[Delivery]:
        """The deliveries, without their payloads."""
        for index, lock_number in enumerate(self._lock_numbers):
            id = self._ids[ID_CHARACTERS * index : ID_CHARACTERS * (index + 1)]
            yield Delivery(self._queue_number, id, "", 0, 0, 0, lock_number)


class Reply(msgspec.Struct, gc=False):
    """One response. Both paths add Content-Type: application/json to a non-empty body, Retry-After: 2 to a 503, and
    WWW-Authenticate: Bearer to a 401."""

    status: int = 200
    body: bytes = b""
    needs_sync: bool = False
    """Whether the change must be durable before the response is sent (fsync policy `always`), or that of another
    request of which it tells. If that fails, the response is an error, and its deliveries are given back."""
    deliveries: Sequence[Delivery] | DeliveryReceipts = ()
    """The messages this response hands out. `Engine.give_back` returns them if the response can't be written."""
    consumer: str = ""
    retry_after: int = 0
    """Seconds after which a client may try again; 0: the transport knows, or it need not."""

    def receipt(self) -> Reply:
        """The part of the reply that `Engine.give_back` needs, without a large body and payloads."""
        deliveries = self.deliveries
        if not deliveries or len(self.body) < RECEIPT_BYTES or isinstance(deliveries, DeliveryReceipts):
            return self
        return Reply(self.status, b"", False, DeliveryReceipts(deliveries), self.consumer)


class MemoryStatus(Protocol):
    """The memory monitor's latest reading."""

    @property
    def level(self) -> Level: ...

    @property
    def under_pressure(self) -> bool: ...

    @property
    def usage_bytes(self) -> int: ...

    @property
    def limit_bytes(self) -> int: ...


class AuditFileState(Protocol):
    """How the file of the audit is."""

    @property
    def lost(self) -> int: ...

    @property
    def failing(self) -> bool: ...


class AuditPages(Protocol):
    """The records of the audit, for those who read them."""

    @property
    def file(self) -> AuditFileState: ...

    def page(self, before: int, limit: int) -> tuple[list[bytes], int | None]:
        """Up to `limit` records before this number, in JSON, the newest first; and the number to go on with."""


@dataclass(slots=True)
class Services:
    """What operations work with."""

    broker: Broker
    gate: Gate
    timings: Timings
    memory: MemoryStatus
    payload_disk_bytes: Callable[[], int]
    """Size on disk, in bytes, of the segment files of large payloads."""
    about: About = field(default_factory=About)
    audit: AuditPages | None = None
    """None: nothing is audited."""
    guarded: bool = False
    """Whether operations need tokens."""
    sync_locks: bool = False
    """Whether locks must be durable before anyone is told of them, as other changes."""


class Wait(msgspec.Struct):
    """A consume found nothing, and is to wait: the operation returns this instead of a reply."""

    names: tuple[str, ...]
    """The queues to wait for."""
    consumer: str
    lock_seconds: int
    most: int
    """Most messages of the response."""
    until_ms: int
    """When the wait ends, wall milliseconds."""
    make_reply: Callable[[Services, Sequence[Delivery], str], Reply]
    """Makes the reply. It may leave out messages at the end that do not fit. The name: which of the queues it was."""
    nothing: bytes
    """The body of the reply when the time is up."""


Steps = Generator[None, None, Reply | Wait]
"""An operation that takes more than one step. At its yields the engine commits and lets others run."""

Result = Reply | Steps | Wait


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """A row of the table of operations.

    Requirements: API-0001
    """

    name: str
    method: str
    path: str
    """A template such as `/ack/{queue}/{id}`."""
    needs: Needs
    """Which grant it needs, and how it names its queues."""
    mutating: bool
    """Whether it changes something."""
    function: Callable[[Services, Call, int], Result]
    """Takes the services, the call and the wall time in milliseconds. Raises QrustyError: at once, or at a step of the
    generator that it returned."""
    request: type[msgspec.Struct] | None = None
    """The JSON body it takes; None if it takes none."""
    large: bool = False
    """Whether its response may be larger than a few KiB."""
    reads_store: bool = False
    """Whether it reads the store although it changes nothing."""

    @property
    def needs_store(self) -> bool:
        """Whether it is refused while the server starts, and while the store is at fault."""
        return self.mutating or self.reads_store


WAITING = Reply(0)
"""Stands for the reply to a call that has to wait: `Engine.run` must run it."""


class Pause(Protocol):
    """How a connection lets a call wait: for the engine or for its peer. For one call at a time."""

    def room(self) -> bool:
        """Whether a response of any size may be made now."""

    def took(self, characters: int) -> None:
        """So much payload waits to be sent."""

    def wake(self) -> None:
        """End `wait` or `reserve`."""

    async def wait(self, seconds: float) -> None:
        """Return when `wake` is called, when the time is up, or when the peer is gone or wanted elsewhere."""

    async def reserve(self) -> None:
        """Wait in turn until there is room for a response of any size, or until `wake` is called."""

    def release(self) -> None:
        """Give back the room that `reserve` took, or its caller before."""

    @property
    def over(self) -> bool:
        """The peer is gone, or must not wait any longer."""


class Engine(Protocol):
    """The one engine behind all connections."""

    async def run(self, calls: Sequence[Call], pause: Pause | None = None) -> list[Reply]:
        """Run a burst of calls in one transaction. Returns the replies in the order of the calls.

        It stops early once the replies are large, and before and after a call that has to wait: then fewer replies than
        calls come back. The caller sends those, then runs the rest. `pause`: how to wait; None: not at all.

        Returns when every change is as durable as QRUSTY_FSYNC promises. A bad request or a storage fault is a reply,
        not an exception. If the caller is cancelled while waiting, the changes stand and the deliveries are given back.
        """

    @property
    def waits(self) -> bool:
        """Whether a reply that needs a sync has to wait for it."""

    def run_nowait(self, calls: Sequence[Call]) -> list[Reply]:
        """Run a burst of short calls without waiting for a sync. Returns the replies in the order of the calls.

        It stops early once the replies are large, to give other tasks a turn: then fewer replies than calls come back.
        A call that has to wait gets WAITING. If `waits` and a reply needs a sync, the caller must call `when_durable`
        before it awaits anything.
        """

    def when_durable(self, callback: Callable[[StorageFault | None], None], peers: Sequence[object]) -> None:
        """Call back on the event loop after the sync that covers all changes so far; with the fault if it failed.

        `peers`: the connection of each response that the callback sends. Callbacks that do not fit into one step of the
        loop wait for the next.
        """

    def checked(self, call: Call, reply: Reply) -> Reply:
        """The reply to a call of `run_nowait` that had to wait. If its token may not have its messages any more, they
        are given back, and it is a refusal."""

    async def end_waits(self) -> None:
        """The server stops: answer all calls that wait, and let none wait any more."""

    def give_back(self, reply: Reply) -> None:
        """The response could not be written. Its messages are available again, at once or in small steps, uncounted."""
