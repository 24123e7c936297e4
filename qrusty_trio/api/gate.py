"""What the server currently refuses, on any transport.

Rule: the start-up loader and the memory monitor write here, and every transport reads here. Nobody asks those two
directly.
"""

from __future__ import annotations


class Gate:
    """Two flags. Reads are always allowed."""

    __slots__ = ("memory_critical", "starting")

    def __init__(self, starting: bool = False, memory_critical: bool = False) -> None:
        self.starting = starting
        """True until the start-up loader is done. Nothing may change, because not all queues are known yet."""
        self.memory_critical = memory_critical
        """True while memory is critical. Publishing would make that worse; everything else makes it better."""

    def mutations_allowed(self) -> bool:
        return not self.starting

    def publishes_allowed(self) -> bool:
        return not (self.starting or self.memory_critical)
