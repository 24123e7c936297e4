"""What the server writes down of its clients: the access log.

Rule: it is opened before the server listens, and closed after the last connection has ended.
"""

from __future__ import annotations

import sys

from qrusty_trio.config import Settings
from qrusty_trio.http.access_log import AccessLog
from qrusty_trio.logs import AccessFormat


class Notes:
    """The open logs. `close` must be called."""

    def __init__(self, settings: Settings) -> None:
        self.access: AccessLog | None = None
        # A process may be started without a stdout.
        if settings.access_log is not AccessFormat.OFF and sys.stdout is not None:
            self.access = AccessLog(settings.access_log, sys.stdout)

    def close(self) -> None:
        """Write what still waits, within a few seconds. Blocks."""
        if self.access is not None:
            self.access.close()
