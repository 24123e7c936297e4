"""The stored form of a queue's configuration: JSON.

Rule: a field that was added later has a default, so that every earlier store is read.
"""

from __future__ import annotations

import msgspec

from qrusty_trio.core.model import Kind, Ordering, QueueConfig


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


_decode = msgspec.json.Decoder(StoredConfig).decode


def pack_config(name: str, config: QueueConfig, deduplicating: bool) -> bytes:
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
        )
    )


def unpack_config(value: bytes) -> tuple[str, QueueConfig, bool]:
    """-> name, configuration, whether a search for duplicates is under way."""
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
    return read.name, config, read.deduplicating
