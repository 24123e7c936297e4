"""The task that stops publishes before the disk is full.

Rule: what is left on the disk belongs to acks, consumes and compactions, which bring the space back. Publishes get 507
while less than `reserve` is free, and are taken again once there is half as much more. So a disk that fills up costs no
storage fault, and draining the queues helps.

Requirements: PER-0063
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import trio

from qrusty_trio.api.gate import Gate
from qrusty_trio.server.trouble import Trouble

RESERVE_BYTES = 64 * 2**20
RESERVE_SHARE = 0.05
"""What is kept free: 64 MiB, or this share of the disk if that is less."""
AGAIN = 1.5
"""Publishes are taken again when so many times the reserve is free."""
LOOK_SECONDS = 1.0
NEAR_SECONDS = 0.1
"""Interval while less than `NEAR` times the reserve is free: 64 MiB may be written in a second."""
NEAR = 16

MIB = 2**20

log = logging.getLogger(__name__)


def reserve(total: int) -> int:
    """Bytes to keep free on a disk of `total` bytes."""
    return int(min(RESERVE_BYTES, total * RESERVE_SHARE))


async def keep_room(
    gate: Gate, directory: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Look at the disk of `directory` until cancelled, and refuse publishes while it has too little room."""
    task_status.started()
    # With a limiter of its own, a disk that hangs blocks only this thread.
    limiter = trio.CapacityLimiter(1)
    trouble = Trouble(log, "the room on the disk could not be looked at, will try again")
    while True:
        pause = LOOK_SECONDS
        try:
            usage = await trio.to_thread.run_sync(shutil.disk_usage, directory, abandon_on_cancel=True, limiter=limiter)
        except (OSError, RuntimeError, MemoryError) as error:
            # A directory that is away is a storage fault; see `watch`.
            trouble.note(error)
        else:
            kept = reserve(usage.total)
            _judge(gate, directory, usage.free, kept)
            if usage.free < NEAR * kept:
                pause = NEAR_SECONDS
        await trio.sleep(pause)


def _judge(gate: Gate, directory: Path, free: int, kept: int) -> None:
    if gate.disk_short is None and free < kept:
        gate.disk_short = (
            f"No space left on the device of {directory} for more messages: {free / MIB:.1f} MiB are free, and "
            f"{kept / MIB:.1f} are kept for acks and consumes. Consume messages, or free some space"
        )
        log.error("publishes are refused: %s", gate.disk_short)
    elif gate.disk_short is not None and free >= AGAIN * kept:
        gate.disk_short = None
        log.info("publishes are taken again: %.1f MiB are free on the disk of %s", free / MIB, directory)
