"""The tasks that check whether the data directory is still in place, and whether its disk answers.

Rule: writes into removed files succeed, but their data is gone after the next start. So a removed directory becomes a
storage fault within `WATCH_SECONDS`, like any other fault. Changes are refused, and the server continues by itself when
the directory is back. Under `always`, every sync checks it before the response leaves. A disk that does not answer is
no fault, as what it has may still be right. It is told in the log, and to whoever asks whether the server is ready.
"""

from __future__ import annotations

import logging

import trio

from qrusty_trio.errors import StorageFault
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.startup import Stores
from qrusty_trio.server.trouble import Trouble

WATCH_SECONDS = 1.0
SLOW_SYNC_SECONDS = 5.0
"""A sync that takes longer is told of."""

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


async def watch_syncs(engine: Engine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Tell of each sync that takes longer than `SLOW_SYNC_SECONDS`, until cancelled.

    Requirements: PER-0069
    """
    task_status.started()
    committer, gate = engine.committer, engine.services.gate
    told = False
    while True:
        await trio.sleep(WATCH_SECONDS)
        slow = committer.seconds_under_way > SLOW_SYNC_SECONDS
        if slow == told:
            continue
        told = slow
        if not slow:
            gate.stalled = None
            log.warning("the disk answers again: the sync that took long has ended")
            continue
        means = (
            "Changes are answered when it does."
            if committer.waits
            else "Until it does, a power cut may lose changes that are confirmed."
        )
        sentence = (
            f"A sync has taken more than {SLOW_SYNC_SECONDS:.0f} s: the disk of the data directory does not answer. "
            f"{means} See whether the disk, or the network to it, hangs: the server goes on by itself when it is back."
        )
        log.error("%s", sentence)
        if committer.waits:
            gate.stalled = sentence
