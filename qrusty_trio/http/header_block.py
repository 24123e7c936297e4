"""Reads the header block of an HTTP/1.x request, and refuses whatever is ambiguous.

Rule: anything that two parsers could read differently is refused: obsolete line folding, bare line feeds, control
characters, two lengths, a length and a transfer coding, unknown codings, no Host or several. Both paths send every
request through here, so neither is more lenient than the other.

A header block runs from the request line's CR LF to the empty line. A client often repeats it from request to request,
except for the length, so the result of parsing it is cached under its exact bytes. What says who a request is may
change each time (`X-Request-Id`, `traceparent`), so the block without that is looked up, too. If anything else changes,
a block is parsed each time (about 10 µs) and evicts none of those that repeat.

Requirements: API-0031
"""

from __future__ import annotations

import base64
import copy
import re
import struct
from collections.abc import Sequence

import msgspec

from qrusty_trio.access.sessions import COOKIE
from qrusty_trio.api.identity import Identity, is_plain, read_identity
from qrusty_trio.api.operations import is_json
from qrusty_trio.errors import BadRequest, QrustyError
from qrusty_trio.http.origins import Browser
from qrusty_trio.http.repeat_cache import RepeatCache

MAX_HEADER_BYTES = 64 * 1024
"""Limit on the request line and headers together. More is answered with 431."""
MAX_HEADERS = 256
"""Limit on header lines. More are answered with 431 too, because each costs both parsers time on the event loop."""
IDLE_SECONDS = 75.0
"""Timeout of a connection without a request, before the first or between two."""
HEADER_SECONDS = 10.0
"""Timeout from the first byte of a request to the last of its headers."""
BODY_SECONDS = 30.0
"""Timeout from the last byte of the headers to the last of the body."""
SEND_SECONDS = 30.0
"""Timeout of a send while the peer takes nothing."""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

MAX_EMPTY_LINES = 100
"""Most empty lines before a request. Some clients send one after a body; more than this is no accident."""

MAX_KEPT_BLOCKS = 2048
"""Size of the cache of header blocks per HTTP version: this many repeated ones, and as many that were seen once."""
MAX_KEPT_BLOCK_BYTES = 1024
"""Longer blocks are not cached, which bounds the memory (4 MiB per version)."""
MAX_BATCHABLE_BLOCK_BYTES = 2048
"""Blocks of at most this size and `MAX_BATCHABLE_HEADERS` lines take at most about 20 µs to parse."""
MAX_BATCHABLE_HEADERS = 32

