"""A clock that jumps over the time in which nothing happens, but not while a thread works.

Trio's own autojump counts a thread as nothing: hours may pass on it before the thread has had its turn, and a limit of
any length is over by then.

Rule: it stands as long as a task waits for a thread, or for the kernel to sync. A test that holds a thread up and wants
time to pass meanwhile takes `mock_clock`, and sets its `autojump_threshold`.
"""

from __future__ import annotations

import time

import trio
from trio.testing import MockClock

from qrusty_trio.server.kernel_sync import KernelSync
from qrusty_trio.server.worker import Worker
from tests.tasks import all_tasks

TURN_SECONDS = 0.0002
"""Real time for which the event loop leaves the processor to the threads."""
WAITS_OUTSIDE = {trio.to_thread.run_sync.__code__, Worker.call.__code__, KernelSync.wait.__code__}


def threads_work() -> bool:
    """Whether any task waits for a thread, or for the kernel to sync."""
    return any(
        getattr(frame, "f_code", None) in WAITS_OUTSIDE for task in all_tasks() for frame, _ in task.iter_await_frames()
    )


def patient_clock() -> MockClock:
    """For `trio.run`; starts at 0."""
    clock = MockClock(autojump_threshold=0)
    jump = clock._autojump

    def jump_or_wait() -> None:
        if threads_work():
            time.sleep(TURN_SECONDS)
        else:
            jump()

    clock._autojump = jump_or_wait  # type: ignore[method-assign]  # the class may not be derived from
    return clock
