"""A Unix socket serves what a TCP port does: HTTP, WebSockets, and peers that go away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing
from trio_websocket import wrap_client_stream

from qrusty_trio.addresses import UnixAddress
from tests.http.web import PATHS, Client, request
from tests.server.running import running, settings_for, until_ready

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])


# Verifies: API-0160
async def test_messages_live_and_end(tmp_path: Path, fast_path: bool) -> None:
    path = tmp_path / "q.sock"
    addresses = (UnixAddress(str(path)),)
    async with running(settings_for(tmp_path / "data", bind_addr=addresses, fast_path=fast_path)) as server:
        await until_ready(server)
        async with await trio.open_unix_socket(path) as stream:
            client = Client(stream)
            for payload in ["one", "two"]:
                body = {"queue": "q", "priority": 1, "payload": payload}
                assert (await client.ask("POST", "/publish", body)).status == 200
            consumed = (await client.ask("POST", "/consume/q", {"consumer_id": "w"})).json()
            acked = await client.ask("POST", f"/ack/q/{consumed['id']}", {"consumer_id": "w"})
            assert (consumed["payload"], acked.status) == ("one", 200)
            metrics = await client.ask("GET", "/metrics")
            assert b"qrusty_ready 1" in metrics.body
        async with await trio.open_unix_socket(path) as stream, trio.open_nursery() as nursery:
            websocket = await wrap_client_stream(nursery, stream, "localhost", "/ws")
            await websocket.send_message(json.dumps({"type": "subscribe", "queue": "q", "credits": 1}))
            assert json.loads(await websocket.get_message())["type"] == "ok"
            assert json.loads(await websocket.get_message())["payload"] == "two"
            await websocket.aclose()


# Verifies: API-0160, DLV-0019
async def test_a_peer_that_reads_nothing_gives_its_message_back(tmp_path: Path, fast_path: bool) -> None:
    path = tmp_path / "q.sock"
    addresses = (UnixAddress(str(path)),)
    async with running(settings_for(tmp_path / "data", bind_addr=addresses, fast_path=fast_path)) as server:
        await until_ready(server)
        catalog = server.engine.broker.catalog

        async def until(available: int, locked: int) -> None:
            with trio.fail_after(60):
                while True:
                    stats = catalog.stats("q")
                    if stats is not None and (stats.available, stats.locked) == (available, locked):
                        return
                    await trio.sleep(0.002)

        async with await trio.open_unix_socket(path) as stream:
            body = {"queue": "q", "priority": 1, "payload": "p"}
            assert (await Client(stream).ask("POST", "/publish", body)).status == 200
            await stream.send_all(request("POST", "/consume/q", {"consumer_id": "w"}))
            await until(0, 1)
            await trio.lowlevel.wait_readable(stream.socket)
            await stream.send_eof()
            await trio.testing.wait_all_tasks_blocked(0.01)
        await until(1, 0)
        async with await trio.open_unix_socket(path) as stream:
            again = await Client(stream).ask("POST", "/consume/q", {"consumer_id": "w"})
        assert again.json()["retry_count"] == 1, "the delivery was not counted"
