"""What the stores need of files: names below a directory that stays open, whole writes, one translation of errors.

Rule: nothing is closed while somebody uses it, and every refusal of the disk is a `DiskFull` or another `StorageFault`.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from qrusty_trio.errors import DiskFull, StorageFault

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Errors that say nothing about the disk: the process or the machine is out of something."""
_WAYS_OUT = {
    errno.EMFILE: "raise the limit of open files, ulimit -n",
    errno.ENFILE: "raise the limit of open files of the machine, fs.file-max",
    errno.ENOMEM: "give the machine more memory",
    errno.EIO: "look after the disk",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "let the server's user read and write it",
}


class Opened:
    """A descriptor that is closed with the last reference to it.

    So it may be taken out of a cache, or its owner be closed, while another thread is reading.
    """

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class Directory(Opened):
    """An open directory: names in it are found even if its own path changes."""

    def open(self, name: str, flags: int) -> int:
        return os.open(name, flags, 0o644, dir_fd=self.descriptor)

    def again(self) -> Directory:
        """With a descriptor of its own, which hears of errors by itself."""
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
    """Write the parts one after the other and return the offset behind them. Raises `OSError` if not all went in."""
    written = os.pwritev(descriptor, parts, offset)
    if written < sum(map(len, parts)):
        # Little room left, as a rule: the rest finds out why.
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            written += (step := os.pwrite(descriptor, rest, offset + written))
            rest = rest[step:]
    return offset + written


def disk_fault(error: OSError, what: str) -> StorageFault:
    """The fault to raise for an error of the disk; `what` is what it happened to, such as "the payloads in /data"."""
    if error.errno in _NO_SPACE:
        return DiskFull(f"No space left on the device for {what}: free some.")
    if error.errno in PASSING:
        return StorageFault(f"The system has no room for {what}: {explained(error)}.")
    return StorageFault(f"The disk failed for {what}: {explained(error)}.")


def explained(error: BaseException) -> str:
    """What the system says, and the way out where there is one. Without a full stop."""
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    way_out = _WAYS_OUT.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{said} ({way_out})" if way_out else said
