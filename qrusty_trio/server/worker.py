"""A thread for one blocking function that is called thousands of times a second.

Rule: the thread lives as long as the `async with` and runs at most one call at a time. A call that has started is
awaited to its end even when cancelled, as with `trio.to_thread.run_sync`. That function costs 55 µs a call, and holds
the GIL for half of it, which the event loop needs meanwhile. This class costs 30 µs a call.

Requirements: PER-0057
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import outcome
import trio


class Worker:
    """Calls `function` in a thread of its own. Only one task may use it."""

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self._function = function
        self._calls: queue.SimpleQueue[trio.lowlevel.Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._token = trio.lowlevel.current_trio_token()

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # No call is running, so this takes only as long as the thread needs to wake up.
        self._calls.put(None)
        self._thread.join()

    async def call(self) -> None:
        """Call the function in the thread. Raises whatever it raises."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._calls.put(trio.lowlevel.current_task())
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def _run(self) -> None:
        while (task := self._calls.get()) is not None:
            result = outcome.capture(self._function)
            self._token.run_sync_soon(trio.lowlevel.reschedule, task, result)
