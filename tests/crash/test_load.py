"""The same promises under plain load, without a crash, and a clean stop at the end."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from tests.crash import audit
from tests.crash.ledger import QUEUES, Ledger
from tests.crash.test_kill import create_queues
from tests.crash.workers import HttpWorker
from tests.server.running import Child, child_server, client_of

LOAD_SECONDS = 10.0


# Verifies: SYS-0002, DLV-0001
@pytest.mark.parametrize(("workers", "hot_tier"), [(8, 1000), (32, 20)])
async def test_load(tmp_path: Path, ledger: Ledger, workers: int, hot_tier: int) -> None:
    path = tmp_path / "data"
    clients = [HttpWorker(ledger, f"http{number}") for number in range(workers)]
    tier = {"QRUSTY_HOT_TIER_SIZE": str(hot_tier), "QRUSTY_REFILL_THRESHOLD": str(hot_tier // 4)}
    async with child_server(path, **tier) as server:
        await create_queues(server)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.run, server.port, stop)
            await trio.sleep(LOAD_SECONDS)
            stop.set()
        await _drain(server, ledger)
        assert await server.stop() == 0
    assert "Traceback" not in server.log, server.log
    ledger.check_order(())
    # Every request was answered, so it is known to the message what is left: what the clients still hold.
    left = {message for message in ledger.messages.values() if not message.acked}
    assert left == {message for client in clients for message in client.held}
    assert audit.check(ledger, path, tmp_path / "audit") == []


async def _drain(server: Child, ledger: Ledger) -> None:
    """One consumer takes everything: in order, and to the last message."""
    async with client_of(server) as client:
        for queue in QUEUES:
            ranks = []
            while True:
                body = json.dumps({"consumer_id": "drain", "timeout_seconds": 1000}).encode()
                consume = ledger.consuming(queue)
                delivery = (await client.request("POST", f"/consume/{quote(queue)}", body)).json()
                if delivery is None:
                    ledger.nothing(consume)
                    break
                message = ledger.delivered(consume, "drain", delivery["id"], delivery["payload"])
                ranks.append(message.rank)
                ledger.settling(message, ack=True)
                response = await client.request("POST", f"/ack/{quote(queue)}/{message.id}", body)
                assert response.status == 200, response
                ledger.acked(message)
            assert ranks == sorted(ranks)
