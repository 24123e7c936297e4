"""The file of the audit: JSON lines, written and synced by a thread of its own, and rotated by size.

Rule: the event loop never waits for the file, and a change is never refused for it. A record that can't be written now
(the disk is full, say) waits and is tried again; the log says so, and says when it is over. Past WAITING_RECORDS, and
at a stop, what waits is lost: that is counted, logged, and shows as a gap in the numbers.

Requirements: API-0165, API-0167
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from contextlib import suppress
from pathlib import Path

from qrusty_trio.api.auditing import MAX_KEPT_BYTES, MAX_RECORDS, Kept
from qrusty_trio.errors import StartupRefused
from qrusty_trio.wording import counted

WAITING_RECORDS = 1000
"""Records that may wait for the file."""
OLD_FILES = 8
"""Files kept beside the one that is written: FILE.1 is the newest of them."""
BATCH_RECORDS = 64
"""Most records that are written and synced together."""
RETRY_SECONDS = 1.0
TELL_SECONDS = 60.0
"""Least time between two log lines about records that can't be written, or are lost."""
CLOSE_SECONDS = 2.0
"""How long a stop waits for the records that are not written."""
MODE = 0o600

log = logging.getLogger(__name__)


class AuditFile:
    """The file. `close` must be called, in a thread.

    `earlier`: the last records that it has, the oldest first. Raises StartupRefused if it can't be written. Blocks.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self.lost = 0
        """Records that were not written, and will not be."""
        self.failing = False
        """Whether records wait because they can't be written."""
        try:
            self.earlier = _tail(path.with_name(f"{path.name}.1")) + _tail(path)
            self._descriptor = _open(path)
            self._size = os.fstat(self._descriptor).st_size
            if self._size and not _ends_with_line(path):
                self._append(b"\n")  # A power cut left a part of a line.
        except OSError as error:
            raise StartupRefused(f"QRUSTY_AUDIT_FILE='{path}' can't be written: {error}") from error
        self.earlier = self.earlier[-MAX_RECORDS:]
        self._waiting: queue.Queue[Kept | None] = queue.Queue(WAITING_RECORDS)
        self._closing = threading.Event()
        self._tell_at = 0.0
        # A daemon, because a file system that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def put(self, record: Kept) -> None:
        """Take a record. Does not wait."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.lost += 1
            self._tell(f"{_records(self.lost)} lost since the start, as the file takes none")

    def close(self) -> None:
        """Write what waits, for up to CLOSE_SECONDS. Blocks."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        left = self._waiting.qsize()
        if self._thread.is_alive():
            log.error("the audit: %s not written by the end", _records(max(left, 1)))

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(batch) < BATCH_RECORDS:
                    batch.append(self._waiting.get_nowait())
            records = [each for each in batch if each is not None]
            if records and not self._write(records):
                self.lost += len(records)
                log.error("the audit: %s not written by the end", _records(len(records)))
            if len(records) < len(batch) or (self._closing.is_set() and self._waiting.empty()):
                os.close(self._descriptor)
                return

    def _write(self, records: list[Kept]) -> bool:
        """Write records, as often as it takes. False if the server ends before that."""
        data = b"".join(b"%b\n" % each.line for each in records)
        while True:
            try:
                self._rotate(len(data))
                self._append(data)
            except OSError as error:
                self.failing = True
                self._tell(f"{_records(len(records))} not written yet: {error}. Changes go on; make room")
                if self._closing.wait(RETRY_SECONDS):
                    return self._last_try(data)
                continue
            if self.failing:
                self.failing = False
                self._tell_at = 0.0
                log.info("the audit is written again")
            return True

    def _last_try(self, data: bytes) -> bool:
        try:
            self._append(data)
        except OSError:
            return False
        return True

    def _append(self, data: bytes) -> None:
        """Write and sync, or leave the file as it was. Raises OSError."""
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fdatasync(self._descriptor)
        except OSError:
            if written:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def _rotate(self, coming: int) -> None:
        """Begin a new file if this one would become too large. Raises OSError."""
        if not self._size or self._size + coming <= self._max_bytes:
            return
        # If it is not there, the rotation failed after this was done. Once more would push out another old file.
        for number in range(OLD_FILES, 0, -1) if self._path.exists() else ():
            source = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            with suppress(FileNotFoundError):
                source.replace(self._path.with_name(f"{self._path.name}.{number}"))
        opened = _open(self._path)
        os.close(self._descriptor)
        self._descriptor, self._size = opened, os.fstat(opened).st_size

    def _tell(self, sentence: str) -> None:
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            log.error("the audit: %s", sentence)


def _records(count: int) -> str:
    return counted(count, "record was", "records were")


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _tail(path: Path) -> list[Kept]:
    """The last records of a file. What is no record is passed over. Raises OSError."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_KEPT_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines[-MAX_RECORDS - 1 :]:
        with suppress(ValueError, KeyError, TypeError):
            number = json.loads(line)["number"]
            if type(number) is int and number > 0:
                found.append(Kept(number, line))
    return found
