"""Lines for a stream, written by a thread, so that whoever has something to say never waits.

Rule: what the stream does not take in time, or at all, is dropped and counted. Once it takes lines again, one of them
tells how many were lost. What waits is bounded.

Requirements: API-0068
"""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TextIO, TypeVar

T = TypeVar("T")

STUCK_SECONDS = 1.0
"""How long to wait for a stream that takes no bytes before trying again."""


class Lines(Generic[T]):
    """Writes items in order to a stream, each as a line. `render` makes the line, in the thread.

    `room`: items that may wait. `told(lost, why)` makes the line that tells of lost ones. The stream is not closed.
    """

    def __init__(
        self, stream: TextIO, name: str, room: int, render: Callable[[T], str], told: Callable[[int, str], str]
    ) -> None:
        self._sink = _Sink(stream)
        self._render = render
        self._told = told
        self.waiting: queue.Queue[T | None] = queue.Queue(room)
        self._dropped = 0
        # A daemon, because a stalled stream must not keep the process from ending.
        self._thread = threading.Thread(target=self._write_all, name=name, daemon=True)
        self._thread.start()

    def is_running(self) -> bool:
        """Whether the thread has not ended yet."""
        return self._thread.is_alive()

    def put(self, item: T) -> None:
        """Take an item. Does not wait. It is lost after `close`, and if too many wait."""
        try:
            self.waiting.put_nowait(item)
        except queue.Full:
            self._dropped += 1

    def close(self, seconds: float) -> None:
        """Write the waiting items, for up to `seconds`. Idempotent."""
        deadline = time.monotonic() + seconds
        if self._thread.is_alive():
            with suppress(queue.Full):
                self.waiting.put(None, timeout=seconds)
                self._thread.join(max(0.0, deadline - time.monotonic()))

    def _write_all(self) -> None:
        told = failed = 0
        why: Exception | None = None
        while True:
            item = self.waiting.get()
            try:
                # Reset the counts only after the report is written: a disk that is still full loses the report, too.
                if (dropped := self._dropped) > told:
                    self._sink.write(self._told(dropped - told, "not taken fast enough"))
                    told = dropped
                if failed:
                    self._sink.write(self._told(failed, f"not written: {why}"))
                    failed = 0
                if item is not None:
                    self._sink.write(self._render(item))
            except (OSError, ValueError, MemoryError) as error:
                # The stream is full, gone or closed. It may work again for the next one.
                why = error
                failed += item is not None
            if item is None:
                self._sink.close()
                return


class _Sink:
    """Writes lines to a stream. A line whose write fails is lost, whole or in part, and never appears later."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._torn = False
        """Whether the last write did not end with a whole line."""
        try:
            # Bypass the stream's buffer, which keeps what could not be written. Use a descriptor of our own, because
            # that of a closed stream may soon belong to another file.
            self._descriptor: int | None = os.dup(stream.fileno())
        except (OSError, ValueError):
            self._descriptor = None

    def write(self, line: str) -> None:
        """Write a line. Raises `OSError` or `ValueError`."""
        if self._stream.closed:
            raise ValueError("it is closed")
        if self._descriptor is None:
            self._stream.write(f"{line}\n")
            self._stream.flush()
            return
        text = f"\n{line}\n" if self._torn else f"{line}\n"
        rest = memoryview(text.encode(self._stream.encoding, "backslashreplace"))
        while rest:
            try:
                taken = os.write(self._descriptor, rest)
            except BlockingIOError:
                # Another process that shares the stream made it non-blocking. This thread may wait.
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll(STUCK_SECONDS * 1000)
                continue
            rest = rest[taken:]
            self._torn = bool(rest)

    def close(self) -> None:
        """Close our descriptor, not the stream."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
