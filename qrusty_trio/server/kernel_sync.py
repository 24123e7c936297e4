"""Syncs that the kernel carries out by itself (Linux AIO), so that no thread has to be woken and waited for.

Rule: what it can't do is refused before anything is begun (`submit`). What is begun is awaited to its end even when
cancelled (`wait`), as with `Worker.call`, and a failed sync raises the error that fdatasync would have given. One sync
runs at a time. Each has a number, so that a completion is never taken for that of another.

The two hand-overs of a thread took 225 µs, more than a bare fdatasync with 190 (docs/benchmarks.md). The calls to the
kernel keep the GIL, because none of them waits: `io_submit` only hands the sync to a worker of the kernel, which
signals an eventfd at the end.

Requirements: PER-0064
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import trio

from qrusty_trio.storage.files import explained

log = logging.getLogger(__name__)

_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""Numbers of io_setup, io_destroy, io_getevents and io_submit, by machine. libc has no functions for them."""
_IOCB = struct.Struct("<QIIHhIQQqQII")
"""`struct iocb` of linux/aio_abi.h on a little-endian machine."""
_EVENT = struct.Struct("<QQqq")
"""`struct io_event`: number, address of the iocb, result, second result."""
_FDSYNC = 3
MOST_AT_ONCE = 4
"""Most syncs under way at once."""
_SIGNAL_EVENTFD = 1
NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of a sync that tell of the way, not of the disk: its file, or this kernel, has no such sync."""


class KernelSync:
    """A context of Linux AIO for one sync at a time. Only one task may use it.

    Requirements: PER-0064
    """

    def __init__(self) -> None:
        """Raises `OSError` where there is none: another machine, forbidden (seccomp), or out of resources."""
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None or struct.calcsize("P") != 8:
            raise OSError(errno.ENOSYS, f"not on {platform.machine() or 'this machine'}")
        for needed in ("eventfd", "memfd_create"):
            if not hasattr(os, needed):
                raise OSError(errno.ENOSYS, f"this Python was built without os.{needed}")
        setup, self._destroy, self._getevents, self._submit = numbers
        try:
            self._system = ctypes.PyDLL(None, use_errno=True).syscall
        except AttributeError:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        self._system.argtypes = [ctypes.c_long] * 6
        self._system.restype = ctypes.c_long
        self._first = 0
        """Number of the first sync of those under way."""
        self._results: list[int | None] = []
        """Of each of them, 0 or a negative error number; None while it runs."""
        # The kernel reads and writes these by address, so they live as long as this object, which waits for each sync.
        self._iocb = ctypes.create_string_buffer(_IOCB.size * MOST_AT_ONCE)
        at = ctypes.addressof(self._iocb)
        self._iocbs = (ctypes.c_void_p * MOST_AT_ONCE)(*range(at, at + _IOCB.size * MOST_AT_ONCE, _IOCB.size))
        self._event = ctypes.create_string_buffer(_EVENT.size * MOST_AT_ONCE)
        self._event_at = ctypes.addressof(self._event)
        self._iocbs_at = ctypes.addressof(self._iocbs)
        self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._context = 0
        context = ctypes.c_ulong(0)
        try:
            self._call(setup, MOST_AT_ONCE, ctypes.addressof(context))
        except OSError:
            self.close()
            raise
        self._context = context.value

    @classmethod
    async def open(cls) -> Self:
        """A context that has carried out one sync, of a file in memory. Raises `OSError` as the constructor does."""
        self = cls()
        try:
            descriptor = os.memfd_create("sync", os.MFD_CLOEXEC)
            try:
                self.submit([descriptor])
                (error,) = await self.wait()
                if error is not None:
                    raise error
            finally:
                os.close(descriptor)
        except BaseException:
            self.close()
            raise
        return self

    def submit(self, descriptors: Sequence[int]) -> int:
        """Begin an fdatasync of each, up to `MOST_AT_ONCE`. They may be closed from then on. `wait` must follow.

        Returns how many the kernel took, the first ones. Raises `OSError` when it took none.
        """
        first = self._first = self._first + len(self._results)
        for index, descriptor in enumerate(descriptors):
            _IOCB.pack_into(
                self._iocb,
                index * _IOCB.size,
                *(first + index, 0, 0, _FDSYNC, 0, descriptor, 0, 0, 0, 0, _SIGNAL_EVENTFD, self._signal),
            )
        self._results = []
        begun = self._system(self._submit, self._context, len(descriptors), self._iocbs_at, 0, 0)
        if begun < 1:
            raise _error()
        self._results = [None] * begun
        return int(begun)

    async def wait(self) -> list[OSError | None]:
        """Wait for the end of what was begun. Returns how each ended, in order."""
        try:
            await self._ended()
        except trio.Cancelled:  # raised again at the next checkpoint, when the sync is over
            # Not a shield from the start, which takes 5 to 10 µs.
            with trio.CancelScope(shield=True):
                await self._ended()
        return [OSError(-result, os.strerror(-result)) if result else None for result in self._results]

    async def _ended(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._signal)
            # Before the look: what ends after it signals again.
            with suppress(BlockingIOError):
                os.eventfd_read(self._signal)
            if self._completed():
                return

    def close(self) -> None:
        """Give the context back. Idempotent. Not while a sync runs. Raises nothing."""
        if self._signal < 0:
            return
        trio.lowlevel.notify_closing(self._signal)
        os.close(self._signal)
        self._signal = -1
        if self._context:
            context, self._context = self._context, 0
            try:
                self._call(self._destroy, context)
            except OSError as error:
                # It ends with the process anyway.
                log.warning("the kernel did not take back what it syncs with: %s", explained(error))

    def _completed(self) -> bool:
        """Whether all have ended."""
        while None in self._results:
            # Waits for none (0), takes those that ended; no timeout. Interrupted, it has taken none: -1.
            count = self._system(self._getevents, self._context, 0, MOST_AT_ONCE, self._event_at, 0)
            if count == 0:
                return False
            if count < 0:
                if ctypes.get_errno() == errno.EINTR:
                    continue
                raise _error()
            for index in range(count):
                number, _, result, _ = _EVENT.unpack_from(self._event, index * _EVENT.size)
                if number >= self._first:
                    self._results[number - self._first] = int(result)
        return True

    def _call(self, number: int, *arguments: int) -> int:
        found: int = self._system(number, *arguments, *(0,) * (5 - len(arguments)))
        if found < 0:
            raise _error()
        return found


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
