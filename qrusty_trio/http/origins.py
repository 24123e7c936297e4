"""What pages in a browser may do: the one answer for HTTP and WebSocket, whoever holds the connection.

Rule: a browser tells on whose behalf it asks, and a page can't keep it from that: `Origin` with everything that changes
something, `Sec-Fetch-*` where the address can be trusted. Clients that send neither are not browsers and are not
affected.

Two things are kept from pages of others. To change anything, or to open a WebSocket: a page of another origin is
refused, and so is one of the same site, for that may be another port of this machine or another customer of one host.
To pose as a page of this server, by a name of its own that it lets point here (DNS rebinding): a browser is served only
under a host that such a name can't be.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from qrusty_trio.errors import QrustyError

_ORIGIN = re.compile(r"(https?)://([^/?#@\\\s]+)", re.ASCII)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::([0-9]{0,5}))?", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OWN_SITES = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site: a page of this server, and the user, who typed the address or chose a bookmark."""


class OriginNotAllowed(QrustyError):
    """A page of another origin wants to change something, or a WebSocket (status 403)."""

    status = 403
    code = "origin_not_allowed"


class HostNotAllowed(QrustyError):
    """A browser asks under a name that this server does not know as its own (status 403)."""

    status = 403
    code = "host_not_allowed"


class Browser(NamedTuple):
    """What a browser's request says of where it comes from."""

    host: str
    """The Host header, or what HTTP/2 has in its place; '' for none."""
    origin: str | None
    site: str | None
    """Sec-Fetch-Site."""


def read_browser(headers: Iterable[tuple[str, str]]) -> Browser | None:
    """What the headers say, if they are a browser's. Those that come twice are joined: nothing good has two."""
    found: dict[str, str] = {}
    browser = False
    for name, value in headers:
        name = name.lower()
        if name == "origin" or name.startswith("sec-fetch-"):
            browser = True
        elif name != "host":
            continue
        found[name] = f"{found[name]}, {value}" if name in found else value
    return Browser(found.get("host", ""), found.get("origin"), found.get("sec-fetch-site")) if browser else None


def check_host(browser: Browser | None, allowed: Collection[str]) -> None:
    """Raise HostNotAllowed unless a browser asks under an IP address, localhost or one of `allowed` (lower case)."""
    if browser is None:
        return
    match = _HOST.fullmatch(browser.host)
    name = match[1].lower().removesuffix(".") if match is not None else ""
    if not (name in allowed or name == "localhost" or name.endswith(".localhost") or _is_address(name)):
        raise HostNotAllowed(
            f"Browsers are not served under the host '{browser.host}'; QRUSTY_ALLOWED_HOSTS names those that are"
        )


def _is_address(name: str) -> bool:
    try:
        if name.startswith("["):
            IPv6Address(name[1:-1])
        else:
            IPv4Address(name)
    except ValueError:
        return False
    return True


def check_origin(browser: Browser | None, allowed: Collection[str]) -> None:
    """Raise OriginNotAllowed for a page of an origin that is neither the server's own nor one of `allowed`."""
    if browser is None or browser.origin in allowed:
        return
    if browser.site is not None and browser.site.lower() not in _OWN_SITES:
        raise _foreign()
    if browser.origin is not None and not _is_own(browser.origin, browser.host):
        raise _foreign()


def _foreign() -> OriginNotAllowed:
    return OriginNotAllowed("Pages of another origin may not do this; QRUSTY_ALLOWED_ORIGINS names those that may")


def _is_own(origin: str, host: str) -> bool:
    page = _ORIGIN.fullmatch(origin)
    if page is None:
        return False
    theirs, ours = _HOST.fullmatch(page[2]), _HOST.fullmatch(host)
    if theirs is None or ours is None or theirs[1].lower() != ours[1].lower():
        return False
    # The scheme of this side may be a proxy's business, and is not known.
    default = _DEFAULT_PORTS[page[1]]
    return int(theirs[2] or default) == int(ours[2] or default)
