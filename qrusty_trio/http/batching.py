"""Request batching: plain requests that arrive on many connections at once are served as one burst.

Rule: a response from here is the one that the connection's own task would send. Batching saves the task switch, and the
calls served together share one transaction. Only a single complete request for a batchable operation is served here,
with a short header block and no special demands. Its response is sent here if the socket takes it at once. Anything
else wakes the connection's task with what has arrived.

A connection is parked here while its task waits for a request. From its request to its response, which may wait for a
sync, the connection is WORKING: nothing more is read from it. One that has left while its request was served (it was
cancelled) has no `task` any more, and never comes back.

Requirements: SYS-0022
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol, TypeVar

import outcome
import trio

from qrusty_trio.api.call import WAITING, Call, Reply
from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import StorageFault
from qrusty_trio.http.byte_budget import SMALL_BYTES, Holding
from qrusty_trio.http.peers import Peer
from qrusty_trio.http.pipe import READ_BYTES, ConnectionLost, ReadNow, WriteNow
from qrusty_trio.http.request_log import REFUSED, SLOW_SECONDS
from qrusty_trio.http.request_parser import read_batchable_call
from qrusty_trio.http.responses import CLOSE
from qrusty_trio.http.shared import IDLE, WORKING, Shared

CONNECTIONS_PER_STEP = 64
"""Most connections served in one step of the event loop: 1 to 2 ms."""


class ParkedConnection(Protocol):
    """What parking needs of a connection."""

    fd: int
    task: trio.lowlevel.Task | None
    """Its task while it is parked; else None."""
    reading_paused: bool
    """The connection is not polled."""


class BatchedConnection(ParkedConnection, Protocol):
    """What batching needs of a parked connection."""

    read_now: ReadNow
    write_now: WriteNow
    phase: int
    since: float
    """When the phase began."""
    peer: Peer
    served_parked: bool
    """A request was served here since it was parked."""
    given: Sequence[Reply]
    """What the last response handed out."""
    unsent: Holding
    """Its share of the budget for unsent responses."""


Parked = TypeVar("Parked", bound=ParkedConnection)


class Unsent(NamedTuple):
    """A response for the connection's task to finish: the socket took `sent` bytes of it."""

    data: bytes
    sent: int
    reply: Reply


class PendingCalls(NamedTuple):
    """Requests that were read and did not run yet: the call of each connection."""

    connections: list[BatchedConnection]
    calls: list[Call]


