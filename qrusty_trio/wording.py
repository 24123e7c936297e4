"""Words for sentences that people read."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 queue`, `2 queues`. `many` is for what takes more than an 's' at its end."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
