"""The PROXY protocol, versions 1 and 2: what a proxy says first about the connection that it passes on. No I/O.

Rule: not a byte behind the header is taken, because TLS or a request begins there. The first byte that no header can
have ends the reading. Whether to believe a header is for the caller: anybody can send one.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt

Requirements: API-0163
"""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

from qrusty_trio.errors import BadRequest

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
"""How version 2 begins (2.2)."""
FIXED_BYTES = 16
"""The part of version 2 that is always there: signature, version and command, family, length."""
MAX_BYTES = 2048
"""A longer header is refused. The addresses of version 2 take at most 232 bytes; extensions are skipped."""
_V1 = b"PROXY "
_MAX_V1 = 107
"""The longest line of version 1, with CR LF (2.1)."""
_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]{2,39}) ([0-9A-Fa-f.:]{2,39}) ([0-9]{1,5}) ([0-9]{1,5})\r\n")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [\x20-\x7e]*)?\r\n")
_LOCAL, _PROXY = 0x20, 0x21
"""Version 2 and the command: the proxy speaks for itself (a health check), or for a client."""
_FAMILIES = {0x11: (socket.AF_INET, 4), 0x21: (socket.AF_INET6, 16)}
"""TCP over IPv4 and IPv6: family, bytes of an address."""
_NAMELESS = frozenset({0x00, 0x31})
"""Unspecified, and Unix sockets: there is no address that says more than that of the proxy."""
_UNIX_BYTES = 216


class Source(NamedTuple):
    """Where the connection comes from, as the proxy says. `host` is in the usual form of its family."""

    host: str
    port: int


class BadProxyHeader(BadRequest):
    """What arrived is no header of the PROXY protocol (status 400)."""


class HeaderReader:
    """Reads one header. When it is `complete`, `source` is what it says; None if it says that the proxy speaks itself.

    Give `take` what has arrived until it is complete.
    """

    def __init__(self) -> None:
        self.complete = False
        self.source: Source | None = None
        self._held = b""

    def take(self, arrived: bytes) -> int:
        """How many of these bytes belong to the header: at least one. Raises BadProxyHeader."""
        held = self._held + arrived[: MAX_BYTES - len(self._held)]
        version_2 = held[:1] == SIGNATURE[:1]
        size = _size_of_v2(held) if version_2 else _size_of_v1(held)
        taken = (size if size is not None else len(held)) - len(self._held)
        if size is None or size > len(held):
            self._held = held
            return min(taken, len(arrived))
        self.source = _read_v2(held[:size]) if version_2 else _read_v1(held[:size])
        self.complete = True
        self._held = b""
        return taken


def _size_of_v1(held: bytes) -> int | None:
    """The size of the line; None if more must arrive to know it."""
    if held[: len(_V1)] != _V1[: len(held)]:
        raise BadProxyHeader("it is no header of the PROXY protocol")
    end = held.find(b"\n", 0, _MAX_V1)
    if end < 0 and len(held) >= _MAX_V1:
        raise BadProxyHeader(f"its line is too long: at most {_MAX_V1} bytes")
    return end + 1 or None


def _size_of_v2(held: bytes) -> int | None:
    """The size of the header; None if more must arrive to know it."""
    if held[: len(SIGNATURE)] != SIGNATURE[: len(held)]:
        raise BadProxyHeader("it is no header of the PROXY protocol")
    if len(held) > 12 and held[12] not in (_LOCAL, _PROXY):
        raise BadProxyHeader(f"its version and command are 0x{held[12]:02x}")
    if len(held) > 13 and held[12] == _PROXY and held[13] not in _FAMILIES and held[13] not in _NAMELESS:
        raise BadProxyHeader(f"its family and protocol are 0x{held[13]:02x}")
    if len(held) < FIXED_BYTES:
        return None
    size = FIXED_BYTES + int.from_bytes(held[14:FIXED_BYTES])
    if size > MAX_BYTES:
        raise BadProxyHeader(f"its size is {size}; at most {MAX_BYTES} bytes are taken")
    return size


def _read_v1(line: bytes) -> Source | None:
    if _UNKNOWN.fullmatch(line):
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadProxyHeader("its line can't be read")
    protocol, *texts = (each.decode("ascii") for each in match.groups())
    family = socket.AF_INET if protocol == "TCP4" else socket.AF_INET6
    try:
        source, _ = (socket.inet_ntop(family, socket.inet_pton(family, text)) for text in texts[:2])
    except OSError:
        raise BadProxyHeader("an address in it is none") from None
    ports = [int(text) for text in texts[2:]]
    if any(port > 65535 or str(port) != text for port, text in zip(ports, texts[2:], strict=True)):
        raise BadProxyHeader("a port in it is none")
    return Source(source, ports[0])


def _read_v2(header: bytes) -> Source | None:
    command, kind = header[12], header[13]
    room = len(header) - FIXED_BYTES
    if command == _LOCAL:
        return None
    if kind in _NAMELESS:
        if kind and room < _UNIX_BYTES:
            raise BadProxyHeader("its addresses are incomplete")
        return None
    family, octets = _FAMILIES[kind]
    if room < 2 * octets + 4:
        raise BadProxyHeader("its addresses are incomplete")
    at = FIXED_BYTES + 2 * octets
    host = socket.inet_ntop(family, header[FIXED_BYTES : FIXED_BYTES + octets])
    return Source(host, int.from_bytes(header[at : at + 2]))
