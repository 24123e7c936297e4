"""Who a request is: the id that its client gave it (`X-Request-Id`), and its place in a trace (`traceparent`).

Rule: nothing is refused for its id. One that is too long or not plain counts as none. The values are kept as they came
and read only when something is logged or traced, since most requests come to neither.

Source of `traceparent`: https://www.w3.org/TR/trace-context/

Requirements: API-0078
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

import msgspec

MAX_REQUEST_ID_BYTES = 128
"""Longer ids count as none: the log and the response repeat them."""
_PLAIN = re.compile(rb"[\x20-\x7e]{0,%d}" % MAX_REQUEST_ID_BYTES)
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_OWN_ID_BYTES = 8


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What a request says about itself."""

    request_id: bytes = b""
    """Printable ASCII; b"" if there is none."""
    traceparent: bytes = b""
    """As it came; b"" if there is none."""

    @property
    def name(self) -> str:
        """What the log calls the request: its id, or else that of its trace; '' if it has neither."""
        return self.request_id.decode("ascii") or self.trace_id

    @property
    def trace_id(self) -> str:
        """The id of its trace, 32 hexadecimal digits; '' if there is none."""
        found = read_traceparent(self.traceparent)
        return found[0] if found is not None else ""

    @property
    def tags(self) -> dict[str, str]:
        """The fields of a log record that say of which request it tells; see `logs.EXTRA_FIELDS`."""
        return {"request_id": self.name, "trace_id": self.trace_id}

    @property
    def header(self) -> bytes:
        """The header line of the response, preceded by CR LF; b"" without an id."""
        return b"\r\nx-request-id: " + self.request_id if self.request_id else b""


def is_plain(value: bytes) -> bool:
    """Whether this can be an id or a `traceparent` as it stands, and a well-formed value of a header."""
    return value != b"" and _PLAIN.fullmatch(value) is not None


def read_identity(request_ids: list[bytes] | None, traceparents: list[bytes] | None) -> Identity | None:
    """The identity in these headers; None if they say nothing. A header that is given twice counts as none."""
    request_id = traceparent = b""
    if request_ids is not None and len(request_ids) == 1:
        (request_id,) = request_ids
        # HTTP/2 lets control characters through to here.
        if not _PLAIN.fullmatch(request_id):
            request_id = b""
    if traceparents is not None and len(traceparents) == 1:
        (traceparent,) = traceparents
    return Identity(request_id, traceparent) if request_id or traceparent else None


def identified(identity: Identity | None) -> Identity:
    """The same with a request id: its own, or else that of its trace, or else a new one."""
    if identity is None:
        return Identity(_new_id())
    if identity.request_id:
        return identity
    return Identity(identity.trace_id.encode() or _new_id(), identity.traceparent)


def read_traceparent(value: bytes) -> tuple[str, str, int] | None:
    """(id of the trace, id of the parent, flags) of a `traceparent`; None if it is not a valid one."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None or (value.startswith(b"00") and match[4] is not None):
        return None
    return match[1].decode(), match[2].decode(), int(match[3], 16)


def identity_in_trace(traceparents: Sequence[str]) -> Identity | None:
    """The identity of what says only this; None unless it is one valid `traceparent`.

    What follows its four parts is left out, so it is always as short as they are.
    """
    found = read_traceparent(traceparents[0].encode("utf-8", "surrogateescape")) if len(traceparents) == 1 else None
    if found is None:
        return None
    trace_id, parent_id, flags = found
    return Identity(b"", f"00-{trace_id}-{parent_id}-{flags:02x}".encode())


def _new_id() -> bytes:
    return secrets.token_hex(_OWN_ID_BYTES).encode()
