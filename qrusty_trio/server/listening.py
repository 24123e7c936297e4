"""The sockets that the server listens on.

Rule: an address means what it says. `[::]` is every address of the machine, including IPv4. Addresses are shown in the
form in which they are configured. Whoever opens a socket removes its file: those that systemd passes stay.

Requirements: API-0064, API-0160, API-0161
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import trio

from qrusty_trio.addresses import Address, UnixAddress
from qrusty_trio.errors import StartupRefused
from qrusty_trio.server.activation import PassedSocket

BACKLOG = 1024
"""Connections that the kernel queues until they are accepted."""
EVERY_ADDRESS = "::"
UNIX_MODE = 0o660
"""Permissions of a Unix socket: the user and the group of the server may connect."""

log = logging.getLogger(__name__)


class _File(NamedTuple):
    """The file of a Unix socket that was made here."""

    path: Path
    device: int
    inode: int


class Listening:
    """The listening sockets of a server. `close` closes them all."""

    def __init__(self) -> None:
        self.listeners: list[trio.SocketListener] = []
        self._names: list[str] = []
        self._files: list[_File] = []

    @property
    def port(self) -> int:
        """The port of the first TCP socket; 0 if there is none."""
        for listener in self.listeners:
            if listener.socket.family != socket.AF_UNIX:
                port: int = listener.socket.getsockname()[1]
                return port
        return 0

    def described(self) -> list[str]:
        """The address of each socket, for the log."""
        return [described(each) + name for each, name in zip(self.listeners, self._names, strict=True)]

    def adopt(self, passed: Sequence[PassedSocket]) -> None:
        """Listen on what systemd passed."""
        for each in passed:
            self._add(trio.SocketListener(trio.socket.from_stdlib_socket(each.socket)), f", {each.name} of systemd")

    async def open(self, address: Address | UnixAddress) -> None:
        """Listen on `address`. A host name means all of its addresses. Raises StartupRefused."""
        try:
            if isinstance(address, UnixAddress):
                self._open_unix(Path(address.path))
            elif address.host == EVERY_ADDRESS:
                self._add(await _listen_everywhere(address.port))
            else:
                for each in await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG):
                    self._add(each)
        except OSError as error:
            raise StartupRefused(f"BIND_ADDR='{address}' can't be listened on: {error}") from error

    def close(self) -> None:
        """Close all sockets, and remove the files that were made for them. Raises nothing."""
        for file in self._files:
            with suppress(OSError):
                found = file.path.lstat()
                # Another server may have taken over the path.
                if (found.st_dev, found.st_ino) == (file.device, file.inode):
                    file.path.unlink()
        self._files.clear()
        for each in self.listeners:
            each.socket.close()

    def _add(self, listener: trio.SocketListener, name: str = "") -> None:
        self.listeners.append(listener)
        self._names.append(name)

    def _open_unix(self, path: Path) -> None:
        """Raises OSError."""
        _remove_stale(path)
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(opened.fileno(), UNIX_MODE)  # Linux makes the file with these, less the umask.
            opened.bind(str(path))
            made = path.lstat()
            self._files.append(_File(path, made.st_dev, made.st_ino))
            path.chmod(UNIX_MODE)
            opened.listen(BACKLOG)
            self._add(trio.SocketListener(trio.socket.from_stdlib_socket(opened)))
        except BaseException:
            opened.close()
            raise


def _remove_stale(path: Path) -> None:
    """Remove the file of a Unix socket on which nobody listens any more. Raises OSError if it is anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(f"{path} is there, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            log.info("%s was left by a server that listens no more: it is removed", path)
            path.unlink()
            return
        except BlockingIOError:
            pass  # Its backlog is full.
    raise OSError("another process listens there")


async def _listen_everywhere(port: int) -> trio.SocketListener:
    """Listen on `::` for IPv6 and IPv4. Trio's own listener for `::` takes only IPv6. Raises OSError."""
    opened = trio.socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        await opened.bind((EVERY_ADDRESS, port))
        opened.listen(BACKLOG)
        return trio.SocketListener(opened)
    except BaseException:
        opened.close()
        raise


def described(listener: trio.SocketListener) -> str:
    """The address of a listener, for the log."""
    family, bound = listener.socket.family, listener.socket.getsockname()
    if family == socket.AF_UNIX:
        return str(UnixAddress(_path_of(bound)))
    address = Address(*bound[:2])
    if family == socket.AF_INET6 and not listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return f"{address} (IPv4, too)"
    return str(address)


def _path_of(bound: str | bytes) -> str:
    """The path of a Unix socket; `@` and its name if it is an abstract one."""
    if isinstance(bound, bytes):
        return "@" + bound.removeprefix(b"\0").decode(errors="backslashreplace")
    return bound
