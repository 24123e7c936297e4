"""Which key ranges are worth a compaction after range deletes, which only hide entries and free no disk space.

Rule: this is an estimate from table sizes, cheap enough for a thread beside the event loop.

Requirements: PER-0050
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Span(NamedTuple):
    """A range in which keys were deleted."""

    begin: bytes
    end: bytes
    keys: int
    """How many keys were deleted."""


def dead_bytes(span: Span, tables: Sequence[dict[str, Any]]) -> int:
    """Estimated bytes that the deleted keys still use, from the mean entry size of the tables that may hold them."""
    size = entries = 0
    for table in tables:
        if table["start_key"] < span.end and table["end_key"] >= span.begin:
            size += table["size"]
            entries += table["num_entries"]
    return min(size, size * span.keys // entries) if entries else 0


def worth_compacting(spans: Iterable[Span], tables: Sequence[dict[str, Any]], at_least: int) -> list[Span]:
    """The ranges with dead bytes; none if their total is under `at_least` bytes."""
    found: list[Span] = []
    total = 0
    for span in spans:
        octets = dead_bytes(span, tables)
        if octets:
            found.append(span)
            total += octets
        # Give up the GIL so that the event loop can run.
        time.sleep(0)
    return found if total >= at_least else []
