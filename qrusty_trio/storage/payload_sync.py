"""One sync of payload segments under way: what it covers, and what it may have lost.

Rule: whoever carries it out syncs each of `descriptors` and tells how that went (`ended`). What the store makes of it
is up to the store that began it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from qrusty_trio.errors import StorageFault
from qrusty_trio.storage import payload_format as form


class Writer:
    """A segment started by this process.

    Its descriptor stays open until all of it is synced, because a failed write-back is reported only to descriptors
    that were open at the time.
    """

    __slots__ = ("descriptor", "entered", "number", "size", "synced")

    def __init__(self, number: int, descriptor: int) -> None:
        self.number = number
        self.descriptor = descriptor
        self.size = 0
        self.synced = 0
        self.entered = False
        """Whether the directory has been synced since the file was created."""


class SegmentSync:
    """Covers what is in some segments now."""

    __slots__ = ("_begun", "cause", "covered", "failed", "missing")

    def __init__(self, writers: Iterable[Writer]) -> None:
        self._begun = [(writer, writer.size) for writer in writers]
        self.covered: list[tuple[Writer, int]] = []
        """Segments whose fdatasync has ended, and their sizes in bytes when it began."""
        self.failed: dict[int, int] = {}
        """Segment -> offset after which its bytes are in doubt."""
        self.cause: OSError | None = None
        """What the disk said."""
        self.missing: str | None = None
        """A segment that was removed meanwhile."""

    @property
    def descriptors(self) -> list[int]:
        return [writer.descriptor for writer, _ in self._begun]

    @property
    def complete(self) -> bool:
        """Whether every fdatasync has ended."""
        return len(self.covered) == len(self._begun)

    @property
    def enters(self) -> bool:
        """Whether one of them is new, so that its directory has to be synced, too."""
        return not all(writer.entered for writer, _ in self._begun)

    def ended(self, index: int, error: OSError | None) -> None:
        """The fdatasync of a descriptor has ended, well or with an error."""
        self.covered.append(self._begun[index])
        writer, _ = self._begun[index]
        if error is not None:
            self.failed[writer.number] = writer.synced
            self.cause = error
        elif not os.fstat(writer.descriptor).st_nlink:
            # The file is synced but unlinked, so nothing will find it again.
            self.failed[writer.number] = 0
            self.missing = form.segment_name(writer.number)

    def run(self) -> None:
        """Sync one after the other. Blocks."""
        for index, descriptor in enumerate(self.descriptors):
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                self.ended(index, error)
            else:
                self.ended(index, None)

    def check_names(self, directory: Path) -> None:
        """Raise StorageFault if a segment was removed meanwhile. The caller checks the directory before."""
        if self.missing is not None:
            raise StorageFault(
                f"The segment {self.missing} was removed from {directory} under the running server: the messages in it "
                f"have lost their payload."
            )

    def not_entered(self, error: OSError) -> None:
        """The directory could not be synced."""
        self.failed |= {writer.number: 0 for writer, _ in self.covered if not writer.entered}
        self.cause = error
