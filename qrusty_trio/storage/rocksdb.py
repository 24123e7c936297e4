"""The store on disk: RocksDB through rocksdict, one column family per `Family`.

Rule: nothing here is remembered outside RocksDB, so `reopen` after a fault brings back exactly what the log holds.
rocksdict keeps the database open as long as any handle of it lives: hold no entry of `families` across `reopen`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast
from weakref import WeakSet

from rocksdict import Rdict, RdictIter, ReadOptions, WriteBatch

from qrusty_trio.errors import DiskFull, StartupRefused, StorageFault
from qrusty_trio.storage.base import Batch, Family
from qrusty_trio.storage.rocksdb_format import SCHEMA_KEY, SCHEMA_VERSION, DirectoryLock, has_database
from qrusty_trio.storage.rocksdb_options import family_name, tune

KEYS_PER_STEP = 512
"""Keys that `scan_keys` reads between two moments at which `close` may come in."""


class RocksStorage:
    """An open RocksDB store; see `Storage` for the protocol. Made by `RocksStorage.open`."""

    persistent = True

    def __init__(self, path: Path, lock: DirectoryLock, *, cache_mb: int, write_buffer_mb: int, max_open_files: int):
        self.families: tuple[Any, ...] = ()
        self._path = path
        self._lock = lock
        self._tuning = tune(cache_mb=cache_mb, write_buffer_mb=write_buffer_mb, max_open_files=max_open_files)
        self._fault: str | None = None
        self._closed = False
        self._idle = threading.Condition()
        self._users = 0
        self._accepting = False
        self._scans: WeakSet[_KeyScan] = WeakSet()
        self._connect()

    @classmethod
    def open(cls, path: str | Path, *, cache_mb: int, write_buffer_mb: int, max_open_files: int) -> Self:
        """Open the store in directory `path`, or make a new one. Blocks for up to a second.

        `cache_mb` bounds blocks, indexes, filters and memory tables together, `write_buffer_mb` the memory tables
        among them. Raises `StartupRefused` when the directory cannot or must not be used.
        """
        directory = Path(path)
        lock = DirectoryLock.acquire(directory)
        try:
            return cls(
                directory, lock, cache_mb=cache_mb, write_buffer_mb=write_buffer_mb, max_open_files=max_open_files
            )
        except StorageFault as error:
            lock.release()
            raise StartupRefused(str(error)) from error
        except BaseException:
            lock.release()
            raise

    def batch(self) -> Batch:
        """A native WriteBatch: its calls cost nothing beyond RocksDB's own."""
        return cast(Batch, WriteBatch(True))

    def write(self, batch: Batch) -> None:
        if self._fault is not None:
            raise StorageFault(f"The store must be reopened first: {self._fault}")
        try:
            self._database.write(cast(WriteBatch, batch))
        except Exception as error:
            raise self._broken(error) from error

    def sync(self) -> None:
        with self._using():
            try:
                self._database.flush_wal(True)
            except Exception as error:
                raise self._broken(error) from error

    def get(self, family: Any, key: bytes) -> bytes | None:
        try:
            return cast("bytes | None", self._columns[family].get(key))
        except Exception as error:
            raise _translate(error, self._path) from error

    def scan(self, family: Any, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        pairs: list[tuple[bytes, bytes]] = []
        try:
            column = self._columns[family]
            while len(pairs) < limit:
                bounds = ReadOptions()
                bounds.set_iterate_upper_bound(end)
                pairs += islice(column.items(from_key=begin, read_opt=bounds), limit - len(pairs))
                if len(pairs) == limit:
                    break
                # items() ends alike at the end of the range and at an unreadable block: look which it was.
                begin = pairs[-1][0] + b"\0" if pairs else begin
                probe = column.iter(bounds)
                probe.seek(begin)
                if not probe.valid():
                    probe.status()
                    break
        except Exception as error:
            raise _translate(error, self._path) from error
        return pairs

    def scan_keys(self, family: Any, begin: bytes, end: bytes) -> Iterator[bytes]:
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(end)
        try:
            cursor = self._columns[family].iter(bounds)
            cursor.seek(begin)
        except Exception as error:
            raise _translate(error, self._path) from error
        scan = _KeyScan(self, cursor)
        with self._idle:
            self._scans.add(scan)
        return scan

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

    def set_cache_bytes(self, capacity: int) -> None:
        self._tuning.cache.set_capacity(capacity)

    def memory_bytes(self) -> int:
        return self._tuning.cache.get_usage()

    def disk_bytes(self) -> int:
        total = 0
        with os.scandir(self._path) as entries:
            for entry in entries:
                try:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                except FileNotFoundError:
                    continue  # a compaction removed it meanwhile
        return total

    def reopen(self) -> None:
        if self._closed:
            raise StorageFault("The store is closed.")
        self._fault = self._fault or "it is being reopened"
        self._disconnect(flush=False)
        self._connect()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._disconnect(flush=self._fault is None)
        finally:
            self._lock.release()

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Keep `close` and `reopen` out while a call from another thread is inside RocksDB."""
        with self._idle:
            if not self._accepting:
                raise StorageFault("The store is closed.")
            self._users += 1
        try:
            yield
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def _connect(self) -> None:
        try:
            # An existing database is never created anew: a lost CURRENT file must not cost the data.
            self._tuning.database.create_if_missing(not has_database(self._path))
            self._database = Rdict(str(self._path), self._tuning.database, self._tuning.families)
            names = [family_name(family) for family in Family]
            self.families = tuple(self._database.get_column_family_handle(name) for name in names)
            self._columns = {
                handle: self._database.get_column_family(name)
                for handle, name in zip(self.families, names, strict=True)
            }
            self._check_schema()
        except Exception as error:
            raise _translate(error, self._path) from error
        with self._idle:
            self._fault = None
            self._accepting = True

    def _check_schema(self) -> None:
        meta = self._columns[self.families[Family.META]]
        stored = meta.get(SCHEMA_KEY)
        if stored is None:
            meta.put(SCHEMA_KEY, SCHEMA_VERSION.to_bytes(4, "big"))
            self._database.flush_wal(True)

    def _disconnect(self, *, flush: bool) -> None:
        """Let go of every handle; RocksDB closes with the last one. Errors of the flush are raised at the end."""
        failure: Exception | None = None
        if flush and self._accepting:
            try:
                self.flush()
            except StorageFault as error:
                failure = error
        with self._idle:
            self._accepting = False
            self._idle.wait_for(lambda: self._users == 0)
            for scan in self._scans:
                scan.stop()
        self.families = ()
        columns, self._columns = self._columns, {}
        for column in [*columns.values(), self._database]:
            column.close()
        if failure is not None:
            raise failure

    def _broken(self, error: Exception) -> StorageFault:
        fault = _translate(error, self._path)
        self._fault = str(fault)
        return fault


class _KeyScan:
    """Iterator of `scan_keys`: holds RocksDB's view of the moment of the call until it ends or the store closes."""

    def __init__(self, storage: RocksStorage, cursor: RdictIter):
        self._storage = storage
        self._cursor: RdictIter | None = cursor
        self._ready: list[bytes] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if not self._ready:
            self._fill()
        if not self._ready:
            raise StopIteration
        return self._ready.pop()

    def stop(self) -> None:
        self._cursor = None

    def _fill(self) -> None:
        with self._storage._using():
            cursor = self._cursor
            if cursor is None:
                raise StorageFault("The store was closed during the scan.")
            keys = self._ready
            while len(keys) < KEYS_PER_STEP and cursor.valid():
                keys.append(cursor.key())
                cursor.next()
            try:
                cursor.status()
            except Exception as error:
                raise _translate(error, self._storage._path) from error
            keys.reverse()


def _translate(error: Exception, path: Path) -> StorageFault:
    """The fault to raise for anything that comes out of rocksdict: a sentence and the way out."""
    if isinstance(error, StorageFault):
        return error
    text = str(error)
    if "No space left on device" in text:
        return DiskFull(f"No space left on the device of {path}: free some space. ({text})")
    return StorageFault(f"The store in {path} failed: {text}")
