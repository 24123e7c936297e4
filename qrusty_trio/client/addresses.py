"""Where a server is, read from a URL. No I/O.

Rule: no text of an error repeats the user and the password of a URL.

Requirements: API-0168
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from qrusty_trio.client.errors import InvalidUrl

UNIX = "unix:"
"""What precedes the path of a Unix socket."""
WEBSOCKET_PATH = "/ws"
MAX_LABEL = 63
"""Most characters of a part of a host name (RFC 1035, 2.3.4)."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is."""

    host: str
    port: int
    tls: bool
    prefix: str
    """What precedes each path, '' for none."""
    unix_path: str = ""
    """The path of a Unix socket, which counts in place of host and port; '' for none."""

    @property
    def place(self) -> str:
        """Where to connect, for people."""
        return f"{UNIX}{self.unix_path}" if self.unix_path else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """As the header Host has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def address_of(url: str) -> Address:
    """Read an http:// or https:// URL, or unix: and the path of a socket.

    Raises InvalidUrl for any other, and for one with a user or a password.
    """
    if url.startswith(UNIX):
        return _unix(url, "")
    parts = _parts(url, "http", "an HTTP URL")
    if parts.query:
        raise _none(url, "an HTTP URL")
    return _address(parts)


def websocket_address_of(url: str) -> Address:
    """Read a ws:// or wss:// URL, or unix: and the path of a socket.

    Raises InvalidUrl for any other, and for one with a user or a password.
    """
    if url.startswith(UNIX):
        return _unix(url, WEBSOCKET_PATH)
    return _address(_parts(url, "ws", "a WebSocket URL"))


def _unix(url: str, prefix: str) -> Address:
    path = url.removeprefix(UNIX)
    if path.startswith("//"):
        path = path.removeprefix("//")  # unix:///run/q.sock
    if not path.startswith("/") or not path.isprintable():
        raise InvalidUrl(f"not the absolute path of a socket: {url!r}")
    return Address("localhost", 80, False, prefix, path)


def authorization_of(token: str | None) -> str:
    """The value of the header Authorization; '' without a token. Raises ValueError for what is none, unshown.

    Requirements: API-0193
    """
    if token is None:
        return ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token has printable ASCII characters only, at least one, and no space")
    return f"Bearer {token}"


def shown(url: str) -> str:
    """A URL without its user and password."""
    return re.sub("//[^/?#]*@", "//", url)


def _parts(url: str, scheme: str, what: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        labels = (parts.hostname or "").removesuffix(".").split(".")
        _ = parts.port
    except ValueError:
        raise _none(url, what) from None
    wrong_host = ":" not in (parts.hostname or "") and not all(0 < len(label) <= MAX_LABEL for label in labels)
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in (scheme, f"{scheme}s") or wrong_host or parts.fragment or not plain:
        raise _none(url, what)
    if "@" in parts.netloc:
        raise InvalidUrl("a URL with a user or a password in it is refused: this client would not send them")
    return parts


def _none(url: str, what: str) -> InvalidUrl:
    return InvalidUrl(f"not {what}" if "@" in url else f"not {what}: {url!r}")


def _address(parts: SplitResult) -> Address:
    tls = parts.scheme in ("https", "wss")
    return Address(parts.hostname or "", parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))
