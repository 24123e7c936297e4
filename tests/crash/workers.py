"""Clients that publish, consume, ack and nack without pause, and keep their books in a ledger.

Rule: a worker never closes its connection while the server lives, so what it holds stays locked; it ends when the
server is gone, or when it is told to stop, between two requests. An HTTP worker keeps its name from one life of the
server to the next, and first settles what it had in hand: locks outlive the server.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import trio

from qrusty_trio.client import Client, ConnectFailed, ConnectionLost, Delivery, connect
from tests.crash.ledger import LOCK_SECONDS, QUEUES, Ledger, Message
from tests.wire.http_client import Connection, Response

GONE = (EOFError, trio.BrokenResourceError, OSError)
MAX_RETRIES = 2**32 - 1
"""No message dies, however often it is handed back."""
BATCH = 8
"""Messages that a `BatchWorker` publishes or consumes at a time, at most."""
HELD = 20
"""Messages that a worker keeps for a while at most."""


class HttpWorker:
    """One consumer with one connection at a time."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name
        self.held: list[Message] = []
        self._unsettled: tuple[bool, list[tuple[Message, int]]] | None = None
        """An ack or nack that was sent and not answered, with what `Ledger.settling` returned."""
        self._connection: Connection

    async def run(self, port: int, stop: trio.Event) -> None:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            return
        self._connection = Connection(stream)
        async with stream:
            try:
                await self._settle_again()
                while not stop.is_set():
                    await self._step()
            except GONE:
                return

    async def _step(self) -> None:
        chance = self.ledger.random.random()
        if chance < (0.4 if self.ledger.responses % 4000 < 2000 else 0.2):  # The queues fill and drain by turns.
            await self._publish()
        elif chance < 0.85 or not self.held:
            await self._consume()
        elif chance < 0.95:
            await self._settle_one(self.held.pop(0))
        else:
            await self._settle_many()

    async def _post(self, target: str, **body: Any) -> Response:
        return await self._connection.request("POST", target, json.dumps(body).encode())

    async def _publish(self) -> None:
        message = self.ledger.publishing(self.name)
        response = await self._post(
            "/publish",
            queue=message.queue,
            priority=message.priority,
            payload=message.payload,
            max_retries=MAX_RETRIES,
        )
        assert response.status == 200, response
        self.ledger.published(message, response.json()["id"])

    async def _consume(self) -> None:
        queue = self.ledger.random.choice(list(QUEUES))
        consume = self.ledger.consuming(queue)
        response = await self._post(f"/consume/{quote(queue)}", consumer_id=self.name, timeout_seconds=LOCK_SECONDS)
        assert response.status == 200, response
        delivery = response.json()
        if delivery is None:
            self.ledger.nothing(consume)
            return
        message = self.ledger.delivered(consume, self.name, delivery["id"], delivery["payload"])
        if len(self.held) < HELD and self.ledger.random.random() < 0.3:
            self.held.append(message)
        else:
            await self._settle_one(message)

    async def _settle_one(self, message: Message) -> None:
        ack = self.ledger.random.random() < 0.7
        self._unsettled = ack, [(message, self.ledger.settling(message, ack))]
        response = await self._send_settle(message, ack)
        assert response.status == 200, f"{response}: {message}"
        self._settled()

    async def _send_settle(self, message: Message, ack: bool) -> Response:
        verb = "ack" if ack else "nack"
        return await self._post(f"/{verb}/{quote(message.queue)}/{message.id}", consumer_id=self.name)

    async def _settle_many(self) -> None:
        queue = self.held[0].queue
        messages = [message for message in self.held if message.queue == queue]
        self.held = [message for message in self.held if message.queue != queue]
        self._unsettled = True, [(message, self.ledger.settling(message, ack=True)) for message in messages]
        ids = [message.id for message in messages]
        response = await self._post(f"/ack-batch/{quote(queue)}", consumer_id=self.name, message_ids=ids)
        assert response.json() == {"acked": ids, "not_found": []}, response
        self._settled()

    def _settled(self) -> None:
        assert self._unsettled is not None
        ack, settled = self._unsettled
        self._unsettled = None
        for message, deliveries in settled:
            if ack:
                self.ledger.acked(message)
            else:
                self.ledger.nacked(message, deliveries)

    async def _settle_again(self) -> None:
        """What was not answered in the server's last life: it was done then (404) or is done now."""
        if self._unsettled is None:
            return
        ack, settled = self._unsettled
        for message, _ in settled:
            response = await self._send_settle(message, ack)
            assert response.status in (200, 404), response
        if ack:
            self._settled()
        else:
            # A consume whose response was lost may have got it in between: nothing is certain.
            self._unsettled = None


