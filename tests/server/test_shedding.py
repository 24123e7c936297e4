"""What the memory monitor can make smaller, on the real engine: it does, and nobody notices but for the speed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from qrusty_trio.client import ClientError, connect
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.hot_tier import TIERS_BYTES
from qrusty_trio.errors import DiskFull, StorageFault
from qrusty_trio.server.memory_usage import Usage
from qrusty_trio.server.pressure import TIER_FRACTION
from qrusty_trio.server.shedding import Shedding
from qrusty_trio.server.upkeep import Collector
from tests.server.room import Room, large, room
from tests.server.running import running, settings_for, until_ready, url
from tests.wire.http_client import open_client

QUEUES = [f"q{number}" for number in range(5)]
TIER = 40


def shedding(room: Room) -> Shedding:
    return Shedding(room.engine, room.stores.storage, room.compactor, Collector())


def fill(queue: str, count: int, size: int, broker: Broker, now: int) -> None:
    for number in range(count):
        broker.publish(queue, number % 7, large(str(number), size), 5, now)


def tier_sizes(broker: Broker) -> dict[str, int]:
    return {name: broker.catalog.tier_size(name) for name in broker.catalog.names()}


# Verifies: SCH-0010, SCH-0011, SCH-0041
async def test_tiers_shrink_and_grow_back_and_the_order_stays(tmp_path: Path) -> None:
    async with room(tmp_path, hot_tier_size=TIER, refill_threshold=10) as it:
        for queue in QUEUES:
            await it.engine.transact(partial(fill, queue, 3 * TIER, 100), sync=False)
        assert set(tier_sizes(it.broker).values()) == {TIER}
        await shedding(it).trim_tiers(TIER_FRACTION)
        assert set(tier_sizes(it.broker).values()) == {TIER * TIER_FRACTION}
        first = await it.drain(QUEUES[0])
        # A new queue, too, and one that is refilled.
        await it.engine.transact(partial(fill, "new", 3 * TIER, 100), sync=False)
        assert max(tier_sizes(it.broker).values()) == TIER * TIER_FRACTION
        await shedding(it).restore()
        second = await it.drain(QUEUES[1])
        assert first == second
        assert len(first) == 3 * TIER
        await it.consume(QUEUES[2])
        await it.engine.transact(partial(fill, "other", 3 * TIER, 100), sync=False)
        assert tier_sizes(it.broker)["other"] == TIER


# Verifies: SCH-0012
async def test_tiers_of_large_records_shrink_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrusty_trio.core.hot_tier.TIERS_BYTES", TIERS_BYTES // 256)
    async with room(tmp_path) as it:
        for queue in QUEUES:
            await it.engine.transact(partial(fill, queue, 100, 4000), sync=False)

        def held() -> int:
            return sum(queue.tier.octets for queue in it.broker.catalog.by_name.values())

        whole = TIERS_BYTES // 256
        # Those filled first had more for themselves; the next sample makes them share.
        for _ in it.broker.catalog.sample(0):
            pass
        assert 0.8 * whole < held() <= whole
        await shedding(it).trim_tiers(TIER_FRACTION)
        # Every tier may hold one.
        assert held() <= whole * TIER_FRACTION + len(QUEUES) * 4100
        await shedding(it).restore()
        await it.engine.transact(partial(fill, "new", 100, 4000), sync=False)
        assert it.broker.catalog.by_name["new"].tier.octets > whole * TIER_FRACTION


async def test_locks_of_purged_queues_are_let_go(tmp_path: Path) -> None:
    async with room(tmp_path) as it:
        await it.engine.transact(partial(fill, "q", 2500, 10), sync=False)
        await it.engine.transact(partial(fill, "kept", 3, 10), sync=False)
        for _ in range(2500):
            await it.engine.transact(lambda broker, now: broker.consume("q", "c", 1000, now), sync=False)
        kept = await it.consume("kept")
        assert kept is not None
        await it.engine.transact(lambda broker, now: broker.catalog.purge("q"), sync=True)
        assert it.broker.locks.count == 1
        await shedding(it).shrink_indexes()
        assert not it.broker.locks.untidy
        assert sum(map(len, it.broker.locks._windows.values())) == 1
        await it.ack("kept", kept.id)


async def test_empty_queues_let_go(tmp_path: Path) -> None:
    async with room(tmp_path) as it:
        await it.engine.transact(partial(fill, "empty", 50, 10), sync=False)
        await it.engine.transact(partial(fill, "full", 50, 10), sync=False)
        await it.drain("empty")
        await shedding(it).drop_idle_structures()
        assert tier_sizes(it.broker) == {"empty": 0, "full": 50}
        await it.publish("empty", "again")
        assert await it.drain("empty") == ["again"]


async def test_the_store_flushes_compacts_and_resizes_its_cache(tmp_path: Path) -> None:
    async with room(tmp_path) as it:
        await it.engine.transact(partial(fill, "q", 300, 100), sync=True)
        target = shedding(it)
        for step in (target.flush_memtables, target.compact_range):
            await trio.to_thread.run_sync(step)
        target.set_cache_bytes(2**20)
        assert len(await it.drain("q")) == 300


async def test_a_full_disk_fails_the_step_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path) as it:
        for number in range(12):
            await it.publish("q", large(str(number)))
        for _ in range(8):
            delivery = await it.consume("q")
            assert delivery is not None
            await it.ack("q", delivery.id)

        def full(data: bytes) -> None:
            raise DiskFull("No space left on the device: free some.")

        monkeypatch.setattr(it.payloads, "append", full)
        with pytest.raises(StorageFault):
            await shedding(it).compact_payloads()


class Readings:
    """A `UsageSource` that says what it is told to."""

    share = 0.5

    def read(self) -> Usage:
        return Usage(round(1000 * self.share), 1000, "made up")

    def resident_bytes(self) -> int:
        return 0


# Verifies: SYS-0012, API-0030
async def test_clients_see_pressure_come_and_go(tmp_path: Path) -> None:
    readings = Readings()
    async with running(settings_for(tmp_path / "data"), memory=readings) as server:
        await until_ready(server)
        gate = server.engine.services.gate
        async with open_client(url(server.port)) as client, connect(f"ws://127.0.0.1:{server.port}/ws") as socket:

            async def post(target: str, **body: Any) -> tuple[int, Any]:
                response = await client.request("POST", target, json.dumps(body).encode())
                if response.status == 503:
                    assert response.headers["retry-after"] == "2"
                return response.status, json.loads(response.body or b"null")

            async def publish() -> tuple[int, Any]:
                return await post("/publish", queue="q", priority=1, payload="p", max_retries=9)

            async def shown() -> list[bool]:
                health = (await client.request("GET", "/health")).json()
                summary = (await client.request("GET", "/stats")).json()["summary"]
                assert summary["memory_limit_bytes"] == 1000
                assert health["status"] == "ok"
                return [health["memory_pressure"], summary["memory_pressure"]]

            async def until(condition: Any) -> None:
                with trio.fail_after(60):
                    while not condition():  # noqa: ASYNC110  # the monitor tells nobody
                        await trio.sleep(0.01)

            for _ in range(4):
                assert (await publish())[0] == 200
            assert await shown() == [False, False]
            readings.share = 0.85
            await until(lambda: server.engine.services.memory.under_pressure)
            assert await shown() == [True, True]
            assert (await publish())[0] == 200
            readings.share = 0.95
            await until(lambda: gate.memory_critical)
            status, body = await publish()
            assert (status, body["code"]) == (503, "memory_pressure")
            with pytest.raises(ClientError, match="memory_pressure"):
                await socket.publish("q", "p")
            assert await shown() == [True, True]
            # What drains goes on.
            for verb in ("ack", "nack"):
                status, delivery = await post("/consume/q", consumer_id="c", timeout_seconds=30)
                assert (status, delivery["payload"]) == (200, "p")
                assert (await post(f"/{verb}/q/{delivery['id']}", consumer_id="c"))[0] == 200
            async with socket.subscribe("q") as deliveries:
                async for delivery in deliveries:
                    await delivery.ack()
                    break
            readings.share = 0.6
            await until(lambda: not gate.memory_critical)
            assert (await publish())[0] == 200
            await socket.publish("q", "p")
            assert await shown() == [False, False]
