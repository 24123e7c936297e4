"""How a connection of the fallback ends: cut off, or closed once that reading has ended.

Rule: Hypercorn reads in one task, sends in others, shields its sends, and closes from two tasks. So whatever reads or
sends runs in a scope here. `break_off` cancels all of it. `close_once` closes for the first who asks, and lets the
second wait, as it must not cut the first short.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from qrusty_trio.http.header_block import SEND_SECONDS


class ConnectionEnd:
    """The scopes of a connection, and how far its end has come."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        """Cancels the whole connection."""
        self.broken = False
        """Nothing can be sent any more."""
        self.peer_closed = False
        """The peer has closed its side."""
        self.closing = False
        self.too_late = False
        """Something was to be sent after the close had begun, and was not."""
        self._closed = trio.Event()
        self._reading = trio.CancelScope()
        self._read_ended = trio.Event()
        self._read_ended.set()
        self._sending = trio.CancelScope()
        self._sends = 0
        """Sends under way."""
        self._sends_ended = trio.Event()
        self._sends_ended.set()

    @property
    def is_reading(self) -> bool:
        return not self._read_ended.is_set()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read in here. A close cancels it."""
        self._read_ended = trio.Event()
        try:
            with trio.CancelScope() as self._reading:
                yield
        finally:
            self._read_ended.set()

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        """Send in here, with the function to call for each progress: SEND_SECONDS without one cancel it."""
        if not self._sends:
            self._sends_ended = trio.Event()
        self._sends += 1
        try:
            with trio.CancelScope(deadline=trio.current_time() + SEND_SECONDS) as scope:
                self._sending = scope

                def progress() -> None:
                    scope.deadline = trio.current_time() + SEND_SECONDS

                yield progress
        finally:
            self._sends -= 1
            if not self._sends:
                self._sends_ended.set()

    def break_off(self) -> None:
        """Nothing can be sent any more: cancel the connection. Hypercorn would wait for ever with unread requests."""
        self.broken = True
        self.scope.cancel()
        self._sending.cancel()

    async def close_once(self, close: Callable[[], Awaitable[None]]) -> None:
        """End reading, let a send that is under way come to its end, then `close`."""
        if self.closing:
            await self._closed.wait()
            return
        self.closing = True
        self._reading.cancel()
        try:
            await self._read_ended.wait()
            await self._sends_ended.wait()
            await close()
        finally:
            self._closed.set()
