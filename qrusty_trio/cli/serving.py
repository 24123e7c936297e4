"""The server as a process: reads the settings, sets up the log, serves until a signal, and returns an exit status.

Rule: a server loads nothing of the commands, neither typer nor rich. The exit status is 0 after a clean stop. It is 78
(EX_CONFIG of sysexits.h), with one line on stderr, when the server must not start. It is 1 after a crash, with the
traceback in the log, or when the store could not be closed in order.

Requirements: SYS-0015
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial
from typing import TypeVar

import trio

from qrusty_trio.config import TABLE, Settings
from qrusty_trio.errors import QrustyError, StartupRefused, StorageFault
from qrusty_trio.logs import LogRing, one_line, set_up
from qrusty_trio.unknown_settings import unknown_variables

EXIT_CRASHED = 1
EXIT_REFUSED = 78

Refusal = TypeVar("Refusal", bound=QrustyError)

logger = logging.getLogger(__name__)


def serve() -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status."""
    # A terminal that hangs up, or a request to reload the settings, must not end the process, not even while it stops.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = Settings.from_environment(os.environ)
        ring = set_up(settings.log_level, settings.log_format)
        for sentence in unknown_variables(os.environ):
            logger.warning("%s", sentence)
        status = _run(settings, ring)
        # A late signal must not turn an end in order into a failure.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        return status
    except StartupRefused as refusal:
        print(one_line(str(refusal)), file=sys.stderr)
        return EXIT_REFUSED


def _run(settings: Settings, ring: LogRing) -> int:
    # Imported late, so that --version and a refusal do not wait for RocksDB to load.
    from qrusty_trio.server.activation import passed_sockets
    from qrusty_trio.server.notify import Notifier
    from qrusty_trio.server.supervisor import serve as run_server

    passed = passed_sockets(os.environ)
    notifier = Notifier.from_environment(os.environ)
    try:
        trio.run(partial(run_server, settings, ring, notifier=notifier, passed=passed))
    except StartupRefused:
        raise
    except Exception as crash:
        # A nursery wraps every exception, including a refusal.
        if isinstance(crash, ExceptionGroup):
            refusals, crashes = crash.split(StartupRefused)
            if refusals is not None and crashes is None:
                raise _first(refusals) from None
            faults, crashes = crash.split(StorageFault)
            if faults is not None and crashes is None:
                # A running server survives faults, so this one comes from the last sync or from closing the store.
                logger.critical("The store could not be closed in order: %s", _first(faults))
                return EXIT_CRASHED
        logger.critical("The server crashed.", exc_info=crash)
        return EXIT_CRASHED
    return 0


def _first(group: ExceptionGroup[Refusal]) -> Refusal:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, ExceptionGroup) else inner


def settings_text() -> str:
    """Every variable with its default, meaning and allowed values, in lines."""
    rows = []
    for row in TABLE.values():
        unit = f" ({row.unit})" if row.unit else ""
        rows.append(f"{row.variable}={row.default}\n    {row.meaning} Takes {row.check.allowed}{unit}.")
    return "\n".join(rows)
