"""How the server speaks to its operator: one line a record on stderr, and a ring of the last records for subscribers.

Rule: logging never waits and never ends. stderr is written to by a thread of its own; a reader of it that stands still,
or a disk that is full, costs records, which are counted, and no time. A record is one line, whatever a client put into
it, but for the traceback in console format. Other packages are heard from WARNING on, whatever the level: a frame
logger of theirs that reports each log frame sent would feed itself.

Times are UTC, RFC 3339 with milliseconds. Level names are those of the contract: error, warn, info, debug.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import TextIO

from qrusty_trio.wording import counted

RING_RECORDS = 1000
"""Records kept for `subscribe-logs`."""
MAX_MESSAGE_CHARS = 8192
"""Characters of one record in the ring, traceback included; the rest is cut off. stderr gets all of it."""
MAX_TRACEBACK_LINE = 500
"""Characters of a line in a traceback; the rest is cut off."""
OUTPUT_RECORDS = 10_000
"""Records that wait for stderr; past it they are counted and dropped."""
OUTPUT_CLOSE_SECONDS = 2.0
"""At the end of the process, what still waits is written for this long."""

STUCK_SECONDS = 1.0
"""How long to wait for a stream that takes nothing before it is asked again."""

OWN_LOGGER = "qrusty_trio"


class LogLevel(StrEnum):
    """What is logged: this level and what is more serious."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"
    DEBUG = "debug"


class LogFormat(StrEnum):
    """How a record looks on stderr."""

    CONSOLE = "console"
    JSON = "json"


NUMBERS = {
    LogLevel.ERROR: logging.ERROR,
    LogLevel.WARN: logging.WARNING,
    LogLevel.INFO: logging.INFO,
    LogLevel.DEBUG: logging.DEBUG,
}
"""Our levels as the numbers of `logging`."""


def level_name(number: int) -> str:
    """The contract's name for a level of `logging`: the most serious one that is not above it."""
    return next((level.value for level, bound in NUMBERS.items() if number >= bound), LogLevel.DEBUG.value)


def timestamp(record: logging.LogRecord) -> str:
    """When the record was made, such as 2031-05-04T03:02:01.006Z."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def one_line(text: str) -> str:
    """The text with what would break or colour the line (line ends, control and unpaired characters) escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class _Formatter(logging.Formatter):
    def traceback(self, record: logging.LogRecord) -> str:
        """Lines of the traceback and of the stack that go with the record; empty without."""
        parts = []
        if record.exc_info and record.exc_info[0] is not None:
            parts.append(self.formatException(record.exc_info))
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(_shortened(line) for part in parts for line in part.split("\n"))


def _shortened(line: str) -> str:
    """A line of a traceback. An exception may quote all that a peer has sent."""
    return line if len(line) <= MAX_TRACEBACK_LINE else f"{line[:MAX_TRACEBACK_LINE]} ... ({len(line)} characters)"


class ConsoleFormatter(_Formatter):
    """`2031-05-04T03:02:01.006Z WARN  server.pressure: message`, then the traceback on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix(OWN_LOGGER + ".")
        level = level_name(record.levelno).upper()
        line = f"{timestamp(record)} {level:<5} {name}: {one_line(record.getMessage())}"
        traceback = self.traceback(record)
        return f"{line}\n{traceback}" if traceback else line


class JsonFormatter(_Formatter):
    """One JSON object a line: timestamp, level, logger, message, and traceback when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "timestamp": timestamp(record),
            "level": level_name(record.levelno),
            "logger": record.name,
            "message": record.getMessage(),
        }
        traceback = self.traceback(record)
        if traceback:
            fields["traceback"] = traceback
        return json.dumps(fields)


class Output(logging.Handler):
    """Writes to a stream from a thread of its own, in the order of the records. `close` writes what still waits.

    The stream is not closed. A record that comes after `close`, or while `OUTPUT_RECORDS` wait, or that the stream does
    not take, is lost; the stream is told how many were, once it takes records again.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._sink = _Sink(stream)
        self._waiting: queue.Queue[str | None] = queue.Queue(OUTPUT_RECORDS)
        self._dropped = 0
        # A daemon: a stream that stands still must not keep the process from ending.
        self._thread = threading.Thread(target=self._write_all, name="log output", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  # arguments that don't fit their format: reported as all handlers do it
            self.handleError(record)
            return
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for up to `OUTPUT_CLOSE_SECONDS`. Idempotent."""
        deadline = time.monotonic() + OUTPUT_CLOSE_SECONDS
        if self._thread.is_alive():
            with suppress(queue.Full):
                self._waiting.put(None, timeout=OUTPUT_CLOSE_SECONDS)
                self._thread.join(max(0.0, deadline - time.monotonic()))
        super().close()

    def _write_all(self) -> None:
        told = failed = 0
        why: Exception | None = None
        while True:
            line = self._waiting.get()
            try:
                # Not told before it is written: a disk that is still full loses this line, too.
                if (dropped := self._dropped) > told:
                    self._tell(dropped - told, "not taken fast enough")
                    told = dropped
                if failed:
                    self._tell(failed, f"not written: {why}")
                    failed = 0
                if line is not None:
                    self._sink.write(line)
            except (OSError, ValueError, MemoryError) as error:
                # Full, gone or closed: the next record may find it well again.
                why = error
                failed += line is not None
            if line is None:
                self._sink.close()
                return

    def _tell(self, lost: int, why: str) -> None:
        sentence = f"{counted(lost, 'log record was lost: it was', 'log records were lost: they were')} {why}"
        self._sink.write(self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, sentence, (), None)))


