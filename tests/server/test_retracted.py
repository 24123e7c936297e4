"""Deliveries that were stored and that nobody saw: a fault behind the middle of a transaction, a process that ended."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from qrusty_trio.core.dispatch import Subscription
from qrusty_trio.core.model import WS_CONSUMER_PREFIX, Delivery, is_websocket
from qrusty_trio.errors import DiskFull
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.server.engines import STEP_SECONDS, WatchedStorage, answer, consume, engine_on, publish, run, until_back

SMALL_TIER: dict[str, Any] = {"hot_tier_size": 2, "refill_threshold": 1}
"""Every second or so consume reads on, and for that writes what is pending."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WatchedStorage]:
    storage = RocksStorage.open(tmp_path, cache_mb=8, write_buffer_mb=4, max_open_files=64)
    try:
        yield WatchedStorage(storage)
    finally:
        storage.close()


class Basket:
    """A sink that keeps what it was delivered."""

    def __init__(self) -> None:
        self.got: list[Delivery] = []
        self.retracted = 0

    def room(self) -> bool:
        return True

    def deliver(self, subscription: Subscription, delivery: Delivery, now: int) -> None:
        self.got.append(delivery)

    def retract(self, subscription: Subscription, delivery: Delivery) -> None:
        assert self.got.pop() is delivery
        self.retracted += 1

    def parked(self, subscription: Subscription) -> None:
        raise AssertionError


@pytest.mark.parametrize("reopened_later", [False, True])
@pytest.mark.parametrize("quick", [False, True])
async def test_a_refused_consume_locks_nothing(store: WatchedStorage, quick: bool, reopened_later: bool) -> None:
    async with engine_on(store, **SMALL_TIER) as engine:
        ids = [body["id"] for body in await run(engine, *[publish(str(number)) for number in range(9)])]
        store.writes_left = 1
        calls = [consume() for _ in range(5)]
        if reopened_later:
            store.reopen_fault = DiskFull("No space left on the device.")
        replies = engine.run_quick(calls) if quick else await engine.run(calls)
        assert [reply.status for reply in replies] == [507] * 5
        if reopened_later:
            await trio.sleep(0.01)
            store.reopen_fault = None
        await until_back(engine)
        bodies = await run(engine, *[consume() for _ in range(9)])
        assert [(body["id"], body["retry_count"]) for body in bodies] == [(id, 1) for id in ids]


async def test_a_retracted_delivery_locks_nothing(store: WatchedStorage) -> None:
    async with engine_on(store, **SMALL_TIER) as engine:
        ids = [body["id"] for body in await run(engine, *[publish(str(number)) for number in range(9)])]
        basket = Basket()
        store.writes_left = 1
        engine.dispatcher.add(Subscription("q", engine.broker.queue_number("q"), "ws", 30, 5, basket))
        engine.pump_soon()
        with trio.fail_after(STEP_SECONDS):
            while len(basket.got) < 5 or engine.fault is not None:
                await trio.lowlevel.checkpoint()
        assert basket.retracted > 1
        assert sorted((each.id, each.retry_count) for each in basket.got) == sorted((id, 1) for id in ids[:5])


async def test_what_could_not_be_given_back_is_given_back_after_the_fault(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish("x"))
        (reply,) = await engine.run([consume()])
        store.writes_left = 0
        engine.give_back(reply)
        assert engine.fault is not None
        engine.give_back(reply)
        await until_back(engine)
        (again,) = await engine.run([consume()])
        assert (answer(again)["payload"], answer(again)["retry_count"]) == ("x", 1)


async def test_what_a_websocket_held_is_available_in_the_next_process(store: WatchedStorage) -> None:
    gone = WS_CONSUMER_PREFIX + str(uuid.uuid4())
    async with engine_on(store) as engine:
        await run(engine, *[publish(str(number), max_retries=1 + number) for number in range(200)])
        now = engine.clock.now_ms()
        for number in range(200):
            engine.broker.consume("q", gone if number % 2 else f"ws-{number}", 30, now)
        engine.broker.commit()
    async with engine_on(store) as engine:
        await engine.forget_websockets()
        assert engine.broker.locked_index_size == 100
        (first,) = await run(engine, consume())
        assert (first["payload"], first["retry_count"]) == ("1", 2)
        assert len([body for body in await run(engine, *[consume() for _ in range(100)]) if body]) == 99
        await engine.forget_websockets()
        assert engine.broker.locked_index_size == 200


async def test_a_fault_takes_nothing_from_the_websockets_that_are_there(store: WatchedStorage) -> None:
    here = WS_CONSUMER_PREFIX + str(uuid.uuid4())
    async with engine_on(store) as engine:
        await run(engine, publish("x"))
        await engine.transact(lambda broker, now: broker.consume("q", here, 30, now), sync=True)
        store.writes_left = 0
        assert (await engine.run([publish("y")]))[0].status == 507
        await until_back(engine)
        await engine.forget_websockets()
        assert engine.broker.locked_index_size == 1


async def test_a_fault_does_not_grow_with_those_it_is_told_to(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        store.writes_left = 0
        store.reopen_fault = DiskFull("No space left on the device.")
        depths = []
        for _ in range(20):
            assert (await engine.run([publish("x")]))[0].status == 507
            assert engine.fault is not None
            depths.append(len(traceback.extract_tb(engine.fault.__traceback__)))
        assert depths[-1] == depths[2]
        store.reopen_fault = None
        await until_back(engine)


@pytest.mark.parametrize("consumer", ["ws-", "ws-1", "worker", "", f"ws-{uuid.uuid4()}x", f"ws-{uuid.uuid4()}".upper()])
def test_who_is_no_websocket(consumer: str) -> None:
    assert not is_websocket(consumer)
