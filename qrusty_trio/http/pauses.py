"""How a connection waits with a call that waits for a message: see `api.call.Pause`.

Rule: while a call waits, its connection holds no room for a response. What its peer sends meanwhile is kept, up to
READ_AHEAD_BYTES, and served later. A peer that has closed its side waits no more: it is answered at once with what
there is, and takes nothing from a queue any more.
"""

from __future__ import annotations

from typing import Protocol

import trio

from qrusty_trio.http.batching import Batching, ParkedConnection
from qrusty_trio.http.byte_budget import LARGE_BYTES, SMALL_BYTES, Holding

READ_AHEAD_BYTES = SMALL_BYTES
"""Bytes of later requests that are kept while a call waits. More wait in the socket."""


class _Pause:
    """`unsent`: the share of the budget for responses that the response counts against."""

    def __init__(self, unsent: Holding) -> None:
        self._unsent = unsent
        self._reserving = trio.CancelScope()
        self.over = False
        self.waited = False
        """A call has waited for a message."""

    def room(self) -> bool:
        return self._unsent.held >= LARGE_BYTES or not self._unsent.budget.tight

    def took(self, characters: int) -> None:
        self._unsent.set(characters)

    def wake(self) -> None:
        self._reserving.cancel()

    def give_up(self) -> None:
        """The peer is gone, or has to make way: wait no more."""
        self.over = True
        self.wake()

    async def reserve(self) -> None:
        with trio.CancelScope() as self._reserving:
            await self._unsent.reserve(LARGE_BYTES)

    def release(self) -> None:
        self._unsent.set(0)


class EventPause(_Pause):
    """Waits for nothing else: somebody else watches the peer."""

    def __init__(self, unsent: Holding) -> None:
        super().__init__(unsent)
        self._woken = trio.Event()

    def wake(self) -> None:
        super().wake()
        self._woken.set()

    async def wait(self, seconds: float) -> None:
        self.waited = True
        with trio.move_on_after(seconds):
            await self._woken.wait()
        self._woken = trio.Event()


class Reader(ParkedConnection, Protocol):
    """What a `SocketPause` needs of its connection."""

    unsent: Holding

    def read_ahead(self, limit: int) -> bool | None:
        """Read what has arrived, without waiting, and keep up to `limit` bytes in all.

        Returns whether more may be read; None if the peer has closed its side. Raises ConnectionLost.
        """


class SocketPause(_Pause):
    """Waits for the socket of the connection, too: parked in request batching, which polls it."""

    def __init__(self, connection: Reader, batching: Batching) -> None:
        super().__init__(connection.unsent)
        self._connection = connection
        self._batching = batching
        self._wanted = False

    def wake(self) -> None:
        super().wake()
        self._wanted = True
        self._batching.wake(self._connection)

    async def wait(self, seconds: float) -> None:
        self.waited = True
        with trio.move_on_after(seconds):
            await self._watch()
        self._wanted = False

    async def _watch(self) -> None:
        """Return once this is wanted or over. What the peer sends is read meanwhile."""
        reading = True
        while not self.over:
            if not self._wanted:
                await self._batching.watch(self._connection, reading=reading)
            if self._wanted:
                return
            # Without `reading`, what woke it is the end of the peer.
            more = self._connection.read_ahead(READ_AHEAD_BYTES) if reading else None
            self.over = more is None
            reading = bool(more)
