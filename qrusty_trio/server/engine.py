"""The engine: bursts of calls in, replies out, one batch and one sync for all that came together.

Rule: everything that touches the broker runs in a transaction, on the loop, without a pause: operations, then
deliveries to waiting subscribers, then one write. An answer leaves after the sync that covers it.

When the store fails, memory and store may differ. From then on every change is refused with that fault, and
`server/recovery.py` goes the way of a start. Operations that only read never touch the store: they are answered all the
while.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.operations import error_reply
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import QrustyError, StorageFault
from qrusty_trio.server.bursts import REPLY_BYTES, Long, failed_read, next_step, only_synced, run_calls, run_reads
from qrusty_trio.server.clock import Clock
from qrusty_trio.server.committer import Committer
from qrusty_trio.server.sessions import Session, Sessions

EXPIRED_PER_STEP = 64
"""Ended locks handled in one step: about 1 ms."""
DELIVERIES_PER_STEP = 128
"""About 1.5 ms."""
GIVEN_BACK_PER_STEP = 64
"""Messages given back in one step: about 1 ms."""
TIDIED_PER_STEP = 1000
"""Locks of purged queues freed in one step: under 1 ms."""
PAUSE_SECONDS = 1.0
"""Of a task whose step failed, though the store did not: a payload that can't be read just now, or want of memory."""
PENDING_CHANGES = 512
"""Changes from which on a batch is written without waiting for the sync: the write of all that would come together
until then took 16 ms with 128 clients."""

CRASHED = "The server failed to make a change; its log says why."

T = TypeVar("T")
log = logging.getLogger(__name__)


