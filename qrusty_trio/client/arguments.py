"""What the methods of the HTTP clients make of their arguments, and of a response. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from qrusty_trio.client.results import Json, Taken, converted


def named(**fields: Any) -> Json:
    """The fields that are given."""
    return {name: value for name, value in fields.items() if value is not None}


def list_of(ids: Sequence[str] | None) -> list[str] | None:
    return None if ids is None else list(ids)


def choice(
    ids: Sequence[str] | None,
    filter: Mapping[str, str | int] | None,
    all: Literal[True] | None,
    up_to: int | None,
    dry_run: bool | None,
) -> Json:
    """Which dead letters are meant, and whether something is to be done with them."""
    return named(ids=list_of(ids), filter=filter, all=all, up_to=up_to, dry_run=dry_run)


def taken(queue: str, value: object) -> Taken:
    """A message that a consume of `queue` answered."""
    return converted(Taken, {"queue": queue, **object_of(value)})


def object_of(value: object) -> Json:
    """A JSON object. Raises ProtocolError if it is something else."""
    return converted(Json, value)
