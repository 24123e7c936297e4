"""Calls that wait for a message: who they are, and how each comes to its reply.

Rule: a call waits in the task of its connection, without a timer that ticks and without a look at the queue: the
dispatcher hands it a message, its deadline passes, or its token or session ends. However it ends, what it was handed
out is in its reply, or goes back uncounted. A reply that waited for a sync hands out nothing either once its token has
ended.

Requirements: DLV-0055, DLV-0057, DLV-0058, API-0189
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import trio

from qrusty_trio.access.access import Access
from qrusty_trio.access.grants import Grant
from qrusty_trio.api.call import Call, Pause, Reply, Services, Wait
from qrusty_trio.api.operations import error_reply
from qrusty_trio.api.waiting import MAX_PLACES, Renew, Waiter
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import Forbidden, QrustyError, StorageFault, Unavailable
from qrusty_trio.server.clock import Clock

WOKEN_PER_STEP = 256
"""Waiting calls woken in one step, which takes under 1 ms."""
LOOKED_AT_PER_STEP = 64
"""Places of waiting calls whose tokens are looked at in one step, which takes under 1 ms."""


class Waiters:
    """All calls that wait. Used only by the engine and its recovery."""

    def __init__(
        self,
        services: Services,
        dispatcher: Dispatcher,
        clock: Clock,
        transaction: Callable[[], AbstractContextManager[int]],
        take_back: Callable[[Iterable[Delivery]], None],
    ) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._clock = clock
        self._transaction = transaction
        self._take_back = take_back
        self._waiting: dict[Waiter, Pause] = {}
        self._places = 0
        self._ended = False
        """The server stops."""
        self._renew: Renew | None = None

    async def guard(self, access: Access, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Let calls that wait end with their tokens, until cancelled."""
        self._renew = access.require_current
        changed = trio.Event()
        access.on_change.append(lambda: changed.set())
        task_status.started()
        while True:
            await changed.wait()
            changed = trio.Event()
            await self._look()

    async def _look(self) -> None:
        """Wake the calls that would be refused now. Until it is woken, none of them is given a message."""
        looked_at = 0
        for waiter in list(self._waiting):
            # It may have ended in an earlier step, and its connection with it: another may have its descriptor.
            if waiter in self._waiting and waiter.refusal() is not None:
                self._waiting[waiter].wake()
            looked_at += waiter.places
            if looked_at >= LOOKED_AT_PER_STEP:
                looked_at = 0
                await trio.lowlevel.checkpoint()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, call: Call, wait: Wait, pause: Pause | None) -> Reply:
        """Let a call wait for a message as long as it asked for. Returns the reply."""
        if pause is None or pause.over or self._ended:
            return Reply(200, wait.nothing)
        if self._places + len(wait.names) > MAX_PLACES:
            return error_reply(Unavailable("Too many consumers wait. Try again later."))
        waiter = Waiter(wait, pause, call, self._renew)
        self._waiting[waiter] = pause
        self._places += waiter.places
        try:
            while True:
                with self._transaction():
                    waiter.join(self._dispatcher, self._services.broker.catalog)
                if not waiter.deliveries and waiter.fault is None:
                    pause.release()
                    await pause.wait(self._seconds(wait))
                waiter.leave(self._dispatcher)
                reply = self._outcome(wait, waiter, pause)
                if reply is None and waiter.short:
                    with trio.move_on_after(self._seconds(wait)):
                        await pause.reserve()
                    # Who joins again after a fault or the end could be handed a message that its reply does not have.
                    reply = self._outcome(wait, waiter, pause)
                if reply is not None:
                    return reply
        except QrustyError as error:
            return error_reply(error)
        except BaseException:
            # Cancelled, or the connection is lost. It must not be handed again what it gives back.
            waiter.leave(self._dispatcher)
            if waiter.deliveries:
                self._take_back(waiter.deliveries)
            raise
        finally:
            waiter.leave(self._dispatcher)
            del self._waiting[waiter]
            self._places -= waiter.places

    def _seconds(self, wait: Wait) -> float:
        return max(0.0, self._clock.seconds_until(wait.until_ms))

    def _outcome(self, wait: Wait, waiter: Waiter, pause: Pause) -> Reply | None:
        """The reply; None if it has to wait on."""
        if waiter.fault is not None:
            return error_reply(waiter.fault)
        refusal = waiter.refusal()
        if refusal is not None:
            if waiter.deliveries:
                self._take_back(waiter.deliveries)
            return error_reply(refusal)
        if waiter.deliveries:
            return self._reply(wait, waiter)
        if self._ended or pause.over or self._seconds(wait) <= 0:
            return Reply(200, wait.nothing)
        return None

    def _reply(self, wait: Wait, waiter: Waiter) -> Reply:
        deliveries = waiter.deliveries
        reply = wait.make_reply(self._services, deliveries, waiter.name)
        if len(reply.deliveries) < len(deliveries):
            self._take_back(deliveries[len(reply.deliveries) :])
        return reply

    def checked(self, call: Call, reply: Reply) -> Reply:
        """A reply that is about to leave. If its token may not have its messages any more, the refusal in its place.

        The messages are given back then. What else a call has done is done, and its reply leaves.

        Requirements: API-0189
        """
        held = call.principal
        if not reply.deliveries or held is None or self._renew is None:
            return reply
        try:
            current = self._renew(held)
            if current is not held:
                for number in {each.queue_number for each in reply.deliveries}:
                    name = self._services.broker.catalog.name_of(number)
                    if name is not None and not current.may(Grant.CONSUME, name):
                        raise Forbidden(f"The token '{current.name}' has lost the grant {Grant.CONSUME} on this queue")
        except QrustyError as refusal:
            self._take_back(reply.deliveries)
            return error_reply(refusal)
        return reply

    def fail(self, fault: StorageFault) -> Iterable[Waiter]:
        """The store has failed: no call may wait on. Returns them, for what they were handed out."""
        for waiter in self._waiting:
            waiter.fault = fault
        return self._waiting

    async def wake_failed(self) -> None:
        """Let the calls that `fail` met come to their replies."""
        await self._wake([waiter for waiter in self._waiting if waiter.fault is not None])

    async def end(self) -> None:
        """Answer all calls, and let none wait any more."""
        self._ended = True
        await self._wake(list(self._waiting))

    async def _wake(self, waiters: list[Waiter]) -> None:
        for index, waiter in enumerate(waiters, 1):
            # It may have ended in an earlier step, and its connection with it: another may have its descriptor.
            if waiter in self._waiting:
                self._waiting[waiter].wake()
            if index % WOKEN_PER_STEP == 0:
                await trio.lowlevel.checkpoint()
