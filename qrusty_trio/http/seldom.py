"""Log lines that peers can cause, so that they must not fill the log."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import trio

LOG_SECONDS = 1.0
"""Least time between two log lines of a kind that peers can cause."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Seldom:
    """A log line that peers can cause, limited to once every LOG_SECONDS."""

    next: float = -math.inf
    count: int = 0
    """How often it happened, log lines left out included."""
    kept_back: int = 0

    def log(self, line: str, failure: BaseException | None = None) -> None:
        """Log a warning, or, with `failure`, an error and its traceback."""
        self.count += 1
        if trio.current_time() < self.next:
            self.kept_back += 1
            return
        if self.kept_back:
            line += f" ({self.kept_back} such lines were left out)"
        logger.log(logging.WARNING if failure is None else logging.ERROR, "%s", line, exc_info=failure)
        self.next = trio.current_time() + LOG_SECONDS
        self.kept_back = 0
