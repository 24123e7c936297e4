"""What pages in a browser may do: one policy for HTTP and WebSocket, on the fast path and the fallback.

Rule: a browser says which page makes a request, and the page can't prevent that. It sends `Origin` with every request
that changes something, and `Sec-Fetch-*` to a trustworthy address. Clients that send neither are not browsers and are
not affected.

Foreign pages are kept from two things:

- Changing anything, or opening a WebSocket. A page of another origin is refused, even one of the same site: that may be
  another port of this machine, or another customer of the same host.
- Posing as a page of this server through a name of their own that resolves to it (DNS rebinding). A browser is served
  only under host names that such a name can't be.

Requirements: SYS-0018
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
"""Values of Sec-Fetch-Site: a page of this server, or the user, who typed the address or chose a bookmark."""


class OriginNotAllowed(QrustyError):
    """A page of another origin tried to change something or to open a WebSocket (status 403)."""

    status = 403
    code = "origin_not_allowed"


class HostNotAllowed(QrustyError):
    """A browser used a host name that this server does not accept as its own (status 403)."""

    status = 403
    code = "host_not_allowed"


class Browser(NamedTuple):
    """What a browser's request says about its origin."""

    host: str
    """The Host header, or HTTP/2's :authority; '' if there is none."""
    origin: str | None
    site: str | None
    """The Sec-Fetch-Site header; None if there is none."""


def read_browser(headers: Iterable[tuple[str, str]]) -> Browser | None:
    """The origin headers, if they are a browser's; else None. Repeated headers are joined, so they match nothing."""
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
    """Raise HostNotAllowed unless a browser's host is an IP address, localhost or one of `allowed` (lower case).

    Requirements: API-0049
    """
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
    """Raise OriginNotAllowed for a page of an origin that is neither the server's own nor one of `allowed`.

    Requirements: API-0050
    """
    if browser is None or browser.origin in allowed:
        return
    if browser.site is not None and browser.site.lower() not in _OWN_SITES:
        raise _foreign()
    if browser.origin is not None and not _is_own(browser.origin, browser.host):
        raise _foreign()


def is_own_page(browser: Browser | None) -> bool:
    """Whether a request is not one of a page of another origin, allowed or not. Only then does a cookie count.

    Requirements: API-0191
    """
    try:
        check_origin(browser, ())
    except OriginNotAllowed:
        return False
    return True


def _foreign() -> OriginNotAllowed:
    return OriginNotAllowed("Pages of another origin may not do this; QRUSTY_ALLOWED_ORIGINS names those that may")


def _is_own(origin: str, host: str) -> bool:
    page = _ORIGIN.fullmatch(origin)
    if page is None:
        return False
    theirs, ours = _HOST.fullmatch(page[2]), _HOST.fullmatch(host)
    if theirs is None or ours is None or theirs[1].lower() != ours[1].lower():
        return False
    # Our own scheme is unknown, because a proxy may terminate TLS; assume the page's.
    default = _DEFAULT_PORTS[page[1]]
    return int(theirs[2] or default) == int(ours[2] or default)
