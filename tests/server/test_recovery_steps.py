"""A recovery goes in steps, however much there is to close and to give back; and what makes one necessary."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import WS_CONSUMER_PREFIX
from qrusty_trio.errors import StorageFault
from qrusty_trio.server.recovery import SESSIONS_PER_STEP
from qrusty_trio.server.returns import GIVEN_BACK_PER_STEP
from tests.server.engines import WatchedStorage, consume, engine_on, make_engine, publish, run, until_back
from tests.server.test_recovery import Session

HERE = WS_CONSUMER_PREFIX + "here"


# Verifies: SCH-0035
@pytest.mark.parametrize("what", ["websockets", "locks"])
async def test_others_have_their_turns_meanwhile(store: WatchedStorage, what: str) -> None:
    per_step = SESSIONS_PER_STEP if what == "websockets" else GIVEN_BACK_PER_STEP
    count = 8 * per_step
    seen = [0]
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        sessions = [Session(f"{HERE}{number}") for number in range(count if what == "websockets" else 1)]
        for session in sessions:
            engine.join(session)
        await run(engine, publish("first"))
        if what == "locks":
            await run(engine, *[publish(str(number)) for number in range(count - 1)])
            for _ in range(count):
                await engine.transact(lambda broker, now: broker.consume("q", HERE, 3600, now), sync=False)

        def done() -> int:
            if what == "websockets":
                return sum(session.failed for session in sessions)
            queue = engine.broker.catalog.by_name.get("q")
            return queue.available if queue is not None else 0

        async def look() -> None:
            while True:
                seen.append(done())
                await trio.lowlevel.checkpoint()

        nursery.start_soon(look)
        engine.fail(StorageFault("down"))
        await until_back(engine)
        nursery.cancel_scope.cancel()
        assert done() == count
    # A task may run last in one pass of the scheduler and first in the next.
    assert max(after - before for before, after in pairwise(seen)) <= 2 * per_step


# Verifies: SYS-0011
@pytest.mark.parametrize("halfway", [False, True])
async def test_a_change_that_crashes_is_a_fault_of_the_store_only_if_it_changed_something(
    store: WatchedStorage, caplog: pytest.LogCaptureFixture, halfway: bool
) -> None:
    async with engine_on(store) as engine:

        def crash(broker: Broker, now: int) -> None:
            if halfway:
                broker.publish("q", 1, "half", 3, now)
            raise ZeroDivisionError

        with pytest.raises(StorageFault, match="its log says why"):
            engine.change(crash, sync=False)
        assert (engine.fault is not None) == halfway
        assert "a change failed in a way that should not be possible" in caplog.text
        await until_back(engine)
        await run(engine, publish("whole"))
        (first,) = await run(engine, consume())
        assert first["payload"] == "whole"
        assert engine.broker.catalog.by_name["q"].available == 0


async def test_an_engine_serves_before_its_tasks_have_begun(store: WatchedStorage) -> None:
    engine = make_engine(store)
    replies = engine.run_to_end([publish("x"), consume(seconds=1)])
    assert [reply.status for reply in replies] == [200, 200]
