"""The server as it is, but for two things: its bulkheads log every traceback, not ten a minute; and at SIGUSR2 it logs
where each of its tasks is, so that a connection that is held says what holds it."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

import trio

from qrusty_trio.cli import main
from qrusty_trio.http import bulkheads
from qrusty_trio.server import sampler, supervisor

log = logging.getLogger("fuzz")


def dump() -> None:
    """Log the stack of every task."""
    root = trio.lowlevel.current_root_task()
    tasks = [root] if root is not None else []
    for task in tasks:
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    for task in tasks:
        frames = reversed(list(task.iter_await_frames()))
        log.info("task %s: %s", task.name, " < ".join(f"{frame.f_code.co_qualname}:{line}" for frame, line in frames))


def _install() -> None:
    sample = sampler.sample

    async def sample_and_listen(*args: object, **kwargs: object) -> None:
        token = trio.lowlevel.current_trio_token()

        def on_signal(number: int, frame: FrameType | None) -> None:
            token.run_sync_soon(dump, idempotent=True)

        signal.signal(signal.SIGUSR2, on_signal)
        await sample(*args, **kwargs)  # type: ignore[arg-type]  # passed on

    supervisor.sample = sample_and_listen  # type: ignore[attr-defined]


if __name__ == "__main__":
    bulkheads.TRACEBACKS = 2**62
    _install()
    sys.exit(main())
