"""A failure in one connection ends that connection and no other.

Rule: a failure is counted and logged with its traceback; the other connections go on. A peer may cause the same failure
again and again, so at most `TRACEBACKS` are logged in `PERIOD_SECONDS`. Further ones are only counted, and the next
traceback tells how many. Cancellation passes through.

Requirements: SYS-0009
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACKS = 10
"""Tracebacks logged in `PERIOD_SECONDS`."""
PERIOD_SECONDS = 60.0

log = logging.getLogger(__name__)


class Bulkheads:
    """Contains and counts the failures of all connections of a server.

    Requirements: SYS-0009
    """

    def __init__(self) -> None:
        self.failures = 0
        """Connections that failed since the start."""
        self._period_ends = 0.0
        self._logged = 0
        self._unlogged = 0

    @contextmanager
    def around(self, what: str) -> Iterator[None]:
        """Contain every Exception raised inside. Cancellation and process exit pass through.

        `what` names the connection in the log.
        """
        try:
            yield
        except BaseExceptionGroup as group:
            failures, others = group.split(Exception)
            if failures is not None:
                self.note(what, failures)
            if others is not None:
                raise others from None
        except Exception as error:  # noqa: BLE001  # `note` logs and counts it
            self.note(what, error)

    def note(self, what: str, failure: Exception) -> None:
        """Log and count a failure.

        Requirements: API-0043
        """
        self.failures += 1
        now = time.monotonic()
        if now >= self._period_ends:
            self._period_ends = now + PERIOD_SECONDS
            self._logged = 0
        if self._logged >= TRACEBACKS:
            self._unlogged += 1
            return
        self._logged += 1
        more = f" ({self._unlogged} more failed since the last one that was logged)" if self._unlogged else ""
        self._unlogged = 0
        log.error("%s failed and is closed; all others go on%s", what, more, exc_info=failure)
