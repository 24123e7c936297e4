"""Notices when the machine stood still: a virtual one is paused for seconds now and then, and a round spans the pause.

Rule: only a pause lets a round be measured anew, never a figure; and how often that was is told, for the page.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bench.driver import Load

STANDSTILL_SECONDS = 1.0
"""A thread that sleeps much shorter than this wakes later than this only when nothing ran: load alone takes less."""
TICK_SECONDS = 0.02
ATTEMPTS = 4
"""At a round that the machine does not get through without a pause."""


class Watch:
    """A context manager with a thread that sleeps and wakes; `longest` is the most seconds between two wakings."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def stood_still(self) -> bool:
        return self.longest >= STANDSTILL_SECONDS

    def _look(self) -> None:
        last = time.monotonic()
        over = False
        while not over:
            over = self._over.wait(TICK_SECONDS)
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


def undisturbed(measured: Callable[[], Load]) -> tuple[Load, int]:
    """Measure a round, and again while the machine stood still in it. Gives how often that was, too.

    A pause of the whole machine says nothing about any server. The last attempt counts, whatever happens in it.
    """
    for repeats in range(ATTEMPTS - 1):
        found, error = None, None
        with Watch() as watch:
            try:
                found = measured()
            except RuntimeError as raised:
                error = raised
        if watch.stood_still:
            print(f"  the machine stood still for {watch.longest:.1f} s: once more", flush=True)
        elif found is not None:
            return found, repeats
        elif error is not None:
            raise error
    return measured(), ATTEMPTS - 1
