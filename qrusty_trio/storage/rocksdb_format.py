"""What is checked before RocksDB may touch a directory.

Rule: a store that is in use, damaged, newer than this version or not ours is refused before anything in it is changed.
Every attempt to open a database changes files: RocksDB rotates its log file and rocksdict writes its settings. So the
checks do without them. Our own file `FORMAT` names the schema, and a flock on it marks the store as in use.

`FORMAT` is on disk before anything else is created. So a directory without it is one of three things. It may be new,
with only what file systems and log writers leave there. It may be a database that proves to be ours, such as a restored
checkpoint. Otherwise it is not ours. An incomplete `FORMAT` comes from a first start that was interrupted.

Requirements: PER-0059
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from rocksdict import AccessType, Options, Rdict

from qrusty_trio.errors import StartupRefused
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.files import sync_directory
from qrusty_trio.storage.place import removed

SCHEMA_VERSION = 3
OLDEST_SCHEMA = 1
"""Stores since this schema are read. They are marked with ours when they are opened, before anything of it is written;
what an earlier one has in another form is told from ours record by record."""
SCHEMA_KEY = b"schema_version"
"""Key in META; the value is the version in 4 bytes, big-endian."""

FORMAT_FILE = "FORMAT"
MAX_FORMAT_BYTES = 1024
"""`FORMAT` is never this long."""
_FORMAT_TEXT = re.compile(r"qrusty-trio store, schema (\d+)\n")
_OF_FILE_SYSTEMS = frozenset({"lost+found", ".snapshot"})
"""Directories that a file system may show at its root."""
_NAMED_AT_MOST = 3
"""Unknown entries that a refusal names."""
_TABLE = re.compile(r"\d+\.(sst|ldb)")
_LOG = re.compile(r"\d+\.log")
"""RocksDB takes any such file for one of its logs, whoever wrote it."""
_OWN_FILES_OF_AN_OPEN_STORE = ("LOCK", "LOG", "rocksdict-config.json")


def family_name(family: Family) -> str:
    """Name of the column family on disk."""
    return family.name.lower()


def has_database(directory: Path) -> bool:
    """Whether there is a RocksDB database, even if its CURRENT file is gone."""
    return any(name == "CURRENT" or is_log(name) or _TABLE.fullmatch(name) for name in os.listdir(directory))


def newest_log(directory: Path) -> int:
    """Number of the log that RocksDB writes to. 0 if it, CURRENT or the manifest is gone. Raises `OSError`."""
    names = os.listdir(directory)
    if "CURRENT" not in names or not any(name.startswith("MANIFEST-") for name in names):
        return 0
    return max((int(name.partition(".")[0]) for name in names if is_log(name)), default=0)


def log_name(number: int) -> str:
    """The name that RocksDB gives a log."""
    return f"{number:06d}.log"


def is_log(name: str) -> bool:
    """Whether `name` is a log that RocksDB reads when it opens. Log files of other programs have no number."""
    return _LOG.fullmatch(name) is not None


def check_version(directory: Path, version: int) -> None:
    """Raise `StartupRefused` for a schema that this version does not know.

    Requirements: PER-0013
    """
    if not OLDEST_SCHEMA <= version <= SCHEMA_VERSION:
        raise StartupRefused(
            f"The store in {directory} was written by another version of the server (schema {version}; this one knows "
            f"schemas {OLDEST_SCHEMA} to {SCHEMA_VERSION}): start that version, or give another data directory."
        )


class DirectoryLock:
    """The right to use a directory, held until `release` or the end of the process.

    Requirements: PER-0015
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, directory: Path) -> Self:
        """Create the directory if needed, check its contents and lock it. Raises `StartupRefused`."""
        if directory.is_symlink() and not directory.exists():
            raise StartupRefused(
                f"The data directory {directory} is a link to {directory.readlink()}, which is missing."
            )
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                raise StartupRefused(f"The data directory {directory} is not readable and writable for this user.")
            check_content(directory)
            descriptor = os.open(directory / FORMAT_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StartupRefused(f"The data directory {directory} cannot be used: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = os.pread(descriptor, MAX_FORMAT_BYTES, 0)
            if _cut_short(text):
                os.pwrite(descriptor, _format_text(), 0)
                os.fsync(descriptor)
                sync_directory(directory)
        except BlockingIOError as error:
            os.close(descriptor)
            raise StartupRefused(f"The data directory {directory} is in use by another server.") from error
        except OSError as error:
            os.close(descriptor)
            raise StartupRefused(f"The data directory {directory} cannot be written: {error.strerror}.") from error
        return cls(descriptor)

    def look(self, directory: Path) -> None:
        """Raise `StorageFault` unless the locked file is still the one in the directory."""
        if self._descriptor is None:
            return
        try:
            there = (directory / FORMAT_FILE).stat()
        except FileNotFoundError:
            raise removed("the data directory", directory, FORMAT_FILE) from None
        if not os.path.samestat(there, os.fstat(self._descriptor)):
            raise removed("the data directory", directory, FORMAT_FILE)

    def mark(self) -> None:
        """Make `FORMAT` name our schema, so that an older server refuses the directory. Raises `OSError`."""
        if self._descriptor is not None and os.pread(self._descriptor, MAX_FORMAT_BYTES, 0) != _format_text():
            # Only one digit changes, so the file has one version or the other, whatever happens meanwhile.
            os.pwrite(self._descriptor, _format_text(), 0)
            os.fsync(self._descriptor)

    def release(self) -> None:
        """Unlock the directory. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _format_text(version: int = SCHEMA_VERSION) -> bytes:
    return f"qrusty-trio store, schema {version}\n".encode()


def _cut_short(text: bytes) -> bool:
    """Whether `FORMAT` comes from an interrupted first start: it has only a part of its text, or only zero bytes.

    Requirements: PER-0018
    """
    whole = _format_text()
    versions = range(OLDEST_SCHEMA, SCHEMA_VERSION + 1)
    part = len(text) < len(whole) and any(_format_text(version).startswith(text) for version in versions)
    return part or (len(text) <= len(whole) and not text.strip(b"\0"))


def _foreign(directory: Path) -> list[str]:
    """Entries of a directory that come neither from us, nor from the file system, nor from programs that log there.

    Requirements: PER-0014
    """
    with os.scandir(directory) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name != FORMAT_FILE
            and not (entry.name in _OF_FILE_SYSTEMS and entry.is_dir(follow_symlinks=False))
            and not (entry.name.endswith(".log") and not is_log(entry.name) and entry.is_file(follow_symlinks=False))
        )


def check_content(directory: Path) -> None:
    """Raise `StartupRefused` unless the directory is empty or holds a store that we read. Changes nothing."""
    marker = directory / FORMAT_FILE
    try:
        if not stat.S_ISREG(marker.stat().st_mode):
            # Opening a pipe would block until another process opens it for writing.
            raise StartupRefused(f"The data directory {directory} cannot be used: {FORMAT_FILE} is no file.")
        with marker.open("rb") as file:
            content = file.read(MAX_FORMAT_BYTES)
    except FileNotFoundError:
        content = b""
    text = "" if _cut_short(content) else content.decode(errors="replace")
    if not text and not (directory / "CURRENT").exists():
        foreign = _foreign(directory)
        if foreign:
            named = ", ".join(foreign[:_NAMED_AT_MOST]) + (", ..." if len(foreign) > _NAMED_AT_MOST else "")
            raise StartupRefused(
                f"The data directory {directory} holds something else ({named}) and no store of this server: give an "
                f"empty one. If a store was here, it is damaged: put back a backup of the whole directory."
            )
    if text:
        match = _FORMAT_TEXT.fullmatch(text)
        if match is None:
            raise StartupRefused(
                f"The data directory {directory} does not hold a store of this server (see its file {FORMAT_FILE})."
            )
        check_version(directory, int(match[1]))
    if not has_database(directory):
        return
    # This reads CURRENT and the manifest, and writes nothing.
    try:
        names = set(Rdict.list_cf(str(directory), Options(raw_mode=True)))
    except Exception as error:
        raise _damaged(directory, error) from error
    expected = {"default", *(family_name(family) for family in Family)}
    if not names <= expected:
        raise StartupRefused(
            f"The data directory {directory} does not hold a store of this server (families "
            f"{', '.join(sorted(names - expected))}): give another data directory."
        )
    if not text:
        _check_unmarked(directory, names)
    elif names != expected and _has_data(directory):
        # All families are created before the first write. With data, a missing one means damage. Without data, the
        # first start was interrupted.
        raise _damaged(directory, "families are missing")


def _has_data(directory: Path) -> bool:
    with os.scandir(directory) as entries:
        return any(
            _TABLE.fullmatch(entry.name) or (is_log(entry.name) and entry.stat().st_size > 0) for entry in entries
        )


def _damaged(directory: Path, what: object) -> StartupRefused:
    return StartupRefused(
        f"The store in {directory} is damaged ({what}): put back a backup, or give another data directory."
    )


def _check_unmarked(directory: Path, names: set[str]) -> None:
    """Check a database without `FORMAT`, such as a restored checkpoint, by the schema in META. Raises `StartupRefused`.

    It is opened through symbolic links in a temporary directory, so that nothing is changed.
    """
    if family_name(Family.META) not in names:
        raise StartupRefused(
            f"The data directory {directory} holds a database of another program: give another data directory."
        )
    with TemporaryDirectory(prefix="qrusty-") as copy:
        link_into(directory, Path(copy))
        options = Options(raw_mode=True)
        try:
            database = Rdict(
                copy, options, {name: Options(raw_mode=True) for name in names}, AccessType.read_only(False)
            )
            meta = database.get_column_family(family_name(Family.META))
            stored = meta.get(SCHEMA_KEY)
            meta.close()
            database.close()
        except Exception as error:
            raise _damaged(directory, error) from error
    if not isinstance(stored, bytes):
        raise StartupRefused(
            f"The data directory {directory} holds a database of another program: give another data directory."
        )
    check_version(directory, int.from_bytes(stored, "big"))


def link_into(directory: Path, copy: Path) -> None:
    """Link all that RocksDB reads of a database into `copy`, so that opening it there changes nothing."""
    for name in os.listdir(directory):
        if not name.startswith(_OWN_FILES_OF_AN_OPEN_STORE):
            os.symlink((directory / name).absolute(), copy / name)
