"""The engine: bursts of calls in, replies out, with one transaction and one sync for everything that arrived together.

Rule: everything that touches the broker runs in a transaction, on the loop, without a checkpoint: operations, then
deliveries to waiting subscribers, then one write. A reply leaves after the sync that makes its change durable.

When the store fails, memory and store may differ. From then on every change is refused with that fault, and
`server/recovery.py` loads the store as at start-up. Read-only operations are answered throughout, as they never touch
the store. The few that do (`Operation.reads_store`) are refused with the changes.

Requirements: SYS-0006
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from qrusty_trio.api.authorizing import charge, uncount
from qrusty_trio.api.call import WAITING, Call, Pause, Reply, Services, Wait
from qrusty_trio.api.operations import error_reply
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.errors import CRASHED, QrustyError, StorageFault
from qrusty_trio.server.auditor import Auditor
from qrusty_trio.server.bursts import REPLY_BYTES, Long, only_synced, run_calls, run_reads
from qrusty_trio.server.clock import Clock
from qrusty_trio.server.committer import Committer
from qrusty_trio.server.lock_syncs import release_after_sync
from qrusty_trio.server.returns import GIVEN_BACK_PER_STEP, Returns
from qrusty_trio.server.sessions import Session, Sessions
from qrusty_trio.server.waiters import Waiters

EXPIRED_PER_STEP = 64
"""Expired locks handled in one step, which takes about 1 ms."""
DELIVERIES_PER_STEP = 128
"""Deliveries in one step, which takes about 1.5 ms."""
TIDIED_PER_STEP = 1000
"""Locks of purged queues freed in one step, which takes under 1 ms."""
PAUSE_SECONDS = 1.0
"""Pause of a task whose step failed although the store did not. A payload can't be read for now, or memory is short."""
PENDING_CHANGES = 512
"""A batch with this many changes is written without waiting for the sync. With 128 clients, the write of everything
that arrived until the sync took 16 ms."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Engine:
    """See `api.call.Engine` for what callers may expect.

    Requirements: PER-0005, PER-0042, PER-0047, SCH-0029, SCH-0031, DLV-0019, API-0039
    """

    def __init__(self, services: Services, dispatcher: Dispatcher, clock: Clock) -> None:
        self.services = services
        self.broker: Broker = services.broker
        self.sessions = Sessions(services.broker)
        self.returns = Returns(services.broker, self, lambda: self._transaction(expire=False))
        self.broker.has_left = self.sessions.has_left
        self.broker.clock_frame = clock.frame.pack()
        self.dispatcher, self.clock = dispatcher, clock
        self.waiters = Waiters(services, dispatcher, clock, self._transaction, self.returns.take_back)
        self.checked = self.waiters.checked
        self.committer: Committer
        """Set by the creator of the engine, because the two refer to each other."""
        self.fault: StorageFault | None = None
        """The fault with which every change is refused for now; None while the store works."""
        self.last_fault: StorageFault | None = None
        self.broken = trio.Event()
        """Set while there is a fault to recover from."""
        self.reading_anew = trio.Lock()
        """Held while the store is loaded into memory, by start-up or by a recovery that begins meanwhile."""
        self.auditor: Auditor | None = None
        self.transactions = 0
        """Counts transactions, so that tasks can tell when the server is quiet."""
        self._dispatch_wanted = trio.Event()
        self._search_wanted = trio.Event()
        self._reaper_wake = trio.Event()
        self._reaper_due = 0

    # For its callers

    async def run(self, calls: Sequence[Call], pause: Pause | None = None) -> list[Reply]:
        """Run a burst; the replies to the first calls, in order. See `api.call.Engine.run`.

        Requirements: PER-0001, DLV-0025
        """
        replies: list[Reply] = []
        octets = 0
        generation = self.dispatcher.generation
        try:
            while len(replies) < len(calls) and octets < REPLY_BYTES:
                seen = len(replies)
                long = self._run_some(calls, replies, self.committer.waits)
                done = await self._run_long(long) if isinstance(long, Long) else long
                if isinstance(done, Wait):
                    # The replies before it are sent first. Those behind it have to wait, too.
                    if not replies:
                        replies.append(await self.waiters.wait(calls[0], done, pause))
                        charge(calls[0], replies[0])
                    else:
                        uncount(calls[len(replies)])
                    break
                if done is not None:
                    charge(calls[len(replies)], done)
                    replies.append(done)
                if len(replies) < len(calls):
                    octets += sum(len(reply.body) for reply in replies[seen:])
                    if octets < REPLY_BYTES:
                        await trio.lowlevel.checkpoint()
            if self.committer.waits and any(reply.needs_sync for reply in replies):
                try:
                    if self.dispatcher.generation != generation and self.last_fault is not None:
                        # The store failed between two steps: a later sync says nothing about what was written before.
                        raise self.last_fault.with_traceback(None)
                    await self.committer.durable()
                except StorageFault as fault:
                    return self.returns.not_synced(replies, fault)
        except trio.Cancelled:
            for reply in replies:
                self.give_back(reply)
            if self.auditor is not None:
                self.auditor.done(calls, replies)  # The changes stand.
            raise
        if self.auditor is not None:
            self.auditor.done(calls, replies)
        return [self.checked(*each) for each in zip(calls, replies, strict=False)] if self.services.guarded else replies

    def run_to_end(self, calls: Sequence[Call]) -> list[Reply]:
        """Run all calls to their end at once, without a checkpoint and without waiting for a sync."""
        replies: list[Reply] = []
        while len(replies) < len(calls):
            long = self._run_some(calls, replies, defer=False)
            while long is not None:
                done = self._step(long) if isinstance(long, Long) else long
                if done is not None:
                    replies.append(done if isinstance(done, Reply) else Reply(200, done.nothing))
                    break
        return replies

    @property
    def waits(self) -> bool:
        """Whether a reply that needs a sync has to wait for it (policy `always`)."""
        return self.committer.waits

    def run_nowait(self, calls: Sequence[Call]) -> list[Reply]:
        """Run calls that take microseconds, at once. See `api.call.Engine.run_nowait`."""
        replies: list[Reply] = []
        long = self._run_some(calls, replies, self.committer.waits)
        while type(long) is Wait:
            uncount(calls[len(replies)])
            replies.append(WAITING)
            long = self._run_some(calls, replies, self.committer.waits)
        if self.fault is not None and len(replies) < len(calls):
            long = run_reads(self.services, calls, replies, self.clock.now_ms(), self.fault)
        assert long is None
        return replies

    def when_durable(self, callback: Callable[[StorageFault | None], None], peers: Sequence[object]) -> None:
        """Call `callback` after the sync that makes everything run so far durable, with the fault if it failed."""
        self.committer.when_durable(callback, peers)

    async def transact(self, function: Callable[[Broker, int], T], *, sync: bool) -> T:
        """Like `change`. With `sync`, wait until that is as durable as promised."""
        result = self.change(function, sync=sync)
        if sync:
            await self.committer.durable()
        return result

    def change(self, function: Callable[[Broker, int], T], *, sync: bool) -> T:
        """Run `function(broker, now)` in one transaction. Raises StorageFault; nothing of it is stored then."""
        with self._transaction(defer=sync and self.committer.waits) as now:
            return function(self.broker, now)

    def give_back(self, reply: Reply) -> None:
        """Undo the deliveries of a reply that could not be sent; uncounted. See `api.call.Engine.give_back`."""
        if reply.deliveries:
            self.returns.take_back(reply.deliveries)

    async def end_waits(self) -> None:
        """Answer all calls that wait, and let none wait any more: the server stops."""
        await self.waiters.end()

    def join(self, session: Session) -> None:
        """Register a WebSocket that was opened."""
        self.sessions.join(session)

    def leave(self, session: Session, counts: bool, unsent: frozenset[str]) -> None:
        """Return what a closed WebSocket held to the queues, in small steps from now on; see `Sessions.leave`."""
        # After a storage fault no delivery counts: the recovery returns what any WebSocket held.
        self.sessions.leave(session, counts and self.fault is None, unsent)
        if self.sessions.departed:
            self._dispatch_wanted.set()

    def dispatch_soon(self) -> None:
        """Schedule deliveries, for example because a subscriber can take messages again."""
        self._dispatch_wanted.set()

    # Transactions

    def _begin(self, expire: bool = True) -> int:
        """Begin a transaction. Returns the time in wall milliseconds. Raises StorageFault."""
        if self.fault is not None:
            raise self.fault.with_traceback(None)  # otherwise its traceback grows with every raise
        self.transactions += 1
        now = self.clock.now_ms()
        # Times are rounded down to milliseconds. A lock that ends at `now` may hold for another fraction of one.
        if expire and now > self.broker.locks.wake_at and not self.services.gate.starting:
            self.broker.expire(now - 1, EXPIRED_PER_STEP)
        return now

    def _end(self, now: int, *, defer: bool) -> None:
        """End a transaction: deliver and write. Raises StorageFault.

        `defer`: leave the write to the committer, which writes everything pending before its next sync. The write is
        not deferred when messages were delivered, because those usually leave at once.
        """
        dispatcher, broker = self.dispatcher, self.broker
        if dispatcher.dispatch(broker, now, DELIVERIES_PER_STEP) or broker.ready:
            self._dispatch_wanted.set()
        if not defer or dispatcher.uncommitted or broker.journal.size >= PENDING_CHANGES:
            broker.journal.commit()
            dispatcher.uncommitted = False
        if dispatcher.unsynced is not None:
            release_after_sync(dispatcher, self.committer, self.sessions)
        if broker.locks.wake_at < self._reaper_due or broker.locks.untidy:
            self._reaper_wake.set()
        if broker.deduplication.searching:
            self._search_wanted.set()

    def write(self) -> None:
        """Write deferred changes. The committer calls it before a sync. Raises StorageFault."""
        if self.fault is not None:
            raise self.fault.with_traceback(None)  # otherwise its traceback grows with every raise
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
        """A transaction. Yields the time in wall milliseconds; delivers and writes at its end. Raises StorageFault.

        Other QrustyErrors pass through: the operation was refused before anything changed.
        """
        before = self.broker.journal.position
        try:
            now = self._begin(expire)
            yield now
            self._end(now, defer=defer)
        except Exception as error:
            fault = self._fault_of(error, before)
            if fault is None:
                raise
            raise fault from fault.__cause__

    def _fault_of(self, error: Exception, before: tuple[int, int, int]) -> StorageFault | None:
        """The fault that an error in a transaction comes to; None for a refusal, which changed nothing.

        `before`: the journal's position at the beginning. An unexpected error may leave memory and store different.
        """
        if isinstance(error, StorageFault):
            self.fail(error)
            return error
        if isinstance(error, QrustyError):
            return None
        crash = StorageFault(CRASHED)
        crash.__cause__ = error
        log.error("a change failed in a way that should not be possible", exc_info=error)
        if self.broker.journal.position != before:
            # It failed halfway. Memory can't be trusted any more, but the store can.
            self.fail(crash)
        return crash

    def _run_some(self, calls: Sequence[Call], replies: list[Reply], defer: bool) -> Long | Wait | None:
        """Run the calls that have no reply yet, up to one that takes more than one step or has to wait. Returns it.

        Returns None when all calls were run, or when the rest is left to a later step. That happens when the replies
        are large, so that other tasks get their turn, or when the store has just failed.

        `defer`: the caller waits for a sync if any reply needs one.
        """
        first = len(replies)
        if self.fault is not None:
            return run_reads(self.services, calls, replies, self.clock.now_ms(), self.fault)
        long = None
        before = self.broker.journal.position
        try:
            now = self._begin()
            long = run_calls(self.services, calls, replies, now)
            self._end(now, defer=defer and len(replies) == len(calls) and only_synced(replies))
        except Exception as error:
            # Not `_transaction`: a context manager takes 1 to 2 µs, and this is for every burst.
            fault = self._fault_of(error, before)
            if fault is None:
                raise
            self._refuse(calls, replies, first, fault)
            if type(long) is Wait or (type(long) is Long and long.operation.needs_store):
                if type(long) is Long:
                    long.close()
                replies.append(error_reply(fault))
                return None
            if self.fault is None and len(replies) == first:
                # The call failed but the store did not. Answer this call, so that it is not retried forever.
                return run_reads(self.services, calls[: first + 1], replies, self.clock.now_ms(), fault)
        return long

    def _refuse(self, calls: Sequence[Call], replies: list[Reply], first: int, fault: StorageFault) -> None:
        """After a storage fault, replace the replies of calls that change something, from number `first` on."""
        for index in range(first, len(replies)):
            if calls[index].operation.mutating:
                self.returns.note_unseen(replies[index].deliveries)
                replies[index] = error_reply(fault)

    async def _run_long(self, long: Long) -> Reply | Wait:
        try:
            while (reply := self._step(long)) is None:
                long.written()
                await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            if long.deliveries:
                self.returns.take_back(long.deliveries)
            if self.auditor is not None:
                self.auditor.broke_off(long)
            raise
        finally:
            long.close()
        if self.auditor is not None:
            self.auditor.ended(long, reply)
        return reply

    def _step(self, long: Long) -> Reply | Wait | None:
        """Run one step of a long operation, in a transaction if it needs the store. Returns its reply when done."""
        try:
            if not long.operation.needs_store:
                return long.step()
            with self._transaction():
                return long.step()
        except Exception as error:  # noqa: BLE001  # logged there; only this request fails
            reply = long.failed(error)
        if long.deliveries:
            self.returns.take_back(long.deliveries)
        return reply

    # Tasks

    async def reap(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Return messages to their queues when their locks expire, until cancelled. Sleeps until the next expiry.

        Requirements: SCH-0016, SCH-0017
        """
        task_status.started()
        while True:
            self._reaper_wake = trio.Event()
            self._reaper_due = self.broker.locks.wake_at
            while self.broker.locks.tidy(TIDIED_PER_STEP):
                await trio.lowlevel.checkpoint()
            with trio.move_on_after(max(0.0, self.clock.seconds_until(self._reaper_due + 1))):
                await self._reaper_wake.wait()
            if self.fault is not None:
                # `recovered` wakes this task.
                self._reaper_due = 0
                await self._reaper_wake.wait()
                continue
            await self._try_to("locks are looked at", lambda _: None)

    async def dispatch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make deliveries left over from other steps, and return what WebSockets held, until cancelled."""
        task_status.started()
        try:
            while True:
                await self._dispatch_wanted.wait()
                self._dispatch_wanted = trio.Event()
                if self.fault is None:
                    await self._try_to("deliveries go on", self._give_back)
                    if self.sessions.departed or self.returns:
                        self._dispatch_wanted.set()
        finally:
            self.returns.finish()

    def _give_back(self, now: int) -> None:
        if self.returns:
            self.returns.run(GIVEN_BACK_PER_STEP)
        else:
            self.sessions.give_back(GIVEN_BACK_PER_STEP, now)

    async def search(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the searches for duplicates, even if the client that asked for one is gone, until cancelled."""
        task_status.started()
        while True:
            while self.broker.deduplication.searching and self.fault is None:
                await self._try_to("the search for duplicates goes on", self._search_on)
            await self._search_wanted.wait()
            self._search_wanted = trio.Event()

    def _search_on(self, now: int) -> None:
        if self.broker.deduplication.searching:
            self.broker.deduplication.search_on()

    async def _try_to(self, what: str, change: Callable[[int], None]) -> None:
        """Run `change(now)` in a transaction, then a checkpoint. `what` names the step in the log."""
        try:
            with self._transaction() as now:
                change(now)
        except QrustyError as fault:
            log.debug("%s later: %s", what, fault)
            if self.fault is None:
                await trio.sleep(PAUSE_SECONDS)
        await trio.lowlevel.checkpoint()

    def fail(self, fault: StorageFault) -> None:
        """Refuse all changes after a storage fault, until the store has been loaded again."""
        if self.fault is None:
            self.fault = self.last_fault = fault
            self.services.gate.fault = str(fault)
            self.dispatcher.clear()
            self.sessions.forget_departed()
            self.returns.fail()
            for waiter in self.waiters.fail(fault):
                self.returns.note_unseen(waiter.deliveries)
            log.error("the store failed, changes are refused until it is back: %s", fault)
        self.committer.abandon(fault)
        self.broken.set()

    def recovered(self) -> None:
        """Accept changes again: the store has been loaded into memory."""
        self.fault = None
        self.services.gate.fault = None
        self.broken = trio.Event()
        self._reaper_due = 0
        self._reaper_wake.set()
        self._dispatch_wanted.set()
        self._search_wanted.set()
