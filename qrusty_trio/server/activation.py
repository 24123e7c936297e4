"""The sockets that systemd passes to the server it starts (sd_listen_fds(3)).

Rule: what is passed is listened on in place of BIND_ADDR. A socket that can't be listened on refuses the start. Without
LISTEN_FDS for this process there are none.

Requirements: API-0161
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Mapping
from typing import NamedTuple

from qrusty_trio.errors import StartupRefused

FIRST = 3
"""The descriptor of the first socket: SD_LISTEN_FDS_START."""
MAX_PASSED = 64
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
UNNAMED = "unknown"
"""What systemd calls a socket without a name."""

log = logging.getLogger(__name__)


class PassedSocket(NamedTuple):
    """A listening socket, and the name that its unit gives it."""

    socket: socket.socket
    name: str


def passed_sockets(environment: Mapping[str, str], pid: int | None = None) -> list[PassedSocket]:
    """The sockets that were passed to this process. Raises StartupRefused.

    LISTEN_FDS: how many. LISTEN_PID: whom they are for. LISTEN_FDNAMES: their names, separated by colons.
    """
    names = _names(environment, os.getpid() if pid is None else pid)
    return [_taken(FIRST + index, name) for index, name in enumerate(names)]


def _names(environment: Mapping[str, str], pid: int) -> list[str]:
    """The name of each socket. Values that make no sense are logged, and as if they were not set."""
    count = environment.get("LISTEN_FDS", "")
    if not count or environment.get("LISTEN_PID", "") != str(pid):
        return []
    if not (count.isascii() and count.isdigit() and len(count) < 9 and int(count) <= MAX_PASSED):
        log.warning("LISTEN_FDS=%.100r is no number up to %d: no socket is taken from systemd", count, MAX_PASSED)
        return []
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    return names if len(names) == int(count) else [UNNAMED] * int(count)


def _taken(descriptor: int, name: str) -> PassedSocket:
    """The socket of a descriptor. Raises StartupRefused if it is none that can be listened on."""
    name = name or UNNAMED
    what = f"Descriptor {descriptor}, which systemd passed as '{name}',"
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise StartupRefused(f"{what} is no socket.")
        os.set_inheritable(descriptor, False)
        taken = socket.socket(fileno=descriptor)
        fits = taken.family in FAMILIES and taken.type == socket.SOCK_STREAM
        if not fits or not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            taken.detach()
            raise StartupRefused(f"{what} is no socket that listens: the unit needs ListenStream= and Accept=no.")
    except OSError as error:
        raise StartupRefused(f"{what} can't be used: {error}") from error
    return PassedSocket(taken, name)
