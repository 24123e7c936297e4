"""The engine: bursts of calls in, replies out, one batch and one sync for all that came together.

Rule: everything that touches the broker runs in `_transaction`, on the loop, without a pause: operations, then
deliveries to waiting subscribers, then one write. An answer leaves after the sync that covers it.

When the store fails, memory and store may differ. From then on every change is refused with that fault; `recover` opens
the store again and reads it anew, and then the server goes on by itself. What was answered is in the store; what was in
hand at the fault was answered with an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from qrusty_trio.api.engine import Call, Reply
from qrusty_trio.api.operations import Services, error_reply
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import QrustyError, Starting, StorageFault
from qrusty_trio.server.clock import Clock
from qrusty_trio.server.committer import Committer

EXPIRE_PIECE = 100
"""Ended locks handled in one step: about 1 ms."""
PUMP_PIECE = 128
"""Deliveries made in one step: about 1.5 ms."""
REPLY_BYTES = 512 * 1024
"""Bytes of answers from which on the rest of a burst is left to a further step: those of 2 MiB take 2 ms at most."""
GIVE_BACK_PIECE = 64
"""Messages given back in one step."""
MAX_RETRACTED = 10_000
"""Deliveries remembered that came to nothing; what is beyond that comes back when its lock ends."""
RETRY_SECONDS = 1.0
"""Between two tries to open a store that failed."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Engine:
    """See `api.engine.Engine` for what carriers may expect."""

    def __init__(self, services: Services, dispatcher: Dispatcher, clock: Clock) -> None:
        self.services = services
        self.broker: Broker = services.broker
        self.dispatcher = dispatcher
        self.clock = clock
        self.committer: Committer
        """Set by whoever makes the engine, as the two need each other."""
        self.fault: StorageFault | None = None
        """Why nothing can be changed at the moment."""
        self._retracted: dict[tuple[int, str, str, int], None] = {}
        """Deliveries that nobody saw, of which the store may know: queue number, message id, consumer, which one."""
        self._broken = trio.Event()
        self._pump_wanted = trio.Event()
        self._reaper_wake = trio.Event()
        self._reaper_due = 0

    # What carriers call

    async def run(self, calls: Sequence[Call]) -> list[Reply]:
        """Run a burst; one reply per call, in order. See `api.engine.Engine.run`."""
        replies: list[Reply] = []
        try:
            while len(replies) < len(calls):
                long = self._run_some(calls, replies, self.committer.waits)
                if long is not None:
                    replies.append(await self._run_long(long))
                elif len(replies) < len(calls):
                    await trio.lowlevel.checkpoint()
            if self.committer.waits and any(reply.needs_sync for reply in replies):
                try:
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
                reply = self._step(long)
                if reply is not None:
                    replies.append(reply)
                    break
        return replies

    @property
    def waits(self) -> bool:
        """Whether an answer that needs a sync has to wait for it (policy `always`)."""
        return self.committer.waits

    def run_quick(self, calls: Sequence[Call]) -> list[Reply]:
        """Run calls that take microseconds, at once. See `api.engine.Engine.run_quick`."""
        replies: list[Reply] = []
        long = self._run_some(calls, replies, self.committer.waits)
        assert long is None
        return replies

    def when_durable(self, callback: Callable[[StorageFault | None], None]) -> None:
        """Call `callback` after the sync that covers everything run so far, or with the fault that it met."""
        self.committer.when_durable(callback)

    async def transact(self, function: Callable[[Broker, int], T], *, sync: bool) -> T:
        """Run `function(broker, now)` as one batch; with `sync`, wait until it is as durable as the policy says.

        Raises StorageFault; what `function` did is then not stored, and its deliveries have been retracted.
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
        try:
            with self._transaction() as now:
                self.broker.give_back(
                    delivery.queue_number,
                    delivery.id,
                    reply.consumer,
                    now,
                    counted=False,
                    delivery=delivery.retry_count,
                )
        except StorageFault as fault:
            self._remember(delivery, reply.consumer)
            log.debug("message %s is given back after the store has recovered: %s", delivery.id, fault)

    def pump_soon(self) -> None:
        """A subscriber can take messages again."""
        self._pump_wanted.set()

    # Transactions

    def _begin(self) -> int:
        """Begin a transaction; returns the time. Raises StorageFault."""
        if self.fault is not None:
            raise self.fault.with_traceback(None)  # else each time it is raised it grows
        now = self.clock.now_ms()
        if now >= self.broker.wake_at:
            self.broker.expire(now, EXPIRE_PIECE)
        return now

    def _end(self, now: int, *, defer: bool) -> None:
        """Deliver and write. Raises StorageFault.

        `defer`: leave the write to the committer, which is about to sync and writes what has come together by then. Not
        when messages were handed out: an answer with a message leaves at once.
        """
        dispatcher = self.dispatcher
        broker = self.broker
        if dispatcher.pump(broker, now, PUMP_PIECE) or broker.ready:
            self._pump_wanted.set()
        if not defer or dispatcher.unstored:
            self.broker.commit()
            dispatcher.stored()
        if self.broker.wake_at < self._reaper_due:
            self._reaper_wake.set()

    def write(self) -> None:
        """Write what was deferred. The committer calls it before a sync. Raises StorageFault."""
        if self.fault is not None:
            raise self.fault.with_traceback(None)  # else each time it is raised it grows
        try:
            self.broker.commit()
        except StorageFault as fault:
            self.fail(fault)
            raise

    @contextmanager
    def _transaction(self, *, defer: bool = False) -> Iterator[int]:
        """Gives the time. On leaving, deliveries are made and everything is written. Raises StorageFault."""
        try:
            now = self._begin()
            yield now
            self._end(now, defer=defer)
        except StorageFault as fault:
            self.fail(fault)
            raise

    def _run_some(
        self, calls: Sequence[Call], replies: list[Reply], defer: bool
    ) -> Generator[None, None, Reply] | None:
        """Run calls from number len(replies) on, up to one that takes long: that one is returned, begun.

        None: all were run, or there is a lot to be answered and it is time for others.
        `defer`: the caller waits for a sync if any reply needs one.
        """
        first = len(replies)
        if first == len(calls):
            return None
        long = None
        try:
            now = self._begin()
            long = self._run_calls(calls, replies, now)
            self._end(now, defer=defer and len(replies) == len(calls) and _only_synced(replies))
        except StorageFault as fault:
            self.fail(fault)
            long = None
            self._refuse(calls, replies, first, fault)
        return long

    def _run_calls(self, calls: Sequence[Call], replies: list[Reply], now: int) -> Generator[None, None, Reply] | None:
        services = self.services
        starting = services.gate.starting
        octets = 0
        for index in range(len(replies), len(calls)):
            call = calls[index]
            operation = call.operation
            try:
                if starting and operation.mutating:
                    raise Starting("Qrusty is initialising. Retry shortly.")
                answer = operation.function(services, call, now)
                if type(answer) is not Reply:
                    assert not isinstance(answer, Reply)
                    return answer
                replies.append(answer)
                octets += len(answer.body)
                if octets >= REPLY_BYTES:
                    return None
            except StorageFault:
                raise
            except QrustyError as error:
                replies.append(error_reply(error))
        return None

    def _refuse(self, calls: Sequence[Call], replies: list[Reply], first: int, fault: StorageFault) -> None:
        """The store failed: changes from call `first` on are answered with the fault, reads are run without it."""
        refusal = error_reply(fault)
        now = self.clock.now_ms()
        for index in range(first, len(calls)):
            call = calls[index]
            if call.operation.mutating:
                reply = refusal
            elif index < len(replies):
                continue
            else:
                answer = call.operation.function(self.services, call, now)
                reply = answer if isinstance(answer, Reply) else _exhaust(answer)
            if index < len(replies):
                delivery = replies[index].delivery
                if delivery is not None:
                    self._remember(delivery, replies[index].consumer)
                replies[index] = reply
            else:
                replies.append(reply)

    def _remember(self, delivery: Delivery, consumer: str) -> None:
        if len(self._retracted) < MAX_RETRACTED:
            self._retracted[delivery.queue_number, delivery.id, consumer, delivery.retry_count] = None

    async def _run_long(self, long: Generator[None, None, Reply]) -> Reply:
        while (reply := self._step(long)) is None:
            await trio.lowlevel.checkpoint()
        return reply

    def _step(self, long: Generator[None, None, Reply]) -> Reply | None:
        """One piece of a long operation, as a transaction of its own. Its reply when it is done."""
        try:
            with self._transaction():
                try:
                    next(long)
                except StopIteration as stop:
                    reply: Reply = stop.value
                    return reply
                except StorageFault:
                    raise
                except QrustyError as error:
                    return error_reply(error)
        except StorageFault as fault:
            long.close()
            return error_reply(fault)
        return None

    # Tasks

    async def reap(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take back messages when their locks end, until cancelled. Sleeps until the next end, not by the tick."""
        task_status.started()
        while True:
            self._reaper_wake = trio.Event()
            self._reaper_due = self.broker.wake_at
            with trio.move_on_after(max(0.0, self.clock.seconds_until(self._reaper_due))):
                await self._reaper_wake.wait()
            if self.fault is not None:
                await trio.sleep(RETRY_SECONDS)
                continue
            try:
                with self._transaction():
                    pass
            except StorageFault as fault:
                log.debug("locks are looked at again after the store has recovered: %s", fault)

    async def pump(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make the deliveries that were too many for one step, until cancelled."""
        task_status.started()
        while True:
            await self._pump_wanted.wait()
            self._pump_wanted = trio.Event()
            if self.fault is None:
                try:
                    with self._transaction():
                        pass
                except StorageFault as fault:
                    log.debug("deliveries go on after the store has recovered: %s", fault)
            await trio.lowlevel.checkpoint()

    def fail(self, fault: StorageFault) -> None:
        """The store failed: nothing can be changed until `recover` has brought it back."""
        for subscription, delivery in self.dispatcher.unstored:
            self._remember(delivery, subscription.consumer)
        self.dispatcher.retract()
        self.committer.abandon(fault)
        if self.fault is None:
            self.fault = fault
            log.error("the store failed, changes are refused until it is back: %s", fault)
        self._broken.set()

    async def recover(
        self, reopen: Callable[[], object], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bring a store that failed back into service, until cancelled. `reopen` runs in a thread."""
        task_status.started()
        while True:
            await self._broken.wait()
            while self.fault is not None:
                try:
                    self.fault.forget_origin()
                    self.broker.journal.detach()
                    await trio.to_thread.run_sync(reopen)
                    await in_pieces(self.broker.load())
                    self.broker.of_websockets.clear()  # their connections are still there
                    self.fault = None
                    await self._give_back_retracted()
                except StorageFault as fault:
                    log.warning("the store is not back yet: %s", fault)
                    self.fault = fault
                    await trio.sleep(RETRY_SECONDS)
            self._broken = trio.Event()
            log.info("the store is back, changes are accepted again")
            self._pump_wanted.set()
            self._reaper_wake.set()
            await self.settle()

    async def _give_back_retracted(self) -> None:
        """Part of a transaction that failed may have been stored: no message stays locked for one who never got it.

        Raises StorageFault; what is left then is tried again.
        """
        while self._retracted:
            piece = list(self._retracted)[:GIVE_BACK_PIECE]
            with self._transaction() as now:
                for queue_number, id, consumer, delivery in piece:
                    self.broker.give_back(queue_number, id, consumer, now, counted=False, delivery=delivery)
            for each in piece:
                del self._retracted[each]
            await trio.lowlevel.checkpoint()

    async def forget_websockets(self) -> None:
        """Give back what WebSockets of an earlier process were delivered: nobody can settle it any more."""
        locks = self.broker.of_websockets
        try:
            while locks:
                with self._transaction() as now:
                    for lock in locks[-GIVE_BACK_PIECE:]:
                        self.broker.give_back(
                            lock.queue.number, lock.id, lock.consumer, now, counted=True, delivery=lock.deliveries
                        )
                    del locks[-GIVE_BACK_PIECE:]
                await trio.lowlevel.checkpoint()
        except StorageFault as fault:
            log.warning("messages of connections that are gone stay locked until their locks end: %s", fault)

    async def settle(self) -> None:
        """Go on looking for duplicates where a restart or a fault cut that short."""
        steps = self.broker.unsettled()
        try:
            while True:
                with self._transaction():
                    if next(steps, steps) is steps:
                        return
                await trio.lowlevel.checkpoint()
        except StorageFault as fault:
            log.debug("the search for duplicates goes on after the store has recovered: %s", fault)


def _only_synced(replies: list[Reply]) -> bool:
    """Whether a sync is waited for and no message was handed out."""
    synced = False
    for reply in replies:
        if reply.delivery is not None:
            return False
        if reply.needs_sync:
            synced = True
    return synced


async def in_pieces(steps: Iterator[None]) -> None:
    """Run a generator to its end, letting other tasks run at each step."""
    for _ in steps:
        await trio.lowlevel.checkpoint()


def _exhaust(long: Generator[None, None, Reply]) -> Reply:
    while True:
        try:
            next(long)
        except StopIteration as stop:
            reply: Reply = stop.value
            return reply
