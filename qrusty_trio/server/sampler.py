"""The task that samples every second: rates and metrics, and warnings for the operator.

Rule: samples are a second apart by the monotonic clock. A late sample covers the time since the last one. A warning
that every request could cause is logged at most once a minute.

Requirements: API-0026
"""

from __future__ import annotations

import logging

import trio

from qrusty_trio.server.engine import Engine
from qrusty_trio.server.recovery import in_pieces
from qrusty_trio.server.trouble import Trouble
from qrusty_trio.wording import counted

SAMPLE_SECONDS = 1.0
WARN_SECONDS = 60.0

log = logging.getLogger(__name__)


class Lag:
    """How late the event loop runs timers, seconds: a sign of steps that take too long, or of a busy machine."""

    __slots__ = ("highest", "last")

    def __init__(self) -> None:
        self.last = 0.0
        self.highest = 0.0

    def note(self, seconds: float) -> None:
        """A timer ran `seconds` after it was due."""
        self.last = max(seconds, 0.0)
        self.highest = max(self.highest, self.last)


async def sample(
    engine: Engine, lag: Lag | None = None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Sample every `SAMPLE_SECONDS` until cancelled, and log what operators need to know. `lag` is kept up to date.

    Requirements: SCH-0026
    """
    task_status.started()
    due = trio.current_time() + SAMPLE_SECONDS
    warn_at = payloads_at = 0.0
    told = payloads_told = 0
    broker = engine.broker
    trouble = Trouble(log, "samples could not be taken, trying again every second")
    while True:
        await trio.sleep_until(due)
        if lag is not None:
            lag.note(trio.current_time() - due)
        due = max(due + SAMPLE_SECONDS, trio.current_time())
        try:
            await in_pieces(broker.catalog.sample(engine.clock.now_ms()))
        except MemoryError as error:
            trouble.note(error)
        if engine.dispatcher.retry_unreadable():
            engine.dispatch_soon()
        index = broker.payloads.index
        if index is not None and index.failures > payloads_told and trio.current_time() >= payloads_at:
            log.error(
                "%s failed to read or store a large payload, the last one as follows. %s",
                counted(index.failures - payloads_told, "request"),
                index.last_failure,
            )
            payloads_told = index.failures
            payloads_at = trio.current_time() + WARN_SECONDS
        refused = broker.refused_for_locks - told
        if refused and trio.current_time() >= warn_at:
            log.warning(
                "%s got nothing: %s locked, which is the limit (QRUSTY_MAX_LOCKED_INDEX)",
                counted(refused, "consume"),
                counted(broker.locks.limit, "message was", "messages were"),
            )
            told = broker.refused_for_locks
            warn_at = trio.current_time() + WARN_SECONDS
