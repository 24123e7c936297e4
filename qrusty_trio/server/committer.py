"""Group commit: one sync for all changes that came in while the last one was under way.

Rule: `durable` returns only after a sync that began after the caller's changes were written, or raises. What the three
policies promise:

    always     an answer leaves after its change is on the disk: it survives a power cut
    everysec   a sync every second: a power cut may take the last second of answered changes
    never      the operating system writes when it likes; kill -9 takes nothing, a power cut may take about 30 s

Payload segments are synced before the log that refers to them.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from qrusty_trio.config import Fsync
from qrusty_trio.errors import StorageFault
from qrusty_trio.server.trouble import Trouble
from qrusty_trio.server.worker import Worker
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.files import explained
from qrusty_trio.storage.payloads import PayloadStore

SYNC_SECONDS = 1.0
"""Between two syncs of policy `everysec`."""
ANSWERS_PER_STEP = 64
"""Answers that leave in one step after a sync: about 1 ms. Those of 600 connections took 11."""

log = logging.getLogger(__name__)


class _Group:
    """Those who wait for the same sync."""

    __slots__ = ("_callbacks", "done", "fault")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.fault: StorageFault | None = None
        self._callbacks: deque[tuple[Callable[[StorageFault | None], None], int]] = deque()

    def add(self, callback: Callable[[StorageFault | None], None], answers: int) -> None:
        self._callbacks.append((callback, answers))

    def finish(self) -> bool:
        """Let go on who waits in a task, and of the others so many as one step answers. Whether some are left."""
        self.done.set()
        answers = ANSWERS_PER_STEP
        while self._callbacks and answers > 0:
            callback, some = self._callbacks.popleft()
            answers -= some
            callback(self.fault)
        return bool(self._callbacks)


class Committer:
    """Syncs a store.

    `write` writes what has changed since the last write; it is called on the loop before each sync. `on_fault` is
    called on the loop, before any waiter runs, when a sync has failed. Both see to it that a fault reaches the engine.
    """

    def __init__(
        self,
        storage: Storage,
        payloads: PayloadStore | None,
        policy: Fsync,
        write: Callable[[], None],
        on_fault: Callable[[StorageFault], None],
    ) -> None:
        self._storage = storage
        self._payloads = payloads
        self._waits = policy is Fsync.ALWAYS and storage.persistent
        self._periodic = policy is Fsync.EVERYSEC and storage.persistent
        self._write = write
        self._on_fault = on_fault
        self._limiter = trio.CapacityLimiter(1)
        self._group = _Group()
        self._under_way: set[_Group] = set()
        """Groups whose sync is at work."""
        self._unfinished: deque[_Group] = deque()
        """Groups of which some are still to be let go on."""
        self._more = trio.Event()
        self._wanted = trio.Event()
        self._trouble = Trouble(log, "a sync failed, will try again with the next change")
        self.syncs = 0
        """Syncs done since the start."""

    async def durable(self) -> None:
        """Wait until everything written so far is as durable as the policy says. Raises StorageFault.

        Nothing is lost when the wait is cancelled: the sync goes on.
        """
        if not self._waits:
            return
        group = self._group
        self._wanted.set()
        await group.done.wait()
        if group.fault is not None:
            # Afresh: everybody who waits would add his stack to it.
            raise group.fault.with_traceback(None)

    def when_durable(self, callback: Callable[[StorageFault | None], None], answers: int = 1) -> None:
        """The same without a task that waits: call back when `durable` would return or raise. Only when `waits`.

        `answers`: how many the callback sends.
        """
        self._group.add(callback, answers)
        self._wanted.set()

    def abandon(self, fault: StorageFault) -> None:
        """The store failed: nobody who waits may be told that his change is safe.

        What waits for the next sync was not written, and never will be. Of what is being synced now, part may be lost:
        a sync that succeeds after one that failed did not look at the same bytes again.
        """
        for each in self._under_way:
            each.fault = fault
        group, self._group = self._group, _Group()
        group.fault = fault
        self._finish(group)

    def _finish(self, group: _Group) -> None:
        if group.finish():
            self._unfinished.append(group)
            self._more.set()

    @property
    def waits(self) -> bool:
        """Whether `durable` ever waits."""
        return self._waits

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sync as the policy says, until cancelled. A sync at work is waited for: it takes well under a second."""
        try:
            async with Worker("sync", self._sync_in_thread) as worker, trio.open_nursery() as nursery:
                nursery.start_soon(self._finish_rest)
                task_status.started()
                await self._run(worker)
        finally:
            for group in self._unfinished:
                while group.finish():
                    pass

    async def _finish_rest(self) -> None:
        """Go on where one step would have had to send too many answers."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._unfinished:
                await trio.lowlevel.checkpoint()
                if not self._unfinished[0].finish():
                    self._unfinished.popleft()

    async def _run(self, worker: Worker) -> None:
        if self._periodic:
            while True:
                await trio.sleep(SYNC_SECONDS)
                await self._sync(_Group(), worker.call)
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            group, self._group = self._group, _Group()
            await self._sync(group, worker.call)

    async def _sync(self, group: _Group, sync: Callable[[], Awaitable[None]]) -> None:
        self._under_way.add(group)
        try:
            self._write()
            await sync()
        except StorageFault as fault:
            group.fault = fault
            self._on_fault(fault)
        except (OSError, MemoryError) as error:
            # The system did not let it begin. Those who wait are told; what they changed is written, and the next sync
            # has it.
            group.fault = StorageFault(f"What was changed could not be synced: {explained(error)}")
            self._trouble.note(error)
        except BaseException:
            # Cancelled, or a crash: whoever waits must not take it for done.
            group.fault = StorageFault("The server stopped before the change was known to be on the disk.")
            self.abandon(group.fault)
            raise
        finally:
            self._under_way.discard(group)
            self.syncs += 1
            self._finish(group)

    async def sync_now(self) -> None:
        """Sync whatever the policy says, for a step that must not come before it. Raises StorageFault."""
        group = _Group()
        await self._sync(group, self._sync_apart)
        if group.fault is not None:
            raise group.fault

    async def _sync_apart(self) -> None:
        try:
            await trio.to_thread.run_sync(self._sync_in_thread, limiter=self._limiter)
        except RuntimeError as error:
            # There is no thread to be had.
            raise OSError(errno.EAGAIN, str(error)) from error

    def _sync_in_thread(self) -> None:
        if self._payloads is not None and self._payloads.needs_sync:
            self._payloads.sync()
        self._storage.sync()
