"""A peer that sends while it does not read: the server must not wait for it while it waits for the server."""

from __future__ import annotations

import trio

from tests.http.ws_raw import raw, request
from tests.http.ws_server import PATIENCE, running

MESSAGES = 20_000
ACKS = 150_000
"""About 11 MB: far more than the sockets hold in between."""


async def test_acks_are_read_while_deliveries_wait_to_be_sent() -> None:
    async with running(True) as server, raw(server.port) as publisher:
        await server.http("POST", "/create-queue", {"name": "q", "config": {"ordering": "Fifo"}})
        await publisher.send(*[request(type="publish", queue="q", payload="x" * 500, no_reply=True)] * MESSAGES)
        await publisher.send(request(type="unsubscribe", queue="q"))
        assert (await publisher.read()).json() == {"type": "ok"}
        async with raw(server.port) as subscriber:
            await subscriber.send(request(type="subscribe", queue="q"))
            ack = request(type="ack", queue="q", id="x" * 36)
            with trio.fail_after(2 * PATIENCE):
                for _ in range(ACKS // 1000):
                    await subscriber.send(*[ack] * 1000)
            deliveries = answers = 0
            while deliveries < MESSAGES or answers < ACKS + 1:
                kind = (await subscriber.read()).json()["type"]
                deliveries += kind == "deliver"
                answers += kind == "ok"
            assert (deliveries, answers) == (MESSAGES, ACKS + 1)
