"""A stopped store, opened to be read only.

Rule: nothing in the directory is changed, not even RocksDB's own log files: it is opened through symbolic links in a
temporary directory. While it is open, no server can start on it.

Requirements: API-0133
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from rocksdict import AccessType, Options, Rdict

from qrusty_trio.errors import StartupRefused, StorageFault
from qrusty_trio.storage import payload_format as form
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.payload_format import HEADER_BYTES, PayloadBroken, PayloadRef
from qrusty_trio.storage.rocksdb_format import FORMAT_FILE, check_content, family_name, link_into
from qrusty_trio.storage.rocksdb_scan import scan


class StoppedStore:
    """The families of a store, until `close`."""

    def __init__(self, path: Path) -> None:
        """Raises StartupRefused if there is no store of ours, if it is of another version, or if a server uses it."""
        self._path = path
        self._lock = _locked(path)
        opened = str(path)
        try:
            check_content(path)
            self._copy = TemporaryDirectory(prefix="qrusty-")
            opened = self._copy.name
            try:
                link_into(path, Path(self._copy.name))
                names = [family_name(family) for family in Family]
                options = {name: Options(raw_mode=True) for name in names}
                self._database = Rdict(self._copy.name, Options(raw_mode=True), options, AccessType.read_only(False))
                self._columns = [self._database.get_column_family(name) for name in names]
            except BaseException:
                self._copy.cleanup()
                raise
        except StartupRefused:
            os.close(self._lock)
            raise
        except Exception as error:
            os.close(self._lock)
            said = str(error).replace(opened, str(path))
            raise StartupRefused(f"The store in {path} can't be opened ({said}): put back a backup.") from error

    def get(self, family: Family, key: bytes) -> bytes | None:
        """Raises StorageFault for a block that can't be read."""
        try:
            value: bytes | None = self._columns[family].get(key)
        except Exception as error:
            raise self._fault(family, error) from error
        return value

    def scan(self, family: Family, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` pairs with begin <= key < end, in key order. Raises StorageFault."""
        try:
            return scan(self._columns[family], begin, end, limit)
        except Exception as error:
            raise self._fault(family, error) from error

    def _fault(self, family: Family, error: Exception) -> StorageFault:
        # RocksDB names the files by the temporary directory, which will be gone.
        said = str(error).replace(self._copy.name, str(self._path))
        return StorageFault(f"{family_name(family)} can't be read: {said}")

    def close(self) -> None:
        for handle in (*self._columns, self._database):
            with suppress(Exception):
                handle.close()
        self._columns = []
        self._copy.cleanup()
        os.close(self._lock)


def _locked(path: Path) -> int:
    """A shared lock on the directory: readers share it, a server would not get it."""
    try:
        descriptor = os.open(path / FORMAT_FILE, os.O_RDONLY)
    except OSError as error:
        raise StartupRefused(
            f"{path} holds no store of this server: {FORMAT_FILE} can't be read ({error.strerror})."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StartupRefused(
            f"The data directory {path} is in use by a server: stop it first, or look at a copy of the directory."
        ) from error
    return descriptor


class PayloadFiles:
    """The segment files of a stopped store."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: tuple[int, int] | None = None
        """Number and descriptor of the segment that was read last."""

    def read(self, ref: PayloadRef) -> bytes:
        """A payload. Raises PayloadBroken if it is lost, with the reason."""
        try:
            descriptor = self._segment(ref)
            data = os.pread(descriptor, ref.length, ref.offset)
        except FileNotFoundError:
            raise PayloadBroken(form.MISSING_SEGMENT, ref) from None
        except OSError as error:
            raise PayloadBroken(form.UNREADABLE, ref) from error
        if len(data) != ref.length:
            raise PayloadBroken(form.SHORT_SEGMENT, ref)
        if crc32(data) != ref.checksum:
            raise PayloadBroken(form.CHECKSUM, ref)
        return data

    def _segment(self, ref: PayloadRef) -> int:
        if self._open is not None and self._open[0] == ref.segment:
            return self._open[1]
        self.close()
        descriptor = os.open(self._directory / form.segment_name(ref.segment), os.O_RDONLY)
        if not form.header_is_sound(os.pread(descriptor, HEADER_BYTES, 0), ref.segment):
            os.close(descriptor)
            raise PayloadBroken(form.DAMAGED_HEADER, ref)
        self._open = ref.segment, descriptor
        return descriptor

    def close(self) -> None:
        """Close what is open. It may be used again."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None
