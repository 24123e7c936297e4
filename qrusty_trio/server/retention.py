"""The task that removes dead letters that are too old or too many, as the configuration of their queue says.

Rule: it is in no hurry. It looks every second, and removes in short steps with a pause after each, so that ten million
of them delay nobody. While nothing is due it neither reads the store nor begins a transaction, so the server is quiet.

Requirements: DLV-0050
"""

from __future__ import annotations

import logging

import trio

from qrusty_trio.core.queue import Queue
from qrusty_trio.errors import QrustyError
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.trouble import Trouble
from qrusty_trio.wording import counted

LOOK_SECONDS = 1.0
PAUSE_SECONDS = 0.001
"""Pause after each step, which takes about as long."""
QUEUES_PER_STEP = 1000

log = logging.getLogger(__name__)


async def retain(engine: Engine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Remove what is due every `LOOK_SECONDS`, until cancelled."""
    task_status.started()
    trouble = Trouble(log, "dead letters could not be removed, will try again")
    while True:
        await trio.sleep(LOOK_SECONDS)
        for index, queue in enumerate(engine.broker.catalog.everything(), 1):
            try:
                await _retain(engine, queue)
            except (QrustyError, MemoryError) as error:
                trouble.note(error)
                break
            if index % QUEUES_PER_STEP == 0:
                await trio.lowlevel.checkpoint()


async def _retain(engine: Engine, queue: Queue) -> None:
    """Remove what is due in one queue. Raises StorageFault."""
    moves = engine.broker.dead_letter_moves
    removed = 0
    while engine.fault is None and engine.broker.catalog.exists(queue) and moves.overdue(queue, engine.clock.now_ms()):
        removed += await engine.transact(lambda _, now: moves.retain(queue, now), sync=False)
        await trio.sleep(PAUSE_SECONDS)
    if removed:
        log.info("%s of queue '%s' removed: too old or too many", counted(removed, "dead letter"), queue.name)
