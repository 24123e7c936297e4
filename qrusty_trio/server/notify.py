"""Tells systemd how the server is: ready, alive, stopping (sd_notify(3)).

Rule: what is said here never stops or delays the server, so a message that can't be sent is logged once and left. The
watchdog is fed from the event loop, so systemd restarts a server whose loop hangs. Without NOTIFY_SOCKET nothing is
sent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Self

import trio

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"
SEND_SECONDS = 1.0
"""How long a message may wait for room in systemd's socket."""
FEEDS_PER_DEADLINE = 3
"""The watchdog is fed this often in the time that systemd allows, so that one message may be late or lost."""

log = logging.getLogger(__name__)


class Notifier:
    """What systemd asked to be told, and where."""

    def __init__(self, address: str | None, watchdog_seconds: float | None) -> None:
        self._address = address
        self._watchdog_seconds = watchdog_seconds
        self._warned = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int | None = None) -> Self:
        """Read the variables that systemd sets. Values that make no sense are logged, and as if they were not set.

        NOTIFY_SOCKET: a path, or `@` and an abstract name. WATCHDOG_USEC: microseconds. WATCHDOG_PID: whom it is for.
        """
        address = environment.get("NOTIFY_SOCKET") or None
        if address is not None and (address[0] not in "/@" or len(address) < 2):
            log.warning("NOTIFY_SOCKET=%.100r is neither a path nor an abstract name: systemd is told nothing", address)
            address = None
        allowed = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", "")
        watchdog = None
        if address is not None and allowed and meant in ("", str(os.getpid() if pid is None else pid)):
            if allowed.isascii() and allowed.isdigit() and int(allowed) > 0:
                watchdog = int(allowed) / 1_000_000
            else:
                log.warning("WATCHDOG_USEC=%.100r is no number of microseconds: the watchdog is not fed", allowed)
        return cls(address, watchdog)

    async def tell(self, state: str) -> None:
        """Send one message, or give up after SEND_SECONDS. Raises nothing."""
        if self._address is None:
            return
        # An abstract name begins with a zero byte, which a variable can't hold.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with trio.fail_after(SEND_SECONDS), trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                await sender.connect(address)
                await sender.send(state.encode())
        except (OSError, trio.TooSlowError) as error:
            if not self._warned:
                log.warning("systemd could not be told %s: %s", state, str(error) or "its socket has no room")
            self._warned = True

    async def run(self, stopping: trio.Event) -> None:
        """Feed the watchdog, and tell when the server stops. Never returns."""
        async with trio.open_nursery() as nursery:
            if self._watchdog_seconds is not None:
                nursery.start_soon(self._feed, self._watchdog_seconds / FEEDS_PER_DEADLINE)
            await stopping.wait()
            await self.tell(STOPPING)

    async def _feed(self, pause: float) -> None:
        while True:
            await self.tell(ALIVE)
            await trio.sleep(pause)
