"""Whose directory is it: what is checked before RocksDB may touch a directory.

Rule: a store that is in use, newer than this version, or not ours is refused before anything in it is changed. RocksDB
renames its log file and rocksdict writes its settings on every attempt to open, so both questions are answered from a
file of our own, `FORMAT`: its text names the schema, a flock on it says that the store is in use.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import Self

from qrusty_trio.errors import StartupRefused

SCHEMA_VERSION = 1
SCHEMA_KEY = b"schema_version"
"""Key in META; the value is the version in 4 bytes, big-endian."""

FORMAT_FILE = "FORMAT"
_FORMAT_TEXT = re.compile(r"qrusty-trio store, schema (\d+)\n")


def has_database(directory: Path) -> bool:
    """True when RocksDB has been here, even if its CURRENT file is gone."""
    return any(name == "CURRENT" or name.endswith((".sst", ".log")) for name in os.listdir(directory))


class DirectoryLock:
    """The right to use a directory, held until `release` or the end of the process."""

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, directory: Path) -> Self:
        """Make the directory if needed and take it. Raises `StartupRefused`."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(directory / FORMAT_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StartupRefused(f"The data directory {directory} cannot be used: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_format(directory, descriptor)
        except BlockingIOError as error:
            os.close(descriptor)
            raise StartupRefused(f"The data directory {directory} is in use by another process.") from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Give the directory back. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _check_format(directory: Path, descriptor: int) -> None:
    text = os.read(descriptor, 100).decode(errors="replace")
    if not text:
        os.write(descriptor, f"qrusty-trio store, schema {SCHEMA_VERSION}\n".encode())
        os.fsync(descriptor)
        return
    match = _FORMAT_TEXT.fullmatch(text)
    if match is None:
        raise StartupRefused(f"The data directory {directory} does not hold a store of this server.")
    if int(match[1]) > SCHEMA_VERSION:
        raise StartupRefused(
            f"The store in {directory} was written by a newer version (schema {match[1]}, this version knows "
            f"{SCHEMA_VERSION}): start that version."
        )
