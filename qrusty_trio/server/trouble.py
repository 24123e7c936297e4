"""Logging of repeated errors in background tasks: at most one line a minute, however often an error happens.

Rule: no system error (no descriptors, no memory, a failing disk) ends a background task. The task logs the error and
tries again.

Requirements: SYS-0014
"""

from __future__ import annotations

import logging
import time

from qrusty_trio.errors import QrustyError
from qrusty_trio.storage.files import explained
from qrusty_trio.wording import counted

TELL_SECONDS = 60.0
"""Minimum interval between two lines about the same task."""


class Trouble:
    """The errors of one task. `what` begins the line: "memory could not be read, trying again every second".

    Requirements: SYS-0014
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._next = 0.0
        self._untold = 0

    def note(self, error: Exception) -> None:
        """Log an error, unless one was logged within `TELL_SECONDS`. An unexpected one is logged with its traceback."""
        now = time.monotonic()
        if now < self._next:
            self._untold += 1
            return
        self._next = now + TELL_SECONDS
        more = f" ({counted(self._untold, 'more time', 'more times')} since it was last told)" if self._untold else ""
        self._untold = 0
        expected = isinstance(error, QrustyError | OSError | MemoryError)
        self._log.error("%s: %s%s", self._what, explained(error), more, exc_info=None if expected else error)
