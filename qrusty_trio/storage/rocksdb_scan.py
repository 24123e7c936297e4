"""A scan of a column family.

Rule: a block that can't be read is an error, never the end of the range.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from rocksdict import Rdict, ReadOptions


def scan(column: Rdict, begin: bytes, end: bytes, limit: int, octets: int | None = None) -> list[tuple[bytes, bytes]]:
    """Up to `limit` pairs with begin <= key < end, in key order: see `Storage.scan`. Raises what rocksdict raises."""
    pairs: list[tuple[bytes, bytes]] = []
    while len(pairs) < limit:
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(end)
        found: Any = islice(column.items(from_key=begin, read_opt=bounds), limit - len(pairs))
        if octets is None:
            pairs += found
        else:
            for pair in found:
                pairs.append(pair)
                octets -= len(pair[1])
                if octets <= 0:
                    return pairs
        if len(pairs) == limit:
            break
        # items() ends the same way at the end of the range and at an unreadable block. Find out which it was.
        begin = pairs[-1][0] + b"\0" if pairs else begin
        probe = column.iter(bounds)
        probe.seek(begin)
        if not probe.valid():
            probe.status()
            break
    return pairs
