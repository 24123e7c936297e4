"""Which way a sync goes: the kernel does it alone, or RocksDB does it in a thread.

Rule: the kernel may do it only when one fdatasync covers the whole log, which the store says
(`Storage.sync_descriptor`). It syncs payload segments at the same time, but for new ones, whose directory has to be
synced, too. Everything else is for the thread. An fdatasync that failed is a fault, as a failed sync in the thread.

Requirements: PER-0064
"""

from __future__ import annotations

import logging

import trio

from qrusty_trio.server.kernel_sync import MOST_AT_ONCE, NOT_OFFERED, KernelSync
from qrusty_trio.server.worker import Worker
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.files import PASSING, Opened, explained
from qrusty_trio.storage.payload_sync import SegmentSync
from qrusty_trio.storage.payloads import PayloadStore

log = logging.getLogger(__name__)


class SyncWays:
    """Syncs the store for one task, one sync at a time."""

    def __init__(
        self, storage: Storage, payloads: PayloadStore | None, worker: Worker, kernel: KernelSync | None
    ) -> None:
        """`kernel`: closed by the caller, when no sync runs any more."""
        self._storage = storage
        self._payloads = payloads
        self._worker = worker
        self._kernel = kernel

    async def sync(self) -> None:
        """Make what was written survive a power cut. Raises StorageFault, and OSError if no sync could be started.

        Completed even when cancelled, once it has begun.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        kernel = self._kernel
        if kernel is not None:
            file = self._storage.sync_descriptor()
            if file is not None and await self._in_kernel(kernel, file):
                return
        await self._worker.call()

    async def _in_kernel(self, kernel: KernelSync, log_file: Opened) -> bool:
        """Whether the kernel did it. If not, it has not been done."""
        payloads = self._payloads
        if payloads is None or not payloads.needs_sync:
            return await self._at_once(kernel, [log_file.descriptor], None)
        segments = payloads.begin_sync(MOST_AT_ONCE - 1)
        if segments is None:
            return False
        try:
            return await self._at_once(kernel, [log_file.descriptor, *segments.descriptors], segments)
        finally:
            payloads.end_sync(segments)

    async def _at_once(self, kernel: KernelSync, descriptors: list[int], segments: SegmentSync | None) -> bool:
        """Sync the log, which is the first of them, and segments. Whether all of that was done."""
        try:
            begun = kernel.submit(descriptors)
        except OSError as refused:
            return self._not_offered(refused)
        failed: OSError | None = None
        not_offered: OSError | None = None
        for index, error in enumerate(await kernel.wait()):
            if error is not None and error.errno in NOT_OFFERED:
                not_offered = error
            elif index and segments is not None:
                segments.ended(index - 1, error)
            else:
                failed = error
        if failed is not None:
            raise self._storage.sync_failed(failed) from failed
        if not_offered is not None:
            return self._not_offered(not_offered)
        return begun == len(descriptors)

    def _not_offered(self, error: OSError) -> bool:
        if error.errno in PASSING:
            return False  # this once
        log.info("syncs go on in a thread, as the kernel has none for the data directory: %s", explained(error))
        self._kernel = None
        return False


async def open_kernel() -> KernelSync | None:
    """The kernel's way, if there is one. Says in the log which way syncs go."""
    try:
        kernel = await KernelSync.open()
    except OSError as error:
        log.info("syncs run in a thread, as the kernel offers none of its own: %s", explained(error))
        return None
    log.info("the kernel can sync the log (AIO)")
    return kernel
