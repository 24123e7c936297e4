"""The task that warns WebSockets before their locks end.

Rule: it looks every `LOOK_SECONDS`, and only if somebody asked. So a warning comes up to that much later than asked
for. A look is divided into steps, with other tasks in between.

Requirements: WS-0041
"""

from __future__ import annotations

import trio

from qrusty_trio.server.engine import Engine

LOOK_SECONDS = 0.5
LOOKED_AT_PER_STEP = 1024
"""Locks looked at in one step, which takes at most a millisecond."""


async def warn(engine: Engine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Warn of locks that are about to end, until cancelled."""
    task_status.started()
    deadlines, locks = engine.dispatcher.deadlines, engine.broker.locks
    while True:
        await trio.sleep(LOOK_SECONDS)
        if deadlines:
            now = engine.clock.now_ms()
            while deadlines.look(locks, now, LOOKED_AT_PER_STEP):
                await trio.lowlevel.checkpoint()
