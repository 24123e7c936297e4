"""The form of an export: JSON lines, the first of which says what the rest is.

    {"format":"qrusty-trio export","version":1,"url":"...","exported_at_ms":...}
    {"queue":"jobs","config":{"ordering":"MaxFirst","allow_duplicates":true,"priority_kind":"Numeric"}}
    {"queue":"jobs","state":"available","payload":"...","priority":7,"max_retries":3,"id":"...","created_at":...}
    {"end":true,"queues":1,"messages":1}

Rule: a file without its last line is a part of an export, and a file of another format or version is refused before
anything is changed. A queue comes before its messages. A message has its payload whole. What else describes it is for
readers; an import takes payload, priority and max_retries.

Requirements: API-0131
"""

from __future__ import annotations

from typing import Any

import msgspec

from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed

FORMAT = "qrusty-trio export"
VERSION = 1


class Config(msgspec.Struct):
    """The configuration of a queue."""

    ordering: str
    allow_duplicates: bool = True
    priority_kind: str = "Numeric"
    dead_letter_ttl_seconds: int | None = None
    dead_letter_max: int | None = None
    protected: bool = False


class Line(msgspec.Struct):
    """Any line but the first: the members say which of the three it is."""

    queue: str | None = None
    config: Config | None = None
    state: str | None = None
    payload: str | None = None
    priority: int | str = 0
    max_retries: int = 3
    end: bool = False
    queues: int = 0
    messages: int = 0


class _Header(msgspec.Struct):
    format: str
    version: int


_decode_line = msgspec.json.Decoder(Line).decode
_decode_header = msgspec.json.Decoder(_Header).decode
encode = msgspec.json.encode


def header(url: str, now_ms: int) -> dict[str, Any]:
    """The first line."""
    return {"format": FORMAT, "version": VERSION, "url": url, "exported_at_ms": now_ms}


def check_header(line: bytes) -> None:
    """Raises Failed unless this is the first line of an export that is known here."""
    try:
        found = _decode_header(line)
    except msgspec.MsgspecError as error:
        raise Failed(
            Exit.REFUSED, "this is no export: its first line does not name a format. See `qrusty-trio export --help`"
        ) from error
    if found.format != FORMAT:
        raise Failed(Exit.REFUSED, f"this is an export of another program: '{found.format[:100]}'")
    if found.version != VERSION:
        raise Failed(
            Exit.REFUSED, f"this export has version {found.version}, and this program knows version {VERSION} only"
        )


def read_line(number: int, line: bytes) -> Line:
    """A further line. Raises Failed."""
    try:
        read = _decode_line(line)
    except msgspec.MsgspecError as error:
        raise Failed(Exit.REFUSED, f"line {number} can't be read: {error}. What came before it was imported") from error
    if not read.end and (read.queue is None or (read.config is None and read.state is None)):
        raise Failed(Exit.REFUSED, f"line {number} is neither a queue, nor a message, nor the end")
    return read
