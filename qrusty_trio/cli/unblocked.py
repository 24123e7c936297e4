"""A stderr that nobody has to read: what is written to it waits in memory, and a thread passes it on.

Rule: no write ever blocks. What has no room is left out, and how much that was is said where it is missing.

Requirements: API-0132
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from qrusty_trio.wording import counted

WAITING_BYTES = 256 * 1024
"""What may wait for a reader of stderr."""
LAST_SECONDS = 1.0
"""What a reader gets at the end to take what waits."""


@contextmanager
def unblocked_stderr() -> Iterator[None]:
    """Make `sys.stderr` one that never blocks, for the body. A stderr without a descriptor is left as it is.

    If what waits is not read in time at the end, all that is written to stderr later is thrown away.
    """
    try:
        descriptor = sys.stderr.fileno()
    except OSError:
        yield
        return
    sink: Any = _Sink(descriptor)
    try:
        with redirect_stderr(io.TextIOWrapper(sink, "utf-8", "backslashreplace", write_through=True)):
            yield
    finally:
        sink.end()


class _Sink(io.RawIOBase):
    """Takes bytes at once, and writes them to `descriptor` in a thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._left_out = 0
        self._ended = False
        self._broken = False
        """Whether the reader is gone for good."""
        self._changed = threading.Condition()
        # A write that nobody reads can't be called off: the process ends without this thread.
        self._thread = threading.Thread(target=self._pass_on, name="stderr", daemon=True)
        self._thread.start()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        with self._changed:
            if self._broken or self._size + len(piece) > WAITING_BYTES:
                self._left_out += len(piece)
            else:
                self._tell_left_out()
                self._put(piece)
        return len(piece)

    def end(self) -> None:
        """Write what waits, if it is read in time."""
        with self._changed:
            self._tell_left_out()
            self._ended = True
            self._changed.notify()
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._descriptor)
            os.close(nowhere)

    def _tell_left_out(self) -> None:
        if self._left_out:
            self._put(f"\n[left out, as nobody read stderr: {counted(self._left_out, 'byte')}]\n".encode())
            self._left_out = 0

    def _put(self, piece: bytes) -> None:
        self._waiting.append(piece)
        self._size += len(piece)
        self._changed.notify()

    def _pass_on(self) -> None:
        while (piece := self._next()) is not None:
            try:
                while piece:
                    piece = piece[self._written(piece) :]
            except OSError:
                # The work goes on without a reader.
                with self._changed:
                    self._broken = True
                return

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            piece = self._waiting.popleft()
            self._size -= len(piece)
            return piece

    def _written(self, piece: bytes) -> int:
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # whoever shares it made it so
            select.select([], [self._descriptor], [])
            return 0
