"""While the store is read, behind the gate; what outlives a restart; what the operator is told."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.config import Settings, StorageMode
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import WS_CONSUMER_PREFIX
from qrusty_trio.core.records import ClockFrame
from qrusty_trio.server.sampler import WARN_SECONDS, sample
from qrusty_trio.server.supervisor import Server
from qrusty_trio.storage.memory import MemoryStorage
from tests.server.engines import STEP_SECONDS, call, consume, engine_on, publish, run
from tests.server.running import client_of, running, settings_for, until_ready, websocket_of
from tests.wire.http_client import HttpClient

STARTING = {
    "status": "starting",
    "message": "Qrusty is initialising. Retry shortly.",
    "retry_after_secs": 2,
}


class SlowStore:
    """Makes every load of a broker go on in pieces until it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = False
        self.pieces = 0
        real = Broker.load

        def load(broker: Broker, clock: ClockFrame, now: int) -> Iterator[None]:
            while not self.go_on:
                self.pieces += 1
                yield
            yield from real(broker, clock, now)

        monkeypatch.setattr(Broker, "load", load)


@asynccontextmanager
async def held_shut(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> AsyncIterator[tuple[SlowStore, Server]]:
    slow = SlowStore(monkeypatch)
    async with running(settings) as server:
        yield slow, server


async def post(client: HttpClient, target: str, **body: Any) -> Any:
    response = await client.request("POST", target, json.dumps(body).encode())
    assert response.status == 200, response
    return response.json() if response.body else None


# Verifies: API-0024, API-0030
async def test_the_gate_is_closed_until_the_store_is_read(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    async with held_shut(monkeypatch, settings) as (slow, server), client_of(server) as client:
        changes = [
            ("POST", "/publish", b'{"queue":"q","priority":1,"payload":"x"}'),
            ("POST", "/consume/q", b'{"consumer_id":"c"}'),
            ("POST", "/create-queue", b'{"name":"q","config":{"ordering":"Fifo"}}'),
            ("POST", "/ack/q/x", b'{"consumer_id":"c"}'),
            ("DELETE", "/delete-queue/q", None),
            ("POST", "/purge-all", None),
        ]
        for method, target, body in changes:
            response = await client.request(method, target, body)
            assert (response.status, response.json()) == (503, STARTING)
            assert response.headers["retry-after"] == "2"
        health = await client.request("GET", "/health")
        assert health.status == 200
        assert health.json() == {"status": "starting", "message": "Qrusty is initialising. Retry shortly."}
        for target in ("/queues", "/stats", "/queue-stats/q", "/operation-timings"):
            assert (await client.request("GET", target)).status == 200
        assert (await client.request("GET", "/ui/")).status == 200
        await _starting_over_websocket(server)
        # The loader and all of this took turns.
        assert slow.pieces > 10
        slow.go_on = True
        with trio.fail_after(STEP_SECONDS):
            await until_ready(server)
        assert await post(client, "/publish", queue="q", priority=1, payload="x")
        assert (await client.request("GET", "/health")).json() == {"status": "ok", "memory_pressure": False}


async def _starting_over_websocket(server: Server) -> None:
    async with websocket_of(server) as socket:
        for request in ({"type": "publish", "queue": "q", "payload": "x"}, {"type": "ack", "queue": "q", "id": "x"}):
            await socket.send_message(json.dumps(request))
            response = json.loads(await socket.get_message())
            assert (response["type"], response["code"]) == ("error", "starting")


# Verifies: API-0058
async def test_a_server_can_be_stopped_while_it_starts(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    with trio.fail_after(STEP_SECONDS):
        async with held_shut(monkeypatch, settings) as (_, server):
            server.stopping.set()


# Verifies: PER-0008
async def test_messages_and_locks_outlive_a_restart(tmp_path: Path, fast_path: bool) -> None:
    settings = settings_for(tmp_path / "data", fast_path=fast_path)
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        await post(client, "/create-queue", name="q", config={"ordering": "MinFirst", "allow_duplicates": False})
        ids = [(await post(client, "/publish", queue="q", priority=n, payload=f"{n}" * 3000))["id"] for n in range(4)]
        for _ in range(2):
            await post(client, "/consume/q", consumer_id="c", timeout_seconds=1000)
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        stats = (await client.request("GET", "/queue-stats/q")).json()
        assert (stats["available"], stats["locked"]) == (2, 2)
        assert stats["config"] == {"ordering": "MinFirst", "allow_duplicates": False, "priority_kind": "Numeric"}
        await post(client, f"/ack/q/{ids[0]}", consumer_id="c")
        await post(client, f"/nack/q/{ids[1]}", consumer_id="c")
        assert (await client.request("POST", f"/ack/q/{ids[2]}", b'{"consumer_id":"c"}')).status == 404
        got = await post(client, "/consume/q", consumer_id="c")
        assert (got["id"], got["payload"], got["retry_count"]) == (ids[1], "1" * 3000, 2)


# Verifies: DLV-0016
async def test_what_a_websocket_held_is_available_after_a_restart(tmp_path: Path, fast_path: bool) -> None:
    """The server ended without closing the connection."""
    settings = settings_for(tmp_path / "data", fast_path=fast_path)
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        id = (await post(client, "/publish", queue="q", priority=1, payload="x"))["id"]
        broker = server.engine.broker
        broker.consume("q", f"{WS_CONSUMER_PREFIX}{uuid.uuid4()}", 1000, server.engine.clock.now_ms())
        broker.commit()
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        got = await post(client, "/consume/q", consumer_id="c")
        assert (got["id"], got["retry_count"]) == (id, 1)  # a restart counts for nothing


# Verifies: PER-0056
async def test_a_store_in_memory_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fast_path: bool
) -> None:
    settings = settings_for(tmp_path / "data", storage_mode=StorageMode.MEMORY, fast_path=fast_path)
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        await post(client, "/publish", queue="q", priority=1, payload="x")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("memory" in warning and "lost" in warning for warning in warnings)
    assert not (tmp_path / "data").exists()
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        assert (await client.request("GET", "/queues")).json() == []


# Verifies: API-0026
async def test_samples_are_a_second_apart(autojump_clock: trio.testing.MockClock) -> None:
    async with engine_on(MemoryStorage()) as engine, trio.open_nursery() as nursery:
        await nursery.start(sample, engine)
        await run(engine, *[publish(str(number)) for number in range(10)])
        await trio.sleep(3.5)
        (metrics,) = await run(engine, call("GET", "/queues/q/metrics"))
        assert [point["total"] for point in metrics["points"]] == [10, 10, 10]
        assert [round(point["publish_rate_per_sec"], 3) for point in metrics["points"]] == [2.0, 1.6, 1.28]
        times = [point["t_ms"] for point in metrics["points"]]
        assert {later - earlier for earlier, later in pairwise(times)} <= {999, 1000, 1001}
        await trio.sleep(60)
        (metrics,) = await run(engine, call("GET", "/queues/q/metrics"))
        assert len(metrics["points"]) == 11
        nursery.cancel_scope.cancel()


# Verifies: SCH-0026
async def test_a_full_index_of_locks_is_warned_of_once_a_minute(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_on(MemoryStorage(), max_locked_index=2) as engine, trio.open_nursery() as nursery:
        await nursery.start(sample, engine)
        await run(engine, *[publish(str(number)) for number in range(5)])
        for _ in range(int(2.5 * WARN_SECONDS)):
            await run(engine, consume(seconds=10_000))
            await trio.sleep(1)
        warnings = [
            record.getMessage() for record in caplog.records if "QRUSTY_MAX_LOCKED_INDEX" in record.getMessage()
        ]
        assert len(warnings) == 3
        assert engine.broker.locks.count == 2
        nursery.cancel_scope.cancel()
