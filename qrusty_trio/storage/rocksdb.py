"""The store on disk: RocksDB through rocksdict, one column family per `Family`.

Rule: no data is kept outside RocksDB, so `reopen` after a fault restores exactly what the log holds. rocksdict keeps
the database open and locked while any of its handles is alive. So read `families` again for each batch or after each
`reopen`, and keep no entry of it across a `reopen`.

Threads: `Rdict(...)` holds the GIL while it reads the log (25 to 250 ms). `flush_wal`, `flush`, `compact_range` and
`close` release it.

On a full disk (observed on a tmpfs of 24 MiB), a write raises if there is no room for its log record or for a memtable
flush. Every later write raises too, until the database is reopened; reads continue. After `reopen` none of the refused
batches is there, and all others are complete. If only a flush or compaction fails, the log is intact and writes
continue while it has room. Opening needs room for the tables made from the log. So `reopen` first asks the file system
for free space; otherwise it could fail and reads would be lost, too. Closing after a fault takes about a second because
of RocksDB's own recovery thread.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, cast

from rocksdict import Rdict, WriteBatch

from qrusty_trio.errors import DiskFull, StartupRefused, StorageFault
from qrusty_trio.storage.base import Batch, Family
from qrusty_trio.storage.files import Opened, disk_fault, explained
from qrusty_trio.storage.newest_log import NewestLog
from qrusty_trio.storage.place import Place, removed
from qrusty_trio.storage.reclaim import Span, worth_compacting
from qrusty_trio.storage.rocksdb_format import (
    SCHEMA_KEY,
    SCHEMA_VERSION,
    DirectoryLock,
    check_version,
    family_name,
    has_database,
    is_log,
    newest_log,
)
from qrusty_trio.storage.rocksdb_options import MIB, tune
from qrusty_trio.storage.rocksdb_scan import scan

KEYED_BY_QUEUE = (Family.MESSAGES, Family.LOCKS, Family.DEAD, Family.DEDUP)
"""Families in which a purge deletes a range."""
SPARE_BYTES = 4 * MIB
"""Free space that `reopen` requires in addition to the size of the log: for a new manifest, a new log and settings."""

log = logging.getLogger(__name__)


class RocksStorage:
    """An open RocksDB store; see `Storage` for the protocol. Created by `RocksStorage.open`."""

    persistent = True

    def __init__(self, path: Path, lock: DirectoryLock, *, cache_mb: int, write_buffer_mb: int, max_open_files: int):
        self.families: tuple[Any, ...] = ()
        self._path = path
        self._lock = lock
        self._tuning = tune(path, cache_mb=cache_mb, write_buffer_mb=write_buffer_mb, max_open_files=max_open_files)
        self._fault: StorageFault | None = None
        self._closed = False
        self._handles: list[Rdict] = []
        self._idle = threading.Condition()
        self._users = 0
        self._accepting = False
        self._log_number = 0
        self._newest: NewestLog | None = None
        self._place = Place(path, "the data directory", self._look, whole=True)
        # Never create a new database over an existing one: a lost CURRENT file must not cost the data.
        self._connect(create=not has_database(path))

    @classmethod
    def open(cls, path: str | Path, *, cache_mb: int, write_buffer_mb: int, max_open_files: int) -> Self:
        """Open the store in directory `path`, or create one. Blocks for up to a second.

        `cache_mb` (MiB) limits blocks, indexes, filters and memtables together. `write_buffer_mb` (MiB) limits the
        memtables alone. Raises `StartupRefused` when the directory can't or must not be used.

        Requirements: PER-0016
        """
        directory = Path(path)
        lock = DirectoryLock.acquire(directory)
        try:
            return cls(
                directory, lock, cache_mb=cache_mb, write_buffer_mb=write_buffer_mb, max_open_files=max_open_files
            )
        except (StorageFault, OSError) as error:
            lock.release()
            raise StartupRefused(str(_translate(error, directory))) from error
        except BaseException:
            lock.release()
            raise

    def batch(self) -> Batch:
        """A native WriteBatch: its calls cost nothing beyond RocksDB's own."""
        return cast(Batch, WriteBatch(True))

    def write(self, batch: Batch) -> None:
        if self._fault is not None:
            raise type(self._fault)(f"The store must be reopened first: {self._fault}")
        try:
            self._database.write(cast(WriteBatch, batch))
        except Exception as error:
            raise self._broken(error) from error

    def sync(self) -> None:
        with self._using():
            if self._fault is not None:
                raise type(self._fault)(f"The store must be reopened first: {self._fault}")
            newest = self._newest
            candidate = newest.before_sync() if newest is not None else None
            try:
                self._database.flush_wal(True)
            except Exception as error:
                raise self._broken(error) from error
            if newest is not None:
                newest.after_sync(candidate)

    def sync_descriptor(self) -> Opened | None:
        newest = self._newest
        return newest.current() if newest is not None and self._fault is None else None

    @property
    def watched(self) -> bool:
        return self._newest is not None

    def sync_failed(self, error: OSError) -> StorageFault:
        return self._broken(error)

    def get(self, family: Any, key: bytes) -> bytes | None:
        try:
            return cast("bytes | None", self._columns[family].get(key))
        except Exception as error:
            raise _translate(error, self._path) from error

    def scan(
        self, family: Any, begin: bytes, end: bytes, limit: int, octets: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        try:
            return scan(self._columns[family], begin, end, limit, octets)
        except Exception as error:
            raise _translate(error, self._path) from error

    def flush(self) -> None:
        with self._using():
            try:
                for column in self._columns.values():
                    column.flush(True)
            except Exception as error:
                raise _translate(error, self._path) from error

    def compact(self) -> None:
        with self._using():
            try:
                for column in self._columns.values():
                    column.compact_range(None, None)
            except Exception as error:
                raise _translate(error, self._path) from error

    def reclaim(self, spans: Sequence[Span], at_least: int) -> bool:
        with self._using():
            try:
                found = worth_compacting(spans, self._database.live_files(), at_least)
                for begin, end, _ in found:
                    for family in KEYED_BY_QUEUE:
                        if not self._accepting:
                            raise StorageFault("The store is closed.")
                        self._columns[self.families[family]].compact_range(begin, end)
            except Exception as error:
                raise _translate(error, self._path) from error
        return bool(found)

    def tidy(self) -> bool:
        """Nothing to do: compaction does it."""
        return False

    def set_cache_bytes(self, capacity: int) -> None:
        self._tuning.cache.set_capacity(capacity)

    def disk_bytes(self) -> int:
        return self._size(lambda name: True)

    def check(self) -> None:
        try:
            self._place.check()
        except Exception as error:
            raise self._broken(error) from error

    def reopen(self) -> None:
        if self._closed:
            raise StorageFault("The store is closed.")
        try:
            # Keep the open database until a new one is likely to open. If another directory is in its place, closing
            # would write memtables there. Without room to write the log into tables, reads would be lost as well.
            self._place.forget()
            self._place.check()
            self._check_room()
            self._fault = self._fault or StorageFault("The store could not be opened again.")
            self._disconnect()
            self._connect(create=False)
        except Exception as error:
            raise self._broken(error) from error

    def _check_room(self) -> None:
        free = shutil.disk_usage(self._path).free
        needed = self._size(is_log) + SPARE_BYTES
        if free < needed:
            raise DiskFull(f"No space left on the device of {self._path}: free {(needed - free) // MIB + 1} MiB.")

    def close(self) -> None:
        """See `Storage.close`. On a full disk the log is synced and stays: the next start reads it.

        Requirements: PER-0067
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._fault is None:
                self.sync()
                try:
                    self.flush()
                except DiskFull as full:
                    log.warning("%s The log has everything, and the next start reads it", full)
        finally:
            self._disconnect()
            self._place.close()
            self._lock.release()

    def _size(self, counts: Callable[[str], bool]) -> int:
        total = 0
        with os.scandir(self._path) as entries:
            for entry in entries:
                if counts(entry.name):
                    with suppress(FileNotFoundError):  # removed by a compaction meanwhile
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        return total

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Make `close` and `reopen` wait while a call from another thread is inside RocksDB. Closes a log it left."""
        with self._idle:
            if not self._accepting:
                raise StorageFault("The store is closed.")
            self._users += 1
        try:
            yield
            if self._newest is not None:
                self._newest.drop_old()
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def _look(self) -> None:
        """Raise `StorageFault` if a file is gone that the next start needs to find what is written now.

        Requirements: PER-0046
        """
        self._lock.look(self._path)
        # Log numbers only rise. Look twice, because RocksDB may replace the log while the names are being read.
        newest = newest_log(self._path)
        if newest < self._log_number and (newest := newest_log(self._path)) < self._log_number:
            raise removed("the data directory", self._path, f"The log {self._log_number:06d}.log")
        self._log_number = newest

    def _connect(self, *, create: bool) -> None:
        try:
            self._tuning.database.create_if_missing(create)
            self._database = Rdict(str(self._path), self._tuning.database, self._tuning.families)
            self._handles = [self._database]
            names = [family_name(family) for family in Family]
            columns = [self._database.get_column_family(name) for name in names]
            self._handles = [*columns, self._database]
            self.families = tuple(self._database.get_column_family_handle(name) for name in names)
            self._columns = dict(zip(self.families, columns, strict=True))
            self._check_schema(columns[Family.META])
            self._log_number = newest_log(self._path)
            self._newest = self._watched()
        except StartupRefused:
            self._release()
            raise
        except Exception as error:
            self._release()
            raise _translate(error, self._path) from error
        with self._idle:
            self._fault = None
            self._accepting = True

    def _check_schema(self, meta: Rdict) -> None:
        stored = meta.get(SCHEMA_KEY)
        if stored is None:
            meta.put(SCHEMA_KEY, SCHEMA_VERSION.to_bytes(4, "big"))
            self._database.flush_wal(True)
        else:
            version = int.from_bytes(stored, "big")
            check_version(self._path, version)
            # A kill between the two leaves a directory that an older server refuses, and this one brings up to date.
            self._lock.mark()
            if version != SCHEMA_VERSION:
                meta.put(SCHEMA_KEY, SCHEMA_VERSION.to_bytes(4, "big"))
                self._database.flush_wal(True)

    def _watched(self) -> NewestLog | None:
        """The newest log, or None if the directory can't be watched. Then each sync is RocksDB's."""
        try:
            return NewestLog(self._path)
        except OSError as error:
            log.info("syncs run in a thread, as the data directory can't be watched: %s", explained(error))
            return None

    def _disconnect(self) -> None:
        """Refuse new callers, wait for current ones (aborting a compaction), and release all handles."""
        with self._idle:
            self._accepting = False
            if self._users and self._handles:
                self._database.cancel_all_background(False)
            self._idle.wait_for(lambda: self._users == 0)
        self._release()

    def _release(self) -> None:
        """Close all handles. RocksDB closes, and releases its lock, with the last one.

        Closing a handle flushes its family. If that fails, nothing is lost: the log is only removed after a flush.
        """
        self.families = ()
        self._columns = {}
        self._newest = None
        handles, self._handles = self._handles, []
        for handle in handles:
            with suppress(Exception):
                handle.close()

    def _broken(self, error: Exception) -> StorageFault:
        fault = _translate(error, self._path)
        # Store a copy: the fault that is raised keeps its stack alive, and handles of the database with it.
        self._fault = type(fault)(str(fault))
        return fault if fault is not error else type(fault)(str(fault))


def _translate(error: Exception, path: Path) -> StorageFault:
    """The fault to raise for any error from rocksdict: a sentence, with a remedy if there is one."""
    if isinstance(error, StorageFault):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return disk_fault(error, f"the store in {path}")
    text = str(error)
    if "No space left on device" in text:
        return DiskFull(f"No space left on the device of {path}: free some. ({text})")
    if "lock hold by current process" in text:
        return StorageFault(
            f"The store in {path} cannot be reopened yet: something still holds a family of it. ({text})"
        )
    if "Too many open files" in text:
        return StorageFault(f"The store in {path} has no descriptors left: raise the limit of open files. ({text})")
    if text.startswith("Corruption"):
        return StorageFault(f"The store in {path} is damaged: put back a backup. ({text})")
    return StorageFault(f"The store in {path} failed: {text or error!r}")
