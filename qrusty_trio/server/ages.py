"""The task that keeps the ages of the oldest messages up to date.

Rule: it looks for STEPS_PER_ROUND steps each `ROUND_SECONDS`, however many queues there are: at most a fortieth of a
processor. What is not done by then is done in the next round. So a figure is up to a second old, and up to 10 seconds
when 10,000 short queues change all the time. Long ones, whose messages are not in memory, take up to ten times that.

Requirements: SCH-0046
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import trio

from qrusty_trio.core import ages
from qrusty_trio.core.broker import Broker
from qrusty_trio.errors import QrustyError
from qrusty_trio.server.engine import Engine

ROUND_SECONDS = 1.0
STEPS_PER_ROUND = 25

log = logging.getLogger(__name__)


async def watch_ages(engine: Engine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Look at the oldest messages until cancelled."""
    task_status.started()
    looks: Iterator[None] = iter(())

    def look(broker: Broker, now: int) -> bool:
        """One step. Returns whether there are more."""
        return next(looks, looks) is None

    while True:
        await trio.sleep(ROUND_SECONDS)
        try:
            for _ in range(STEPS_PER_ROUND):
                if engine.fault is not None or not await engine.transact(look, sync=False):
                    looks = ages.look_at_all(engine.broker.journal, engine.broker.catalog)
                    break
                await trio.lowlevel.checkpoint()
        except QrustyError as fault:
            # It is reported where the store is opened again.
            log.debug("the ages of messages are looked at later: %s", fault)
            looks = iter(())
