"""What the server writes down of its clients: the access log and the audit.

Rule: both are opened before the server listens, and closed after the last connection has ended. What can't be opened
refuses the start.
"""

from __future__ import annotations

import sys

from qrusty_trio.api.auditing import AuditTrail
from qrusty_trio.config import Settings
from qrusty_trio.http.access_log import AccessLog
from qrusty_trio.logs import AccessFormat
from qrusty_trio.server.audit_file import AuditFile

MIB = 2**20


class Notes:
    """The open logs. `close` must be called. Raises StartupRefused. Blocks."""

    def __init__(self, settings: Settings) -> None:
        self.audit_file: AuditFile | None = None
        self.trail: AuditTrail | None = None
        if settings.audit_file is not None:
            self.audit_file = AuditFile(settings.audit_file, settings.audit_max_mb * MIB)
            self.trail = AuditTrail(self.audit_file)
        self.access: AccessLog | None = None
        # A process may be started without a stdout.
        if settings.access_log is not AccessFormat.OFF and sys.stdout is not None:
            self.access = AccessLog(settings.access_log, sys.stdout)

    def close(self) -> None:
        """Write what still waits, within a few seconds. Blocks."""
        if self.audit_file is not None:
            self.audit_file.close()
        if self.access is not None:
            self.access.close()
