"""A queue that many publish to and many consume from, over HTTP and WebSocket, with a ledger of who has what.

Rule: a message has at most one holder; what was acked never comes again; what was published is acked in the end. While
all subscribers stay, what a consumer gets for the first time of one publisher comes in the order in which that one
published it. One who leaves gives back, unseen, what had come for him.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from urllib.parse import quote

import trio

from bench.soak.clients import BrokenPromise, Requests, expect
from bench.soak.watch import Watch
from qrusty_trio.client import connect

FOR_EVER = 2**32 - 1
LOCK_SECONDS = 3600
PUBLISHERS = 2
CONSUMERS = 3
"""Over HTTP, and as many over WebSocket."""
BACKLOG = 300
"""Messages from which on publishers wait."""
DRAIN_SECONDS = 120.0
PREFETCH = 8


class Crowd:
    """One queue and its crowd, for some time."""

    def __init__(self, name: str, port: int, watch: Watch, rng: Random) -> None:
        self._name = name
        self._port = port
        self._watch = watch
        self._rng = rng
        self._staying = rng.random() < 0.5
        self._published: set[str] = set()
        self._holders: dict[str, str] = {}
        self._seen: set[str] = set()
        self._acked: set[str] = set()
        """What must not come again: its ack was sent."""
        self._settled = 0
        """Acks that were answered."""
        self._last: dict[tuple[str, str], int] = {}
        """Consumer and publisher -> number of the newest message that came for the first time."""

    async def run(self, seconds: float) -> None:
        http = Requests(self._port, self._watch)
        await http.send("POST", "/create-queue", name=self._name, config={"ordering": "Fifo"})
        async with trio.open_nursery() as consumers:
            for number in range(CONSUMERS):
                consumers.start_soon(self._consume_over_http, f"http {number}")
                consumers.start_soon(self._consume_over_websocket, f"websocket {number}")
            with trio.move_on_after(seconds + DRAIN_SECONDS) as patience:
                async with trio.open_nursery() as publishers:
                    end = trio.current_time() + seconds
                    for number in range(PUBLISHERS):
                        publishers.start_soon(self._publish_over_http, f"h{number}", end)
                        publishers.start_soon(self._publish_over_websocket, f"w{number}", end)
                while self._settled < len(self._published):  # noqa: ASYNC110  # a count
                    await trio.sleep(0.05)
                expect(await http.counters(self._name), (0, 0), f"counters of {self._name}")
            consumers.cancel_scope.cancel()
        if patience.cancelled_caught:
            missing = sorted(self._published - self._acked)
            raise BrokenPromise(f"{len(missing)} messages of {self._name} are lost, such as {missing[:3]}")
        await http.send("DELETE", f"/delete-queue/{quote(self._name)}")
        await http.leave()

    def _payload(self, token: str) -> str:
        return token + " " + "x" * self._rng.choice([0, 0, 100, 100, 1000, 6000])

    async def _publish_over_http(self, name: str, end: float) -> None:
        http = Requests(self._port, self._watch)

        async def publish(payload: str) -> None:
            await http.post("/publish", queue=self._name, priority=0, payload=payload, max_retries=FOR_EVER)

        await self._publish(name, end, publish)
        await http.leave()

    async def _publish_over_websocket(self, name: str, end: float) -> None:
        async with connect(f"ws://127.0.0.1:{self._port}/ws", reconnect_seconds=0.0) as client:

            async def publish(payload: str) -> None:
                await client.publish(self._name, payload, 0, FOR_EVER)

            await self._publish(name, end, publish)

    async def _publish(self, name: str, end: float, send: Callable[[str], Awaitable[None]]) -> None:
        number = 0
        while trio.current_time() < end:
            if len(self._published) - len(self._acked) >= BACKLOG:
                await trio.sleep(0.01)
                continue
            token = f"{name}:{number}"
            self._published.add(token)
            await send(self._payload(token))
            number += 1

    def _received(self, consumer: str, payload: str) -> str:
        token = payload.partition(" ")[0]
        if token not in self._published:
            raise BrokenPromise(f"{consumer}: {token!r} was never published")
        if token in self._acked:
            raise BrokenPromise(f"{consumer}: {token} comes after its ack")
        if token in self._holders:
            raise BrokenPromise(f"{consumer}: {token} comes while {self._holders[token]} holds it")
        publisher, _, number = token.partition(":")
        if token not in self._seen:
            self._seen.add(token)
            last = self._last.get((consumer, publisher), -1)
            if self._staying and int(number) < last:
                raise BrokenPromise(f"{consumer}: {token} comes after number {last}")
            self._last[consumer, publisher] = int(number)
        self._holders[token] = consumer
        return token

    async def _consume_over_http(self, name: str) -> None:
        """With a new connection now and then."""
        consumer = {"consumer_id": name}
        place = quote(self._name)
        http = Requests(self._port, self._watch)
        while True:
            response = await http.post(f"/consume/{place}", **consumer, timeout_seconds=LOCK_SECONDS)
            if response is None:
                await trio.sleep(0.01)
                continue
            token = self._received(name, response["payload"])
            del self._holders[token]
            if self._rng.random() < 0.15:
                await http.post(f"/nack/{place}/{response['id']}", **consumer)
            else:
                self._acked.add(token)
                await http.post(f"/ack/{place}/{response['id']}", **consumer)
                self._settled += 1
            if self._rng.random() < 0.02:
                await http.leave()

    async def _consume_over_websocket(self, name: str) -> None:
        """For a few messages at a time; what it read ahead goes back."""
        life = 0
        while True:
            life += 1
            async with (
                connect(f"ws://127.0.0.1:{self._port}/ws", reconnect_seconds=0.0) as client,
                client.subscribe(self._name, prefetch=PREFETCH, lock_timeout=LOCK_SECONDS) as deliveries,
            ):
                while self._staying or self._rng.random() > 0.01:
                    delivery = await anext(deliveries)
                    token = self._received(f"{name} {life}", delivery.payload)
                    del self._holders[token]
                    if self._rng.random() < 0.15:
                        await delivery.nack()
                    else:
                        self._acked.add(token)
                        await delivery.ack()
                        self._settled += 1
