"""Logging: one line a record on stderr, and a ring of the last records for subscribers.

Rule: logging never blocks and never stops. A thread of its own writes to stderr. If the reader of stderr stalls or the
disk is full, records are dropped and counted, but nothing waits. A record is one line, whatever a client put into it,
except for tracebacks in console format. Other packages log only from WARNING on, whatever the level. Otherwise a logger
that reports each frame sent would feed itself with log frames.

Times are UTC, RFC 3339 with milliseconds. Level names are those of the contract: error, warn, info, debug.

Requirements: SYS-0017
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import TextIO

from qrusty_trio.lines import Lines
from qrusty_trio.wording import counted

RING_RECORDS = 1000
"""Records kept for `subscribe-logs`."""
MAX_MESSAGE_CHARS = 8192
"""Characters of a record in the ring, including its traceback. The rest is truncated; stderr gets all of it."""
MAX_TRACEBACK_LINE = 500
"""Characters of a line in a traceback; the rest is truncated."""
OUTPUT_RECORDS = 10_000
"""Records that may wait for stderr. Further ones are dropped and counted."""
OUTPUT_CLOSE_SECONDS = 2.0
"""How long the waiting records are written for at the end of the process."""

OWN_LOGGER = "qrusty_trio"
EXTRA_FIELDS = ("request_id", "trace_id")
"""Further fields of a record in JSON: of which request it tells. In text, the message names the request."""


class LogLevel(StrEnum):
    """What is logged: this level and more serious ones."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"
    DEBUG = "debug"


class LogFormat(StrEnum):
    """The format of records on stderr."""

    CONSOLE = "console"
    JSON = "json"


class AccessFormat(StrEnum):
    """Whether and how the access log is written to stdout."""

    OFF = "off"
    CONSOLE = "console"
    JSON = "json"


NUMBERS = {
    LogLevel.ERROR: logging.ERROR,
    LogLevel.WARN: logging.WARNING,
    LogLevel.INFO: logging.INFO,
    LogLevel.DEBUG: logging.DEBUG,
}
"""Our levels as numbers of `logging`."""


def level_name(number: int) -> str:
    """The contract's name for a level of `logging`: the most serious one that is not higher."""
    return next((level.value for level, bound in NUMBERS.items() if number >= bound), LogLevel.DEBUG.value)


def timestamp(record: logging.LogRecord) -> str:
    """The time of a record, such as 2031-05-04T03:02:01.006Z."""
    return rfc3339(record.created)


def rfc3339(seconds: float) -> str:
    """A time, in seconds since 1970, such as 2031-05-04T03:02:01.006Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def one_line(text: str) -> str:
    """The text with whatever could break or colour the line escaped: line ends, control characters, lone surrogates.

    Requirements: API-0067
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class _Formatter(logging.Formatter):
    def traceback(self, record: logging.LogRecord) -> str:
        """The traceback and stack of a record, if any; otherwise empty."""
        parts = []
        if record.exc_info and record.exc_info[0] is not None:
            parts.append(self.formatException(record.exc_info))
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(_shortened(line) for part in parts for line in part.split("\n"))


def _shortened(line: str) -> str:
    """A line of a traceback, truncated. An exception may quote everything that a peer has sent."""
    return line if len(line) <= MAX_TRACEBACK_LINE else f"{line[:MAX_TRACEBACK_LINE]} ... ({len(line)} characters)"


class ConsoleFormatter(_Formatter):
    """`2031-05-04T03:02:01.006Z WARN  server.pressure: message`, then the traceback on lines of its own.

    Requirements: API-0067
    """

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix(OWN_LOGGER + ".")
        level = level_name(record.levelno).upper()
        line = f"{timestamp(record)} {level:<5} {name}: {one_line(record.getMessage())}"
        traceback = self.traceback(record)
        return f"{line}\n{traceback}" if traceback else line


class JsonFormatter(_Formatter):
    """One JSON object a line: timestamp, level, logger, message, and what else there is of request_id, trace_id (what
    the caller gave as `extra`) and traceback.

    Requirements: API-0067, API-0078
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "timestamp": timestamp(record),
            "level": level_name(record.levelno),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update({name: value for name in EXTRA_FIELDS if (value := getattr(record, name, ""))})
        traceback = self.traceback(record)
        if traceback:
            fields["traceback"] = traceback
        return json.dumps(fields)


class Output(logging.Handler):
    """Writes records in order to a stream, from a thread of its own. `close` writes the waiting ones.

    The stream is not closed. A record is lost after `close`, while `OUTPUT_RECORDS` are waiting, or when writing to the
    stream fails. Once the stream takes records again, a line reports how many were lost.

    Requirements: API-0068
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.lines: Lines[str] = Lines(stream, "log output", OUTPUT_RECORDS, lambda line: line, self._told)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  # arguments that do not fit the format; reported as by any handler
            self.handleError(record)
            return
        self.lines.put(line)

    def close(self) -> None:
        """Write the waiting records, for up to `OUTPUT_CLOSE_SECONDS`. Idempotent."""
        self.lines.close(OUTPUT_CLOSE_SECONDS)
        super().close()

    def _told(self, lost: int, why: str) -> str:
        sentence = f"{counted(lost, 'log record was lost: it was', 'log records were lost: they were')} {why}"
        return self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, sentence, (), None))


class LogRing(logging.Handler):
    """The last `RING_RECORDS` records, numbered from 0 since the start of the process; see `api.ws_logs.LogRing`.

    Records may come from any thread. Readers and listeners run on the event loop's thread; `attach` provides the way
    there. However many records come between two turns of the loop, each listener is called once. A record made inside a
    listener calls none, so that delivering log records can't go on forever by itself.

    Requirements: WS-0017
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
        """Call listeners through `call_soon(function)`, which runs a function on the event loop from any thread.

        `call_soon` must drop a function that is already waiting: Trio's `run_sync_soon` with idempotent=True.
        """
        self._call_soon = call_soon

    def detach(self) -> None:
        """Stop calling listeners, because the event loop ends. Records are still kept."""
        self._call_soon = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            traceback = self._formatter.traceback(record)
        except Exception:  # noqa: BLE001  # arguments that do not fit the format; reported as by any handler
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
        except RuntimeError:  # trio.RunFinishedError: the loop has ended, but `detach` was not called yet
            self.detach()

    def oldest(self) -> int:
        """The number of the oldest record still kept, or of the next record if there is none."""
        with self._held():
            return self._next - len(self._records)

    def read(self, position: int, limit: int) -> tuple[int, Sequence[tuple[str, str, str]]]:
        """(next position, records): up to `limit` records from number `position` on, or from the oldest kept.

        A record is (timestamp, level, message). The next position is the number after the last record returned, or
        `position` if none is.
        """
        with self._held():
            first = self._next - len(self._records)
            start = max(position, first)
            records = list(islice(self._records, start - first, start - first + max(limit, 0)))
        return (start + len(records), records) if records else (position, records)

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener` on the event loop's thread when there are new records. Adding it again has no effect."""
        self._listeners[listener] = None

    def remove_listener(self, listener: Callable[[], None]) -> None:
        """Remove a listener. No effect when it is unknown."""
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
    """Log to `stream` (default: stderr) and to the returned ring from now on. Replaces all earlier handlers."""
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
