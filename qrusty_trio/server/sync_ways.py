"""Which way a sync goes: the kernel does it alone, or RocksDB does it in a thread.

Rule: the kernel may do it only when one fdatasync covers everything, which the store says (`Storage.sync_descriptor`),
and when no payload segment has to be synced before. Everything else is for the thread. An fdatasync that failed is a
fault of the store, as a sync in the thread that failed.

Requirements: PER-0064
"""

from __future__ import annotations

import logging

import trio

from qrusty_trio.server.kernel_sync import NOT_OFFERED, KernelSync
from qrusty_trio.server.worker import Worker
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.files import PASSING, Opened, explained
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
        if kernel is not None and not (self._payloads is not None and self._payloads.needs_sync):
            file = self._storage.sync_descriptor()
            if file is not None and await self._in_kernel(kernel, file):
                return
        await self._worker.call()

    async def _in_kernel(self, kernel: KernelSync, file: Opened) -> bool:
        """Whether the kernel did it. If not, it has not been done."""
        try:
            kernel.submit(file.descriptor)
        except OSError as error:
            return self._not_offered(error)
        try:
            await kernel.wait()
        except OSError as error:
            if error.errno in NOT_OFFERED:
                return self._not_offered(error)
            raise self._storage.sync_failed(error) from error
        return True

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
