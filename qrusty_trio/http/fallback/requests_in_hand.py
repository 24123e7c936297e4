"""The requests that were passed on to Hypercorn and are not answered yet.

Rule: the end of the peer's side is told to those that wait for a message, and kept from Hypercorn until there are none.
"""

from __future__ import annotations

import trio

from qrusty_trio.http.pauses import EventPause


class RequestsInHand:
    """The requests of one connection."""

    def __init__(self) -> None:
        self._count = 0
        self._answered = trio.Event()
        """Set when one of them is answered."""
        self._waiting: dict[EventPause, None] = {}
        """How they wait for a message, if they do."""

    def begins(self) -> None:
        """One is passed on."""
        self._count += 1

    def answered(self) -> None:
        self._count -= 1
        self._answered.set()

    def waits(self, pause: EventPause) -> None:
        """One may wait for a message."""
        self._waiting[pause] = None

    def waits_no_more(self, pause: EventPause) -> None:
        self._waiting.pop(pause, None)

    def give_up(self) -> None:
        """The peer has closed its side: none waits for a message any more."""
        for pause in self._waiting:
            pause.give_up()

    async def next_answered(self) -> None:
        """Wait until one more is answered."""
        self._answered = trio.Event()
        await self._answered.wait()

    def __bool__(self) -> bool:
        return self._count > 0
