"""When locks end: by the engine's own tasks and clock, over steps of the wall clock and restarts."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from qrusty_trio.core.model import NEVER
from qrusty_trio.storage.memory import MemoryStorage
from tests.server.engines import STEP_SECONDS, call, consume, engine_on, publish, run


# Verifies: SCH-0015, SCH-0016
async def test_locks_end_when_they_should(autojump_clock: trio.testing.MockClock) -> None:
    async with engine_on(MemoryStorage()) as engine:
        await run(engine, publish("long"), publish("short"))
        await run(engine, consume(seconds=100), consume(seconds=10))
        await trio.sleep(9.9)
        assert await run(engine, consume()) == [None]
        await trio.sleep(0.2)
        (got,) = await run(engine, consume(seconds=1000))
        assert (got["payload"], got["retry_count"]) == ("short", 2)
        await trio.sleep(89.8)
        assert await run(engine, consume()) == [None]
        await trio.sleep(0.2)
        (got,) = await run(engine, consume())
        assert (got["payload"], got["retry_count"]) == ("long", 2)


# Verifies: SCH-0018
async def test_a_lock_that_ends_in_this_millisecond_holds_to_its_end(autojump_clock: trio.testing.MockClock) -> None:
    async with engine_on(MemoryStorage()) as engine:
        await run(engine, publish("first"), publish("second"))
        await run(engine, consume(seconds=1))
        end = engine.broker.locks.wake_at
        await trio.sleep(0.001)
        await run(engine, consume(seconds=1))
        await trio.sleep(engine.clock.seconds_until(end + 1) + 0.0001)
        assert engine.clock.now_ms() == end + 1
        got, nothing = await run(engine, consume(), consume())
        assert (got["payload"], nothing) == ("first", None)


# Verifies: PER-0009
@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_lock_made_while_the_clock_was_wrong_ends_in_time_after_a_restart(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, hours: int
) -> None:
    store = MemoryStorage()
    real = time.time
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time", lambda: real() + hours * 3600)
        async with engine_on(store) as engine:
            await run(engine, publish("x"), consume(seconds=30))
    async with engine_on(store) as engine:
        await trio.sleep(20)
        assert await run(engine, consume()) == [None]
        await trio.sleep(11)
        assert (await run(engine, consume()))[0]["payload"] == "x"


# Verifies: SCH-0017
async def test_the_reaper_wakes_nobody_without_need(autojump_clock: trio.testing.MockClock) -> None:
    """Messages come back although no request comes to look for them."""
    async with engine_on(MemoryStorage()) as engine:
        await run(engine, *[publish(str(number)) for number in range(500)])
        await run(engine, *[consume(seconds=5) for _ in range(500)])
        assert engine.broker.locks.count == 500
        await trio.sleep(5.1)
        assert engine.broker.locks.count == 0
        engine.broker.locks.look_again()
        assert engine.broker.locks.wake_at == NEVER


# Verifies: DLV-0008
async def test_locks_of_a_purged_queue_are_freed_although_none_ends() -> None:
    async with engine_on(MemoryStorage()) as engine:
        await run(engine, *[publish(str(number)) for number in range(10)])
        await run(engine, *[consume(seconds=3600) for _ in range(10)])
        await run(engine, call("POST", "/purge-queue/q"))
        with trio.fail_after(STEP_SECONDS):
            while engine.broker.locks.untidy:  # noqa: ASYNC110  # no event tells of it
                await trio.sleep(0.001)


# Verifies: SCH-0018
@pytest.mark.parametrize("step", [10_000_000.0, -10_000_000.0])
async def test_a_stepped_clock_ends_no_lock_and_delays_none(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, step: float
) -> None:
    async with engine_on(MemoryStorage()) as engine:
        await run(engine, publish("x"))
        await run(engine, consume(seconds=30))
        before = engine.clock.now_ms()
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + step)
        await trio.sleep(29)
        assert 28_999 <= engine.clock.now_ms() - before <= 29_001
        assert await run(engine, consume()) == [None]
        await trio.sleep(1.1)
        (got,) = await run(engine, consume())
        assert got["retry_count"] == 2
