"""The bound of the lock index: past it nobody gets a message, no lock is forgotten, and whoever waits goes on later."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from qrusty_trio.api.call import Services
from qrusty_trio.api.gate import Gate
from qrusty_trio.client import connect
from qrusty_trio.config import Fsync, StorageMode
from qrusty_trio.core.broker import REMOVED_PER_CONSUME, Broker
from qrusty_trio.core.dispatch import Dispatcher, Subscription
from qrusty_trio.core.model import Delivery
from qrusty_trio.core.timings import Timings
from qrusty_trio.server import recovery
from qrusty_trio.server.clock import Clock
from qrusty_trio.server.committer import Committer
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.pressure import PressureStatus
from qrusty_trio.server.sampler import WARN_SECONDS, sample
from qrusty_trio.storage.memory import MemoryStorage
from tests.core.brokers import lock_of
from tests.server.room import LARGE, large, room, segment
from tests.server.running import running, settings_for, until_ready, url
from tests.wire.http_client import open_client

LIMIT = 3


class Waiter:
    """A connection that takes whatever comes."""

    def __init__(self) -> None:
        self.got: list[Delivery] = []

    def room(self) -> bool:
        return True

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        self.got.append(delivery)

    def paused(self, subscription: Subscription) -> None:
        raise AssertionError("there is always room")

    def renamed(self, subscription: Subscription) -> None:
        raise AssertionError


@pytest.fixture
async def engine() -> Engine:
    storage = MemoryStorage()
    services = Services(
        Broker(storage, max_locked_index=LIMIT), Gate(starting=False), Timings(), PressureStatus(), lambda: 0
    )
    engine = Engine(services, Dispatcher(), Clock())
    engine.committer = Committer(storage, None, Fsync.ALWAYS, engine.write, engine.fail)
    return engine


async def do(engine: Engine, function: Callable[[Broker, int], Any]) -> Any:
    return await engine.transact(function, sync=True)


async def fill(engine: Engine, seconds: int = 30) -> list[str]:
    """Lock as many as may be locked, and one message more in each of two queues. The ids of those locked."""

    def fill(broker: Broker, now: int) -> list[str]:
        for number in range(LIMIT + 1):
            broker.publish("full", 0, str(number), 9, now)
        broker.publish("waits", 0, "for a lock", 9, now)
        return [delivery.id for _ in range(LIMIT) if (delivery := broker.consume("full", "c", seconds, now))]

    ids: list[str] = await do(engine, fill)
    assert len(ids) == engine.broker.locks.count == LIMIT
    return ids


def subscribe(engine: Engine, broker: Broker) -> Waiter:
    waiter = Waiter()
    engine.dispatcher.add(Subscription("waits", broker.catalog.number_of("waits"), "s", 30, None, waiter))
    return waiter


# Verifies: SCH-0027
@pytest.mark.parametrize("freed_by", ["ack", "nack", "give back", "purge", "delete", "expiry", "restart"])
async def test_who_waits_for_a_lock_goes_on_when_one_is_free(
    engine: Engine, freed_by: str, autojump_clock: MockClock
) -> None:
    ids = await fill(engine)
    waiter = await do(engine, lambda broker, now: subscribe(engine, broker))
    assert waiter.got == []
    assert await do(engine, lambda broker, now: broker.consume("full", "c", 30, now)) is None
    free: dict[str, Callable[[Broker, int], Any]] = {
        "ack": lambda broker, now: broker.ack("full", ids[1], "c", now),
        "nack": lambda broker, now: broker.nack("full", ids[1], "c", now),
        "give back": lambda broker, now: broker.give_back(lock_of(broker, ids[1], "full"), counts=True, now=now),
        "purge": lambda broker, now: broker.catalog.purge("full"),
        "delete": lambda broker, now: broker.catalog.delete("full"),
    }
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.reap)
        if freed_by == "expiry":
            await trio.sleep(31)
        elif freed_by == "restart":
            await recovery.load(engine)
            await do(engine, free["ack"])
        else:
            await do(engine, free[freed_by])
        assert [delivery.payload for delivery in waiter.got] == ["for a lock"]
        nursery.cancel_scope.cancel()


async def test_no_lock_is_forgotten(engine: Engine) -> None:
    ids = await fill(engine)
    for _ in range(10):
        assert await do(engine, lambda broker, now: broker.consume("full", "d", 30, now)) is None
    for id in ids:
        await do(engine, lambda broker, now: broker.renew("full", id, "c", 60, now))  # noqa: B023
        await do(engine, lambda broker, now: broker.ack("full", id, "c", now))  # noqa: B023
    delivery = await do(engine, lambda broker, now: broker.consume("full", "d", 30, now))
    assert delivery.payload == str(LIMIT)


# Verifies: SCH-0026
async def test_it_is_said_once_a_minute(
    engine: Engine, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    await fill(engine, 3000)
    async with trio.open_nursery() as nursery:
        await nursery.start(sample, engine)
        await trio.sleep(0.5)
        with caplog.at_level(logging.WARNING):
            for _ in range(int(3 * WARN_SECONDS) - 10):
                await do(engine, lambda broker, now: broker.consume("full", "d", 1, now))
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    said = [record.getMessage() for record in caplog.records if "QRUSTY_MAX_LOCKED_INDEX" in record.getMessage()]
    refused = f"got nothing: {LIMIT} messages were locked, which is the limit (QRUSTY_MAX_LOCKED_INDEX)"
    assert said == [f"1 consume {refused}", f"60 consumes {refused}", f"60 consumes {refused}"]


# Verifies: SCH-0026
@pytest.mark.parametrize("storage_mode", list(StorageMode), ids=str)
async def test_over_the_wire(tmp_path: Path, storage_mode: StorageMode) -> None:
    settings = settings_for(tmp_path / "data", storage_mode=storage_mode, max_locked_index=1)
    async with running(settings) as server:
        await until_ready(server)
        async with open_client(url(server.port)) as client, connect(f"ws://127.0.0.1:{server.port}/ws") as subscriber:

            async def post(target: str, **body: Any) -> Any:
                response = await client.request("POST", target, json.dumps(body).encode())
                assert response.status == 200, response
                return json.loads(response.body or b"null")

            await post("/create-queue", name="other", config={"ordering": "Fifo"})
            for payload in ("first", "second"):
                await post("/publish", queue="q", priority=1, payload=payload, max_retries=3)
            first = await post("/consume/q", consumer_id="c", timeout_seconds=300)
            assert first["payload"] == "first"
            assert await post("/consume/q", consumer_id="c", timeout_seconds=300) is None
            stats = (await client.request("GET", "/stats")).json()
            assert stats["summary"]["storage"]["locked_index_size"] == 1
            assert stats["summary"]["total_available"] == 1
            async with subscriber.subscribe("q") as deliveries, trio.open_nursery() as nursery:
                got: list[str] = []

                async def take() -> None:
                    async for delivery in deliveries:
                        got.append(delivery.payload)
                        await delivery.ack()
                        return

                nursery.start_soon(take)
                # The server has seen the subscription when it answers what was sent after it.
                await subscriber.publish("other", "x")
                assert got == []
                await post(f"/ack/q/{first['id']}", consumer_id="c")
            assert got == ["second"]


# Verifies: DLV-0035
async def test_a_subscriber_gets_past_many_broken_messages_without_anybody_knocking(tmp_path: Path) -> None:
    async with room(tmp_path, 1 << 30) as it:
        for number in range(2 * REMOVED_PER_CONSUME + 1):
            await it.publish("waits", large(str(number)))
        it.payloads.retire()
        await it.publish("waits", large("valid"))
    segment(tmp_path, 1).unlink()
    async with room(tmp_path, 1 << 30) as it:
        waiter = await it.engine.transact(lambda broker, now: subscribe(it.engine, broker), sync=True)
        with trio.fail_after(60):
            while not waiter.got:  # noqa: ASYNC110  # nothing else may wake the engine
                await trio.sleep(0.005)
        assert [delivery.payload for delivery in waiter.got] == [large("valid")]
        assert len(waiter.got[0].payload) == LARGE
