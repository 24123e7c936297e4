"""File helpers for the stores: names relative to an open directory, complete writes, one translation of errors.

Rule: no descriptor is closed while it is in use. Every disk error becomes a `DiskFull` or another `StorageFault`.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from qrusty_trio.errors import DiskFull, StorageFault

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Transient errors that say nothing about the disk: the process or the machine lacks a resource."""
_WAYS_OUT = {
    errno.EMFILE: "raise the limit of open files, ulimit -n",
    errno.ENFILE: "raise the limit of open files of the machine, fs.file-max",
    errno.ENOMEM: "give the machine more memory",
    errno.EIO: "look after the disk",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "let the server's user read and write it",
}


class Opened:
    """A descriptor that is closed when the last reference to it is gone.

    So a cache may drop it, or its owner may be closed, while another thread is still reading.
    """

    __slots__ = ("__weakref__", "descriptor")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class Directory(Opened):
    """An open directory. Its files can be opened even if its own path changes."""

    def open(self, name: str, flags: int) -> int:
        return os.open(name, flags, 0o644, dir_fd=self.descriptor)

    def again(self) -> Directory:
        """The same directory with a descriptor of its own. The kernel reports write errors to each descriptor."""
        return Directory(self.open(".", os.O_RDONLY | os.O_DIRECTORY))

    def has(self, name: str) -> bool:
        return os.access(name, os.F_OK, dir_fd=self.descriptor)

    def unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        os.fsync(self.descriptor)


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(descriptor: int, parts: list[bytes], offset: int) -> int:
    """Write all parts at `offset`, one after the other; returns the offset after them. Raises `OSError`."""
    written = os.pwritev(descriptor, parts, offset)
    if written < sum(map(len, parts)):
        # Usually there is little room left. Writing the rest raises the actual error.
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            written += (step := os.pwrite(descriptor, rest, offset + written))
            rest = rest[step:]
    return offset + written


def disk_fault(error: OSError, what: str) -> StorageFault:
    """The fault to raise for a disk error. `what` names what is affected, such as "the payloads in /data"."""
    if error.errno in _NO_SPACE:
        return DiskFull(f"No space left on the device for {what}: free some.")
    if error.errno in PASSING:
        return StorageFault(f"The system has no room for {what}: {explained(error)}.")
    return StorageFault(f"The disk failed for {what}: {explained(error)}.")


def explained(error: BaseException) -> str:
    """The system's message, with a remedy if there is one. No full stop at the end."""
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    way_out = _WAYS_OUT.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{said} ({way_out})" if way_out else said
