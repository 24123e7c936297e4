"""The task that erases what is kept aside (`core/trash.py`) when its time is over, or when the disk has little room.

Rule: it looks every second, and erases one purge or delete in a step, each by a few range deletes. While nothing is
kept aside it does nothing. Upkeep gives back the disk space, as after any purge.

Requirements: DLV-0063
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import trio

from qrusty_trio.core.queue import Queue
from qrusty_trio.errors import QrustyError
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.trouble import Trouble
from qrusty_trio.wording import counted

LOOK_SECONDS = 1.0
GIVE_BACK_SECONDS = 30.0
"""Pause after an erase for want of room, until the disk has the space back."""
PAUSE_SECONDS = 0.001
"""Pause after each step, which takes about as long."""
LEAST_FREE_BYTES = 2**30
LEAST_FREE_SHARE = 0.1
"""The disk has little room if less than this is free: a GiB, or this share of it if that is less."""

log = logging.getLogger(__name__)


def little_room(directory: Path) -> bool:
    """Whether the disk of this directory has little room. Blocks. Raises OSError."""
    usage = shutil.disk_usage(directory)
    return usage.free < min(LEAST_FREE_BYTES, usage.total * LEAST_FREE_SHARE)


async def empty_trash(
    engine: Engine, short: Callable[[], bool], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Erase what is due every `LOOK_SECONDS`, until cancelled. `short`: whether the disk has little room; blocks."""
    task_status.started()
    limiter = trio.CapacityLimiter(1)
    trouble = Trouble(log, "what is kept aside could not be erased, will try again")
    trash = engine.broker.trash
    look_at = 0.0
    """When to ask the disk for its room again."""
    while True:
        await trio.sleep(LOOK_SECONDS)
        if not trash.everything():
            continue
        try:
            while engine.fault is None and (queue := trash.next_to_erase(engine.clock.now_ms())):
                await _erase(engine, queue, "its time is over")
            if trio.current_time() < look_at:
                continue
            urgent = await trio.to_thread.run_sync(short, limiter=limiter, abandon_on_cancel=True)
            if urgent and engine.fault is None and (queue := trash.next_to_erase(None)):
                # One at a time, as the space comes back only later.
                await _erase(engine, queue, "the disk has little room")
                look_at = trio.current_time() + GIVE_BACK_SECONDS
        except (QrustyError, OSError, MemoryError) as error:
            trouble.note(error)


async def _erase(engine: Engine, queue: Queue, why: str) -> None:
    """Raises StorageFault."""
    name = queue.name
    messages = await engine.transact(lambda broker, _: broker.trash.erase(queue), sync=False)
    log.info("%s of queue '%s' that were kept aside erased: %s", counted(messages, "message"), name, why)
    await trio.sleep(PAUSE_SECONDS)
