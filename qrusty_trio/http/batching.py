"""Request batching: plain requests that arrive on many connections at once are served as one burst.

Rule: a response from here is the one that the connection's own task would send. Batching saves the task switch, and the
calls of a batch share one transaction. Only a single complete request for a quick operation is served here, with a
short header block and no special demands. Its response is sent here if the socket takes it at once. Anything else wakes
the connection's task with what has arrived.

A connection is parked here while its task waits for a request. From its request to its response, which may wait for a
sync, the connection is busy: nothing more is read from it.

Requirements: SYS-0022
"""

from __future__ import annotations

import os
import select
from functools import partial
from typing import NamedTuple, Protocol

import outcome
import trio

from qrusty_trio.api.call import Call, Engine, Reply
from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import StorageFault
from qrusty_trio.http.byte_budget import SMALL_BYTES, Budget, Holding
from qrusty_trio.http.pipe import READ_BYTES, ConnectionLost

CONNECTIONS_PER_STEP = 64
"""Most connections served in one step of the event loop: 1 to 2 ms."""
QUICK = frozenset({"publish", "consume", "ack", "nack", "health"})
"""Operations that take microseconds."""


class Connection(Protocol):
    """What batching needs of a parked connection."""

    fd: int
    task: trio.lowlevel.Task | None
    """Its task while it is parked; else None."""
    busy: bool
    """A request was read and is not answered yet."""
    reading_paused: bool
    """Reading is paused: the connection is not polled."""
    unsent: Holding
    """Its share of the budget for unsent responses."""

    @property
    def stopping(self) -> bool:
        """The connection is to be closed after its current response."""

    def quick_call(self, data: bytes) -> Call | None:
        """The call, if `data` is exactly one plain request for an operation in QUICK; else None."""

    def begin_quick(self) -> None:
        """Its call is about to run."""

    def quick_response(self, reply: Reply) -> bytes:
        """The bytes of the response."""

    def end_quick(self, reply: Reply) -> None:
        """The response has been sent."""


class Unsent(NamedTuple):
    """A response for the connection's task to finish: the socket took `sent` bytes of it."""

    data: bytes
    sent: int
    reply: Reply


class Asked(NamedTuple):
    """A request of a batch. If the connection's task is no longer `task`, the connection has left."""

    connection: Connection
    task: trio.lowlevel.Task
    call: Call


