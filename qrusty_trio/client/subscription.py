"""A subscription and its deliveries.

Rule: the server may have at most `prefetch` messages with this subscription that are not settled, read ahead or in
the program's hands. Each one that is settled, or whose lock has ended, gives back one credit; credits go to the server
in chunks, or at once when it has none left. So the buffer has a bound, and a program that forgets to settle a message
loses one place until the lock ends, not for good.

Connections come and go: `attach` and `detach` are called by the client when they do.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime

import trio

from qrusty_trio.client.connection import Connection, Frame
from qrusty_trio.client.errors import ClientError, ConnectionLost, ProtocolError, RequestError, Starting, again

MAX_PREFETCH = 10_000
STARTING_SECONDS = 1.0
"""Between two attempts to subscribe again at a server that is still starting."""


class Delivery:
    """A message under a lock: to be settled with `ack` or `nack`, once.

    All three methods raise ConnectionLost when the connection it came over has ended: the message goes to another
    consumer then, and this one's work on it will be done again.
    """

    __slots__ = ("_connection", "_subscription", "created_at", "id", "lock_ends", "payload", "priority", "queue")

    def __init__(self, frame: Frame, lock_seconds: int, subscription: Deliveries, connection: Connection) -> None:
        self.queue = frame.queue
        """The name that was subscribed to."""
        self.id = frame.id
        self.payload = frame.payload
        self.priority = frame.priority
        self.created_at: datetime = frame.created_at or datetime.fromtimestamp(0, UTC)
        """When it was published."""
        self.lock_ends = trio.current_time() + lock_seconds
        """On Trio's clock: never earlier than at the server."""
        self._subscription = subscription
        self._connection = connection

    @property
    def lost(self) -> bool:
        """True when the connection it came over has ended, so that it can't be settled any more."""
        return self._connection.ended is not None

    async def ack(self) -> None:
        """It is done: the server forgets it. Accepted, without effect, when the lock has ended."""
        await self._settle("ack")

    async def nack(self) -> None:
        """It could not be done: back into the queue, or to the dead letters after its last try."""
        await self._settle("nack")

    async def renew(self, seconds: int) -> None:
        """Let the lock end that many seconds from now. Raises NotLocked when it has ended already."""
        self._check()
        await self._connection.request(type="renew", queue=self.queue, id=self.id, lock_timeout_secs=seconds)
        self._subscription.renewed(self, trio.current_time() + seconds)

    async def _settle(self, how: str) -> None:
        self._check()
        try:
            await self._connection.request(type=how, queue=self.queue, id=self.id)
        finally:
            self._subscription.release(self)

    def _check(self) -> None:
        if self.lost:
            raise ConnectionLost("the message came over a connection that has ended: it goes to another consumer")

    def __repr__(self) -> str:
        return f"<Delivery {self.id} of {self.queue!r}>"