class _Sink:
    """Writes lines to a stream so that a line that fails is gone, whole or torn, and does not come out later."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._torn = False
        """The last thing written was not the end of a line."""
        try:
            # Past the stream's buffer, which keeps what could not be written; and of our own, as that of a stream that
            # is closed may soon be another file.
            self._descriptor: int | None = os.dup(stream.fileno())
        except (OSError, ValueError):
            self._descriptor = None

    def write(self, line: str) -> None:
        """Raises `OSError` or `ValueError`."""
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
                # Somebody who shares it does not want to wait. This thread does.
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll(STUCK_SECONDS * 1000)
                continue
            rest = rest[taken:]
            self._torn = bool(rest)

    def close(self) -> None:
        """Does not close the stream."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class LogRing(logging.Handler):
    """The last `RING_RECORDS` records, numbered from 0 since the start of the process; see `api.ws_logs.LogRing`.

    Records may come from any thread. Readers and listeners live on the event loop's thread; `attach` says how to get
    there. Any number of records between two turns of the loop cost one call of each listener, and a record that is
    made inside a listener calls none: delivering log records can't keep itself going.
    """

    def __init__(self) -> None:
        super().__init__()
        self._records: deque[tuple[str, str, str]] = deque(maxlen=RING_RECORDS)
        self._next = 0
        self._listeners: dict[Callable[[], None], None] = {}
        self._call_soon: Callable[[Callable[[], None]], object] | None = None
        self._notifying_thread: int | None = None
        self._formatter = _Formatter()

    def attach(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Reach the event loop by `call_soon(function)` from any thread.

        `call_soon` drops a function that already waits to be called: Trio's `run_sync_soon` with idempotent=True.
        """
        self._call_soon = call_soon

    def detach(self) -> None:
        """The event loop ends: call no listener any more. Records are still kept."""
        self._call_soon = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            traceback = self._formatter.traceback(record)
        except Exception:  # noqa: BLE001  # arguments that don't fit their format: reported as all handlers do it
            self.handleError(record)
            return
        if traceback:
            message = f"{message}\n{traceback}"
        self._records.append((timestamp(record), level_name(record.levelno), message[:MAX_MESSAGE_CHARS]))
        self._next += 1
        call_soon = self._call_soon
        if call_soon is None or not self._listeners or self._notifying_thread == threading.get_ident():
            return
        try:
            call_soon(self._notify)
        except RuntimeError:  # trio.RunFinishedError: the loop ended, and this thread was faster than `detach`
            self.detach()

    def oldest(self) -> int:
        """The number of the oldest record that is still kept; of the next one when there is none."""
        with self._held():
            return self._next - len(self._records)

    def read(self, position: int, limit: int) -> tuple[int, Sequence[tuple[str, str, str]]]:
        """Up to `limit` records (timestamp, level, message) from number `position` on, or from the oldest kept.

        The first value is the number after the last record returned; `position` itself when there is none.
        """
        with self._held():
            first = self._next - len(self._records)
            start = max(position, first)
            records = list(islice(self._records, start - first, start - first + max(limit, 0)))
        return (start + len(records), records) if records else (position, records)

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener` on the event loop's thread when there are new records. Once, however often it is added."""
        self._listeners[listener] = None

    def remove_listener(self, listener: Callable[[], None]) -> None:
        """Forget `listener`; silent when it is unknown."""
        self._listeners.pop(listener, None)

    def _notify(self) -> None:
        self._notifying_thread = threading.get_ident()
        try:
            for listener in list(self._listeners):
                listener()
        finally:
            self._notifying_thread = None

    def _held(self) -> threading.RLock:
        assert self.lock is not None, "made by logging.Handler.__init__"
        return self.lock


def set_up(level: LogLevel, layout: LogFormat, stream: TextIO | None = None) -> LogRing:
    """Log to `stream` (stderr) and to the ring that is returned, from now on, in place of what was set up before."""
    number = NUMBERS[level]
    ring = LogRing()
    handlers: list[logging.Handler] = [ring]
    stream = stream if stream is not None else sys.stderr
    if stream is not None:  # a process may be started without a stderr
        output = Output(stream)
        output.setFormatter(JsonFormatter() if layout is LogFormat.JSON else ConsoleFormatter())
        handlers.insert(0, output)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger(OWN_LOGGER).setLevel(number)
    return ring
