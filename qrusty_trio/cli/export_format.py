"""The form of an export: JSON lines, the first of which says what the rest is.

    {"format":"qrusty-trio export","version":1,"url":"...","exported_at_ms":...}
    {"queue":"jobs","config":{"ordering":"MaxFirst","allow_duplicates":true,"priority_kind":"Numeric"}}
    {"queue":"jobs","state":"available","payload":"...","priority":7,"max_retries":3,"id":"...","created_at":...}
    {"end":true,"queues":1,"messages":1}

Rule: a file without its last line is a part of an export, and a file of another format or version is refused before
anything is changed. The last line has the numbers of what came before it. Another export may follow it. A queue comes
before its messages. A message has its payload whole. What else describes it is for readers; an import takes payload,
priority and max_retries.

Requirements: API-0131
"""

from __future__ import annotations

from typing import Any

import msgspec

from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.payloads import Unreadable, decoded
from qrusty_trio.wording import counted

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
    queues: int | None = None
    messages: int | None = None


class _Header(msgspec.Struct):
    format: str
    version: int


_decode_line = msgspec.json.Decoder(Line).decode
_decode_header = msgspec.json.Decoder(_Header).decode
encode = msgspec.json.encode


def header(url: str, now_ms: int) -> dict[str, Any]:
    """The first line."""
    return {"format": FORMAT, "version": VERSION, "url": url, "exported_at_ms": now_ms}


def check_header(number: int, line: bytes) -> None:
    """Raises Failed unless this is the first line of an export that is known here."""
    where = "this" if number == 1 else f"what begins in line {number}"
    try:
        found = decoded(_decode_header, line)
    except Unreadable as error:
        raise Failed(
            Exit.REFUSED,
            f"{where} is no export: its first line does not name a format. See `qrusty-trio export --help`",
        ) from error
    if found.format != FORMAT:
        raise Failed(Exit.REFUSED, f"{where} is an export of another program: '{found.format[:100]}'")
    if found.version != VERSION:
        raise Failed(
            Exit.REFUSED,
            f"{where} is an export of version {found.version}, and this program knows version {VERSION} only",
        )


def read_line(number: int, line: bytes) -> Line:
    """A further line. Raises Failed."""
    try:
        read = decoded(_decode_line, line)
    except Unreadable as error:
        raise Failed(Exit.REFUSED, f"line {number} can't be read: {error}") from error
    if read.end:
        if read.queues is None or read.messages is None:
            raise Failed(
                Exit.REFUSED, f"line {number} is the end, but does not say how many queues and messages came before it"
            )
    elif read.queue is None or (read.config is None and read.state is None):
        raise Failed(Exit.REFUSED, f"line {number} is neither a queue, nor a message, nor the end")
    return read


def missing(number: int, end: Line, queues: int, messages: int) -> str | None:
    """What is wrong with an export whose last line is `end`, if another number of lines came before it."""
    if (end.queues, end.messages) == (queues, messages):
        return None
    assert end.queues is not None
    assert end.messages is not None
    return (
        f"the export that ends in line {number} is not whole: it had {counted(end.messages, 'message')} of "
        f"{counted(end.queues, 'queue')}, and {counted(messages, 'message')} of {counted(queues, 'queue')} came"
    )
