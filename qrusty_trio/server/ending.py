"""How the server comes to its end: by signals, and even if something does not end, as a sync on a disk that stalls.

Rule: the time that the end takes is limited by a thread of its own. That needs no event loop, and waits for no other
thread. It ends the process only when the time is over, as what is under way can't be interrupted. Nothing confirmed is
lost: it is in the log, which the next start reads.

Requirements: API-0200
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

import trio

from qrusty_trio.http import listener
from qrusty_trio.server.reloading import Reloader

CLOSE_SECONDS = 60.0
"""How long the last sync and the closing of the store may take. After it the process ends anyway; the write-ahead log
has everything."""
TELL_SECONDS = 10.0
"""After so much of that time, the log says what the stop waits for."""
JOIN_SECONDS = 1.0
"""For the thread itself, which has nothing left to do then."""
EXIT_STATUS = 1
SAME_SIGNAL_SECONDS = 1.0
"""A signal this soon after the first is taken for a duplicate: terminals and runners signal whole process groups."""

log = logging.getLogger(__name__)


class Ending:
    """Ends the process `CLOSE_SECONDS` after the end has begun, unless the `with` ends first.

    Requirements: API-0200
    """

    def __init__(self) -> None:
        self.closing: list[Callable[[], None]] = []
        """Called before the process is ended. Each takes a few seconds at most."""
        self._changed = threading.Condition()
        self._begin: float | None = None
        """When the end began, or will. Seconds of the system's clock, as that of Trio jumps in tests."""
        self._over = False
        self._thread = threading.Thread(target=self._run, name="ending", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def begin(self, after: float = 0.0) -> None:
        """The end begins in `after` seconds, if it has not begun before. Any thread."""
        with self._changed:
            begin = time.monotonic() + after
            if self._over or (self._begin is not None and self._begin <= begin):
                return
            started, self._begin = self._begin is not None, begin
            self._changed.notify()
        if not started:
            try:
                self._thread.start()
            except RuntimeError as error:
                log.warning("the time that the stop takes is not limited: %s", error)

    async def begin_when_cancelled(self) -> None:
        """Begin the end when this task is cancelled. Never returns."""
        try:
            await trio.sleep_forever()
        finally:
            self.begin()

    def _run(self) -> None:
        if not self._waited(TELL_SECONDS):
            return
        if TELL_SECONDS < CLOSE_SECONDS:
            log.warning(
                "the stop still waits for the disk; after %.0f s the process ends without it, and loses nothing that "
                "was confirmed",
                CLOSE_SECONDS,
            )
        if not self._waited(CLOSE_SECONDS):
            return
        log.critical(
            "The store could not be closed within %.0f s: a sync or another call to the system does not end. The "
            "process ends without it. What was confirmed is in the store; see whether its disk is in order before "
            "the next start.",
            CLOSE_SECONDS,
        )
        try:
            for close in self.closing:
                close()
            logging.shutdown()
        finally:
            os._exit(EXIT_STATUS)

    def _waited(self, seconds: float) -> bool:
        """Wait until so long after the begin. Whether it is not over then."""
        with self._changed:
            while not self._over and self._begin is not None:
                left = self._begin + seconds - time.monotonic()
                if left <= 0:
                    return True
                self._changed.wait(left)
            return False


async def watch_signals(
    signals: AsyncIterator[int],
    stopping: trio.Event,
    hurry: trio.CancelScope,
    reloaders: list[Reloader],
    ending: Ending,
) -> None:
    """Set `stopping` at the first stop signal. At a later one, cancel everything but the closing of the store.

    SIGHUP goes to the `reloaders` that there are by then.

    Requirements: API-0056, API-0057
    """
    patient_until = 0.0
    async for number in signals:
        name = signal.Signals(number).name
        if number == signal.SIGHUP:
            for reloader in reloaders:
                reloader.hang_up()
            if not reloaders:
                log.info("%s: there is nothing to be read anew; SIGTERM stops the server", name)
        elif not stopping.is_set():
            log.info("%s: stopping", name)
            stopping.set()
            ending.begin(after=listener.STOP_SECONDS)
            patient_until = trio.current_time() + SAME_SIGNAL_SECONDS
        elif trio.current_time() >= patient_until:
            log.warning("%s again: stopping without waiting", name)
            ending.begin()
            hurry.cancel()
