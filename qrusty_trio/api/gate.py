"""What the server refuses at the moment, whoever asks.

Rule: the start-up loader and the memory monitor write here, every carrier reads here, nobody asks them directly.
"""

from __future__ import annotations


class Gate:
    """Two flags. Reads are always allowed."""

    __slots__ = ("memory_critical", "starting")

    def __init__(self, starting: bool = False, memory_critical: bool = False) -> None:
        self.starting = starting
        """True until the start-up loader is done: nothing may change, queues are not all known yet."""
        self.memory_critical = memory_critical
        """True while memory is critical: publishing would make it worse, everything else makes it better."""

    def mutations_allowed(self) -> bool:
        return not self.starting

    def publishes_allowed(self) -> bool:
        return not (self.starting or self.memory_critical)
