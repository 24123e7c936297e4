"""The log that RocksDB writes, as a descriptor that may be synced in place of RocksDB's own sync.

Rule: `current` gives a descriptor only while every byte that RocksDB's last full sync did not cover is in that file.
Whatever it can't be sure of means that RocksDB has to sync. It relies on this, in the sources of RocksDB 9.8.4:

- Nothing stays in RocksDB's own buffer: without manual_wal_flush each record ends with `dest_->Flush`, so with write(2)
  (`Writer::AddRecord`, db/log_writer.cc).
- A new log is a new file. It is created before it becomes the one that is written (`CreateWAL`, then
  `logs_.emplace_back`, in `SwitchMemtable`, db/db_impl/db_impl_write.cc). So its creation is in the queue of inotify
  before anything is written to it. A log that is reused is renamed, which is there, too.
- A log that holds a record is, or was, the one that is written: none gets one at its creation, as there is no
  compression of logs and no time in keys (`CreateWAL`, db/db_impl/db_impl_open.cc). An empty one may never become it,
  when the switch fails.
- A full sync (`SyncWalImpl`, db/db_impl/db_impl.cc) syncs each log that still has unsynced bytes, and the directory if
  the log is new (`log_dir_synced_`).

So the order is: empty the queue, look for the newest log, open it if it holds a record, let RocksDB sync. If the queue
is empty then, and as long as it stays empty, all later bytes are in that log, and its name is on the disk. A log that
is created after a look into the queue can only hold what is written later.

The kernel tells each descriptor once of a write error that came after it was opened (errseq_t, since Linux 4.13). So
the log is opened before RocksDB's sync: an error before is told to RocksDB's descriptor, one after it to ours.

A file with the name of a log that is not RocksDB's does not grow with what is written. So a log is given out once it
was seen to grow.

Requirements: PER-0065
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from pathlib import Path
from typing import NamedTuple

from qrusty_trio.storage.files import Opened
from qrusty_trio.storage.rocksdb_format import log_name, newest_log

_MOVED_FROM = 0x40
_MOVED_TO = 0x80
_CREATE = 0x100
_DELETE_SELF = 0x400
_MOVE_SELF = 0x800
_ONLYDIR = 0x1000000
_EVENTS = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
"""What is told. Told besides: that events were lost, that the file system is unmounted, that the watch has ended."""
_READ_BYTES = 64 * 1024


class Candidate(NamedTuple):
    """A log that may be the current one once RocksDB has synced."""

    log: Opened
    size: int
    """Bytes."""
    changes: int
    """Of the directory, when it was found."""


class NewestLog:
    """The newest log in a directory, watched by inotify. Any thread, but `current` is for the one that writes."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` when the directory can't be watched."""
        self._path = path
        self._lock = threading.Lock()
        self._current: Opened | None = None
        self._old: Opened | None = None
        """The log before it. To close it may take long, as its space is freed then if RocksDB has removed it."""
        self._size = 0
        self._grown = False
        """Whether the current log has grown since it was found."""
        self._changes = 0
        system = ctypes.PyDLL(None, use_errno=True)  # none of these calls waits
        if not hasattr(system, "inotify_init1"):
            raise OSError(errno.ENOSYS, "there is no inotify")
        self._read = system.read
        self._read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        self._read.restype = ctypes.c_ssize_t
        self._events = ctypes.create_string_buffer(_READ_BYTES)
        self._events_at = ctypes.addressof(self._events)
        descriptor = system.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            raise _error()
        self._queue = Opened(descriptor)
        if system.inotify_add_watch(descriptor, os.fsencode(path), _EVENTS) < 0:
            raise _error()

    def current(self) -> Opened | None:
        """The log that holds everything which RocksDB's last full sync did not cover; None if that is not certain.

        Only for the thread that writes: what another one wrote between this look and the sync would not be covered.
        """
        with self._lock:
            self._notice()
            log = self._current
            if log is None:
                return None
            if not self._grown:
                self._grown = os.fstat(log.descriptor).st_size > self._size
            return log if self._grown else None

    def drop_old(self) -> None:
        """Close a log that is not the newest any more, so that its space is free once RocksDB has removed it.

        Takes milliseconds if it has: 16 for 60 MiB.
        """
        with self._lock:
            self._notice()
            old, self._old = self._old, None
        del old  # Without the lock, for which others would wait.

    def before_sync(self) -> Candidate | None:
        """Call it before a full sync of RocksDB. None if nothing has changed, or no log will do."""
        self.drop_old()
        with self._lock:
            if self._current is not None:
                return None
            changes = self._changes
        try:
            number = newest_log(self._path)
            log = Opened(os.open(self._path / log_name(number), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
            size = os.fstat(log.descriptor).st_size
        except OSError:
            # Without a descriptor RocksDB goes on syncing. What is wrong with the directory is told by `check`.
            return None
        return Candidate(log, size, changes) if size > 0 else None

    def after_sync(self, candidate: Candidate | None) -> None:
        """Call it after the sync has succeeded, with what `before_sync` returned."""
        if candidate is None:
            return
        with self._lock:
            self._notice()
            if candidate.changes == self._changes:
                self._current = candidate.log
                self._size = candidate.size
                self._grown = False

    def _notice(self) -> None:
        """Read what has happened to the directory. Whatever it is, the log may be another one now."""
        if self._read(self._queue.descriptor, self._events_at, _READ_BYTES) < 0 and ctypes.get_errno() == errno.EAGAIN:
            return
        self._changes += 1
        if self._current is not None:
            self._old, self._current = self._current, None


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
