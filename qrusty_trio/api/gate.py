"""What the server currently refuses, over HTTP and WebSocket.

Rule: the start-up loader, the monitors of memory and disk, the engine and the supervisor write here, and all of `http`
reads here. Nobody asks those directly.

Requirements: SCH-0040
"""

from __future__ import annotations

from qrusty_trio.errors import DiskShort, MemoryPressure, QrustyError, ReadOnly, Starting


class Gate:
    """What is refused now. Reads are always allowed.

    Requirements: API-0074
    """

    __slots__ = ("disk_short", "fault", "memory_critical", "read_only", "stalled", "starting", "stopping")

    def __init__(self, starting: bool = False, memory_critical: bool = False, read_only: bool = False) -> None:
        self.starting = starting
        """True until the start-up loader is done. Nothing may change, because not all queues are known yet."""
        self.memory_critical = memory_critical
        """True while memory is critical. Publishing would make that worse; everything else makes it better."""
        self.disk_short: str | None = None
        """The sentence that publishes are refused with while the disk has too little room for more; otherwise None."""
        self.read_only = read_only
        """Whether clients may change nothing. The server itself goes on: locks expire."""
        self.fault: str | None = None
        """The sentence of the storage fault that changes are refused with; None while the store works."""
        self.stalled: str | None = None
        """What is told of a disk that does not answer, so that changes are not answered either; otherwise None. Nothing
        is refused for it."""
        self.stopping = False
        """Whether the server is on its way to its end. It finishes what is in hand, and refuses nothing on a connection
        that it still has."""

    @property
    def state(self) -> str:
        """`stopping`, `storage_fault`, `starting` or `ok`."""
        if self.stopping:
            return "stopping"
        if self.trouble is not None:
            return "storage_fault"
        return "starting" if self.starting else "ok"

    @property
    def trouble(self) -> str | None:
        """What is wrong with the store: a sentence, or None."""
        return self.fault if self.fault is not None else self.stalled

    @property
    def ready(self) -> bool:
        """Whether clients should be sent here."""
        return self.state == "ok"

    def refusal(self, changes: bool = True) -> QrustyError | None:
        """With what an operation that needs the store is refused now; None if it is allowed.

        `changes`: whether it changes anything.
        """
        if changes and self.read_only:
            return ReadOnly("This server is read-only: it refuses every change")
        if self.starting:
            return Starting("Qrusty is initialising. Retry shortly.")
        return None

    def publish_refusal(self) -> QrustyError | None:
        """With what publishes alone are refused now; None if they are allowed."""
        if self.memory_critical:
            return MemoryPressure("Server is under memory pressure. Try again later.")
        return None if self.disk_short is None else DiskShort(self.disk_short)
