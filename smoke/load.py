"""The load on one queue: two publishers and three consumers, over HTTP and WebSocket.

Rule: each of them does one thing at a time, and tells the ledger before it sends and after it received. Publishers are
paced and stop while BACKLOG messages wait: this test looks whether the server works, not how fast it is.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from urllib.parse import quote

import trio

from qrusty_trio.client import connect
from smoke.failures import BrokenPromise
from smoke.ledger import Delivery, Ledger
from tests.wire.http_client import HttpClient, open_client

PAUSE_SECONDS = 0.005
"""Time between two publishes of a publisher."""
IDLE_SECONDS = 0.02
"""Time before a consumer over HTTP asks again after it got nothing."""
WORK_SECONDS = 0.01
"""What a consumer takes for a message. So messages wait, and there is an order to be kept."""
BACKLOG = 200
"""Open messages of a queue at which its publishers wait."""
NACK_ONE_IN = 20
"""How often the first delivery of a message is nacked."""
LOCK_SECONDS = 3600
"""No lock expires during a run."""
PREFETCH = 4
DRAIN_SECONDS = 60.0
"""After the publishers stopped, consumers may take this long to settle what is left."""

Send = Callable[[str, int | str], Awaitable[str]]


async def request(client: HttpClient, method: str, path: str, **body: Any) -> Any:
    """A request that must be answered with 200. Returns the JSON of the response, None without a body."""
    response = await client.request(method, path, json.dumps(body).encode() if body else None)
    if response.status != 200:
        raise BrokenPromise(
            f"{method} {path}", "200", f"{response.status} {response.body[:200].decode(errors='replace')}"
        )
    return json.loads(response.body) if response.body else None


class Load:
    """Publishers and consumers of one queue at the server at `url`."""

    def __init__(self, url: str, ledger: Ledger, rng: Random) -> None:
        self._url = url
        self._ledger = ledger
        self._place = quote(ledger.queue, safe="")
        self._rng = rng

    async def run(self, enough: trio.Event) -> None:
        """Publish until `enough`, and consume until all is settled. The queue exists.

        Raises BrokenPromise, alone or in a group, and whatever a connection that breaks raises.
        """
        async with trio.open_nursery() as consumers:
            consumers.start_soon(self._consume_by_http, "http-1")
            consumers.start_soon(self._consume_by_http, "http-2")
            consumers.start_soon(self._consume_by_websocket)
            async with trio.open_nursery() as publishers:
                publishers.start_soon(self._publish_by_http, enough)
                publishers.start_soon(self._publish_by_websocket, enough)
            with trio.move_on_after(DRAIN_SECONDS):
                while self._ledger.open:  # noqa: ASYNC110  # a count that several tasks change
                    await trio.sleep(IDLE_SECONDS)
            consumers.cancel_scope.cancel()
        self._ledger.check_nothing_lost()

    async def _publish_by_http(self, enough: trio.Event) -> None:
        async with open_client(self._url) as client:

            async def send(payload: str, priority: int | str) -> str:
                body = {"queue": self._ledger.queue, "payload": payload, "priority": priority}
                return str((await request(client, "POST", "/publish", **body))["id"])

            await self._publish(send, enough)

    async def _publish_by_websocket(self, enough: trio.Event) -> None:
        async with connect(websocket_url(self._url), reconnect_seconds=0.0) as client:

            async def send(payload: str, priority: int | str) -> str:
                return await client.publish(self._ledger.queue, payload, priority)

            await self._publish(send, enough)

    async def _publish(self, send: Send, enough: trio.Event) -> None:
        ledger = self._ledger
        while not enough.is_set():
            if ledger.open < BACKLOG:
                rank = self._rng.randrange(len(ledger.priorities))
                message = ledger.compose(rank, trio.current_time())
                id = await send(message.payload, ledger.priorities[rank])
                ledger.published(message, id, trio.current_time())
            await trio.sleep(PAUSE_SECONDS)

    async def _consume_by_http(self, name: str) -> None:
        consumer = {"consumer_id": name}
        async with open_client(self._url) as client:
            while True:
                asked = trio.current_time()
                got = await request(client, "POST", f"/consume/{self._place}", **consumer, timeout_seconds=LOCK_SECONDS)
                now = trio.current_time()
                if got is None:
                    self._ledger.delivered_nothing(asked, now)
                    await trio.sleep(IDLE_SECONDS)
                    continue
                delivery = self._ledger.delivered(got["id"], got["payload"], name, asked, now)
                if got["retry_count"] != delivery.number:
                    raise BrokenPromise(f"retry_count of {got['payload']!r}", f"{delivery.number}", got["retry_count"])
                await trio.sleep(WORK_SECONDS)
                how = self._decide(delivery)
                await request(client, "POST", f"/{how}/{self._place}/{got['id']}", **consumer)
                self._ledger.settled(delivery, trio.current_time())

    async def _consume_by_websocket(self) -> None:
        # A delivery is paid for with a credit of the subscription, or with that of the message settled PREFETCH before.
        credits = deque([trio.current_time()] * PREFETCH)
        async with (
            connect(websocket_url(self._url), reconnect_seconds=0.0) as client,
            client.subscribe(self._ledger.queue, prefetch=PREFETCH, lock_timeout=LOCK_SECONDS) as deliveries,
        ):
            async for got in deliveries:
                asked = credits.popleft()
                delivery = self._ledger.delivered(got.id, got.payload, "websocket", asked, trio.current_time())
                await trio.sleep(WORK_SECONDS)
                how = self._decide(delivery)
                credits.append(delivery.settling)
                await (got.ack() if how == "ack" else got.nack())
                self._ledger.settled(delivery, trio.current_time())

    def _decide(self, delivery: Delivery) -> str:
        """Ack or nack. Only first deliveries are nacked, so that no message becomes a dead letter."""
        acked = delivery.number > 1 or self._rng.randrange(NACK_ONE_IN) > 0
        self._ledger.settling(delivery, acked, trio.current_time())
        return "ack" if acked else "nack"


def websocket_url(url: str) -> str:
    """The WebSocket address of a server at `http://host:port`."""
    return f"ws{url.removeprefix('http')}/ws"
