"""The client: connects, and stays connected.

Rule: one task owns the connection, and only it makes a new one. A request is sent once. If the connection is lost after
it was sent, its caller gets an error and decides what to do. Only a publish that was certainly not sent waits for the
next connection.

Requirements: SYS-0020
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskStatus

from qrusty_trio.client.addresses import authorization_of, shown
from qrusty_trio.client.connection import RESPONSE_SECONDS, Connection, Frame
from qrusty_trio.client.errors import (
    AlreadySubscribed,
    ClientClosed,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    NotSent,
    ProtocolError,
    again,
)
from qrusty_trio.client.results import NewMessage, Published
from qrusty_trio.client.streams import reason as reason_of
from qrusty_trio.client.subscription import Deliveries
from qrusty_trio.client.tls import FilePath, Tls
from qrusty_trio.client.transport import Refused, bare_exceptions, open_websocket

BACKOFF_SECONDS = 0.1
"""Wait before the first attempt to reconnect; doubled for each further one."""
MAX_BACKOFF_SECONDS = 10.0
STABLE_SECONDS = 5.0
"""After a connection that lasted this long, the next loss starts again from the shortest wait."""
UNSUBSCRIBE_SECONDS = 5.0
"""How long the server may take to confirm the end of a subscription. Then the client drops the connection and makes a
new one."""


class Client:
    """A connection to a server, made by `connect`. Any number of tasks may use it.

    Requirements: WS-0036
    """

    def __init__(
        self,
        url: str,
        reconnect_seconds: float,
        *,
        timeout_seconds: float = RESPONSE_SECONDS,
        patient: bool = False,
        token: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        """`patient`: the first attempt to connect is like all others. It is repeated, and `run` raises nothing."""
        self._url = url
        self._authorization = authorization_of(token)
        self._tls = tls or Tls()
        self._reconnect_seconds = reconnect_seconds
        self._timeout_seconds = timeout_seconds
        self._patient = patient
        self._connection: Connection | None = None
        self._changed = anyio.Event()
        """Set and replaced when there is a new connection, or when there will be no more."""
        self._failure: ClientError | None = None
        self._closing = anyio.Event()
        self._attempt = anyio.CancelScope()
        """Around one attempt to connect, and what is done with its connection."""
        self._subscriptions: dict[str, Deliveries] = {}

    async def publish(self, queue: str, payload: str, priority: int | str = 0, max_retries: int = 3) -> str:
        """Put a message into an existing queue. Returns its id once the server has stored it.

        priority: an integer from 0 to 2^64 - 1 or a string, as the queue's kind requires. max_retries: 0 to 2^32 - 1.

        Waits while the client is reconnecting. Raises QueueNotFound, PublishFailed, MemoryPressure and the other
        `RequestError`s, FrameTooLarge, and ConnectionLost. After ConnectionLost the message may or may not be in the
        queue, so publishing it again may store it twice.
        """
        while True:
            connection = await self._connected()
            try:
                response = await connection.request(
                    type="publish", queue=queue, payload=payload, priority=priority, max_retries=max_retries
                )
            except NotSent:
                continue
            if not response.id:
                raise ProtocolError("a message was published without an id")
            return response.id

    async def publish_batch(self, queue: str, messages: Sequence[NewMessage]) -> Published:
        """Put up to 5,000 messages into an existing queue. Returns once the server has stored the accepted ones.

        Waits and raises as `publish` does; what is wrong with single messages is in the result. After ConnectionLost
        the first of them, or all, may be in the queue.
        """
        while True:
            connection = await self._connected()
            try:
                response = await connection.request(type="batch-publish", queue=queue, messages=list(messages))
            except NotSent:
                continue
            if len(response.ids) + len(response.rejected) != len(messages):
                raise ProtocolError("a response that does not say what became of each message")
            return Published(response.ids, response.rejected)

    @asynccontextmanager
    async def subscribe(
        self, queue: str, *, prefetch: int = 32, lock_timeout: int = 30, deadline_soon: int | None = None
    ) -> AsyncIterator[Deliveries]:
        """Receive the messages of a queue: `async with client.subscribe("jobs") as deliveries`, then iterate.

        prefetch: most messages that may be here and unsettled at a time, 1 to 10,000. With 1, the next one comes after
        the last one was settled. lock_timeout: seconds to settle a message, from when the server sends it.
        deadline_soon: how many seconds before that `Delivery.deadline_soon` returns, 1 to 3,600, and less than
        `lock_timeout`.

        Raises QueueNotFound and the other `RequestError`s, AlreadySubscribed, and ConnectionLost if the connection is
        lost before the response. After a later loss the client subscribes again by itself.
        """
        deliveries = Deliveries(queue, prefetch, lock_timeout, deadline_soon=deadline_soon)
        connection = await self._connected()
        self.add(deliveries)
        try:
            await deliveries.attach(connection)
            yield deliveries
        finally:
            # Even if the caller is cancelled: otherwise prefetched messages stay locked until their locks expire.
            with anyio.move_on_after(UNSUBSCRIBE_SECONDS, shield=True) as scope:
                await deliveries.close()
            if scope.cancelled_caught and self._connection is not None:
                # The state of the old subscription is unknown, so a new one on this connection might go wrong.
                self._connection.end(ConnectionLost("the server did not confirm the end of a subscription"))
            del self._subscriptions[queue]

    def add(self, deliveries: Deliveries) -> None:
        """Subscribe on every connection from the next one on. Raises AlreadySubscribed."""
        if deliveries.queue in self._subscriptions:
            raise AlreadySubscribed(f"this client is subscribed to {deliveries.queue!r}")
        self._subscriptions[deliveries.queue] = deliveries

    async def _connected(self) -> Connection:
        while True:
            if self._closing.is_set():
                raise ClientClosed("the client was closed")
            if self._failure is not None:
                raise again(self._failure)
            if self._connection is not None and self._connection.ended is None:
                return self._connection
            await self._changed.wait()

    def _take(self, frame: Frame) -> None:
        deliveries = self._subscriptions.get(frame.queue)
        if frame.type == "deadline-soon":
            if deliveries is not None:  # else it was on its way when the subscription ended
                deliveries.warn(frame.id)
            return
        if deliveries is None:
            raise ProtocolError(f"a delivery of {frame.queue[:100]!r}, which is not subscribed to")
        deliveries.take(frame)

    # The task that owns the connection

    async def run(self, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Connect and reconnect until `close`, or until that is hopeless.

        Raises ConnectFailed, but only if the first attempt fails and the client is not patient.
        """
        lost_at = anyio.current_time()
        attempt = 0
        connected = False
        while not self._closing.is_set():
            opened = anyio.current_time()
            reason: ClientError = ConnectionLost("the client was closed")
            self._attempt = anyio.CancelScope()
            try:
                with self._attempt:
                    async with open_websocket(self._url, self._tls, self._authorization) as websocket:
                        if self._closing.is_set():
                            break  # It was opened in the very step in which `close` was called.
                        connection = Connection(websocket, self._take, self._timeout_seconds)
                        self._connection = connection
                        if not connected:
                            connected = True
                            task_status.started()
                        reason = await self._serve(connection)
            except (Refused, OSError) as error:
                reason = self._judge(error)
                if not connected and not self._patient:
                    raise ConnectFailed(str(reason)) from error
            self._connection = None
            if not isinstance(reason, ConnectionLost):
                return self._give_up(reason)
            if anyio.current_time() - opened >= STABLE_SECONDS:
                lost_at, attempt = anyio.current_time(), 0
            pause = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
            if anyio.current_time() + pause - lost_at > self._reconnect_seconds:
                return self._give_up(reason)
            attempt = min(attempt + 1, 30)
            with anyio.move_on_after(pause):
                await self._closing.wait()
        return None

    async def _serve(self, connection: Connection) -> ClientError:
        """Use a new connection until it ends. Returns why it ended."""
        try:
            async with anyio.create_task_group() as tasks:
                for deliveries in self._subscriptions.values():
                    tasks.start_soon(deliveries.attach_again, connection)
                self._announce()
                reason = await connection.run()
                tasks.cancel_scope.cancel()
        finally:
            # Also if we are cancelled.
            connection.end(ConnectionLost("the connection broke"))
            for deliveries in self._subscriptions.values():
                deliveries.detach()
        return reason

    def _judge(self, error: Refused | OSError) -> ClientError:
        """The error for a failed attempt to connect. Only ConnectionLost is worth another attempt."""
        if isinstance(error, Refused) and error.status is not None and error.status < 500:
            return ConnectFailed(str(error))
        if isinstance(error, Refused):
            return ConnectionLost(str(error))
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConnectFailed(f"can't connect to {shown(self._url)}: {reason_of(error)}")
        return ConnectionLost(f"can't connect to {shown(self._url)}: {reason_of(error)}")

    def _give_up(self, reason: ClientError) -> None:
        self._failure = reason
        for deliveries in self._subscriptions.values():
            deliveries.fail(reason)
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def close(self) -> None:
        """End the connection, or the attempt to open one. `run` returns after the closing handshake."""
        self._closing.set()
        if self._connection is None:
            self._attempt.cancel()
        else:
            self._connection.end(ConnectionLost("the client was closed"))
        self._announce()


