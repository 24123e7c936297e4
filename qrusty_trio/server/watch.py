"""The task that checks whether the data directory is still in place.

Rule: writes into removed files succeed, but their data is gone after the next start. So a removed directory becomes a
storage fault within `WATCH_SECONDS`, like any other fault. Changes are refused, and the server continues by itself when
the directory is back. Under `always`, every sync checks it before the response leaves.
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
    """Check the directories every `WATCH_SECONDS` until cancelled.

    Requirements: PER-0045
    """
    task_status.started()
    # With a limiter of its own, a disk that hangs blocks only this thread.
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
        except Exception as error:  # noqa: BLE001  # logged there; no error here may end the server
            trouble.note(error)
