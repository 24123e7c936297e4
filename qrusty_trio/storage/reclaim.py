"""Which key ranges are worth a compaction, after range deletes: they hide what is in tables, they free nothing.

Rule: an estimate from the sizes of tables, cheap enough for a thread beside the event loop.
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
    """How many."""


def dead_bytes(span: Span, tables: Sequence[dict[str, Any]]) -> int:
    """About how many bytes of tables the deleted keys take up: by the mean size of an entry where they may be."""
    size = entries = 0
    for table in tables:
        if table["start_key"] < span.end and table["end_key"] >= span.begin:
            size += table["size"]
            entries += table["num_entries"]
    return min(size, size * span.keys // entries) if entries else 0


def worth_compacting(spans: Iterable[Span], tables: Sequence[dict[str, Any]], at_least: int) -> list[Span]:
    """The ranges with dead bytes in them; none when these are fewer than `at_least` in all."""
    found: list[Span] = []
    total = 0
    for span in spans:
        octets = dead_bytes(span, tables)
        if octets:
            found.append(span)
            total += octets
        # Let the event loop have the interpreter.
        time.sleep(0)
    return found if total >= at_least else []
