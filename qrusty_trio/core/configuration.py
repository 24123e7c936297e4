"""The stored form of a queue's configuration: JSON.

Rule: a field that was added later has a default, so that every earlier store is read.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from qrusty_trio.core.model import Kind, Ordering, QueueConfig


class Kept(msgspec.Struct, frozen=True):
    """Why a queue is kept aside, and until when. Times are wall milliseconds."""

    purged: bool
    """Its messages were purged, and its queue goes on under another number. False: the queue was deleted."""
    at: int
    until: int


class StoredConfig(msgspec.Struct):
    """What META stores for a queue besides its counters.

    Requirements: PER-0011
    """

    name: str
    ordering: Ordering
    kind: Kind
    allow_duplicates: bool
    deduplicating: bool = msgspec.field(default=False, name="settling")
    """True while a search removes duplicates from before `allow_duplicates` was turned off."""
    dead_letter_ttl_seconds: int | msgspec.UnsetType = msgspec.UNSET
    """It is left out where it is not set, as are the next two."""
    dead_letter_max: int | msgspec.UnsetType = msgspec.UNSET
    protected: bool | msgspec.UnsetType = msgspec.UNSET
    dead_letters: int | msgspec.UnsetType = msgspec.UNSET
    """The number in the keys of its dead letters, if it is not its own."""
    kept: Kept | msgspec.UnsetType = msgspec.UNSET


class Restored(NamedTuple):
    """What `unpack_config` returns."""

    name: str
    config: QueueConfig
    deduplicating: bool
    dead_number: int | None
    """None: its own."""
    kept: Kept | None


_decode = msgspec.json.Decoder(StoredConfig).decode


def pack_config(
    name: str, config: QueueConfig, deduplicating: bool, dead_number: int | None = None, kept: Kept | None = None
) -> bytes:
    ttl, most = config.dead_letter_ttl_seconds, config.dead_letter_max
    return msgspec.json.encode(
        StoredConfig(
            name,
            config.ordering,
            config.kind,
            config.allow_duplicates,
            deduplicating,
            msgspec.UNSET if ttl is None else ttl,
            msgspec.UNSET if most is None else most,
            config.protected or msgspec.UNSET,
            msgspec.UNSET if dead_number is None else dead_number,
            msgspec.UNSET if kept is None else kept,
        )
    )


def unpack_config(value: bytes) -> Restored:
    read = _decode(value)
    ttl, most = read.dead_letter_ttl_seconds, read.dead_letter_max
    config = QueueConfig(
        read.ordering,
        read.allow_duplicates,
        read.kind,
        ttl if isinstance(ttl, int) else None,
        most if isinstance(most, int) else None,
        read.protected is True,
    )
    dead_number = read.dead_letters if isinstance(read.dead_letters, int) else None
    return Restored(
        read.name, config, read.deduplicating, dead_number, read.kept if isinstance(read.kept, Kept) else None
    )
