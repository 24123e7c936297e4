"""A subscription and its deliveries.

Rule: a subscription has at most `prefetch` unsettled messages, prefetched or in the program's hands. Each message that
is settled, or whose lock expires, gives back one credit. Credits go to the server in chunks, or at once if it has none.
So the buffer is bounded, and a program that forgets to settle a message loses one place until the lock expires, not for
good.

Connections come and go: then the client calls `attach` and `detach`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from qrusty_trio.client.connection import Connection, Frame
from qrusty_trio.client.errors import ClientError, ConnectionLost, ProtocolError, RequestError, Unavailable, again

MAX_PREFETCH = 10_000
MAX_WARN_SECONDS = 3_600
MAX_BATCH = 1_000
"""Most deliveries that a server sends in a frame."""
UNAVAILABLE_SECONDS = 1.0
"""Time between two attempts to subscribe again while the server is starting, or its store has a fault."""


class Delivery:
    """A locked message. Settle it once, with `ack` or `nack`.

    `ack`, `nack` and `renew` raise ConnectionLost if the connection it came over has ended. Then the message goes to
    another consumer, and the work on it is done again.
    """

    __slots__ = (
        "_changed",
        "_connection",
        "_subscription",
        "_warned",
        "created_at",
        "id",
        "lock_ends",
        "payload",
        "priority",
        "queue",
    )

    def __init__(self, frame: Frame, lock_seconds: int, subscription: Deliveries, connection: Connection) -> None:
        self.queue = frame.queue
        """The name that the program subscribed to."""
        self.id = frame.id
        self.payload = frame.payload
        self.priority = frame.priority
        self.created_at: datetime = frame.created_at or datetime.fromtimestamp(0, UTC)
        """When the message was published, in UTC."""
        self.lock_ends = anyio.current_time() + lock_seconds
        """When the lock expires, by `anyio.current_time`: never earlier than at the server."""
        self._subscription = subscription
        self._connection = connection
        self._warned = False
        self._changed: anyio.Event | None = None
        """What those wait for who want to be warned."""

    @property
    def lost(self) -> bool:
        """Whether the connection it came over has ended, so that it can no longer be settled."""
        return self._connection.ended is not None

    async def ack(self) -> None:
        """Report success: the server deletes the message. Accepted, but without effect, if the lock has expired."""
        await self._settle(type="ack")

    async def nack(self, error: str | None = None) -> None:
        """Report failure: the message goes back to the queue, or to the dead letters after its last try.

        error: why, in at most 1,024 bytes of UTF-8. A dead letter keeps the last one.
        """
        if error is None:
            await self._settle(type="nack")
        else:
            await self._settle(type="nack", error=error)

    async def renew(self, seconds: int) -> None:
        """Make the lock expire `seconds` from now. Raises NotLocked if it has already expired."""
        self._check()
        await self._connection.request(type="renew", queue=self.queue, id=self.id, lock_timeout_secs=seconds)
        self._warned = False
        self._subscription.renewed(self, anyio.current_time() + seconds)

    async def deadline_soon(self) -> bool:
        """Wait until the server says that the lock ends soon: see `deadline_soon` of `subscribe`, which is needed.

        After `renew` it waits for the new end. Returns False if the message was settled, or its lock ended, before
        that: somebody else may have ended it, and nobody warns of that. Raises ConnectionLost.
        """
        if self._subscription.deadline_soon is None:
            raise ValueError("the subscription did not ask for warnings: give it deadline_soon")
        while not self._warned:
            self._check()
            if self.lock_ends <= anyio.current_time():
                self._subscription.release(self)
            if not self._subscription.holds(self):
                return False
            if self._changed is None:
                self._changed = anyio.Event()
            with anyio.CancelScope(deadline=self.lock_ends):
                await self._changed.wait()
        return True

    # For `Deliveries`

    def warn(self) -> None:
        self._warned = True
        self.announce()

    def announce(self) -> None:
        """Wake those that wait for a warning, so that they look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _settle(self, **fields: str) -> None:
        self._check()
        try:
            await self._connection.request(self._release, **fields, queue=self.queue, id=self.id)
        except ClientError:
            if self.lost:
                self._release()
            raise  # Else the server refused it, or it was never sent: the message is still ours.
        self._release()

    def _release(self) -> None:
        self._subscription.release(self)

    def _check(self) -> None:
        if self.lost:
            raise ConnectionLost("the message came over a connection that has ended: it goes to another consumer")

    def __repr__(self) -> str:
        return f"<Delivery {self.id} of {self.queue!r}>"


