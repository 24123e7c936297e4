"""The tokens file: which tokens there are, and what each may do. And making a token.

    [[token]]
    name = "orders-worker"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    grants = ["publish:orders.*", "consume:orders.*"]
    expires = 2027-01-31T00:00:00Z        # optional
    requests_per_second = 100             # optional
    messages_per_second = 1000            # optional

Rule: a file without any token is refused. It is what a full disk leaves, and would end all tokens.

The file has no secret. A token is 256 random bits, so nobody can try them all, or look them up in a list of
likely ones. That is what slow hashes with salt are for, where people choose passwords. Here one SHA-256 is enough, and
it costs a microsecond.

Requirements: API-0136, API-0189
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from qrusty_trio.access.grants import FOREVER, Granted, Principal
from qrusty_trio.access.limits import Limit

MAX_FILE_BYTES = 1024 * 1024
MAX_TOKENS = 1000
MAX_GRANTS = 100
"""Most grants of a token: each is compared once for a new name of a queue."""
MAX_RATE = 1_000_000_000
PREFIX = "qrt_"
"""What a token begins with, so that one that was published by accident can be found."""
RANDOM_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = frozenset({"name", "sha256", "grants", "expires", "requests_per_second", "messages_per_second"})


class BadTokens(Exception):
    """The file can't be used. `str()` is a sentence without what it quotes of secrets: there are none."""


class Tokens(NamedTuple):
    """What a tokens file says."""

    by_digest: dict[bytes, Principal]
    """By the SHA-256 of the token."""
    by_name: dict[str, Principal]


def digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def new_token() -> str:
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def check_name(name: object) -> str:
    """The name of a token. Raises BadTokens."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = f"'{name[:100]}'" if isinstance(name, str) else "this"
        raise BadTokens(f"{shown} can't be a token's name: that has up to 64 letters, digits and -._")
    return name


def read_tokens(data: bytes) -> Tokens:
    """Read a tokens file. Raises BadTokens."""
    if len(data) > MAX_FILE_BYTES:
        raise BadTokens(f"it has over {MAX_FILE_BYTES} bytes")
    try:
        content = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadTokens(f"it is no TOML: {error}") from error
    entries = content.pop("token", [])
    if content:
        raise BadTokens(f"'{next(iter(content))[:100]}' is nothing that it may have; a token begins with [[token]]")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadTokens("'token' must be a list of tables; each begins with [[token]]")
    if not entries:
        # More likely a full disk, or a file that is just being written, than a wish.
        raise BadTokens("it has no token: leave one with grants = [] in it if all are to end")
    if len(entries) > MAX_TOKENS:
        raise BadTokens(f"it has over {MAX_TOKENS} tokens")
    tokens = Tokens({}, {})
    for number, entry in enumerate(entries, 1):
        try:
            found, principal = _read_entry(entry)
        except BadTokens as error:
            name = entry.get("name")
            raise BadTokens(f"token {number}{f' ({name[:64]})' if isinstance(name, str) else ''}: {error}") from error
        if principal.name in tokens.by_name:
            raise BadTokens(f"the name '{principal.name}' is given twice")
        if found in tokens.by_digest:
            raise BadTokens(f"'{principal.name}' and '{tokens.by_digest[found].name}' have the same sha256")
        tokens.by_name[principal.name] = tokens.by_digest[found] = principal
    return tokens


def _read_entry(entry: dict[str, Any]) -> tuple[bytes, Principal]:
    unknown = entry.keys() - _FIELDS
    if unknown:
        raise BadTokens(f"'{min(unknown)[:100]}' is no field of a token")
    name = check_name(entry.get("name"))
    hashed = entry.get("sha256")
    if not isinstance(hashed, str) or not _DIGEST.fullmatch(hashed):
        raise BadTokens("'sha256' must be the SHA-256 of the token, 64 hexadecimal digits in lower case")
    texts = entry.get("grants")
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts) or len(texts) > MAX_GRANTS:
        raise BadTokens(f"'grants' must be a list of at most {MAX_GRANTS} strings such as 'publish:orders.*'")
    try:
        grants = tuple(map(Granted.read, texts))
    except ValueError as error:
        raise BadTokens(str(error)) from error
    requests, messages = _rate(entry, "requests_per_second"), _rate(entry, "messages_per_second")
    limit = Limit(requests, messages) if requests is not None or messages is not None else None
    key = bytes.fromhex(hashed)
    return key, Principal(name, grants, _expiry(entry.get("expires")), limit, key)


def _rate(entry: dict[str, Any], field: str) -> float | None:
    value = entry.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_RATE:
        raise BadTokens(f"'{field}' must be a number above 0, up to {MAX_RATE}")
    return float(value)


def _expiry(value: object) -> float:
    """Wall milliseconds."""
    if value is None:
        return FOREVER
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise BadTokens("'expires' must have a time zone, such as the Z of 2027-01-31T00:00:00Z")
        return value.timestamp() * 1000
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp() * 1000
    raise BadTokens("'expires' must be a time such as 2027-01-31T00:00:00Z, without quotation marks")


def entry_of(
    name: str,
    token: str,
    grants: Sequence[Granted],
    expires: datetime | None = None,
    requests: float | None = None,
    messages: float | None = None,
) -> str:
    """The lines of the file for a token."""
    listed = ", ".join(_quoted(str(each)) for each in grants)
    lines = [
        "[[token]]",
        f"name = {_quoted(name)}",
        f'sha256 = "{digest(token.encode()).hex()}"',
        f"grants = [{listed}]",
    ]
    if expires is not None:
        lines.append(f"expires = {expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    if requests is not None:
        lines.append(f"requests_per_second = {requests:g}")
    if messages is not None:
        lines.append(f"messages_per_second = {messages:g}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