class BatchWorker(HttpWorker):
    """One that publishes and consumes many at a time, and waits when there is nothing."""

    async def _publish(self) -> None:
        queue = self.ledger.random.choice(list(QUEUES))
        messages = [self.ledger.publishing(self.name, queue) for _ in range(self.ledger.random.randint(1, BATCH))]
        response = await self._post(
            "/publish-batch",
            queue=queue,
            messages=[
                {"priority": each.priority, "payload": each.payload, "max_retries": MAX_RETRIES} for each in messages
            ],
        )
        assert response.status == 200, response
        told = response.json()
        assert told["rejected"] == []
        for message, id in zip(messages, told["ids"], strict=True):
            self.ledger.published(message, id)

    async def _consume(self) -> None:
        queue = self.ledger.random.choice(list(QUEUES))
        consumes = [self.ledger.consuming(queue) for _ in range(BATCH)]
        response = await self._post(
            f"/consume-batch/{quote(queue)}",
            consumer_id=self.name,
            max_messages=BATCH,
            timeout_seconds=LOCK_SECONDS,
            wait_seconds=self.ledger.random.choice([0, 0.05]),
        )
        assert response.status == 200, response
        deliveries = response.json()["messages"]
        for consume, delivery in zip(consumes, deliveries, strict=False):
            self.held.append(self.ledger.delivered(consume, self.name, delivery["id"], delivery["payload"]))
        for consume in consumes[len(deliveries) :]:
            self.ledger.nothing(consume)
        if len(self.held) >= HELD:
            await self._settle_many()


class WebSocketWorker:
    """A connection that publishes with several requests in flight, and one subscription to each queue."""

    PUBLISHERS = 4
    PREFETCH = 16

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name
        self._acks: set[Message] = set()
        """Sent and not answered."""

    async def run(self, port: int, stop: trio.Event) -> None:
        try:
            async with (
                connect(f"ws://127.0.0.1:{port}/ws", reconnect_seconds=0.0) as client,
                trio.open_nursery() as nursery,
            ):
                for queue in QUEUES:
                    nursery.start_soon(self._guard, self._subscribe, client, queue)
                for number in range(self.PUBLISHERS):
                    nursery.start_soon(self._guard, self._publish, client, f"{self.name}.{number}")
                nursery.start_soon(self._cancel, stop, nursery.cancel_scope)
        except (ConnectFailed, ConnectionLost):
            pass
        self.ledger.connection_died(self.name, self._acks)
        self._acks.clear()

    async def _cancel(self, stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        scope.cancel()

    async def _guard(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        try:
            await task(*arguments)
        except ConnectionLost:
            return

    async def _publish(self, client: Client, publisher: str) -> None:
        while True:
            message = self.ledger.publishing(publisher)
            self.ledger.published(
                message, await client.publish(message.queue, message.payload, message.priority, MAX_RETRIES)
            )

    async def _subscribe(self, client: Client, queue: str) -> None:
        async with client.subscribe(queue, prefetch=self.PREFETCH, lock_timeout=LOCK_SECONDS) as deliveries:
            async for delivery in deliveries:
                await self._settle(delivery)

    async def _settle(self, delivery: Delivery) -> None:
        message = self.ledger.received(self.name, delivery.queue, delivery.id, delivery.payload, 0)
        self.ledger.answered()
        ack = self.ledger.random.random() < 0.8
        deliveries = self.ledger.settling(message, ack)
        if not ack:
            await delivery.nack()
            self.ledger.nacked(message, deliveries)
            return
        self._acks.add(message)
        await delivery.ack()
        self._acks.discard(message)
        self.ledger.acked(message)
