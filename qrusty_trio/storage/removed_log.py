"""The list of messages that the server had to remove, for the operator.

Rule: a removal is in this file, on disk, before `record` returns. A line is written whole or not at all, except that a
power cut may tear the last one. The file is bounded: past `MAX_BYTES` it replaces the older of the two files.

    removed-messages.jsonl, removed-messages.1.jsonl (older)
    {"time": "2026-01-31T12:00:00Z", "queue": "mail", "id": "…", "priority": 5, "reason": "checksum",
     "segment": 42, "offset": 24, "length": 5000}                                              (each on one line)

Requirements: PER-0029
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from qrusty_trio.storage.files import disk_fault, sync_directory, write_whole

CURRENT = "removed-messages.jsonl"
OLDER = "removed-messages.1.jsonl"
MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of one file: about 80,000 messages."""
FIELDS = ("queue", "id", "priority", "reason", "segment", "offset", "length")

Entry = tuple[str, str, "int | str", str, int, int, int]
"""What is recorded for one message, in the order of `FIELDS`."""


class RemovedLog:
    """The file in the data directory. Keeps no file open; any thread."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def record(self, time: str, messages: Iterable[Entry]) -> None:
        """Add messages removed at `time` (RFC 3339). One write and one fsync for all of them; blocks.

        Raises `DiskFull` or `StorageFault`. The file is unchanged then, except that of more than `max_bytes` at once,
        some may have been written.

        Requirements: PER-0030
        """
        with self._lock:
            try:
                block: list[bytes] = []
                used = self._size()
                for message in messages:
                    line = _line(time, message)
                    if used and used + len(line) > self._max_bytes:
                        self._write(block)
                        (self._directory / CURRENT).replace(self._directory / OLDER)
                        block, used = [], 0
                    block.append(line)
                    used += len(line)
                self._write(block)
            except OSError as error:
                raise disk_fault(error, f"the list of removed messages in {self._directory}") from error

    def _size(self) -> int:
        with suppress(FileNotFoundError):
            return (self._directory / CURRENT).stat().st_size
        return 0

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        descriptor = os.open(self._directory / CURRENT, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            try:
                write_whole(descriptor, [b"\n" if torn else b"", b"".join(lines)], size)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if size == 0:
            sync_directory(self._directory)


def _line(time: str, message: Entry) -> bytes:
    fields = {"time": time, **dict(zip(FIELDS, message, strict=True))}
    # A lone surrogate becomes its JSON escape.
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
