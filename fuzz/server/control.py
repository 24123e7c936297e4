"""The clients that behave: they are to be served all the while, at once and rightly.

Rule: whatever they see that the contract does not promise is a `Broken`, with a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import trio

from qrusty_trio.client import Client, ClientError, Deliveries, RequestError, connect
from tests.wire.http_client import HttpClient, open_client

PATIENCE_SECONDS = 15.0
"""A request that takes longer was not served. The machine may be busy with other things."""
HTTP_QUEUE = "control"
WEBSOCKET_QUEUE = "control.websocket"
LOCK_SECONDS = 600
LARGE = "x" * 5000


class Broken(Exception):
    """A promise to a good client was broken."""


@contextmanager
def soon(what: str) -> Iterator[None]:
    """What is inside must end before long, and without an error of the connection."""
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            yield
    except trio.TooSlowError:
        raise Broken(f"{what}: no response within {PATIENCE_SECONDS:.0f} s") from None
    except (OSError, EOFError, trio.BrokenResourceError, ClientError) as error:
        raise Broken(f"{what}: {type(error).__name__}: {error}") from error


async def request(client: HttpClient, method: str, path: str, *allowed: int, **body: Any) -> Any:
    """The JSON of an answer; None when it has none."""
    with soon(f"{method} {path}"):
        response = await client.request(method, path, json.dumps(body).encode() if body else None)
    if response.status not in (200, *allowed):
        raise Broken(f"{method} {path}: {response.status} {response.body[:300]!r}")
    return json.loads(response.body) if response.body and response.status == 200 else None


def expect(found: Any, wanted: Any, what: str) -> None:
    if found != wanted:
        raise Broken(f"{what}: {str(found)[:300]} in place of {str(wanted)[:300]}")


async def over_http(port: int, sweeping: bool, rng: Random) -> None:
    """Publish, consume, nack and ack for ever, one connection a round."""
    url = f"http://127.0.0.1:{port}"
    while True:
        async with open_client(url) as client:
            if sweeping:
                await _served(client)
            else:
                await _round(client, rng)
        await trio.sleep(0.05)


async def _served(client: HttpClient) -> None:
    """Others empty and delete the queues: only that there are answers counts."""
    published = await request(client, "POST", "/publish", queue=HTTP_QUEUE, priority=1, payload="p")
    if not isinstance(published, dict) or "id" not in published:
        raise Broken(f"POST /publish: {published}")
    await request(client, "POST", f"/consume/{HTTP_QUEUE}", consumer_id="control", timeout_seconds=LOCK_SECONDS)
    await request(client, "GET", "/health")


async def _round(client: HttpClient, rng: Random) -> None:
    config = {"ordering": "MinFirst"}
    await request(client, "POST", "/create-queue", 409, name=HTTP_QUEUE, config=config)
    sent = []
    for number in range(rng.randrange(1, 9)):
        priority, payload = rng.randrange(3), f"{number}" + (LARGE if rng.random() < 0.2 else "")
        response = await request(client, "POST", "/publish", queue=HTTP_QUEUE, priority=priority, payload=payload)
        sent.append((priority, number, response["id"], payload))
    consumer = {"consumer_id": "control"}
    for _, _, id, payload in sorted(sent):
        deliveries = rng.choice([1, 1, 1, 2])
        for count in range(1, deliveries + 1):
            body = {**consumer, "timeout_seconds": LOCK_SECONDS}
            got = await request(client, "POST", f"/consume/{HTTP_QUEUE}", **body)
            expect(got, {"id": id, "payload": payload, "retry_count": count}, "a consume")
            verb = "ack" if count == deliveries else "nack"
            await request(client, "POST", f"/{verb}/{HTTP_QUEUE}/{id}", **consumer)
    got = await request(client, "POST", f"/consume/{HTTP_QUEUE}", **consumer)
    expect(got, None, "a consume of the empty queue")
    stats = await request(client, "GET", f"/queue-stats/{HTTP_QUEUE}")
    expect((stats["available"], stats["locked"]), (0, 0), "counters of the empty queue")


async def over_websocket(port: int, sweeping: bool, rng: Random) -> None:
    """One connection for good, with a subscription to what it publishes."""
    async with open_client(f"http://127.0.0.1:{port}") as client:
        config = {"ordering": "Fifo"}
        await request(client, "POST", "/create-queue", 409, name=WEBSOCKET_QUEUE, config=config)
    try:
        async with connect(f"ws://127.0.0.1:{port}/ws", reconnect_seconds=0.0) as websocket:
            if sweeping:
                await _published(websocket)
            subscription = websocket.subscribe(WEBSOCKET_QUEUE, prefetch=4, lock_timeout=LOCK_SECONDS)
            async with subscription as deliveries:
                number = 0
                while True:
                    number = await _push(websocket, deliveries, number, rng)
    except ClientError as error:
        raise Broken(f"the WebSocket: {type(error).__name__}: {error}") from error


async def _published(websocket: Client) -> None:
    """While others delete the queue: an answer, be it a refusal, is all that is promised."""
    while True:
        with soon("publish over WebSocket"), suppress(RequestError):  # Its queue was deleted.
            await websocket.publish(WEBSOCKET_QUEUE, "p")
        await trio.sleep(0.05)


async def _push(websocket: Client, deliveries: Deliveries, number: int, rng: Random) -> int:
    end = number + rng.randrange(1, 9)
    payloads = [f"{count}" + (LARGE if rng.random() < 0.2 else "") for count in range(number, end)]
    for payload in payloads:
        with soon("publish over WebSocket"):
            await websocket.publish(WEBSOCKET_QUEUE, payload)
    for payload in payloads:
        with soon("a delivery"):
            delivery = await anext(deliveries)
        expect(delivery.payload, payload, "a delivery")
        with soon("ack over WebSocket"):
            await delivery.ack()
    await trio.sleep(0.05)
    return end
