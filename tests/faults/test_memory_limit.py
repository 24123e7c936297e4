"""The real server under a real limit and publishers that never stop: it sheds, stays under the limit, comes back."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from pathlib import Path

import psutil
import trio

from tests.server.running import Child, child_server, url
from tests.wire.http_client import HttpClient, open_client

LIMIT_MB = 104
"""A server that is idle takes about 60 MiB, one with full hot tiers about 140."""
QUEUES = 200
WORKERS = 4
RATE = 300.0
"""Publishes a second of each worker at most: 5 MB of hot tiers a second, half of what is between critical and limit."""
LOAD_SECONDS = 120.0
PAYLOAD = base64.b64encode(os.urandom(3000)).decode()


async def post(client: HttpClient, target: str, **body: object) -> tuple[int, bytes]:
    response = await client.request("POST", target, json.dumps(body).encode())
    if response.status == 503:
        assert response.headers["retry-after"] == "2"
    return response.status, response.body


async def publish(server: Child, number: int, responses: Counter[int]) -> None:
    async with open_client(url(server.port)) as client:
        count = number
        due = trio.current_time()
        while True:
            count += WORKERS
            due = max(due + 1 / RATE, trio.current_time())
            await trio.sleep_until(due)
            status, body = await post(client, "/publish", queue=f"q{count % QUEUES}", priority=1, payload=PAYLOAD)
            responses[status] += 1
            if status != 200:
                assert json.loads(body)["code"] == "memory_pressure"
                await trio.sleep(0.02)


async def consume(server: Child, served: Counter[int]) -> None:
    """A few messages all the time: under pressure, too, they are given and settled."""
    async with open_client(url(server.port)) as client:
        count = 0
        while True:
            count += 1
            queue = f"q{count % QUEUES}"
            status, body = await post(client, f"/consume/{queue}", consumer_id="c", timeout_seconds=60)
            assert status == 200
            delivery = json.loads(body)
            if delivery is not None:
                verb = "ack" if count % 2 else "nack"
                status, _ = await post(client, f"/{verb}/{queue}/{delivery['id']}", consumer_id="c")
                assert status == 200
                served[status] += 1
            await trio.sleep(0.01)


# Verifies: SYS-0012
async def test_it_sheds_and_comes_back(tmp_path: Path) -> None:
    responses: Counter[int] = Counter()
    served: Counter[int] = Counter()
    async with child_server(
        tmp_path / "data", QRUSTY_MEMORY_LIMIT_MB=str(LIMIT_MB), QRUSTY_FSYNC="everysec", ROCKSDB_CACHE_MB="32"
    ) as server:
        most = 0

        async def watch() -> None:
            nonlocal most
            process = psutil.Process(server.process.pid)
            while True:
                most = max(most, process.memory_info().rss)
                await trio.sleep(0.05)

        with trio.fail_after(LOAD_SECONDS):
            async with trio.open_nursery() as nursery:
                for number in range(WORKERS):
                    nursery.start_soon(publish, server, number, responses)
                nursery.start_soon(consume, server, served)
                nursery.start_soon(watch)
                await server.logged("memory pressure: critical")
                served_before = served[200]
                await server.logged("memory step: accept publishes")
                # It takes them again, and they are stored.
                accepted = responses[200]
                while responses[200] == accepted or served[200] < served_before + 10:  # noqa: ASYNC110  # counters
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        async with open_client(url(server.port)) as client:
            stats = (await client.request("GET", "/stats")).json()["summary"]
            assert stats["memory_limit_bytes"] == LIMIT_MB * 2**20
            assert stats["total_messages"] + served[200] >= responses[200]
        assert await server.stop() == 0
    assert set(responses) <= {200, 503}
    assert most < LIMIT_MB * 2**20
    for step in ("refuse publishes", "hot tiers to 10 %", "flush memtables", "block cache to"):
        assert f"memory step: {step}" in server.log
    assert "Traceback" not in server.log
