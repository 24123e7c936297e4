"""A peer that sends while it does not read: the server must not wait for it while it waits for the server."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from qrusty_trio.api import ws_budget
from tests.http.ws_raw import Raw, raw, request
from tests.http.ws_server import PATIENCE, both_paths, running

MESSAGES = 20_000
ACKS = 150_000
"""About 11 MB: far more than the sockets hold in between."""


# Verifies: WS-0022
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
            deliveries = responses = 0
            while deliveries < MESSAGES or responses < ACKS + 1:
                kind = (await subscriber.read()).json()["type"]
                deliveries += kind == "deliver"
                responses += kind == "ok"
            assert (deliveries, responses) == (MESSAGES, ACKS + 1)


# Verifies: WS-0022
@both_paths
async def test_who_reads_is_served_beside_those_that_use_up_the_budget(
    fast_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight subscribers read nothing. Three, which read and ack in turn, get all their messages."""
    monkeypatch.setattr(ws_budget, "LIMIT_BYTES", 2_000_000)
    left = 300

    async def work(peer: Raw) -> None:
        nonlocal left
        while left > 0:
            received = (await peer.read()).json()
            if received["type"] == "deliver":
                await peer.send(request(type="ack", queue="jobs", id=received["id"]))
                left -= 1

    async with running(fast_path) as server, AsyncExitStack() as stack:
        await server.create("big")
        await server.create("jobs")
        for _ in range(30):
            await server.publish("x" * 1_900_000, queue="big")
        for _ in range(8):
            idle = await stack.enter_async_context(raw(server.port))
            await idle.send(request(type="subscribe", queue="big"))
        workers = [await stack.enter_async_context(raw(server.port)) for _ in range(3)]
        for worker in workers:
            await worker.send(request(type="subscribe", queue="jobs", credits=1000))
        with trio.fail_after(2 * PATIENCE):
            async with trio.open_nursery() as nursery:
                for worker in workers:
                    nursery.start_soon(work, worker)
                for _ in range(left):
                    await server.publish("y" * 1000, queue="jobs")
                while left > 0:  # noqa: ASYNC110  # counted by the workers
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        await server.settle_down(0, 0, 0, queue="jobs")
