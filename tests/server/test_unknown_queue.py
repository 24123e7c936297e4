"""A server that refuses names that no queue has."""

from __future__ import annotations

import dataclasses
import json

from qrusty_trio.config import Settings, UnknownQueue
from tests.server.running import client_of, running, until_ready, websocket_of


# Verifies: API-0077
async def test_a_misspelt_name_is_refused_on_every_transport(settings: Settings) -> None:
    refusing = dataclasses.replace(settings, unknown_queue=UnknownQueue.REFUSE)
    async with running(refusing) as server, client_of(server) as client:
        await until_ready(server)
        queue = json.dumps({"name": "orders", "config": {"ordering": "Fifo"}}).encode()
        assert (await client.request("POST", "/create-queue", queue)).status == 200
        for method, target, body in (
            ("POST", "/publish", b'{"queue":"order","priority":1,"payload":"p"}'),
            ("POST", "/consume/order", b'{"consumer_id":"w"}'),
            ("GET", "/queue-stats/order", None),
        ):
            response = await client.request(method, target, body)
            assert (response.status, response.json()["code"], response.json()["nearest"]) == (
                404,
                "queue_not_found",
                ["orders"],
            )
        async with websocket_of(server) as socket:
            await socket.send_message(json.dumps({"type": "publish", "queue": "order", "payload": "p"}))
            response = json.loads(await socket.get_message())
            assert response["code"] == "queue_not_found"
            assert "'orders'" in response["message"]