_BLOCK = re.compile(rb"\r\n(?:[-!#$%&'*+.^_`|~0-9A-Za-z]++:[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+\r\n")
_REQUEST_ID, _TRACEPARENT = b"\r\nx-request-id:", b"\r\ntraceparent:"
_HOST = re.compile(rb"(?:[-A-Za-z0-9._~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_SESSION = COOKIE.encode()
_LENGTH = re.compile(rb"[0-9]{1,18}")
_BASE64URL = re.compile(rb"[-_A-Za-z0-9]*")
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class HeadersTooLarge(QrustyError):
    """The request line and headers are over 64 KiB or 256 lines (status 431).

    Requirements: API-0033
    """

    status = 431
    code = "headers_too_large"


class RequestTimedOut(QrustyError):
    """The request did not arrive in time (status 408).

    Requirements: API-0034
    """

    status = 408
    code = "request_timeout"


def headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(
        f"The request line and headers are limited to {MAX_HEADER_BYTES} bytes and {MAX_HEADERS} lines"
    )


class HeaderBlock(msgspec.Struct, gc=False):
    """The facts of a header block that the fast path and the guard need."""

    length: int
    """Size of the body in bytes; 0 if `chunked`."""
    chunked: bool
    keep_alive: bool
    content_type: str | None
    json: bool
    """Whether the content type is that of JSON."""
    browser: Browser | None
    """What a browser says about the request's origin; None if it is not from a browser."""
    upgrade: str
    """The protocol to upgrade to, in lower case; '' if no upgrade is requested."""
    handshake_fault: str
    """What is wrong with an upgrade to WebSocket; '' if nothing."""
    settings_fault: str
    """What is wrong with an upgrade to HTTP/2; '' if nothing."""
    none_match: str
    """If-None-Match; '' if it was not given."""
    takes_gzip: bool
    """Whether the response may be compressed by gzip."""
    plain: bool
    """No chunked body, no upgrade, no Expect."""
    identity: Identity | None
    """Who the request is; None if its client did not say."""
    authorization: bytes
    """The value of Authorization; b"" if it was not given. Given twice, it is joined, and fits nothing."""
    session: bytes
    """The cookie of a session; b"" if there is none."""
    batchable: bool
    """Plain, with no further checks or response headers needed: keep-alive, and not from a browser."""


_kept: tuple[RepeatCache[HeaderBlock], RepeatCache[HeaderBlock]] = (
    RepeatCache(MAX_KEPT_BLOCKS),
    RepeatCache(MAX_KEPT_BLOCKS),
)


def read_block(block: bytes, http11: bool) -> HeaderBlock:
    """Read a header block, from the CR LF that ends the request line to the empty line.

    Raises BadRequest or HeadersTooLarge.
    """
    kept = _kept[http11]
    found = kept.get(block) or kept.seen_once(block)
    if found is not None:
        return found
    cut = _without_identity(block)
    if cut is None:
        return _read_and_keep(block, kept, http11)
    rest, identity = cut
    found = kept.get(rest) or kept.seen_once(rest) or _read_and_keep(rest, kept, http11)
    found = copy.copy(found)
    found.identity = identity
    return found


def _read_and_keep(block: bytes, kept: RepeatCache[HeaderBlock], http11: bool) -> HeaderBlock:
    result = _read_block(block, http11)
    if len(block) <= MAX_KEPT_BLOCK_BYTES:
        kept.put(block, result)
    return result


def _without_identity(block: bytes) -> tuple[bytes, Identity] | None:
    """A block without the lines that say who the request is, and what they say.

    None if there is no such line, or anything about them that has to be looked at: then the block is parsed as a whole.
    """
    if len(block) > MAX_KEPT_BLOCK_BYTES:
        return None
    values = [b"", b""]
    rest = block
    lower = block.lower()
    for place, name in enumerate((_REQUEST_ID, _TRACEPARENT)):
        start = lower.find(name)
        if start >= 0:
            end = lower.find(b"\r\n", start + 2)
            values[place] = value = rest[start + len(name) : end].strip(b" \t")
            if not is_plain(value) or lower.find(name, end) >= 0:
                return None
            rest = rest[:start] + rest[end:]
            lower = lower[:start] + lower[end:]
    return (rest, Identity(*values)) if rest is not block else None


def read_batchable_block(block: bytes) -> HeaderBlock | None:
    """Read an HTTP/1.1 header block if it is cached, or small enough to parse in microseconds; else None.

    Headers may change from request to request (traceparent, X-Request-Id). Raises BadRequest.
    """
    found = _kept[True].get(block) or _kept[True].seen_once(block)
    if found is None and len(block) <= MAX_BATCHABLE_BLOCK_BYTES and block.count(b"\r\n") <= MAX_BATCHABLE_HEADERS + 2:
        return read_block(block, True)
    return found


def _read_block(block: bytes, http11: bool) -> HeaderBlock:
    if block.count(b"\r\n") > MAX_HEADERS + 2:
        raise headers_too_large()
    if not _BLOCK.fullmatch(block):
        raise BadRequest("The headers can't be read")
    values: dict[bytes, list[bytes]] = {}
    for line in block[2:-4].split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in values:
            values[name].append(value.strip(b" \t"))
        else:
            values[name] = [value.strip(b" \t")]
    return _interpret(values, http11)


def _interpret(values: dict[bytes, list[bytes]], http11: bool) -> HeaderBlock:
    hosts = values.get(b"host", [])
    if len(hosts) > 1 or (http11 and not hosts):
        raise BadRequest("Exactly one Host header is needed")
    if hosts:
        check_host_header(hosts[0])
    length, chunked = _framing(values, http11)
    tokens = _tokens(values.get(b"connection", []))
    keep_alive = b"close" not in tokens and (http11 or b"keep-alive" in tokens)
    content_type = _single(values, b"content-type", "Content-Type")
    browser = _browser(values, hosts)
    upgrade = (_single(values, b"upgrade", "Upgrade") or "").lower()
    plain = not (chunked or upgrade or b"expect" in values)
    session = read_session(values.get(b"cookie", ()))
    return HeaderBlock(
        length=length,
        chunked=chunked,
        keep_alive=keep_alive,
        content_type=content_type,
        json=is_json(content_type),
        browser=browser,
        upgrade=upgrade,
        handshake_fault=_handshake_fault(values, tokens, http11) if upgrade == "websocket" else "",
        settings_fault=_settings_fault(values.get(b"http2-settings", [])) if upgrade == "h2c" else "",
        none_match=b", ".join(values.get(b"if-none-match", ())).decode("latin-1"),
        takes_gzip=accepts_gzip(b",".join(values.get(b"accept-encoding", ())).decode("latin-1")),
        plain=plain,
        identity=read_identity(values.get(b"x-request-id"), values.get(b"traceparent")),
        authorization=b", ".join(values.get(b"authorization", ())),
        session=session,
        batchable=plain and keep_alive and browser is None and not session,
    )


def read_session(cookies: Sequence[bytes]) -> bytes:
    """The cookie of a session in the values of Cookie; b"" if there is none. The first one counts."""
    for each in cookies:
        for cookie in each.split(b";"):
            name, _, value = cookie.strip(b" \t").partition(b"=")
            if name == _SESSION:
                return value
    return b""


def accepts_gzip(accept: str) -> bool:
    """Whether an Accept-Encoding allows gzip: by its name or by `*`, and not with a weight of 0."""
    allowed: dict[str, bool] = {}
    for each in accept.lower().split(","):
        coding, *parameters = (part.strip(" \t") for part in each.split(";"))
        weights = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
        # One refusal counts more than any number of permissions.
        allowed[coding] = allowed.get(coding, True) and all(weight.strip("0.") for weight in weights)
    return allowed.get("gzip", allowed.get("*", False))


def check_host_header(host: bytes) -> None:
    """Raise BadRequest unless this is a host, with or without a port."""
    if not _HOST.fullmatch(host):
        raise BadRequest("The Host header must be a host and perhaps a port")


def _browser(values: dict[bytes, list[bytes]], hosts: list[bytes]) -> Browser | None:
    origin = _single(values, b"origin", "Origin")
    site = _single(values, b"sec-fetch-site", "Sec-Fetch-Site")
    if origin is None and not any(name.startswith(b"sec-fetch-") for name in values):
        return None
    return Browser(hosts[0].decode("latin-1") if hosts else "", origin, site)


def _handshake_fault(values: dict[bytes, list[bytes]], tokens: set[bytes], http11: bool) -> str:
    """Which requirement of RFC 6455, 4.2.1, the headers fail; '' if none.

    Requirements: WS-0031
    """
    if not http11:
        return "A WebSocket needs HTTP/1.1"
    keys = values.get(b"sec-websocket-key", [])
    if b"upgrade" not in tokens:
        return "Connection must say Upgrade"
    if len(keys) != 1 or not _WEBSOCKET_KEY.fullmatch(keys[0]):
        return "Sec-WebSocket-Key must be 16 bytes in base64"
    if values.get(b"sec-websocket-version") != [b"13"]:
        return "Sec-WebSocket-Version must be 13"
    return ""


_SETTINGS = {2: range(2), 4: range(2**31), 5: range(2**14, 2**24), 8: range(2)}
"""The HTTP/2 settings with a limited range of values (RFC 9113, 6.5.2; RFC 8441, 3)."""


def _settings_fault(values: list[bytes]) -> str:
    """Which requirement of RFC 7540, 3.2.1, the HTTP2-Settings headers fail; '' if none."""
    if len(values) != 1:
        return "An upgrade to h2c needs one HTTP2-Settings header"
    try:
        if not _BASE64URL.fullmatch(values[0]):
            raise ValueError
        # Whole settings have six bytes each, which need no padding.
        settings = list(struct.iter_unpack(">HI", base64.urlsafe_b64decode(values[0])))
    except (ValueError, struct.error):
        return "HTTP2-Settings must be the payload of a SETTINGS frame in base64url"
    if any(name in _SETTINGS and value not in _SETTINGS[name] for name, value in settings):
        return "HTTP2-Settings has a value that its setting can't have"
    return ""


def _framing(values: dict[bytes, list[bytes]], http11: bool) -> tuple[int, bool]:
    lengths = values.get(b"content-length")
    codings = values.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise BadRequest("Content-Length and Transfer-Encoding exclude each other")
        if not http11 or len(codings) != 1 or codings[0].lower() != b"chunked":
            raise BadRequest("The only Transfer-Encoding is chunked, in HTTP/1.1")
        return 0, True
    if lengths is None:
        return 0, False
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadRequest("Content-Length must be one number")
    return int(lengths[0]), False


def _single(values: dict[bytes, list[bytes]], name: bytes, shown: str) -> str | None:
    found = values.get(name)
    if found is None:
        return None
    if len(found) > 1:
        raise BadRequest(f"There must be at most one {shown} header")
    return found[0].decode("latin-1")


def _tokens(values: list[bytes]) -> set[bytes]:
    return {token.strip(b" \t").lower() for value in values for token in value.split(b",")}
