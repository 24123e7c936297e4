"""What the HTTP client takes and returns, besides plain JSON.

Rule: fields that a newer server adds are ignored, and those that an older one does not send are None.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec

from qrusty_trio.client.errors import ProtocolError

MAX_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, after which Python has no dates."""
Json = dict[str, Any]
T = TypeVar("T")


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of `publish_batch`."""

    payload: str
    priority: int | str = 0
    max_retries: int = 3


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A message that this client holds the lock of."""

    id: str
    payload: str
    retry_count: int
    """How often it was delivered, this time included."""
    queue: str = ""
    priority: int | str | None = None
    created_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_MS)] | None = msgspec.field(default=None, name="created_at")
    lock_until_ms: int | None = msgspec.field(default=None, name="lock_until")
    """When the lock ends, in milliseconds since 1970 on the server's clock. This, `priority` and `created_ms` are None
    with a server that does not tell them."""

    @property
    def created_at(self) -> datetime | None:
        """When it was published, in UTC."""
        return None if self.created_ms is None else time_of(self.created_ms)


class Rejected(msgspec.Struct, frozen=True):
    """A message of a batch that was not accepted."""

    index: int
    """Its place in the batch, from 0."""
    error: str
    code: str


class Published(msgspec.Struct, frozen=True):
    """What became of a batch: the ids of the accepted messages, in order, and the others."""

    ids: list[str]
    rejected: list[Rejected]


class Acked(msgspec.Struct, frozen=True):
    """What became of the ids of `ack_batch`."""

    acked: list[str]
    not_found: list[str]


class Nacked(msgspec.Struct, frozen=True):
    """What became of the ids of `nack_batch`."""

    unlocked: list[str]
    dead_lettered: list[str]
    dropped: list[str]
    """Of a queue without duplicates that held an equal message."""
    not_found: list[str]


class Renewed(msgspec.Struct, frozen=True):
    """What became of the ids of `renew_batch`."""

    renewed: list[str]
    not_found: list[str]


class Unchanged:
    """The type of UNCHANGED: what `update_queue` leaves alone. None is a value of its own there: no limit."""


UNCHANGED: Final = Unchanged()


def time_of(milliseconds: int) -> datetime:
    """A time of the server's, given in milliseconds since 1970. Raises ProtocolError for one after the year 9999."""
    if not 0 <= milliseconds <= MAX_MS:
        raise ProtocolError(f"an unexpected response: {milliseconds} is no time")
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def converted(kind: type[T], value: object) -> T:
    """JSON as a value of `kind`. Raises ProtocolError if the server answered something else."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"an unexpected response: {error}") from error


def member(value: object, name: str, kind: type[T]) -> T:
    """A member of a JSON object. Raises ProtocolError."""
    return converted(kind, converted(Json, value).get(name))
