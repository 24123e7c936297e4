"""Rounds: the plain requests that many connections sent at the same time, served as one burst.

Rule: what is served here is what a connection's own task would serve, with the same answers; here it takes no task
switch, and the calls of a round share one transaction. Served here is only a single whole request of a quick kind with
a short head, which asks for nothing but an answer; and its answer is sent if the socket takes it at once. Everything
else wakes the connection's task with what has arrived.

A connection is parked here while its task waits for a request. From its request to its answer, which
may wait for a sync, the connection is busy: nothing more is read from it.
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

ROUND = 64
"""Connections served in one step of the event loop: 1 to 2 ms."""
QUICK = frozenset({"publish", "consume", "ack", "nack", "health"})
"""Operations that take microseconds."""


class Connection(Protocol):
    """What is asked of a connection that is parked here."""

    fd: int
    task: trio.lowlevel.Task | None
    """While it is parked: its task."""
    busy: bool
    """A request was read and is not answered yet."""
    muted: bool
    """Not listened to."""
    unsent: Holding
    """Its share of what has not been sent yet."""

    @property
    def stopping(self) -> bool:
        """It is to be closed after the answer it is at."""

    def quick_call(self, data: bytes) -> Call | None:
        """The call, if what has arrived is one plain request of a kind in QUICK."""

    def begin_quick(self) -> None:
        """Its call is going to be run."""

    def quick_answer(self, reply: Reply) -> bytes:
        """The bytes of the answer."""

    def end_quick(self, reply: Reply) -> None:
        """The answer has left."""


class Unsent(NamedTuple):
    """An answer that the socket did not take whole."""

    data: bytes
    sent: int
    reply: Reply


class Asked(NamedTuple):
    """A request of a round. The connection has left when its task is another one, or none."""

    connection: Connection
    task: trio.lowlevel.Task
    call: Call


class Rounds:
    """The parked connections of a lane."""

    def __init__(self, engine: Engine, received: Budget, unsent: Budget) -> None:
        self._engine = engine
        self._received = received
        self._unsent = unsent
        self._epoll = select.epoll()
        self._parked: dict[int, Connection] = {}
        """By file descriptor."""

    async def run(self) -> None:
        """Serve rounds, until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                asked = self._read(self._epoll.poll(0, ROUND))
                while asked := self._serve(asked):
                    await trio.lowlevel.checkpoint()
                    asked = [each for each in asked if each.connection.task is each.task]
                    if self._unsent.tight:
                        asked = [each for each in asked if not self._leave_large(each)]
        finally:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()

    def _leave_large(self, asked: Asked) -> bool:
        """Leave a call whose answer may be large to the connection's task, as there is no room for it now."""
        if asked.call.operation.large:
            self._wake(asked.connection, outcome.Value(asked.call))
            return True
        return False

    async def receive(self, connection: Connection) -> bytes | Call | Unsent:
        """Park a connection until something arrives that is not served here; b"": the peer sends no more.

        Unsent: the task has to send the rest of an answer first. Raises ConnectionLost.
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
        if not connection.muted:
            self._epoll.unregister(connection.fd)
        connection.muted = connection.busy = False
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
        """What went wrong for one connection ends its task, and nobody else's."""
        if connection.task is not None and connection.task is task:
            self._wake(connection, outcome.Error(error))

    def _read(self, events: list[tuple[int, int]]) -> list[Asked]:
        """Read from the connections that something has arrived on. Returns what is to be served here."""
        asked: list[Asked] = []
        most = SMALL_BYTES if self._received.short or self._unsent.short else READ_BYTES
        for fd, _ in events:
            connection = self._parked[fd]
            if connection.busy:
                # It sends on, or is gone, before its answer: not before that.
                connection.muted = True
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
        """Run the calls and answer, or leave that to the sync. Returns those that it did not get to."""
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
                each.call.body = b""  # stored, and a sync may take its time
                later.append((each, reply))
            else:
                self._answer(each, reply)
        if later:
            engine.when_durable(partial(self._answer_later, later), len(later))
        return asked[len(replies) :]

    def _answer_later(self, later: list[tuple[Asked, Reply]], fault: StorageFault | None) -> None:
        """The sync is over, or failed with `fault`."""
        for each, reply in later:
            # Whoever has left meanwhile was cancelled; nothing was handed out to it.
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
        if connection.muted:
            self._epoll.register(connection.fd, select.EPOLLIN)
            connection.muted = False
        data = connection.quick_answer(reply)
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