class Deliveries:
    """An endless asynchronous iterator of `Delivery`. Several tasks may iterate; each message goes to one of them.

    It continues by itself after a reconnect. It raises the server's refusal if it can't subscribe again (QueueNotFound,
    for example), and whatever makes the client give up.

    Requirements: WS-0037, WS-0038
    """

    def __init__(
        self,
        queue: str,
        prefetch: int,
        lock_timeout: int,
        on_loss: Callable[[], None] | None = None,
        *,
        deadline_soon: int | None = None,
    ) -> None:
        """`on_loss` is called when a connection has ended, and with it all locks."""
        if not 1 <= prefetch <= MAX_PREFETCH:
            raise ValueError(f"prefetch must be from 1 to {MAX_PREFETCH}, not {prefetch}")
        if lock_timeout < 1:
            raise ValueError(f"lock_timeout must be at least 1 second, not {lock_timeout}")
        if deadline_soon is not None and not 1 <= deadline_soon <= min(MAX_WARN_SECONDS, lock_timeout - 1):
            raise ValueError(
                f"deadline_soon must be from 1 to {MAX_WARN_SECONDS}, and less than lock_timeout, not {deadline_soon}"
            )
        self.queue = queue
        self.prefetch = prefetch
        self.lock_timeout = lock_timeout
        self.deadline_soon = deadline_soon
        self._chunk = max(1, prefetch // 2)
        self._prefetched: deque[Delivery] = deque()
        """At most `prefetch`, as the server has no credit for more."""
        self._changed: anyio.Event | None = None
        """What those wait for who find nothing prefetched."""
        self._open: OrderedDict[str, Delivery] = OrderedDict()
        """By id: unsettled messages, prefetched or handed out, roughly in the order in which their locks expire."""
        self._connection: Connection | None = None
        self._credits = 0
        """Credits that the server has left."""
        self._owed = 0
        """Credits to be granted to the server."""
        self._failure: ClientError | None = None
        self._closed = False
        self._ended = False
        """Whether no message will come any more. What is prefetched is still handed out."""
        self._on_loss = on_loss

    def __aiter__(self) -> Deliveries:
        return self

    async def __anext__(self) -> Delivery:
        while True:
            delivery = await self._next()
            if delivery.lost:
                continue  # The client has not called `detach` yet.
            if delivery.lock_ends > anyio.current_time():
                return delivery
            self.release(delivery)

    async def _next(self) -> Delivery:
        await checkpoint()
        while not self._prefetched:
            if self._ended:
                if self._failure is not None:
                    raise again(self._failure)
                raise StopAsyncIteration
            # Nothing is prefetched, so all unsettled messages are in the program's hands.
            if self._changed is None:
                self._changed = anyio.Event()
            with anyio.CancelScope(deadline=self._drop_overdue()):
                await self._changed.wait()
        # Nothing waits from here on, so no cancellation loses the message.
        return self._prefetched.popleft()

    def _announce(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _drop_overdue(self) -> float:
        """Release messages whose locks have expired. Returns when the next lock may expire, or infinity."""
        now = anyio.current_time()
        while self._open:
            oldest = next(iter(self._open.values()))
            if oldest.lock_ends > now:
                return oldest.lock_ends
            self.release(oldest)
        return float("inf")

    # For `Delivery`

    def release(self, delivery: Delivery) -> None:
        """The message is no longer ours: give back its credit."""
        if self.holds(delivery):
            del self._open[delivery.id]
            delivery.announce()
            self._owed += 1
            self._replenish()

    def holds(self, delivery: Delivery) -> bool:
        """Whether the message is ours, as far as we know."""
        return self._open.get(delivery.id) is delivery

    def renewed(self, delivery: Delivery, lock_ends: float) -> None:
        delivery.lock_ends = lock_ends
        delivery.announce()
        if self.holds(delivery):
            self._open.move_to_end(delivery.id)

    def _replenish(self) -> None:
        if self._connection is None or self._closed:
            return
        if self._owed >= self._chunk or (self._owed and not self._credits):
            self._connection.post(type="credit", queue=self.queue, credits=self._owed)
            self._credits += self._owed
            self._owed = 0

    # For `Client` and `worker`

    async def attach(self, connection: Connection) -> None:
        """Subscribe on a new connection. Raises RequestError, ConnectionLost or whatever else ended the connection."""
        self._connection = connection
        self._credits = self.prefetch
        fields: dict[str, Any] = {"credits": self.prefetch, "lock_timeout_secs": self.lock_timeout}
        if self.prefetch > 1:
            fields["batch"] = min(self.prefetch, MAX_BATCH)  # what is there together comes in one frame
        if self.deadline_soon is not None:
            fields["deadline_soon_secs"] = self.deadline_soon
        await connection.request(type="subscribe", queue=self.queue, **fields)

    async def attach_again(self, connection: Connection) -> None:
        """Subscribe after a reconnect. Raises nothing: the iterator raises a refusal."""
        while not self._closed:
            try:
                return await self.attach(connection)
            except Unavailable:
                await anyio.sleep(UNAVAILABLE_SECONDS)
            except RequestError as error:
                return self.fail(error)
            except ClientError:
                return None  # Another connection, or the end of the client, will follow.
        return None

    def detach(self) -> None:
        """The connection has ended: messages that came over it are no longer ours."""
        self._connection = None
        lost, self._open = self._open, OrderedDict()
        for delivery in lost.values():
            delivery.announce()
        self._owed = self._credits = 0
        self.drain()
        if self._on_loss is not None:
            self._on_loss()

    def take(self, frame: Frame) -> None:
        """Accept a delivery. Raises ProtocolError if there was no credit for it."""
        if self._connection is None or self._credits <= 0:
            raise ProtocolError(f"a delivery of {self.queue!r} without credit")
        delivery = Delivery(frame, self.lock_timeout, self, self._connection)
        self._credits -= 1
        earlier = self._open.get(delivery.id)
        if earlier is not None:
            self.release(earlier)  # Its lock has expired, and here it is again.
        self._open[delivery.id] = delivery
        self._prefetched.append(delivery)
        self._announce()
        self._replenish()

    def warn(self, id: str) -> None:
        """The lock of a message ends soon."""
        delivery = self._open.get(id)
        if delivery is not None:  # else it was settled meanwhile
            delivery.warn()

    def fail(self, error: ClientError) -> None:
        """No more deliveries will come: make the iterator raise `error`."""
        if self._failure is None and not self._closed:
            self._failure = error
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._announce()

    async def stop(self) -> None:
        """Unsubscribe. What has come and was not handed out waits for `drain`, or for the end of the connection."""
        self._closed = True
        connection = self._connection
        if connection is not None and connection.ended is None and self._failure is None:
            # However it fails, the subscription is gone.
            with suppress(ClientError):
                await connection.request(type="unsubscribe", queue=self.queue)

    async def close(self) -> None:
        """Unsubscribe, and nack the prefetched messages: the server counts each as delivered.

        Requirements: WS-0039
        """
        connection = self._connection
        try:
            await self.stop()
        finally:
            left = self.drain()
            self._end()
            if connection is not None and left:
                ids = [delivery.id for delivery in left]
                connection.post(type="batch-nack", queue=self.queue, ids=ids, no_reply=True)

    def drain(self) -> list[Delivery]:
        """Take the prefetched messages out."""
        left = list(self._prefetched)
        self._prefetched.clear()
        return left
