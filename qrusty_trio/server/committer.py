"""Group commit: one sync for all changes that arrived while the previous one was running, or shortly after it.

Rule: `durable` returns only after a sync that began after the caller's changes were written; otherwise it raises. The
three policies promise:

    always     a response leaves after its change is on disk, so the change survives a power cut
    everysec   a sync every second: a power cut may lose the last second of acknowledged changes
    never      the operating system decides when to write: kill -9 loses nothing, a power cut may lose about 30 s

Payload segments are synced with the log that refers to them; the response waits for both.

Requirements: SYS-0001, PER-0057
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter_ns

import trio

from qrusty_trio.config import Fsync
from qrusty_trio.core.histogram import Histogram
from qrusty_trio.errors import StorageFault
from qrusty_trio.server.sync_ways import SyncWays, open_kernel
from qrusty_trio.server.trouble import Trouble
from qrusty_trio.server.window import WINDOW_SECONDS, Window
from qrusty_trio.server.worker import Worker
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.files import explained
from qrusty_trio.storage.payloads import PayloadStore

SYNC_SECONDS = 1.0
"""Interval between two syncs of policy `everysec`."""
RESPONSES_PER_STEP = 64
"""Responses sent in one step after a sync, which takes about 1 ms. Those of 600 connections at once took 11 ms."""

STOPPED = "The server stopped before the change was known to be on the disk."

log = logging.getLogger(__name__)


class _Group:
    """The tasks and callbacks that wait for the same sync."""

    __slots__ = ("_callbacks", "done", "fault", "peers")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.fault: StorageFault | None = None
        self.peers: list[int] = []
        """Who waits for it, by the id of a connection or task. One for each response; a task counts as one."""
        self._callbacks: deque[tuple[Callable[[StorageFault | None], None], int]] = deque()

    def add(self, callback: Callable[[StorageFault | None], None], responses: int) -> None:
        """`responses`: how many the callback sends."""
        self._callbacks.append((callback, responses))

    def finish(self) -> bool:
        """Wake the waiting tasks, and run callbacks up to `RESPONSES_PER_STEP`. Returns whether callbacks are left.

        Requirements: SCH-0035
        """
        self.done.set()
        responses = RESPONSES_PER_STEP
        while self._callbacks and responses > 0:
            callback, some = self._callbacks.popleft()
            responses -= some
            callback(self.fault)
        return bool(self._callbacks)


class Committer:
    """Syncs a store.

    `write` writes pending changes. It is called on the loop before each sync. `on_fault` is called on the loop when a
    sync has failed, before any waiter runs. Both must report a fault to the engine.

    Requirements: PER-0002
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
        """Groups whose sync is running."""
        self._unfinished: deque[_Group] = deque()
        """Groups that still have callbacks to run after their sync."""
        self._more = trio.Event()
        self._wanted = trio.Event()
        self._window = Window()
        self._window_begin = 0.0
        """When the last sync ended, seconds of Trio's clock."""
        self._full: trio.Event | None = None
        """While a window is open: set when it has what it waits for."""
        self._begin = 0
        """When the sync of the policy began, nanoseconds of `perf_counter_ns`; 0 while none is running."""
        self._trouble = Trouble(log, "a sync failed, will try again with the next change")
        self.syncs = 0
        """Syncs since the start."""
        self.sync_ns = Histogram()
        """How long they took, nanoseconds, with the write before each."""
        self.group_sizes = Histogram()
        """How many responses waited for each."""

    async def durable(self) -> None:
        """Wait until everything written so far is as durable as the policy promises. Raises StorageFault.

        Cancelling the wait loses nothing: the sync continues.

        Requirements: PER-0001
        """
        if not self._waits:
            return
        group = self._group
        peer = id(trio.lowlevel.current_task())
        group.peers.append(peer)
        self._came((peer,))
        await group.done.wait()
        if group.fault is not None:
            # Without the traceback, to which every waiter would add its own stack.
            raise group.fault.with_traceback(None)

    def when_durable(self, callback: Callable[[StorageFault | None], None], peers: Sequence[object]) -> None:
        """Like `durable`, with a callback: call it when `durable` would return (None) or raise (the fault).

        Use it only when `waits` is true. `peers`: the connection of each response that the callback sends.
        """
        # Not the connections themselves, which may end before the next sync.
        ids = list(map(id, peers))
        self._group.add(callback, len(ids))
        self._group.peers += ids
        self._came(ids)

    def when_locked(self, callback: Callable[[StorageFault | None], None], connections: int) -> None:
        """The same for deliveries to so many connections. They are no responses: no window waits for their peers."""
        self._group.add(callback, connections)
        self._came(())

    def abandon(self, fault: StorageFault) -> None:
        """Fail all waiters after a storage fault, because no change may be reported as safe.

        Changes that wait for the next sync were not written and never will be. Some of those being synced now may be
        lost: a sync that succeeds after a failed one does not check the same bytes again.

        Requirements: PER-0040
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
    def seconds_under_way(self) -> float:
        """For how long the sync of the policy has been running; 0 if none is."""
        return (perf_counter_ns() - self._begin) / 1e9 if self._begin else 0.0

    @property
    def waits(self) -> bool:
        """Whether `durable` ever waits."""
        return self._waits

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sync according to the policy until cancelled. Waits for a running sync, which takes well under a second.

        Requirements: PER-0003
        """
        try:
            async with Worker("sync", self._sync_in_thread) as worker:
                kernel = await open_kernel() if self._waits and self._storage.watched else None
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._finish_rest)
                        task_status.started()
                        await self._run(worker, SyncWays(self._storage, self._payloads, worker, kernel))
                finally:
                    if kernel is not None:
                        kernel.close()
        finally:
            # Who waits for a sync that never comes has to give back what it was handed out.
            self.abandon(StorageFault(STOPPED))
            for group in self._unfinished:
                while group.finish():
                    pass

    async def _finish_rest(self) -> None:
        """Run the callbacks that were too many for one step."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._unfinished:
                await trio.lowlevel.checkpoint()
                if not self._unfinished[0].finish():
                    self._unfinished.popleft()

    async def _run(self, worker: Worker, ways: SyncWays) -> None:
        if self._periodic:
            while True:
                await trio.sleep(SYNC_SECONDS)
                await self._sync_in_turn(_Group(), worker.call)
        while True:
            await self._wanted.wait()
            if self._window.open:
                await self._hold()
            self._wanted = trio.Event()
            group, self._group = self._group, _Group()
            await self._sync_in_turn(group, ways.sync)
            self._window.synced(group.peers)
            # A WebSocket may have sent more while it waited.
            self._window.came(self._group.peers)
            self._window_begin = trio.current_time()

    async def _hold(self) -> None:
        """Hold the next sync until those who were just answered are back, or the window is over."""
        self._full = trio.Event()
        with trio.move_on_at(self._window_begin + WINDOW_SECONDS):
            await self._full.wait()
        self._full = None
        self._window.ended()

    def _came(self, peers: Iterable[int]) -> None:
        """These wait for the next sync."""
        self._wanted.set()
        self._window.came(peers)
        if self._full is not None and not self._window.open:
            self._full.set()

    async def _sync_in_turn(self, group: _Group, sync: Callable[[], Awaitable[None]]) -> None:
        """A sync of the policy."""
        self._begin = perf_counter_ns()
        await self._sync(group, sync)
        self._begin = 0

    async def _sync(self, group: _Group, sync: Callable[[], Awaitable[None]]) -> None:
        self._under_way.add(group)
        begin = perf_counter_ns()
        try:
            self._write()
            await sync()
            # A sync into a file that was unlinked makes nothing safe. The thread of the sync does not look itself: it
            # would wait for the GIL after each system call.
            self._storage.check()
        except StorageFault as fault:
            group.fault = fault
            self._on_fault(fault)
        except (OSError, MemoryError) as error:
            # The system could not even start the sync. The waiters get an error, but their changes are written and the
            # next sync includes them.
            group.fault = StorageFault(f"What was changed could not be synced: {explained(error)}")
            self._trouble.note(error)
        except BaseException:
            # Cancelled, or a crash: no waiter may take the sync for done.
            group.fault = StorageFault(STOPPED)
            self.abandon(group.fault)
            raise
        finally:
            self._under_way.discard(group)
            self.syncs += 1
            self.sync_ns.add(perf_counter_ns() - begin)
            self.group_sizes.add(len(group.peers))
            self._finish(group)

    async def sync_now(self) -> None:
        """Sync whatever the policy, for a caller whose next step requires it. Raises StorageFault.

        Requirements: PER-0026
        """
        group = _Group()
        await self._sync(group, self._sync_apart)
        if group.fault is not None:
            raise group.fault

    async def _sync_apart(self) -> None:
        try:
            await trio.to_thread.run_sync(self._sync_in_thread, limiter=self._limiter)
        except RuntimeError as error:
            # No thread could be started.
            raise OSError(errno.EAGAIN, str(error)) from error

    def _sync_in_thread(self) -> None:
        if self._payloads is not None and self._payloads.needs_sync:
            self._payloads.sync()
        self._storage.sync()
