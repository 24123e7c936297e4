"""Serialize replies as HTTP/1.1 responses, including those that are sent without asking the engine.

Rule: a status, header or sentence that does not come from an operation is made here, for the fast path and the
fallback alike.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from email.utils import formatdate
from http import HTTPStatus

from qrusty_trio.api.call import Reply
from qrusty_trio.api.operations import MAX_BODY_BYTES, RETRY_AFTER_SECONDS
from qrusty_trio.errors import BodyTooLarge, Unavailable

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_UNKNOWN = b"Unknown"
CLOSE = b"\r\nconnection: close"
KEEP_ALIVE = b"\r\nconnection: keep-alive"


def reason_phrase(status: int) -> bytes:
    return _PHRASES.get(status, _UNKNOWN)


def body_too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The body is limited to {MAX_BODY_BYTES} bytes")


def too_many_connections() -> Unavailable:
    return Unavailable("Too many connections. Try again later.")


def too_many_from_there(limit: int) -> Unavailable:
    return Unavailable(f"Your address has too many connections: at most {limit}. Close some, or try again later.")


def cors_headers(origin: str | None, allowed: Collection[str]) -> dict[str, str]:
    """The CORS headers for a page of an allowed origin; empty for any other.

    Requirements: API-0051
    """
    if origin is None or origin not in allowed:
        return {}
    return {"access-control-allow-origin": origin, "vary": "Origin"}


class Responses:
    """Serializes responses. Caches what precedes the length: only its Date changes, once a second."""

    def __init__(self) -> None:
        self._prefixes: dict[tuple[int, bool], bytes] = {}
        self._second = 0
        self._date = b""

    def tick(self) -> None:
        """Update Date from the wall clock. Call this about once a second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = formatdate(second, usegmt=True).encode()
            self._prefixes.clear()

    def prefix(self, status: int, json: bool) -> bytes:
        """The response up to the value of Content-Length."""
        found = self._prefixes.get((status, json))
        if found is None:
            if not self._date:
                self.tick()
            found = b"HTTP/1.1 %d %b\r\ndate: %b\r\n" % (status, reason_phrase(status), self._date)
            if json:
                found += b"content-type: application/json\r\n"
            if status == 503:
                found += b"retry-after: %d\r\n" % RETRY_AFTER_SECONDS
            elif status == 401:
                found += b"www-authenticate: Bearer\r\n"
            found += b"content-length: "
            self._prefixes[status, json] = found
        return found

    def response(self, reply: Reply, extra: bytes = b"", head_only: bool = False, json: bool = True) -> bytes:
        """A whole response. `extra`: further header lines, each preceded by CR LF. `json`: what a body is."""
        body = reply.body
        json = json and bool(body)
        if reply.retry_after:
            extra = b"%b\r\nretry-after: %d" % (extra, reply.retry_after)
        prefix = self._prefixes.get((reply.status, json)) or self.prefix(reply.status, json)
        return b"%b%d%b\r\n\r\n%b" % (prefix, len(body), extra, b"" if head_only else body)


def header_lines(headers: dict[str, str]) -> bytes:
    """Header lines for `Responses.response`, each preceded by CR LF."""
    return b"".join(f"\r\n{name}: {value}".encode("latin-1") for name, value in headers.items())