@asynccontextmanager
async def connect(
    url: str,
    *,
    reconnect_seconds: float = 300.0,
    timeout_seconds: float = RESPONSE_SECONDS,
    ca_file: FilePath | None = None,
    certificate_file: FilePath | None = None,
    key_file: FilePath | None = None,
    token: str | None = None,
) -> AsyncIterator[Client]:
    """Open a connection, as `async with connect("ws://127.0.0.1:6784/ws") as client`, and close it at the end.

    After a loss the client reconnects and subscribes again. It tries for up to `reconnect_seconds` in a row, at growing
    and random intervals. After that every request and every subscription raises ConnectionLost. A request whose
    response takes longer than `timeout_seconds` raises TimedOut, and the connection is made anew. `token` is what the
    server asks for, if it has tokens.

    The files are for wss, see `client.tls.Tls`. Raises BadTlsFile, a ValueError, if one is missing or none.

    Raises InvalidUrl, and ConnectFailed if the first attempt fails. An exception of the body comes out as it is, not in
    a group.

    Requirements: SYS-0020
    """
    client = Client(
        url,
        reconnect_seconds,
        timeout_seconds=timeout_seconds,
        token=token,
        tls=Tls(ca_file, certificate_file, key_file),
    )
    with bare_exceptions():
        async with anyio.create_task_group() as tasks:
            await tasks.start(client.run)
            try:
                yield client
            finally:
                client.close()
