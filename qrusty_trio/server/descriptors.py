"""The limit of file descriptors, and how it is divided.

Rule: connections get what the store and the rest leave, never the other way round. So no number of idle connections can
keep the store from opening a file.

Requirements: API-0065
"""

from __future__ import annotations

import logging
import resource
from dataclasses import replace
from typing import NamedTuple

from qrusty_trio.config import Settings
from qrusty_trio.errors import StartupRefused
from qrusty_trio.http.context import MAX_TURNED_AWAY

LEAST = 64
"""With fewer descriptors the server does not start: it needs 38 for itself."""
OWN = 96
"""Reserved for the server itself: 38 from the start, 32 segments open for reading, segments being written, and a
compaction. With a limit under 128 it gets three quarters of it, which leaves room for fewer segments."""
UNCACHED_TABLES = 10
"""RocksDB keeps this many fewer tables open than its limit."""
LEAST_TABLES = 16
"""The minimum for RocksDB's limit of open tables."""


class Shares(NamedTuple):
    """How a limit of descriptors is divided."""

    tables: int
    """RocksDB's limit of open tables."""
    turned_away: int
    """Connections over the limit that may be open at a time while they are being refused."""
    connections: int


def shares(limit: int, tables: int) -> Shares:
    """Divide `limit` descriptors. `tables` is what RocksDB should get if there are enough.

    Requirements: API-0065
    """
    rest = limit - min(OWN, limit * 3 // 4)
    tables = min(tables, max(LEAST_TABLES, rest // 4))
    turned_away = min(MAX_TURNED_AWAY, rest // 8)
    return Shares(tables, turned_away, rest - (tables - UNCACHED_TABLES) - turned_away)


class Fitted(NamedTuple):
    """The settings that fit the descriptors available."""

    settings: Settings
    turned_away: int
    notes: tuple[tuple[int, str], ...]
    """(level, message) pairs for the log."""


def fit(settings: Settings) -> Fitted:
    """Raise the soft limit of this process to the hard limit, and adapt the settings to it.

    Raises StartupRefused when the limit is under `LEAST`.
    """
    notes = _raise_limit()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return Fitted(settings, MAX_TURNED_AWAY, notes)
    if limit < LEAST:
        raise StartupRefused(f"The limit of open files (ulimit -n) is {limit}; the server needs at least {LEAST}.")
    wanted = settings.max_connections
    tables, turned_away, connections = shares(limit, settings.rocksdb_max_open_files)
    if connections < wanted:
        notes += (
            (
                logging.WARNING,
                f"with at most {limit} open files (ulimit -n) there are at most {connections} connections, not the "
                f"{wanted} of MAX_CONNECTIONS: raise the one or lower the other",
            ),
        )
    fitted = replace(settings, max_connections=min(connections, wanted), rocksdb_max_open_files=tables)
    return Fitted(fitted, turned_away, notes)


def _raise_limit() -> tuple[tuple[int, str], ...]:
    """Raise the soft limit to the hard one. The usual soft limit of 1,024 is for select(2), which nothing here uses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return ()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        return ((logging.WARNING, f"the limit of open files stays {soft}, it could not be raised to {hard}: {error}"),)
    return ((logging.INFO, f"the limit of open files was raised from {soft} to {hard}"),)
