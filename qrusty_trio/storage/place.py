"""Checks that a directory is still where it was opened, and that its files are still in it.

Rule: writes into removed files are detected before any client is told that its change is safe. RocksDB and the kernel
keep writing into unlinked files and report success, but none of that is there after the next start.

The check is cheap enough for every sync. Every entry that is created or removed changes the modification time of the
directory. While that time is unchanged (one stat, 2 µs), the files need not be looked at again.

Requirements: PER-0046
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from qrusty_trio.errors import StorageFault
from qrusty_trio.storage.files import PASSING, Opened, disk_fault

SETTLED_NS = 50_000_000
"""A modification time younger than this is not trusted. File system clocks tick every 1 to 10 ms, so a later change may
leave it the same."""
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Place:
    """An open directory. `what` names it in error messages, such as "the data directory".

    Requirements: PER-0045
    """

    def __init__(self, path: Path, what: str, look: Callable[[], None], *, whole: bool = False) -> None:
        """`look` must raise `StorageFault` when files are missing. `whole`: it needs no other directory to make sense.

        Raises `OSError`.
        """
        self._path = path
        self._what = what
        self._whole = whole
        self._look = look
        # Kept open so that its inode number is not reused, and to tell a renamed directory from a removed one.
        self._opened: Opened | None = Opened(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        found = os.fstat(self._opened.descriptor)
        self._identity = found.st_dev, found.st_ino
        self._seen: int | None = None

    def check(self) -> None:
        """Raise `StorageFault`, with a remedy, unless the directory and its files are in place. Any thread."""
        try:
            found = self._path.stat()
        except OSError as error:
            if error.errno not in _GONE:
                raise disk_fault(error, f"{self._what} {self._path}") from error
            self._check_removed()
            raise StorageFault(
                f"{_capital(self._what)} {self._path} is gone: it was renamed or unmounted under the running server. "
                f"{self._way_out()}"
            ) from error
        if (found.st_dev, found.st_ino) != self._identity:
            self._check_removed()
            raise StorageFault(
                f"Another directory is in the place of {self._what} {self._path}. {self._way_out()}"
                f"{' Or start it again to use what is there now.' if self._whole else ''}"
            )
        if found.st_mtime_ns == self._seen:
            return
        try:
            self._look()
        except OSError as error:
            if error.errno not in PASSING:
                raise disk_fault(error, f"{self._what} {self._path}") from error
            return  # for lack of descriptors or memory: not a fault, and the next check looks again
        self._seen = found.st_mtime_ns if time.time_ns() - found.st_mtime_ns > SETTLED_NS else None

    def close(self) -> None:
        """Close the directory. Idempotent."""
        self._opened = None

    def _way_out(self) -> str:
        same = "Put the same one back, and the server goes on by itself."
        if self._whole:
            return same
        # A start takes what is there for all that there is.
        return f"{same} Do not start it again before: with other segments it removes messages without a payload."

    def _check_removed(self) -> None:
        opened = self._opened
        if opened is not None and not os.fstat(opened.descriptor).st_nlink:
            raise StorageFault(
                f"{_capital(self._what)} {self._path} was removed under the running server. Stop the server, put "
                f"back a backup of the whole data directory, and start it again."
            )

    def forget(self) -> None:
        """Make the next check look at the files again."""
        self._seen = None


def removed(what: str, path: Path, file: str) -> StorageFault:
    """The fault to raise when a file was removed from an open directory."""
    return StorageFault(
        f"{file} was removed from {what} {path} under the running server. Stop the server, put back a backup of the "
        f"whole directory, and start it again."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
