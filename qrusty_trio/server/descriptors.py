"""How many file descriptors the process may have, and who gets them.

Rule: connections get what the store and the rest leave, never the other way round. So no number of idle connections
keeps the store from opening a file.
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
"""With fewer the server does not start: it has 35 open by itself."""
OWN = 96
"""For the server's own: 35 from the start on, 32 segments that are open for reading, segments being written, a
compaction. With a limit of less than 128 it gets three quarters: fewer segments find room then."""
UNCACHED_TABLES = 10
"""RocksDB keeps so many fewer tables open than it is told."""
LEAST_TABLES = 16
"""What it can be told at least."""


class Shares(NamedTuple):
    """What a limit of descriptors is spent on."""

    tables: int
    """What RocksDB is told."""
    turned_away: int
    """Connections too many, that are told so at the same time."""
    connections: int


def shares(limit: int, tables: int) -> Shares:
    """Divide `limit`. `tables` is what RocksDB is to get if there is enough."""
    rest = limit - min(OWN, limit * 3 // 4)
    tables = min(tables, max(LEAST_TABLES, rest // 4))
    turned_away = min(MAX_TURNED_AWAY, rest // 8)
    return Shares(tables, turned_away, rest - (tables - UNCACHED_TABLES) - turned_away)


class Fitted(NamedTuple):
    """What the server can do with the descriptors that it gets."""

    settings: Settings
    turned_away: int
    notes: tuple[tuple[int, str], ...]
    """What is to be said of that in the log, each with its level."""


def fit(settings: Settings) -> Fitted:
    """Raise the soft limit of this process to the hard one, and hold the settings against it.

    Raises StartupRefused when there are too few descriptors to serve anybody.
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
    """Nothing here uses select(2), for which the usual soft limit of 1,024 was made."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return ()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        return ((logging.WARNING, f"the limit of open files stays {soft}, it could not be raised to {hard}: {error}"),)
    return ((logging.INFO, f"the limit of open files was raised from {soft} to {hard}"),)
