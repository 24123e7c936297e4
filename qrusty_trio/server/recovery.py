"""Loading the store into memory: at start-up, and after a fault.

Rule: both work in the same way. Everything is loaded again. Messages that no consumer can have seen, or that none can
settle any more, are returned to their queues without counting the delivery. Only then may anything change. Acknowledged
changes are in the store. Requests in progress at the fault got an error.

    fault    every change is refused, all WebSockets are closed (1013), the store is opened again
    load     queues, counters and locks, in steps (`Broker.load`)
    restore  deliveries that nobody saw, then what WebSockets held: their connections are gone

Requirements: SYS-0011, DLV-0016, DLV-0028
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import trio

from qrusty_trio.errors import StartupRefused, StorageFault
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.returns import GIVEN_BACK_PER_STEP

RETRY_SECONDS = 1.0
"""Interval between attempts to reopen a store that failed."""
TOLD_EVERY = 60
"""Attempts between two log lines that it is not back yet: about a minute."""
SESSIONS_PER_STEP = 100

log = logging.getLogger(__name__)


async def recover(
    engine: Engine, reopen: Callable[[], object], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Bring the store back into service after each fault, until cancelled. `reopen` runs in a thread.

    Requirements: SYS-0011, DLV-0024
    """
    task_status.started()
    while True:
        await engine.broken.wait()
        tries = 0
        while engine.fault is not None:
            try:
                async with engine.reading_anew:
                    await engine.waiters.wake_failed()
                    await _close_websockets(engine)
                    engine.fault.forget_origin()
                    engine.broker.journal.detach()
                    await trio.to_thread.run_sync(reopen)
                    await _load(engine)
                    engine.recovered()
            except Exception as error:  # whatever the reason, reads continue and the next attempt follows
                engine.fault = _fault(error)
                if tries % TOLD_EVERY == 0:
                    expected = isinstance(error, StorageFault | StartupRefused | OSError)
                    log.warning(
                        "the store is not back yet, trying again every second: %s",
                        error,
                        exc_info=None if expected else error,
                    )
                tries += 1
                await trio.sleep(RETRY_SECONDS)
        log.info("the store is back, changes are accepted again")


async def load(engine: Engine) -> None:
    """Load the store, and return messages that nobody can settle. A recovery waits for its end. Raises StorageFault.

    Requirements: PER-0049
    """
    async with engine.reading_anew:
        await _load(engine)


async def _load(engine: Engine) -> None:
    broker = engine.broker
    await in_pieces(broker.load(engine.clock.frame, engine.clock.now_ms()))
    while engine.returns.unseen or broker.locks.websockets:
        await _take_back_unseen(engine)
        await _give_back_held(engine)


async def _take_back_unseen(engine: Engine) -> None:
    while engine.returns.unseen:
        some = list(engine.returns.unseen)[:GIVEN_BACK_PER_STEP]
        for queue_number, lock_number, id in some:
            engine.broker.take_back(queue_number, lock_number, id)
        engine.broker.commit()
        engine.returns.unseen.difference_update(some)
        await trio.lowlevel.checkpoint()


async def _give_back_held(engine: Engine) -> None:
    broker = engine.broker
    while (locks := broker.locks.disconnect_any()) is not None:
        while locks:
            for _ in range(GIVEN_BACK_PER_STEP):
                if (lock := locks.pop()) is not None:
                    broker.give_back(lock, counts=False, now=engine.clock.now_ms())
            broker.commit()
            await trio.lowlevel.checkpoint()


async def _close_websockets(engine: Engine) -> None:
    for index, session in enumerate(engine.sessions.everyone(), 1):
        session.store_failed()
        if index % SESSIONS_PER_STEP == 0:
            await trio.lowlevel.checkpoint()


def _fault(error: Exception) -> StorageFault:
    return error if isinstance(error, StorageFault) else StorageFault(f"The store could not be opened again: {error}")


async def in_pieces(steps: Iterator[None]) -> None:
    """Run a generator to its end, with a checkpoint after each step."""
    for _ in steps:
        await trio.lowlevel.checkpoint()
