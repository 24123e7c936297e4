"""The server's log, as `subscribe-logs` sends it.

Rule: nothing is buffered per reader. A reader is a position in the one ring of records that the server keeps, and reads
from it only when its connection has room. A reader that falls behind the ring loses records and is told how many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from qrusty_trio.api import ws_frames
from qrusty_trio.wording import counted


class LogRing(Protocol):
    """The last 1,000 records, numbered from 0 since the start of the process."""

    def oldest(self) -> int:
        """The number of the oldest record still kept, or of the next one if there is none."""

    def read(self, position: int, limit: int) -> tuple[int, Sequence[tuple[str, str, str]]]:
        """Up to `limit` records (timestamp, level, message), from number `position` or from the oldest kept.

        The first value returned is the number after the last of these records.
        """

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener` on the event loop's thread whenever there are new records."""

    def remove_listener(self, listener: Callable[[], None]) -> None: ...


class LogReader:
    """One connection's place in the ring.

    Requirements: WS-0017
    """

    def __init__(self, ring: LogRing, wake: Callable[[], None]) -> None:
        self._ring = ring
        self._wake = wake
        self._position = ring.oldest()
        ring.add_listener(wake)

    def read(self, limit: int) -> list[bytes]:
        """Up to `limit` log frames. If records were lost, a frame that tells how many comes first."""
        position, records = self._ring.read(self._position, limit)
        lost = position - len(records) - self._position
        self._position = position
        frames = [ws_frames.log(*record) for record in records]
        if lost:
            what = counted(lost, "log record was", "log records were")
            sentence = f"{what} lost: this connection reads too slowly"
            frames.insert(0, ws_frames.log(records[0][0], "warn", sentence))
        return frames

    def close(self) -> None:
        self._ring.remove_listener(self._wake)
