"""Deliveries that wait for the sync of their locks, where nobody may see a message before its lock is durable.

Rule: the subscribers of one step of the engine wait for the same sync. They hold their deliveries back until it is
over. If it fails, these never leave.
"""

from __future__ import annotations

from collections.abc import Callable


class Unsynced:
    """The subscribers that got deliveries since the last sync was asked for.

    Requirements: PER-0061
    """

    __slots__ = ("failed", "over", "waiting")

    def __init__(self) -> None:
        self.over = False
        """The deliveries may leave."""
        self.failed = False
        """They never will."""
        self.waiting: dict[str, Callable[[], None]] = {}
        """Consumer id -> what wakes it once `over` is set."""

    def finish(self) -> None:
        """The locks are durable."""
        self.over = True
        for wake in self.waiting.values():
            wake()
