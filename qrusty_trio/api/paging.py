"""Lists in pages: `limit` and `cursor` of a query, and what a cursor holds.

Rule: a cursor is valid for the list that it came from, and no other: one kind of entry of one queue, since that was
last purged. A page begins after the entry that the cursor names, whether or not that entry still exists. So entries
that come and go are never a reason to see another one twice, or not at all.

Requirements: DLV-0043
"""

from __future__ import annotations

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from enum import IntEnum
from typing import NamedTuple

from qrusty_trio.errors import BadRequest

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
"""Most entries of a page."""
MAX_CURSOR_CHARACTERS = 4096
_HEADER = struct.Struct(">BBIQ")
_VERSION = 1


class Listed(IntEnum):
    """What a list holds. Part of a cursor: never change a number."""

    AVAILABLE = 1
    LOCKED = 2
    DEAD = 3
    SEARCHED = 4
    """Available messages that were looked at in search of one."""
    SEARCHED_EVERYWHERE = 5
    """The same, over all queues."""


class Cursor(NamedTuple):
    """Where a page ended."""

    listed: Listed
    queue_number: int
    upper: int
    """The next number (of a message, lock or dead letter) of the queue when the list was begun."""
    position: bytes
    """The key of the last entry of the page."""

    def text(self) -> str:
        """The cursor as it is given to a client: opaque, URL-safe."""
        packed = _HEADER.pack(_VERSION, self.listed, self.queue_number, self.upper) + self.position
        return urlsafe_b64encode(packed).rstrip(b"=").decode()


def read_limit(given: str | None) -> int:
    """The `limit` of a query. Raises BadRequest."""
    if given is None:
        return DEFAULT_LIMIT
    if given.isascii() and given.isdigit() and len(given) <= len(str(MAX_LIMIT)) and 1 <= int(given) <= MAX_LIMIT:
        return int(given)
    raise BadRequest(f"'limit' must be an integer from 1 to {MAX_LIMIT}")


def read_cursor(
    given: str | None, listed: Listed, queue_number: int, purged_at: int, next_number: int, size: int | None = None
) -> Cursor | None:
    """The `cursor` of a query, if it belongs to this list; None if there is none. Raises BadRequest.

    `purged_at`: the next number of the queue when it was last purged. `next_number`: that of now, which no cursor is
    ahead of. `size`: the bytes of a position, if all have the same.
    """
    cursor = unpack_cursor(given, listed, size)
    if cursor is None:
        return None
    if cursor.queue_number != queue_number:
        raise another_list()
    if cursor.upper < purged_at:
        raise BadRequest("'cursor' is from before the queue was purged: begin again without it")
    if cursor.upper > next_number:
        raise BadRequest("'cursor' must be one that an earlier page gave")
    return cursor


def unpack_cursor(given: str | None, listed: Listed, size: int | None = None) -> Cursor | None:
    """The `cursor` of a query, if it belongs to a list of this kind; None if there is none. Raises BadRequest."""
    if given is None:
        return None
    try:
        if len(given) > MAX_CURSOR_CHARACTERS:
            raise ValueError
        packed = urlsafe_b64decode(given.encode("ascii") + b"=" * (-len(given) % 4))
        version, kind, number, upper = _HEADER.unpack_from(packed)
        cursor = Cursor(Listed(kind), number, upper, packed[_HEADER.size :])
        if version != _VERSION or cursor.text() != given or (size is not None and len(cursor.position) != size):
            raise ValueError
    except (ValueError, struct.error, binascii.Error):
        raise BadRequest("'cursor' must be one that an earlier page gave") from None
    if cursor.listed is not listed:
        raise another_list()
    return cursor


def another_list() -> BadRequest:
    return BadRequest("'cursor' belongs to another list: begin again without it")
