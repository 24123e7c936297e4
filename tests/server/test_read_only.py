"""A server that may only be looked at, and what a running server tells of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from qrusty_trio.config import Colour, Settings
from qrusty_trio.server import retention
from tests.server.engines import STEP_SECONDS
from tests.server.running import client_of, running, settings_for, until_ready, websocket_of
from tests.wire.http_client import HttpClient


async def post(client: HttpClient, target: str, **body: Any) -> Any:
    response = await client.request("POST", target, json.dumps(body).encode())
    assert response.status == 200, response
    return response.json() if response.body else None


# Verifies: API-0074
async def test_a_read_only_server_refuses_every_change_on_every_transport(settings: Settings) -> None:
    path = settings.data_path
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        body = json.dumps({"queue": "q", "priority": 1, "payload": "p"}).encode()
        assert (await client.request("POST", "/publish", body)).status == 200
    options = {"storage_mode": settings.storage_mode, "fast_path": settings.fast_path}
    async with running(settings_for(path, read_only=True, **options)) as server, client_of(server) as client:
        await until_ready(server)
        for method, target in (
            ("POST", "/publish"),
            ("POST", "/consume/q"),
            ("POST", "/purge-queue/q"),
            ("DELETE", "/delete-queue/q"),
        ):
            response = await client.request(method, target, b"{}")
            assert (response.status, response.json()["code"]) == (403, "read_only")
        assert (await client.request("GET", "/server")).json()["read_only"] is True
        assert (await client.request("GET", "/queues")).status == 200
        async with websocket_of(server) as socket:
            for frame in (
                {"type": "publish", "queue": "q", "payload": "p"},
                {"type": "subscribe", "queue": "q"},
            ):
                await socket.send_message(json.dumps(frame))
                assert json.loads(await socket.get_message())["code"] == "read_only"
            await socket.send_message(json.dumps({"type": "subscribe-logs"}))
            assert json.loads(await socket.get_message())["type"] == "ok"


async def test_a_read_only_server_removes_no_dead_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    monkeypatch.setattr(retention, "LOOK_SECONDS", 3600.0)
    async with running(settings_for(path)) as server, client_of(server) as client:
        await until_ready(server)
        await post(client, "/create-queue", name="q", config={"ordering": "Fifo"})
        for number in range(3):
            await post(client, "/publish", queue="q", priority=1, payload=f"{number}", max_retries=0)
            message = await post(client, "/consume/q", consumer_id="c")
            await post(client, f"/nack/q/{message['id']}", consumer_id="c")
        await post(client, "/update-queue", name="q", config={"dead_letter_max": 1})
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.01)
    async with running(settings_for(path, read_only=True)) as server:
        await until_ready(server)
        await trio.sleep(0.2)  # retention would have looked often
        assert server.engine.broker.catalog.by_name["q"].dead == 3
    async with running(settings_for(path)) as server:
        await until_ready(server)
        with trio.fail_after(STEP_SECONDS):
            while server.engine.broker.catalog.by_name["q"].dead > 1:  # noqa: ASYNC110  # nothing tells when it has
                await trio.sleep(0.01)


# Verifies: API-0069
async def test_a_running_server_tells_its_settings_and_counts_its_connections(settings: Settings) -> None:
    options = {"storage_mode": settings.storage_mode, "fast_path": settings.fast_path}
    named = settings_for(
        settings.data_path,
        environment="staging",
        environment_colour=Colour.ORANGE,
        max_connections=77,
        **options,
    )
    async with running(named) as server, client_of(server) as client, client_of(server) as other:
        await until_ready(server)
        assert (await other.request("GET", "/health")).status == 200
        told = (await client.request("GET", "/server")).json()
        while not told["memory"]["usage_bytes"]:  # The monitor reads it first when the server may be ready already.
            await trio.sleep(0.01)
            told = (await client.request("GET", "/server")).json()
    assert told["environment"] == {"name": "staging", "colour": "orange"}
    assert told["connections"] == {"open": 2, "limit": 77}
    assert told["storage"]["mode"] == settings.storage_mode
    assert told["storage"]["fsync"] == "always"
    assert told["storage"]["payload_store"] == (settings.storage_mode == "rocksdb")
    assert told["memory"]["limit_bytes"] > told["memory"]["usage_bytes"] > 0
    assert told["limits"]["queues"] == 10_000
    assert 0 <= told["now_ms"] - told["started_at_ms"] < 600_000
