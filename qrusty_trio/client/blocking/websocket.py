"""A WebSocket for programs without an event loop: publishes, and messages as the server sends them.

    with connect("ws://127.0.0.1:6784/ws") as client:
        with client.subscribe("jobs") as deliveries:
            for delivery in deliveries:
                print(delivery.payload)
                delivery.ack()

Rule: `qrusty_trio.client.connect` does the work, on an event loop in a thread that ends with the connection. It answers
pings and connects again while the program is busy. Any number of threads may use what is here. A thread that is
interrupted while it waits leaves nothing behind: what it asked for is cancelled.

Requirements: WS-0053
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime
from functools import partial
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from qrusty_trio.client import client as on_the_loop
from qrusty_trio.client import subscription
from qrusty_trio.client.connection import RESPONSE_SECONDS
from qrusty_trio.client.errors import ClientClosed
from qrusty_trio.client.results import NewMessage, Published
from qrusty_trio.client.tls import FilePath

THREAD = "qrusty-client"
"""The name of the thread behind a connection."""

T = TypeVar("T")


class _Loop:
    """The event loop of a connection, from other threads."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal

    def begin(self, function: Callable[[], Awaitable[T]]) -> Future[T]:
        """Run a function on the loop. Raises ClientClosed if that has ended."""
        try:
            return self._portal.start_task_soon(function)
        except RuntimeError:
            raise ClientClosed("the client was closed") from None

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a function on the loop, and wait for what it returns or raises."""
        future = self.begin(function)
        try:
            return future.result()
        finally:
            future.cancel()  # No effect, unless this thread was interrupted (Ctrl-C).

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter an asynchronous context manager and leave it in one task of the loop.

        It is not told how the body ended: to the loop, a KeyboardInterrupt of another thread would be one of its own.
        """
        opened: Future[tuple[T, anyio.Event]] = Future()

        async def hold() -> None:
            try:
                async with manager as value:
                    leave = anyio.Event()
                    opened.set_result((value, leave))
                    await leave.wait()
            except Exception as error:
                if opened.done():
                    raise
                opened.set_exception(error)

        async def end(leave: anyio.Event) -> None:
            leave.set()

        held = self.begin(hold)
        try:
            value, leave = opened.result()
        except BaseException:
            held.cancel()
            raise
        try:
            yield value
        finally:
            self.call(partial(end, leave))
            held.result()


class Delivery:
    """A locked message. Settle it once, with `ack` or `nack`. See `qrusty_trio.client.Delivery`."""

    __slots__ = ("_clock", "_delivery", "_loop")

    def __init__(self, loop: _Loop, delivery: subscription.Delivery, clock: float) -> None:
        self._loop = loop
        self._delivery = delivery
        self._clock = clock
        """What `time.monotonic` is ahead of the loop's clock."""

    @property
    def queue(self) -> str:
        """The name that the program subscribed to."""
        return self._delivery.queue

    @property
    def id(self) -> str:
        return self._delivery.id

    @property
    def payload(self) -> str:
        return self._delivery.payload

    @property
    def priority(self) -> int | str:
        return self._delivery.priority

    @property
    def created_at(self) -> datetime:
        """When the message was published, in UTC."""
        return self._delivery.created_at

    @property
    def lock_ends(self) -> float:
        """When the lock expires, by `time.monotonic`: never earlier than at the server."""
        return self._delivery.lock_ends + self._clock

    @property
    def lost(self) -> bool:
        """Whether the connection it came over has ended, so that it can no longer be settled."""
        return self._delivery.lost

    def ack(self) -> None:
        """Report success: the server deletes the message. Accepted, but without effect, if the lock has expired."""
        self._loop.call(self._delivery.ack)

    def nack(self, error: str | None = None) -> None:
        """Report failure: the message goes back to the queue, or to the dead letters after its last try."""
        self._loop.call(partial(self._delivery.nack, error))

    def renew(self, seconds: int) -> None:
        """Make the lock expire `seconds` from now. Raises NotLocked if it has already expired."""
        self._loop.call(partial(self._delivery.renew, seconds))

    def deadline_soon(self) -> bool:
        """Wait until the lock ends soon. Returns False if it ended before, or the message was settled."""
        return self._loop.call(self._delivery.deadline_soon)

    def __repr__(self) -> str:
        return repr(self._delivery)


class Deliveries:
    """An iterator of `Delivery` that waits for each. Several threads may iterate; each message goes to one of them.

    It ends when the subscription does. See `qrusty_trio.client.Deliveries`.
    """

    def __init__(self, loop: _Loop, deliveries: subscription.Deliveries) -> None:
        self._loop = loop
        self._deliveries = deliveries

    def __iter__(self) -> Deliveries:
        return self

    def __next__(self) -> Delivery:
        delivery = self.take()
        if delivery is None:
            raise StopIteration
        return delivery

    def take(self, wait_seconds: float = float("inf")) -> Delivery | None:
        """The next message; None if none came in that time, or none will come any more."""
        return self._loop.call(partial(self._take, wait_seconds))

    async def _take(self, wait_seconds: float) -> Delivery | None:
        delivery = None
        with anyio.move_on_after(wait_seconds):
            delivery = await anext(self._deliveries, None)
        if delivery is None:
            return None
        return Delivery(self._loop, delivery, time.monotonic() - anyio.current_time())


class Client:
    """A connection to a server, made by `connect`. Any number of threads may use it."""

    def __init__(self, loop: _Loop, client: on_the_loop.Client) -> None:
        self._loop = loop
        self._client = client

    def publish(self, queue: str, payload: str, priority: int | str = 0, max_retries: int = 3) -> str:
        """Put a message into an existing queue. Returns its id once the server has stored it.

        What it takes and raises is in `qrusty_trio.client.Client.publish`.
        """
        return self._loop.call(partial(self._client.publish, queue, payload, priority, max_retries))

    def publish_batch(self, queue: str, messages: Sequence[NewMessage]) -> Published:
        """Put up to 5,000 messages into an existing queue. Returns once the server has stored the accepted ones."""
        return self._loop.call(partial(self._client.publish_batch, queue, messages))

    @contextmanager
    def subscribe(
        self, queue: str, *, prefetch: int = 32, lock_timeout: int = 30, deadline_soon: int | None = None
    ) -> Iterator[Deliveries]:
        """Receive the messages of a queue: `with client.subscribe("jobs") as deliveries`, then iterate.

        What it takes and raises is in `qrusty_trio.client.Client.subscribe`.
        """
        subscribe = self._client.subscribe(
            queue, prefetch=prefetch, lock_timeout=lock_timeout, deadline_soon=deadline_soon
        )
        with self._loop.entered(subscribe) as deliveries:
            yield Deliveries(self._loop, deliveries)


@contextmanager
def connect(
    url: str,
    *,
    reconnect_seconds: float = 300.0,
    timeout_seconds: float = RESPONSE_SECONDS,
    ca_file: FilePath | None = None,
    certificate_file: FilePath | None = None,
    key_file: FilePath | None = None,
) -> Iterator[Client]:
    """Open a connection, as `with connect("ws://127.0.0.1:6784/ws") as client`, and close it at the end.

    What it takes and raises is in `qrusty_trio.client.connect`.
    """
    opening = on_the_loop.connect(
        url,
        reconnect_seconds=reconnect_seconds,
        timeout_seconds=timeout_seconds,
        ca_file=ca_file,
        certificate_file=certificate_file,
        key_file=key_file,
    )
    with start_blocking_portal("trio", name=THREAD) as portal:
        loop = _Loop(portal)
        with loop.entered(opening) as client:
            yield Client(loop, client)