class Batching:
    """The parked connections of the fast path.

    Requirements: SCH-0034
    """

    def __init__(self, engine: Engine, received: Budget, unsent: Budget) -> None:
        self._engine = engine
        self._received = received
        self._unsent = unsent
        self._epoll = select.epoll()
        self._parked: dict[int, Connection] = {}
        """By file descriptor."""

    async def run(self) -> None:
        """Serve batches until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                asked = self._read(self._epoll.poll(0, CONNECTIONS_PER_STEP))
                while asked := self._serve(asked):
                    await trio.lowlevel.checkpoint()
                    asked = [each for each in asked if each.connection.task is each.task]
                    if self._unsent.tight:
                        asked = [each for each in asked if not self._leave_large(each)]
        finally:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()

    def _leave_large(self, asked: Asked) -> bool:
        """Leave a call to the connection's task if its response may be large. Returns whether it did."""
        if asked.call.operation.large:
            self._wake(asked.connection, outcome.Value(asked.call))
            return True
        return False

    async def receive(self, connection: Connection) -> bytes | Call | Unsent:
        """Park a connection until its task is needed. Raises ConnectionLost.

        Returns the bytes that arrived (b"" if the peer has closed its side), a Call that the task must run, or an
        Unsent response that it must finish sending first.
        """
        self._epoll.register(connection.fd, select.EPOLLIN)
        connection.task = trio.lowlevel.current_task()
        self._parked[connection.fd] = connection

        def abort(_: object) -> trio.lowlevel.Abort:
            self._unpark(connection)
            return trio.lowlevel.Abort.SUCCEEDED

        arrived: bytes | Call | Unsent = await trio.lowlevel.wait_task_rescheduled(abort)
        return arrived

    def _unpark(self, connection: Connection) -> None:
        del self._parked[connection.fd]
        if not connection.reading_paused:
            self._epoll.unregister(connection.fd)
        connection.reading_paused = connection.busy = False
        connection.task = None

    def _wake(self, connection: Connection, arrived: outcome.Outcome[bytes | Call | Unsent]) -> None:
        task = connection.task
        assert task is not None
        self._unpark(connection)
        trio.lowlevel.reschedule(task, arrived)

    def _lose(self, connection: Connection, error: OSError) -> None:
        lost = ConnectionLost()
        lost.__cause__ = error
        self._wake(connection, outcome.Error(lost))

    def _fail(self, connection: Connection, task: trio.lowlevel.Task | None, error: Exception) -> None:
        """Raise `error` in the task of this connection, and in no other."""
        if connection.task is not None and connection.task is task:
            self._wake(connection, outcome.Error(error))

    def _read(self, events: list[tuple[int, int]]) -> list[Asked]:
        """Read from the ready connections. Returns the requests to serve here."""
        asked: list[Asked] = []
        most = SMALL_BYTES if self._received.short or self._unsent.short else READ_BYTES
        for fd, _ in events:
            connection = self._parked[fd]
            if connection.busy:
                # The peer pipelined or hung up before its response; stop polling it until then.
                connection.reading_paused = True
                self._epoll.unregister(fd)
                continue
            try:
                data = os.read(fd, most)
                call = connection.quick_call(data)
            except BlockingIOError:
                continue
            except OSError as error:
                self._lose(connection, error)
                continue
            except Exception as error:  # noqa: BLE001  # raised in its own task, and logged there
                self._fail(connection, connection.task, error)
                continue
            if call is None or (call.operation.large and self._unsent.tight):
                self._wake(connection, outcome.Value(data))
            else:
                connection.begin_quick()
                task = connection.task
                assert task is not None
                asked.append(Asked(connection, task, call))
        return asked

    def _serve(self, asked: list[Asked]) -> list[Asked]:
        """Run the calls and respond now or after the sync. Returns the requests that did not run yet."""
        if not asked:
            return asked
        engine = self._engine
        waits = engine.waits
        try:
            replies = engine.run_quick([each.call for each in asked])
        except Exception as error:  # noqa: BLE001  # raised in their own tasks, and logged there
            for each in asked:
                self._fail(each.connection, each.task, error)
            return []
        later: list[tuple[Asked, Reply]] = []
        for each, reply in zip(asked, replies, strict=False):
            if reply.needs_sync and waits:
                each.call.body = b""  # stored, so it need not be kept during the sync
                later.append((each, reply))
            else:
                self._answer(each, reply)
        if later:
            engine.when_durable(partial(self._answer_later, later), len(later))
        return asked[len(replies) :]

    def _answer_later(self, later: list[tuple[Asked, Reply]], fault: StorageFault | None) -> None:
        """The sync has completed, or failed with `fault`."""
        for each, reply in later:
            # A connection that left meanwhile was cancelled; nothing was handed out to it.
            if each.connection.task is each.task:
                self._answer(each, reply if fault is None else error_reply(fault))

    def _answer(self, asked: Asked, reply: Reply) -> None:
        try:
            self._send(asked.connection, reply)
        except Exception as error:  # noqa: BLE001  # raised in its own task, and logged there
            self._engine.give_back(reply)
            self._fail(asked.connection, asked.task, error)

    def _send(self, connection: Connection, reply: Reply) -> None:
        connection.busy = False
        if connection.reading_paused:
            self._epoll.register(connection.fd, select.EPOLLIN)
            connection.reading_paused = False
        data = connection.quick_response(reply)
        sent = 0
        try:
            sent = os.write(connection.fd, data)
        except BlockingIOError:
            pass
        except OSError as error:
            self._engine.give_back(reply)
            self._lose(connection, error)
            return
        if sent < len(data) or connection.stopping:
            connection.unsent.set(len(data))
            self._wake(connection, outcome.Value(Unsent(data, sent, reply.receipt())))
        else:
            connection.end_quick(reply)
