"""The age of the oldest message in the reports of a server."""

from __future__ import annotations

import trio

from qrusty_trio.errors import DiskFull
from qrusty_trio.server.ages import watch_ages
from tests.server.engines import (
    STEP_SECONDS,
    WatchedStorage,
    call,
    consume,
    engine_on,
    publish,
    response,
    run,
    until_back,
)


# Verifies: SCH-0046
async def test_the_oldest_is_known_soon_after_a_start_and_after_a_fault(store: WatchedStorage) -> None:
    async with engine_on(store, hot_tier_size=2, refill_threshold=1) as engine, trio.open_nursery() as nursery:
        for priority in (1, 5, 9):
            await run(engine, publish("p", priority=priority))
        await run(engine, consume())
        await nursery.start(watch_ages, engine)

        async def until_known() -> None:
            with trio.fail_after(STEP_SECONDS):
                while engine.broker.catalog.by_name["q"].oldest is None:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            for path in ("/queue-stats/q", "/stats"):
                (reply,) = await engine.run([call("GET", path)])
                stats = response(reply) if path != "/stats" else response(reply)["queues"][0]
                assert stats["oldest_age_exact"] is True
                assert stats["oldest_age_seconds"] >= 0

        await until_known()
        store.write_fault = DiskFull("No space left on the device.")
        assert [reply.status for reply in await engine.run([publish("p")])] == [507]
        await until_back(engine)
        await until_known()
        nursery.cancel_scope.cancel()
