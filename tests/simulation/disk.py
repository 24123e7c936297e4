"""What becomes of the segment files of payloads: syncs that fail, and what a power cut leaves.

Rule: what a sync that succeeded covered stays. A sync that failed gives up what it should have covered: it can be read
as long as the machine runs, no later sync looks at it again, and after a power cut it may be gone. So may be what was
never synced. Nothing is really synced: nobody pulls the plug of the machine that runs this.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

Bytes = tuple[int, int]
"""From, to."""


class Disk:
    """The files that were synced, by path."""

    def __init__(self, dice: random.Random, faults: float) -> None:
        self.faults = faults
        """Share of the syncs that fail."""
        self.dead = False
        """The process is gone: nothing it still does has any effect."""
        self._dice = dice
        self._looked_at: dict[str, int] = {}
        """So many bytes no sync looks at again."""
        self._given_up: dict[str, list[Bytes]] = {}

    def fdatasync(self, descriptor: int) -> None:
        """Stands for that of `os`."""
        if self.dead:
            raise OSError(5, "Input/output error")
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        size = os.fstat(descriptor).st_size
        before = self._looked_at.get(path, 0)
        self._looked_at[path] = size
        if self._dice.random() < self.faults:
            self._given_up.setdefault(path, []).append((before, size))
            raise OSError(5, "Input/output error")

    def power_cut(self, directory: Path) -> None:
        """What did not reach the disk is gone, or some of it."""
        for path in sorted(directory.glob("*.payloads")):
            size = path.stat().st_size
            synced = self._looked_at.get(str(path), 0)
            kept = size if self._dice.random() < 0.3 else self._dice.randint(min(synced, size), size)
            with path.open("r+b") as file:
                file.truncate(kept)
                for begin, end in self._given_up.get(str(path), ()):
                    if self._dice.random() < 0.7 and begin < kept:
                        file.seek(begin)
                        file.write(bytes(min(end, kept) - begin))
            self._looked_at[str(path)] = kept
        self._given_up.clear()