class Engine:
    """See `api.call.Engine` for what carriers may expect."""

    def __init__(self, services: Services, dispatcher: Dispatcher, clock: Clock) -> None:
        self.services = services
        self.broker: Broker = services.broker
        self.sessions = Sessions(services.broker)
        self.broker.has_left = self.sessions.has_left
        self.broker.clock_frame = clock.frame.pack()
        self.dispatcher = dispatcher
        self.clock = clock
        self.committer: Committer
        """Set by whoever makes the engine, as the two need each other."""
        self.fault: StorageFault | None = None
        """Why nothing can be changed at the moment."""
        self.faults = 0
        """Faults since the start."""
        self.last_fault: StorageFault | None = None
        self.broken = trio.Event()
        """Set while there is a fault to recover from."""
        self.unseen: set[tuple[int, int, str]] = set()
        """Deliveries that nobody saw, of which the store may know: queue number, lock number, message id. Taken back by
        the recovery before anything else changes."""
        self.reading_anew = trio.Lock()
        """Held by whoever reads the store into memory: a start, or a recovery that begins meanwhile."""
        self.transactions = 0
        """Counts what was done, for those who wait for a quiet moment."""
        self._pump_wanted = trio.Event()
        self._search_wanted = trio.Event()
        self._reaper_wake = trio.Event()
        self._reaper_due = 0

    # What carriers call

    async def run(self, calls: Sequence[Call]) -> list[Reply]:
        """Run a burst; the replies to the first calls, in order. See `api.call.Engine.run`."""
        replies: list[Reply] = []
        octets = 0
        faults = self.faults
        try:
            while len(replies) < len(calls) and octets < REPLY_BYTES:
                seen = len(replies)
                long = self._run_some(calls, replies, self.committer.waits)
                if long is not None:
                    replies.append(await self._run_long(long, calls[len(replies)].operation))
                octets += sum(len(reply.body) for reply in replies[seen:])
                if len(replies) < len(calls) and octets < REPLY_BYTES:
                    await trio.lowlevel.checkpoint()
            if self.committer.waits and any(reply.needs_sync for reply in replies):
                try:
                    if self.faults != faults and self.last_fault is not None:
                        # The store failed between two steps. A sync that succeeds now may belong to the store that was
                        # opened since: it says nothing about what was written before.
                        raise self.last_fault.with_traceback(None)
                    await self.committer.durable()
                except StorageFault as fault:
                    return [error_reply(fault) if reply.needs_sync else reply for reply in replies]
        except trio.Cancelled:
            for reply in replies:
                self.give_back(reply)
            raise
        return replies

    def run_now(self, calls: Sequence[Call]) -> list[Reply]:
        """The same at once, without waiting for a sync, for calls that take no time of their own."""
        replies: list[Reply] = []
        while len(replies) < len(calls):
            long = self._run_some(calls, replies, defer=False)
            while long is not None:
                reply = self._step(long, calls[len(replies)].operation)
                if reply is not None:
                    replies.append(reply)
                    break
        return replies

    @property
    def waits(self) -> bool:
        """Whether an answer that needs a sync has to wait for it (policy `always`)."""
        return self.committer.waits

    def run_quick(self, calls: Sequence[Call]) -> list[Reply]:
        """Run calls that take microseconds, at once. See `api.call.Engine.run_quick`."""
        replies: list[Reply] = []
        long = self._run_some(calls, replies, self.committer.waits)
        if self.fault is not None and len(replies) < len(calls):
            long = run_reads(self.services, calls, replies, self.clock.now_ms(), self.fault)
        assert long is None
        return replies

    def when_durable(self, callback: Callable[[StorageFault | None], None], answers: int = 1) -> None:
        """Call `callback` after the sync that covers everything run so far, or with the fault that it met."""
        self.committer.when_durable(callback, answers)

    async def transact(self, function: Callable[[Broker, int], T], *, sync: bool) -> T:
        """Run `function(broker, now)` as one batch; with `sync`, wait until it is as durable as the policy says.

        Raises StorageFault; what `function` did is then not stored.
        """
        with self._transaction(defer=sync and self.committer.waits) as now:
            result = function(self.broker, now)
        if sync:
            await self.committer.durable()
        return result

    def give_back(self, reply: Reply) -> None:
        """The answer could not be written: its message is available again at once, the delivery not counted."""
        delivery = reply.delivery
        if delivery is None:
            return
        if self.fault is None:
            try:
                # Locks that have ended wait: this one may be among them, and must not count.
                with self._transaction(expire=False):
                    self.broker.take_back(delivery.queue_number, delivery.lock_number, delivery.id)
                return
            except StorageFault as fault:
                log.debug("message %s is given back after the store has recovered: %s", delivery.id, fault)
        self._note_unseen(delivery)

    def join(self, session: Session) -> None:
        """A WebSocket was opened."""
        self.sessions.join(session)

    def leave(self, session: Session, counts: bool, unsent: frozenset[str]) -> None:
        """A WebSocket is gone: what it holds goes back to the queues in small steps, at once; see `Sessions.leave`."""
        # After a fault of the store nothing counts: the recovery gives back what any WebSocket held.
        self.sessions.leave(session, counts and self.fault is None, unsent)
        if self.sessions.departed:
            self._pump_wanted.set()

    def pump_soon(self) -> None:
        """A subscriber can take messages again."""
        self._pump_wanted.set()

    # Transactions

    def _begin(self, expire: bool = True) -> int:
        """Begin a transaction; returns the time. Raises StorageFault."""
        if self.fault is not None:
            raise self.fault.with_traceback(None)  # else each time it is raised it grows
        self.transactions += 1
        now = self.clock.now_ms()
        # Times are cut to whole milliseconds. A lock that ends at `now` may still hold for a part of one.
        if expire and now > self.broker.locks.wake_at and not self.services.gate.starting:
            self.broker.expire(now - 1, EXPIRED_PER_STEP)
        return now

    def _end(self, now: int, *, defer: bool) -> None:
        """Deliver and write. Raises StorageFault.

        `defer`: leave the write to the committer, which is about to sync and writes what has come together by then. Not
        when messages were handed out: an answer with a message leaves at once.
        """
        dispatcher = self.dispatcher
        broker = self.broker
        if dispatcher.pump(broker, now, DELIVERIES_PER_STEP) or broker.ready:
            self._pump_wanted.set()
        if not defer or dispatcher.uncommitted or broker.journal.size >= PENDING_CHANGES:
            broker.commit()
            dispatcher.committed()
        if broker.locks.wake_at < self._reaper_due or broker.locks.untidy:
            self._reaper_wake.set()
        if broker.deduplication.searching:
            self._search_wanted.set()

    def write(self) -> None:
        """Write what was deferred. The committer calls it before a sync. Raises StorageFault."""
        if self.fault is not None:
            raise self.fault.with_traceback(None)  # else each time it is raised it grows
        try:
            self.broker.commit()
        except StorageFault as fault:
            self.fail(fault)
            raise
        except Exception as error:
            crash = StorageFault(CRASHED)
            log.exception("a write failed in a way that should not be possible")
            self.fail(crash)
            raise crash from error

    @contextmanager
    def _transaction(self, *, defer: bool = False, expire: bool = True) -> Iterator[int]:
        """Gives the time. On leaving, deliveries are made and everything is written. Raises StorageFault."""
        with self._guarded():
            now = self._begin(expire)
            yield now
            self._end(now, defer=defer)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What may leave memory and store apart. Raises StorageFault, whatever went wrong inside."""
        journal = self.broker.journal
        before = journal.position
        try:
            yield
        except StorageFault as fault:
            self.fail(fault)
            raise
        except QrustyError:
            raise  # refused before anything changed
        except Exception as error:
            crash = StorageFault(CRASHED)
            log.exception("a change failed in a way that should not be possible")
            if journal.position != before:
                # It broke off halfway: what is in memory can't be trusted any more, what is stored can.
                self.fail(crash)
            raise crash from error

    def _run_some(self, calls: Sequence[Call], replies: list[Reply], defer: bool) -> Long | None:
        """Run calls from number len(replies) on, up to one that takes long: that one is returned, begun.

        None: all were run, or the others are left to a further step: there is a lot to be answered and it is time for
        others, or the store has just failed.
        `defer`: the caller waits for a sync if any reply needs one.
        """
        first = len(replies)
        if self.fault is not None:
            return run_reads(self.services, calls, replies, self.clock.now_ms(), self.fault)
        long = None
        try:
            with self._guarded():
                now = self._begin()
                long = run_calls(self.services, calls, replies, now)
                self._end(now, defer=defer and len(replies) == len(calls) and only_synced(replies))
        except StorageFault as fault:
            self._refuse(calls, replies, first, fault)
            if long is not None and calls[len(replies)].operation.mutating:
                long.close()
                replies.append(error_reply(fault))
                return None
            if self.fault is None and len(replies) == first:
                # It failed, and the store did not: that call is not to be tried for ever.
                return run_reads(self.services, calls[: first + 1], replies, self.clock.now_ms(), fault)
        return long

    def _refuse(self, calls: Sequence[Call], replies: list[Reply], first: int, fault: StorageFault) -> None:
        """The store failed: of the calls that were run, those that change something are answered with the fault."""
        for index in range(first, len(replies)):
            if calls[index].operation.mutating:
                delivery = replies[index].delivery
                if delivery is not None:
                    self._note_unseen(delivery)
                replies[index] = error_reply(fault)

    def _note_unseen(self, delivery: Delivery) -> None:
        self.unseen.add((delivery.queue_number, delivery.lock_number, delivery.id))

    async def _run_long(self, long: Long, operation: Operation) -> Reply:
        try:
            while (reply := self._step(long, operation)) is None:
                await trio.lowlevel.checkpoint()
        finally:
            long.close()
        return reply

    def _step(self, long: Long, operation: Operation) -> Reply | None:
        """One step of a long operation; of one that changes something, as a transaction. Its reply when it is done."""
        try:
            if not operation.mutating:
                return next_step(long)
            with self._transaction():
                return next_step(long)
        except QrustyError as error:
            return error_reply(error)
        except Exception as error:  # noqa: BLE001  # logged there; only this request fails
            return failed_read(operation, error)

    # Tasks

    async def reap(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take back messages when their locks end, until cancelled. Sleeps until the next end, not by the tick."""
        task_status.started()
        while True:
            self._reaper_wake = trio.Event()
            self._reaper_due = self.broker.locks.wake_at
            while self.broker.locks.tidy(TIDIED_PER_STEP):
                await trio.lowlevel.checkpoint()
            with trio.move_on_after(max(0.0, self.clock.seconds_until(self._reaper_due + 1))):
                await self._reaper_wake.wait()
            if self.fault is not None:
                # The recovery wakes this task.
                self._reaper_due = 0
                await self._reaper_wake.wait()
                continue
            await self._try_to("locks are looked at", lambda: None)

    async def pump(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make the deliveries that were too many for one step, and give back what WebSockets held, until cancelled."""
        task_status.started()
        while True:
            await self._pump_wanted.wait()
            self._pump_wanted = trio.Event()
            if self.fault is None:
                await self._try_to("deliveries go on", lambda: self.sessions.give_back(GIVEN_BACK_PER_STEP))
                if self.sessions.departed:
                    self._pump_wanted.set()

    async def search(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for duplicates where they are refused by now, whoever asked for it, until cancelled."""
        task_status.started()
        while True:
            while self.broker.deduplication.searching and self.fault is None:
                await self._try_to("the search for duplicates goes on", self._search_on)
            await self._search_wanted.wait()
            self._search_wanted = trio.Event()

    def _search_on(self) -> None:
        if self.broker.deduplication.searching:
            self.broker.deduplication.search_on()

    async def _try_to(self, what: str, change: Callable[[], None]) -> None:
        """Run a step of a task, then let others run."""
        try:
            with self._transaction():
                change()
        except QrustyError as fault:
            log.debug("%s later: %s", what, fault)
            if self.fault is None:
                await trio.sleep(PAUSE_SECONDS)
        await trio.lowlevel.checkpoint()

    def fail(self, fault: StorageFault) -> None:
        """The store failed: nothing can be changed until it has been read anew."""
        if self.fault is None:
            self.fault = self.last_fault = fault
            self.faults += 1
            self.dispatcher.clear()
            self.sessions.forget_departed()
            log.error("the store failed, changes are refused until it is back: %s", fault)
        self.committer.abandon(fault)
        self.broken.set()

    def recovered(self) -> None:
        """The store is back, and memory is what it says."""
        self.fault = None
        self.broken = trio.Event()
        self._reaper_due = 0
        self._reaper_wake.set()
        self._pump_wanted.set()
        self._search_wanted.set()