class Batching:
    """The parked connections of the fast path.

    Requirements: SCH-0034
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._engine = shared.context.engine
        self._received = shared.context.received
        self._unsent = shared.context.unsent
        self._requests = shared.context.requests
        self._access = shared.context.access
        self._epoll = select.epoll()
        self._parked: dict[int, BatchedConnection] = {}
        """By file descriptor: those that are served here."""
        self._watched: dict[int, ParkedConnection] = {}
        """By file descriptor: those whose task sees for itself what happens to the socket."""

    async def run(self) -> None:
        """Serve requests until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                pending = self._read(self._epoll.poll(0, CONNECTIONS_PER_STEP))
                while pending.calls:
                    pending = self._serve(pending)
                    if pending.calls:
                        await trio.lowlevel.checkpoint()
                        pending = self._still_to_serve(pending)
        finally:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()

    async def receive(self, connection: BatchedConnection) -> bytes | Call | Unsent:
        """Park a connection until its task is needed. Raises ConnectionLost.

        Returns the bytes that arrived (b"" if the peer has closed its side), a Call that the task must run, or an
        Unsent response that it must finish sending first.
        """
        arrived: bytes | Call | Unsent = await self._park(connection, self._parked, select.EPOLLIN)
        return arrived

    async def watch(self, connection: ParkedConnection, *, reading: bool) -> None:
        """Park a connection until its peer has closed its side, or sent something (if `reading`), or until `wake`."""
        await self._park(connection, self._watched, select.EPOLLRDHUP | (select.EPOLLIN if reading else 0))

    def wake(self, connection: ParkedConnection) -> None:
        """End `watch`. No effect when it has ended: another connection may have its descriptor by then."""
        if self._watched.get(connection.fd) is connection:
            self._wake(connection, outcome.Value(b""))

    async def _park(self, connection: Parked, among: dict[int, Parked], events: int) -> Any:
        self._epoll.register(connection.fd, events)
        among[connection.fd] = connection
        connection.task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._unpark(connection)
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    # From requests to calls

    def _read(self, events: list[tuple[int, int]]) -> PendingCalls:
        """Read from the ready connections. Returns the requests to serve here."""
        shared = self._shared
        access = shared.context.tokens
        connections: list[BatchedConnection] = []
        calls: list[Call] = []
        most = SMALL_BYTES if self._received.short or self._unsent.short else READ_BYTES
        for fd, _ in events:
            if fd in self._watched:
                self.wake(self._watched[fd])
                continue
            connection = self._parked[fd]
            if connection.phase == WORKING:
                # The peer pipelined or hung up before its response; stop polling it until then.
                connection.reading_paused = True
                self._epoll.unregister(fd)
                continue
            try:
                data = connection.read_now(most)
                call = None
                if not shared.stopping:
                    call = read_batchable_call(data, shared.lines, access, connection.peer.certificate)
            except BlockingIOError:
                continue
            except OSError as error:
                self._lose(connection, error)
                continue
            except Exception as error:  # noqa: BLE001  # raised in its own task, and logged there
                self._fail(connection, error)
                continue
            if call is None or (call.operation.large and self._unsent.tight):
                self._wake(connection, outcome.Value(data))
            else:
                connection.phase = WORKING
                connections.append(connection)
                calls.append(call)
        return PendingCalls(connections, calls)

    def _still_to_serve(self, pending: PendingCalls) -> PendingCalls:
        """The same without connections that left, and without calls that only their task may run now."""
        connections: list[BatchedConnection] = []
        calls: list[Call] = []
        for connection, call in zip(*pending, strict=True):
            if connection.task is None:
                pass  # It has left.
            elif call.operation.large and self._unsent.tight:
                self._wake(connection, outcome.Value(call))
            else:
                connections.append(connection)
                calls.append(call)
        return PendingCalls(connections, calls)

    # From calls to responses

    def _serve(self, pending: PendingCalls) -> PendingCalls:
        """Run the calls and respond now or after the sync. Returns the requests that did not run yet."""
        connections, calls = pending
        waits = self._engine.waits
        begun = perf_counter()
        try:
            replies = self._engine.run_nowait(calls)
        except Exception as error:  # noqa: BLE001  # raised in their own tasks, and logged there
            for connection in connections:
                self._fail(connection, error)
            return PendingCalls([], [])
        later: list[tuple[BatchedConnection, Call, Reply]] = []
        for connection, call, reply in zip(connections, calls, replies, strict=False):
            if reply is WAITING:
                self._wake(connection, outcome.Value(call))
            elif reply.needs_sync and waits:
                if reply.deliveries:
                    connection.unsent.set(len(reply.body))
                later.append((connection, call, reply))
            else:
                self._respond(connection, call, reply, begun)
        if later:
            peers = [connection for connection, _, _ in later]
            self._engine.when_durable(partial(self._respond_later, later, begun), peers)
        done = len(replies)
        return PendingCalls(connections[done:], calls[done:])

    def _respond_later(
        self, later: list[tuple[BatchedConnection, Call, Reply]], begun: float, fault: StorageFault | None
    ) -> None:
        """The sync has completed, or failed with `fault`. `begun`: when the calls ran."""
        seconds = perf_counter() - begun
        for connection, call, reply in later:
            if seconds >= SLOW_SECONDS:
                self._requests.took(call, seconds)
            if reply.deliveries:
                connection.unsent.set(0)
                if fault is not None or connection.task is None:
                    self._engine.give_back(reply)
                else:
                    reply = self._engine.checked(call, reply)
            if connection.task is not None:
                self._respond(connection, call, reply if fault is None else error_reply(fault), begun)

    def _respond(self, connection: BatchedConnection, call: Call, reply: Reply, begun: float) -> None:
        try:
            self._send(connection, call, reply)
            if self._access is not None:
                self._access.served(connection.peer, call, reply, begun)
        except Exception as error:  # noqa: BLE001  # raised in its own task, and logged there
            self._engine.give_back(reply)
            self._fail(connection, error)

    def _send(self, connection: BatchedConnection, call: Call, reply: Reply) -> None:
        shared = self._shared
        if connection.reading_paused:
            self._epoll.register(connection.fd, select.EPOLLIN)
            connection.reading_paused = False
        extra = CLOSE if shared.stopping else b""
        if reply.status >= REFUSED:
            extra += self._requests.answered(call, reply)
        elif call.identity is not None:
            extra += call.identity.header
        data = shared.responses.response(reply, extra)
        sent = 0
        try:
            sent = connection.write_now(data)
        except BlockingIOError:
            pass
        except OSError as error:
            self._engine.give_back(reply)
            self._lose(connection, error)
            return
        if sent < len(data) or shared.stopping:
            connection.unsent.set(len(data))
            self._wake(connection, outcome.Value(Unsent(data, sent, reply.receipt())))
        else:
            connection.phase = IDLE
            connection.since = shared.now
            connection.served_parked = True
            connection.given = () if not reply.deliveries else (reply.receipt(),)

    # Waking a connection's task

    def _unpark(self, connection: ParkedConnection) -> None:
        if self._watched.pop(connection.fd, None) is None:
            del self._parked[connection.fd]
        if not connection.reading_paused:
            self._epoll.unregister(connection.fd)
        connection.reading_paused = False
        connection.task = None

    def _wake(self, connection: ParkedConnection, arrived: outcome.Outcome[bytes | Call | Unsent]) -> None:
        task = connection.task
        assert task is not None
        self._unpark(connection)
        trio.lowlevel.reschedule(task, arrived)

    def _lose(self, connection: BatchedConnection, error: OSError) -> None:
        lost = ConnectionLost()
        lost.__cause__ = error
        self._wake(connection, outcome.Error(lost))

    def _fail(self, connection: BatchedConnection, error: Exception) -> None:
        """Raise `error` in the task of this connection, and in no other."""
        if connection.task is not None:
            self._wake(connection, outcome.Error(error))
