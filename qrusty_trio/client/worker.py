"""A worker: calls a handler for each message of a queue, and keeps its lock while the handler runs.

    async def handle(message: Message) -> None:
        await send_mail(message.payload)

    await worker("ws://127.0.0.1:6784/ws", "mail", handle, concurrency=8)

Rule: a message is in exactly one place: prefetched, with its handler, or settled. A handler runs in a cancel scope
whose deadline is the end of its lock. So it never works on a message that another consumer may have, unless it shields
itself. Whatever is not settled when the worker ends goes back uncounted, because the connection is closed in order.

Requirements: WS-0043, WS-0044
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from signal import Signals
from typing import Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from qrusty_trio.client.client import UNSUBSCRIBE_SECONDS, Client
from qrusty_trio.client.errors import ClientError, RequestError, Unavailable
from qrusty_trio.client.subscription import MAX_PREFETCH, Deliveries, Delivery
from qrusty_trio.client.tls import FilePath, Tls
from qrusty_trio.client.transport import bare_exceptions

RENEWALS = 3
"""A lock is renewed when one part in this many of it has passed. So one renewal may fail."""
REST_SECONDS = 0.1
"""How long a message that failed waits before it is nacked. Doubled each time that `concurrency` of them failed in a
row: with a database that is down, a queue must not run through all its retries in a second."""
MAX_REST_SECONDS = 10.0
REPEAT_SECONDS = 0.5
"""Time between two attempts to settle a message that the server can't settle now."""
LAST_WORD_SECONDS = 2.0
"""How long an ack may take after its handler was cancelled, and has finished nevertheless."""
MAX_ERROR_BYTES = 1024
"""What a nack can carry of the error's text, in UTF-8."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """What a handler gets."""

    queue: str
    id: str
    payload: str
    priority: int | str
    created_at: datetime
    """When it was published, in UTC."""


Handler = Callable[[Message], Awaitable[object]]


class Stop(Protocol):
    """What ends a worker: a `trio.Event`, `asyncio.Event`, `anyio.Event`, or whatever else is awaited so."""

    def wait(self) -> Awaitable[object]: ...


async def worker(
    url: str,
    queue: str,
    handler: Handler,
    *,
    concurrency: int = 8,
    lock_seconds: int = 30,
    grace_seconds: float = 30.0,
    reconnect_seconds: float = 300.0,
    token: str | None = None,
    stop: Stop | None = None,
    signals: Collection[Signals] = (),
    ca_file: FilePath | None = None,
    certificate_file: FilePath | None = None,
    key_file: FilePath | None = None,
) -> None:
    """Call `handler` for each message of a queue, up to `concurrency` (1 to 10,000) at a time.

    If it returns, the message is acked. If it raises an Exception, that is logged, and the message is nacked with the
    error's text after a rest: 0.1 s, and up to 10 s while handlers keep failing. Every other exception ends the worker.

    Each message is locked for `lock_seconds`, and the lock is renewed when a third of that has passed. A handler whose
    lock is lost is cancelled, because the message goes to another consumer. That happens when the connection breaks,
    when somebody ends the lock, or when no renewal succeeded in time. What must not be interrupted can shield itself,
    with a deadline.

    The worker connects, and reconnects, for up to `reconnect_seconds` in a row, at growing and random intervals.
    `token` is what the server asks for, if it has tokens.

    Set `stop` to end it, or send one of `signals` to the process, such as `[signal.SIGTERM, signal.SIGINT]`. It then
    takes no more messages, waits `grace_seconds` for its handlers, cancels those that are left, and returns. A second
    signal ends the wait. If the caller is cancelled, handlers are cancelled at once. Either way, messages that were
    not settled go back to the queue, uncounted. Signals can be received in the main thread only.

    The files are for wss, see `client.tls.Tls`. Raises BadTlsFile, a ValueError, if one is missing or none.

    Raises QueueNotFound and the other `RequestError`s, ConnectFailed if the server refuses the connection,
    ConnectionLost after `reconnect_seconds` without a connection, and ClosedByServer or ProtocolError if reconnecting
    would not help. Its handlers have ended by then.

    Requirements: WS-0045
    """
    if not 1 <= concurrency <= MAX_PREFETCH:
        raise ValueError(f"concurrency must be from 1 to {MAX_PREFETCH}, not {concurrency}")
    if lock_seconds < 1:
        raise ValueError(f"lock_seconds must be at least 1, not {lock_seconds}")
    tls = Tls(ca_file, certificate_file, key_file)
    work = _Work(queue, handler, concurrency, lock_seconds)
    with bare_exceptions():
        async with anyio.create_task_group() as tasks:
            client = Client(url, reconnect_seconds, patient=True, token=token, tls=tls)
            client.add(work.deliveries)
            tasks.start_soon(client.run)
            if stop is not None:
                tasks.start_soon(work.stop_when, stop)
            if signals:
                await tasks.start(work.stop_on, signals)
            try:
                await work.run(grace_seconds)
            finally:
                client.close()
            tasks.cancel_scope.cancel()


class _Job:
    """A message that this worker holds."""

    __slots__ = ("delivery", "held", "lost", "renew_at", "scope", "settling")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.scope = anyio.CancelScope(deadline=delivery.lock_ends)
        self.renew_at = 0.0
        self.held = True
        self.lost = False
        self.settling = False
        """Whether an ack or nack is on its way: then NotLocked to a renewal may mean that it has arrived."""


class _Work:
    def __init__(self, queue: str, handler: Handler, concurrency: int, lock_seconds: int) -> None:
        self.deliveries = Deliveries(queue, concurrency, lock_seconds, self._lose_all)
        self._handler = handler
        self._concurrency = concurrency
        self._lock_seconds = lock_seconds
        self._slots = anyio.Semaphore(concurrency)
        self._jobs: set[_Job] = set()
        self._due: OrderedDict[_Job, None] = OrderedDict()
        """Jobs whose lock is to be renewed, the next one first."""
        self._wake = anyio.Event()
        """Set when `_due` is no longer empty."""
        self._failed = 0
        """Handlers that failed in a row."""
        self._taking = anyio.CancelScope()
        self._stopping = anyio.Event()
        self._hurry = anyio.Event()
        """Set to end the wait for the handlers."""

    async def stop_when(self, stop: Stop) -> None:
        await stop.wait()
        self._taking.cancel()

    async def stop_on(self, signals: Collection[Signals], *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*signals) as received:
            task_status.started()
            async for number in received:
                if self._taking.cancel_called:
                    self._hurry.set()
                _log.info("%s: the worker of %r stops", number.name, self.deliveries.queue)
                self._taking.cancel()

    async def run(self, grace_seconds: float) -> None:
        """Take messages until `stop_when`, or until the subscription fails. Then wait for the handlers.

        Raises what the subscription raised.
        """
        failure: ClientError | None = None
        with bare_exceptions():
            async with anyio.create_task_group() as renewing:
                renewing.start_soon(self._renew_locks, renewing)
                with bare_exceptions():
                    async with anyio.create_task_group() as handlers:
                        try:
                            with self._taking:
                                await self._take(handlers)
                        except ClientError as error:
                            failure = error
                        await self._take_no_more(handlers, grace_seconds)
                        renewing.start_soon(self._end_early, handlers)
                renewing.cancel_scope.cancel()
        if handlers.cancel_scope.cancelled_caught:
            when = "at a second signal" if self._hurry.is_set() else f"after {grace_seconds:g} s"
            _log.warning("handlers were cancelled %s, and their messages go back", when)
        if failure is not None:
            raise failure

    async def _take_no_more(self, handlers: TaskGroup, grace_seconds: float) -> None:
        self._stopping.set()
        handlers.cancel_scope.deadline = anyio.current_time() + grace_seconds
        with anyio.move_on_after(UNSUBSCRIBE_SECONDS):
            await self.deliveries.stop()
        for delivery in self.deliveries.drain():
            # Nobody works on it. It goes back when the connection is closed: until then it must not expire.
            self._hold(_Job(delivery))

    async def _end_early(self, handlers: TaskGroup) -> None:
        await self._hurry.wait()
        handlers.cancel_scope.cancel()

    async def _take(self, handlers: TaskGroup) -> None:
        while True:
            await self._slots.acquire()
            try:
                delivery = await anext(self.deliveries)
            except BaseException:
                self._slots.release()
                raise
            handlers.start_soon(self._handle, delivery)

    async def _handle(self, delivery: Delivery) -> None:
        job = _Job(delivery)
        self._hold(job)
        try:
            with job.scope:
                await self._serve(job)
            if job.lost or job.scope.cancelled_caught:
                _log.warning(
                    "message %s of %r: its lock was lost, and it is delivered again", delivery.id, delivery.queue
                )
        finally:
            self._forget(job)
            self._slots.release()

    async def _serve(self, job: _Job) -> None:
        delivery = job.delivery
        message = Message(delivery.queue, delivery.id, delivery.payload, delivery.priority, delivery.created_at)
        try:
            await self._handler(message)
        except Exception as error:  # noqa: BLE001  # it is the program's; what becomes of it is said above
            if job.scope.cancel_called:
                job.lost = True
                return  # It failed because it was cancelled.
            _log.exception("message %s of %r: the handler failed", delivery.id, delivery.queue)
            await self._rest()
            text = _text_of(error)
            await self._settle(job, lambda: delivery.nack(text))
        else:
            self._failed = 0
            await self._settle(job, delivery.ack)

    async def _rest(self) -> None:
        doublings = min(self._failed // self._concurrency, 30)
        self._failed += 1
        seconds = min(MAX_REST_SECONDS, REST_SECONDS * 2**doublings) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        with anyio.move_on_after(seconds):
            await self._stopping.wait()

    async def _settle(self, job: _Job, settle: Callable[[], Awaitable[None]]) -> None:
        """Settle a message. While the server can't do that, try again as long as the lock lasts.

        A fault of its store ends the connection, too, and with it the lock.
        """
        delivery = job.delivery
        # What is done should not be done again because the cancellation of a handler that shielded itself came first.
        cancelled = anyio.current_effective_deadline() <= anyio.current_time()
        with anyio.CancelScope(shield=cancelled) as scope:
            if cancelled:
                scope.deadline = anyio.current_time() + LAST_WORD_SECONDS
            while True:
                job.settling = True
                try:
                    return await settle()
                except Unavailable as refusal:
                    job.settling = False
                    _log.warning("message %s of %r can't be settled now: %s", delivery.id, delivery.queue, refusal)
                    await anyio.sleep(REPEAT_SECONDS)
                except RequestError as refusal:
                    _log.error("message %s of %r can't be settled: %s", delivery.id, delivery.queue, refusal)
                    return None
                except ClientError:
                    job.lost = True
                    return None

    # Locks

    def _hold(self, job: _Job) -> None:
        self._jobs.add(job)
        self._renew_later(job)

    def _renew_later(self, job: _Job) -> None:
        job.renew_at = anyio.current_time() + self._lock_seconds / RENEWALS
        self._due[job] = None
        self._wake.set()

    def _forget(self, job: _Job) -> None:
        job.held = False
        self._jobs.discard(job)
        self._due.pop(job, None)

    def _lose_all(self) -> None:
        """The connection has ended."""
        for job in self._jobs:
            job.scope.cancel()

    async def _renew_locks(self, tasks: TaskGroup) -> None:
        while True:
            job = next(iter(self._due), None)
            if job is None:
                self._wake = anyio.Event()
                await self._wake.wait()
            elif job.renew_at <= anyio.current_time():
                del self._due[job]
                tasks.start_soon(self._renew, job)
            else:
                await anyio.sleep_until(job.renew_at)

    async def _renew(self, job: _Job) -> None:
        while job.held:
            asked = anyio.current_time()
            try:
                await job.delivery.renew(self._lock_seconds)
            except Unavailable:
                await anyio.sleep(self._lock_seconds / RENEWALS / 10)
            except ClientError:
                if not job.settling:
                    job.scope.cancel()
                return
            else:
                # From when it was asked for: the server's clock began later.
                job.scope.deadline = asked + self._lock_seconds
                if job.held:
                    self._renew_later(job)
                return


def _text_of(error: Exception) -> str:
    """The error's type and text, cut to what a nack can carry."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return text.encode(errors="replace")[:MAX_ERROR_BYTES].decode(errors="ignore")
