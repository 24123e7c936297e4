"""What goes wrong in a background task, for its log: told once a minute, however often it happens.

Rule: no trouble with the system (no descriptors, no memory, a disk that fails) ends a background task. It tells, and
tries again.
"""

from __future__ import annotations

import logging
import time

from qrusty_trio.errors import QrustyError
from qrusty_trio.storage.files import explained
from qrusty_trio.wording import counted

TELL_SECONDS = 60.0
"""Between two lines about the same task."""


class Trouble:
    """That of one task. `what` begins the line: "memory could not be read, trying again every second"."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._next = 0.0
        self._untold = 0

    def note(self, error: Exception) -> None:
        """It went wrong. What is no trouble with the system is told with its traceback."""
        now = time.monotonic()
        if now < self._next:
            self._untold += 1
            return
        self._next = now + TELL_SECONDS
        more = f" ({counted(self._untold, 'more time', 'more times')} since it was last told)" if self._untold else ""
        self._untold = 0
        expected = isinstance(error, QrustyError | OSError | MemoryError)
        self._log.error("%s: %s%s", self._what, explained(error), more, exc_info=None if expected else error)
