"""The task that looks whether the data directory is still there.

Rule: what is written into files that somebody removed is not there after the next start, though every write succeeds.
So within `WATCH_SECONDS` it is a fault of the store like any other: changes are refused, and the server goes on by
itself when the directory is back. Under `always` each sync looks before it is answered.
"""

from __future__ import annotations

import logging

import trio

from qrusty_trio.errors import StorageFault
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.startup import Stores
from qrusty_trio.server.trouble import Trouble

WATCH_SECONDS = 1.0

log = logging.getLogger(__name__)


async def watch(
    engine: Engine, stores: Stores, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Look every `WATCH_SECONDS`, until cancelled."""
    task_status.started()
    # A disk that does not answer holds up this thread and nothing else.
    limiter = trio.CapacityLimiter(1)
    trouble = Trouble(log, "the data directory could not be looked at, trying again every second")
    while True:
        await trio.sleep(WATCH_SECONDS)
        if engine.fault is not None:
            continue
        try:
            await trio.to_thread.run_sync(stores.check, abandon_on_cancel=True, limiter=limiter)
        except StorageFault as fault:
            engine.fail(fault)
        except Exception as error:  # noqa: BLE001  # told there; nothing that happens here may end the server
            trouble.note(error)