class Deliveries:
    """An endless asynchronous iterator of `Delivery`. Several tasks may iterate it; each message goes to one.

    It goes on by itself after a reconnect. It raises what the server refuses then (QueueNotFound), and whatever makes
    the client give up.
    """

    def __init__(self, queue: str, prefetch: int, lock_timeout: int) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.lock_timeout = lock_timeout
        self._chunk = max(1, prefetch // 2)
        self._send, self._receive = trio.open_memory_channel[Delivery](prefetch)
        """What was read ahead. Full only when the server has spent all credit."""
        self._open: OrderedDict[Delivery, None] = OrderedDict()
        """Not settled, read ahead or handed out; roughly in the order in which their locks end."""
        self._connection: Connection | None = None
        self._credits = 0
        """What the server has left."""
        self._owed = 0
        """What it is to be given."""
        self._failure: ClientError | None = None
        self._closed = False

    def __aiter__(self) -> Deliveries:
        return self

    async def __anext__(self) -> Delivery:
        while True:
            delivery = await self._next()
            if delivery.lost:
                continue  # The client has yet to call `detach`.
            if delivery.lock_ends > trio.current_time():
                return delivery
            self.release(delivery)

    async def _next(self) -> Delivery:
        try:
            delivery = self._receive.receive_nowait()
        except trio.WouldBlock:
            pass
        except trio.EndOfChannel:
            self._raise()
        else:
            await trio.lowlevel.checkpoint()
            return delivery
        while True:
            # Nothing was read ahead, so all that is open is in the program's hands.
            with trio.move_on_at(self._drop_overdue()):
                try:
                    return await self._receive.receive()
                except trio.EndOfChannel:
                    self._raise()

    def _raise(self) -> None:
        if self._failure is not None:
            raise again(self._failure)
        raise StopAsyncIteration

    def _drop_overdue(self) -> float:
        """Take back the places of messages whose locks have ended. Returns when the next one may have, or infinity."""
        now = trio.current_time()
        while self._open:
            oldest = next(iter(self._open))
            if oldest.lock_ends > now:
                return oldest.lock_ends
            self.release(oldest)
        return float("inf")

    # Called by deliveries

    def release(self, delivery: Delivery) -> None:
        """The message is no longer with us."""
        if delivery in self._open:
            del self._open[delivery]
            self._owed += 1
            self._replenish()

    def renewed(self, delivery: Delivery, lock_ends: float) -> None:
        delivery.lock_ends = lock_ends
        if delivery in self._open:
            self._open.move_to_end(delivery)

    def _replenish(self) -> None:
        if self._connection is None or self._closed:
            return
        if self._owed >= self._chunk or (self._owed and not self._credits):
            self._connection.post(type="credit", queue=self.queue, credits=self._owed)
            self._credits += self._owed
            self._owed = 0

    # Called by the client

    async def attach(self, connection: Connection) -> None:
        """Subscribe on a new connection. Raises RequestError, ConnectionLost and what else ended the connection."""
        self._connection = connection
        self._credits = self.prefetch
        await connection.request(
            type="subscribe", queue=self.queue, credits=self.prefetch, lock_timeout_secs=self.lock_timeout
        )

    async def attach_again(self, connection: Connection) -> None:
        """Subscribe after a reconnect. Raises nothing: whoever iterates is told."""
        while not self._closed:
            try:
                return await self.attach(connection)
            except Starting:
                await trio.sleep(STARTING_SECONDS)
            except RequestError as error:
                return self.fail(error)
            except ClientError:
                return None  # The next connection, or the end of the client, is on its way.
        return None

    def detach(self) -> None:
        """The connection has ended: what came over it is no longer ours."""
        self._connection = None
        self._open.clear()
        self._owed = self._credits = 0
        self._drain()

    def take(self, frame: Frame) -> None:
        """A delivery has come. Raises ProtocolError when there was no credit for it."""
        if self._connection is None or self._credits <= 0:
            raise ProtocolError(f"a delivery of {self.queue!r} without credit")
        delivery = Delivery(frame, self.lock_timeout, self, self._connection)
        self._credits -= 1
        self._open[delivery] = None
        self._send.send_nowait(delivery)
        self._replenish()

    def fail(self, error: ClientError) -> None:
        """No more will come: tell whoever iterates."""
        if self._failure is None and not self._closed:
            self._failure = error
            self._send.close()

    async def close(self) -> None:
        """Unsubscribe, and give back what was read ahead: for the server that is a delivery like any other."""
        self._closed = True
        connection = self._connection
        try:
            if connection is not None and connection.ended is None and self._failure is None:
                await connection.request(type="unsubscribe", queue=self.queue)
        except ClientError:
            pass  # Nothing is subscribed any more, in whatever way it ended.
        finally:
            left = self._drain()
            self._send.close()
            if connection is not None and left:
                ids = [delivery.id for delivery in left]
                connection.post(type="batch-nack", queue=self.queue, ids=ids, no_reply=True)

    def _drain(self) -> list[Delivery]:
        left: list[Delivery] = []
        while True:
            try:
                left.append(self._receive.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return left
