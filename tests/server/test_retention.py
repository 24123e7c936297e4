"""The task that removes dead letters which are too old or too many."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.config import Fsync
from qrusty_trio.core.dead_letters import PER_STEP
from qrusty_trio.errors import DiskFull
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.retention import retain
from qrusty_trio.storage.memory import MemoryStorage
from tests.server.engines import WatchedStorage, call, consume, engine_on, publish, run, until_back

MANY = 5 * PER_STEP


@asynccontextmanager
async def retaining(storage: Any, **limits: int) -> AsyncIterator[Engine]:
    """An engine with a queue of these limits."""
    async with engine_on(storage, Fsync.NEVER) as engine, trio.open_nursery() as nursery:
        await nursery.start(retain, engine)
        await run(engine, call("POST", "/create-queue", name="q", config={"ordering": "Fifo", **limits}))
        yield engine
        nursery.cancel_scope.cancel()


async def bury(engine: Engine, count: int) -> None:
    for _ in range(count):
        await run(engine, publish("p", max_retries=1))
        (message,) = await run(engine, consume())
        await run(engine, call("POST", f"/nack/q/{message['id']}", consumer_id="c"))


def left(engine: Engine) -> int:
    return engine.broker.catalog.by_name["q"].dead


# Verifies: DLV-0050
async def test_letters_go_when_their_time_is_over(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with retaining(MemoryStorage(), dead_letter_ttl_seconds=60) as engine:
        await bury(engine, MANY)
        await trio.sleep(30)
        await bury(engine, 2)
        await trio.sleep(28)
        assert left(engine) == MANY + 2
        await trio.sleep(5)
        assert left(engine) == 2
        assert f"{MANY} dead letters of queue 'q' removed: too old or too many" in caplog.text
        await trio.sleep(30)
        assert left(engine) == 0


# Verifies: DLV-0050
async def test_the_oldest_go_when_there_are_too_many(autojump_clock: trio.testing.MockClock) -> None:
    async with retaining(MemoryStorage(), dead_letter_max=3) as engine:
        await bury(engine, MANY)
        await trio.sleep(3)
        assert left(engine) == 3
        await run(engine, call("POST", "/update-queue", name="q", config={"dead_letter_max": 1}))
        await trio.sleep(3)
        assert left(engine) == 1
        await run(engine, call("POST", "/update-queue", name="q", config={"dead_letter_max": None}))
        await bury(engine, 5)
        await trio.sleep(3)
        assert left(engine) == 6


async def test_nothing_is_touched_while_nothing_is_due(autojump_clock: trio.testing.MockClock) -> None:
    """Otherwise the server would never be quiet."""
    async with retaining(MemoryStorage(), dead_letter_ttl_seconds=3600, dead_letter_max=9) as engine:
        await bury(engine, 5)
        await trio.sleep(100)  # the reaper has looked at the ends of the locks
        before = engine.transactions
        await trio.sleep(1000)
        assert engine.transactions == before


async def test_a_store_that_fails_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    storage = WatchedStorage(MemoryStorage())
    async with retaining(storage, dead_letter_max=3) as engine:
        await bury(engine, 3)
        await bury(engine, 1)
        storage.write_fault = DiskFull("No space left on the device.")
        storage.reopen_fault = storage.write_fault
        await trio.sleep(3)
        assert engine.fault is not None
        storage.reopen_fault = None
        await until_back(engine)
        await trio.sleep(3)
        assert left(engine) == 3
