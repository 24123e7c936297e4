"""Where a server may listen: a host and a port, or the path of a Unix socket.

Rule: an address is shown in the form in which it is configured.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import NamedTuple

from qrusty_trio.checks import Check

UNIX = "unix:"
"""What precedes the path of a Unix socket."""
MAX_UNIX_PATH_BYTES = 107
"""The kernel takes 108, with the zero byte at the end (unix(7))."""
MAX_ADDRESSES = 16


class Address(NamedTuple):
    """A TCP address. `host` is without brackets; port 0 means any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(NamedTuple):
    """The absolute path of a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"


def addresses() -> Check[tuple[Address | UnixAddress, ...]]:
    """A check for one or more addresses, separated by commas."""

    def parse(text: str) -> tuple[Address | UnixAddress, ...]:
        parts = [part.strip(" ") for part in text.split(",")]
        if len(parts) > MAX_ADDRESSES:
            raise ValueError
        return tuple(_unix(part) if part.startswith(UNIX) else _tcp(part) for part in parts)

    return Check(
        f"at most {MAX_ADDRESSES} addresses, separated by commas: host:port, such as 127.0.0.1:6784 or [::1]:6784, "
        f"port 0 to 65535, or unix: and an absolute path of at most {MAX_UNIX_PATH_BYTES} bytes, such as "
        "unix:/run/qrusty.sock",
        parse,
    )


def _tcp(text: str) -> Address:
    match = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^:\[\]\s]+)):([0-9]{1,5})", text, re.ASCII)
    if match is None or int(match[3]) > 65535:
        raise ValueError
    if match[1] is not None:
        IPv6Address(match[1])
    return Address(match[1] or match[2], int(match[3]))


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix(UNIX)
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise ValueError
    if len(path.encode()) > MAX_UNIX_PATH_BYTES:
        raise ValueError
    return UnixAddress(path)
