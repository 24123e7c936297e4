"""Batches of deliveries that nobody saw: cancelled or broken off in between, or in a response that was not sent."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from qrusty_trio.api.batches import CONSUMED_PER_STEP
from qrusty_trio.api.call import Call
from qrusty_trio.errors import StorageFault
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.returns import GIVEN_BACK_PER_STEP
from tests.server.engines import WatchedStorage, call, engine_on, response, run, until_back

MANY = 3 * CONSUMED_PER_STEP + 1


def publish_batch(count: int) -> Call:
    messages = [{"priority": 0, "payload": str(number)} for number in range(count)]
    return call("POST", "/publish-batch", queue="q", messages=messages)


def consume_batch(most: int = 1000) -> Call:
    return call("POST", "/consume-batch/q", consumer_id="c", max_messages=most)


def counts(engine: Engine) -> tuple[int, int]:
    queue = engine.broker.catalog.by_name["q"]
    return queue.available, queue.locked


async def settle(engine: Engine) -> None:
    while engine.returns:  # no event tells of it
        await trio.lowlevel.checkpoint()


async def all_once(engine: Engine) -> bool:
    """Whether all messages are there, in order, and none was delivered before."""
    (reply,) = await engine.run([consume_batch()])
    return [(each.payload, each.retry_count) for each in reply.deliveries] == [(str(n), 1) for n in range(MANY)]


async def test_a_batch_is_one_write(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        before = store.writes
        await run(engine, publish_batch(100))
        assert store.writes == before + 1
        await run(engine, consume_batch(100))
        assert store.writes == before + 2


# Verifies: DLV-0040
async def test_what_was_not_sent_goes_back_in_steps(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish_batch(MANY))
        (reply,) = await engine.run([consume_batch()])
        assert counts(engine) == (0, MANY)
        engine.give_back(reply.receipt())
        assert counts(engine) == (GIVEN_BACK_PER_STEP, MANY - GIVEN_BACK_PER_STEP)
        await settle(engine)
        assert counts(engine) == (MANY, 0)
        engine.give_back(reply)
        assert await all_once(engine)


# Verifies: DLV-0040
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
async def test_a_consumer_that_leaves_in_between(store: WatchedStorage, steps: int) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish_batch(MANY))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run, [consume_batch()])
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await settle(engine)
        assert counts(engine) == (MANY, 0)
        assert await all_once(engine)


# Verifies: DLV-0040
@pytest.mark.parametrize("writes", [0, 1, 2, 3])
async def test_a_fault_in_between(store: WatchedStorage, writes: int) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish_batch(MANY))
        store.writes_left = writes
        (reply,) = await engine.run([consume_batch()])
        assert reply.status == 507
        assert not reply.deliveries
        await until_back(engine)
        assert counts(engine) == (MANY, 0)
        assert await all_once(engine)


@pytest.mark.parametrize("writes", [0, 1, 2])
async def test_a_fault_while_many_go_back(store: WatchedStorage, writes: int) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish_batch(MANY))
        (reply,) = await engine.run([consume_batch()])
        store.writes_left = writes
        engine.give_back(reply)
        while engine.fault is None:  # it is met by another task
            await trio.lowlevel.checkpoint()
        await until_back(engine)
        assert counts(engine) == (MANY, 0)
        assert await all_once(engine)


async def test_a_batch_of_publishes_meets_a_fault(store: WatchedStorage) -> None:
    """The messages of the steps before it may be there; none of them was confirmed."""
    async with engine_on(store) as engine:
        await run(engine, publish_batch(1))
        store.writes_left = 1
        (reply,) = await engine.run([publish_batch(MANY)])
        assert reply.status == 507
        await until_back(engine)
        available, locked = counts(engine)
        assert locked == 0
        assert available in (1, 257)


async def test_those_left_at_the_end_go_back_before_the_store_closes(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish_batch(MANY))
        (reply,) = await engine.run([consume_batch()])
        engine.give_back(reply)
        assert engine.returns
    assert not engine.returns
    assert counts(engine) == (MANY, 0)


async def test_a_batch_after_a_rename_is_of_one_queue(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish_batch(MANY))
        async with trio.open_nursery() as nursery:
            replies = []

            async def consume() -> None:
                replies.extend(await engine.run([consume_batch()]))

            nursery.start_soon(consume)
            while not counts(engine)[1]:  # it is at work
                await trio.lowlevel.checkpoint()
            assert counts(engine)[1] < MANY
            await run(engine, call("POST", "/update-queue", name="q", config={"name": "r"}), publish_batch(5))
        assert len(response(replies[0])["messages"]) == MANY
        assert counts(engine) == (5, 0)


async def test_a_fault_after_a_scan_has_stored_a_part_of_a_step(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refill writes what is pending. If it then fails to read, the locks are in the store, and nobody saw them."""
    async with engine_on(store, hot_tier_size=2, refill_threshold=1) as engine:
        await run(engine, publish_batch(MANY))
        scans = 0

        def scan(*arguments: Any) -> Any:
            nonlocal scans
            scans += 1
            if scans > 3:
                raise StorageFault("a read failed")
            return store.inner.scan(*arguments)

        monkeypatch.setattr(store, "scan", scan, raising=False)
        (reply,) = await engine.run([consume_batch()])
        assert reply.status == 503
        monkeypatch.delattr(store, "scan")
        await until_back(engine)
        assert counts(engine) == (MANY, 0)
        assert await all_once(engine)
