"""A thread for one blocking function that is called thousands of times a second.

Rule: the thread lives as long as the `async with`, has at most one call at a time, and a call that has begun is waited
for even when it is cancelled, as `trio.to_thread.run_sync` does. It is there because that costs 55 µs a call, half of
it with the interpreter's lock held, and this 30 µs: the lock is what the event loop needs meanwhile.
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
    """Calls `function` in a thread of its own. Used by one task."""

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
        # No call is at work, so this takes no longer than the thread needs to wake up.
        self._calls.put(None)
        self._thread.join()

    async def call(self) -> None:
        """Call the function in the thread. Raises what it raises."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._calls.put(trio.lowlevel.current_task())
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def _run(self) -> None:
        while (task := self._calls.get()) is not None:
            result = outcome.capture(self._function)
            self._token.run_sync_soon(trio.lowlevel.reschedule, task, result)
