"""Whether a directory is still where it was opened, and its files are still in it.

Rule: whoever writes into files that have been removed is told so before anybody is told that it is safe. RocksDB and
the kernel write on into files without a name and report success; after the next start nothing of it is there.

Looking is cheap enough for every sync: no entry comes or goes without a new time of change of the directory. As long as
that is the same (one stat, 2 µs), the files were seen already.
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
"""A time of change that is younger may stand for a later change, too: clocks of file systems tick every 1 to 10 ms."""
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Place:
    """A directory that is open. `what` says which in a sentence, such as "the data directory"."""

    def __init__(self, path: Path, what: str, look: Callable[[], None]) -> None:
        """`look` raises `StorageFault` when files are missing. Raises `OSError`."""
        self._path = path
        self._what = what
        self._look = look
        # Held, so that its number is not given to another one, and to tell renamed from removed.
        self._opened: Opened | None = Opened(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        found = os.fstat(self._opened.descriptor)
        self._identity = found.st_dev, found.st_ino
        self._seen: int | None = None

    def check(self) -> None:
        """Any thread. Raises `StorageFault` with the way out."""
        try:
            found = self._path.stat()
        except OSError as error:
            if error.errno not in _GONE:
                raise disk_fault(error, f"{self._what} {self._path}") from error
            self._check_removed()
            raise StorageFault(
                f"{_capital(self._what)} {self._path} is gone: it was renamed or unmounted under the running server. "
                f"Put the same one back, and the server goes on by itself."
            ) from error
        if (found.st_dev, found.st_ino) != self._identity:
            self._check_removed()
            raise StorageFault(
                f"Another directory is in the place of {self._what} {self._path}. Put the same one back, and the "
                f"server goes on by itself; or start it again to use what is there now."
            )
        if found.st_mtime_ns == self._seen:
            return
        try:
            self._look()
        except OSError as error:
            if error.errno not in PASSING:
                raise disk_fault(error, f"{self._what} {self._path}") from error
            return  # names can't be read just now, for want of a descriptor: that is no fault, and next time they can
        self._seen = found.st_mtime_ns if time.time_ns() - found.st_mtime_ns > SETTLED_NS else None

    def close(self) -> None:
        """Let go of it. Idempotent."""
        self._opened = None

    def _check_removed(self) -> None:
        opened = self._opened
        if opened is not None and not os.fstat(opened.descriptor).st_nlink:
            raise StorageFault(
                f"{_capital(self._what)} {self._path} was removed under the running server. Stop the server, put "
                f"back a backup of the whole data directory, and start it again."
            )

    def forget(self) -> None:
        """Look at the files anew."""
        self._seen = None


def removed(what: str, path: Path, file: str) -> StorageFault:
    """The fault to raise when a file of an open directory is gone for good."""
    return StorageFault(
        f"{file} was removed from {what} {path} under the running server. Stop the server, put back a backup of the "
        f"whole directory, and start it again."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
