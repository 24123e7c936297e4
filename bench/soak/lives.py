"""The life of a queue with one owner, who knows at every moment what must be in it and in which order.

Rule: one owner, one request at a time, so every answer is known before it comes: which message, how often delivered,
which counters. What ends by time (a lock, a connection) is waited for, however long it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from urllib.parse import quote

import trio

from bench.soak.clients import BrokenPromise, Requests, expect
from bench.soak.watch import Watch
from qrusty_trio.client import connect

FOR_EVER = 2**32 - 1
LOCK_SECONDS = 3600
PATIENCE_SECONDS = 60.0
SIZES = [1, 20, 300, 3000, 5000, 60_000, 400_000]
WEIGHTS = [20, 40, 20, 10, 6, 2, 0.3]


@dataclass(slots=True)
class Message:
    """One that was published and is not settled."""

    id: str
    priority: int
    number: int
    payload: str
    max_retries: int
    deliveries: int = 0


class Life:
    """A queue from its creation to its end. Everything about it is chosen by `rng`."""

    def __init__(self, name: str, port: int, watch: Watch, rng: Random) -> None:
        self._name = name
        self._port = port
        self._rng = rng
        self._http = Requests(port, watch)
        self._consumer = {"consumer_id": f"owner of {name}"}
        self._ordering = rng.choice(["MaxFirst", "MinFirst", "Fifo"])
        self._duplicates = rng.random() < 0.7
        self._websockets = rng.random() < 0.4
        """Who uses WebSockets lets no message die: whether a lost delivery counts is not the point here."""
        self._available: list[Message] = []
        self._held: list[Message] = []
        self._number = 0

    @property
    def _place(self) -> str:
        return quote(self._name, safe="")

    async def run(self, steps: int) -> None:
        config = {"ordering": self._ordering, "allow_duplicates": self._duplicates}
        await self._http.send("POST", "/create-queue", name=self._name, config=config)
        try:
            for _ in range(steps):
                await self._step()
                if self._rng.random() < 0.1:
                    await self._count()
                if self._rng.random() < 0.02:
                    await self._http.leave()
            await self._end()
        finally:
            await self._http.leave()

    async def _step(self) -> None:
        chance = self._rng.random()
        if chance < 0.35 and len(self._available) < 300:
            for _ in range(self._rng.choice([1, 1, 5, 20])):
                await self._publish()
        elif chance < 0.8:
            await self._consume()
        elif chance < 0.88:
            await self._settle_many()
        elif chance < 0.9 and self._available:
            await self._expire()
        elif chance < 0.92:
            await self._rename()
        elif chance < 0.93:
            await self._purge()
        elif chance < 0.96 and self._websockets and self._available:
            await self._by_websocket()

    async def _publish(self) -> None:
        rng = self._rng
        payload = f"{self._number} " + "x" * rng.choices(SIZES, WEIGHTS)[0]
        priority = rng.choice([0, 1, 1, 2, 2**63])
        retries = FOR_EVER if self._websockets else rng.choice([1, 2, 3, FOR_EVER])
        body = {"queue": self._name, "priority": priority, "payload": payload, "max_retries": retries}
        response = await self._http.post("/publish", **body)
        self._available.append(Message(response["id"], priority, self._number, payload, retries))
        self._number += 1
        if not self._duplicates and rng.random() < 0.1:
            status, _ = await self._http.send("POST", "/publish", 400, **body)
            expect(status, 400, "the status of a duplicate")

    def _first(self, count: int = 1) -> list[Message]:
        """The next ones in the queue's order."""
        sign = {"MaxFirst": -1, "MinFirst": 1, "Fifo": 0}[self._ordering]
        self._available.sort(key=lambda message: (sign * message.priority, message.number))
        return self._available[:count]

    async def _consume(self, seconds: int = LOCK_SECONDS) -> Message | None:
        response = await self._http.post(f"/consume/{self._place}", **self._consumer, timeout_seconds=seconds)
        wanted = self._first()
        if not wanted:
            expect(response, None, f"a consume of {self._name}, which is empty")
            return None
        message = wanted[0]
        message.deliveries += 1
        if response is None:
            raise BrokenPromise(f"a consume of {self._name}: nothing in place of {message.id}")
        expect((response["id"], response["payload"]), (message.id, message.payload), f"a consume of {self._name}")
        if not self._websockets:
            expect(response["retry_count"], message.deliveries, f"retry_count of {message.id}")
        self._available.remove(message)
        self._held.append(message)
        if seconds == LOCK_SECONDS:
            await self._decide(message)
        return message

    async def _decide(self, message: Message) -> None:
        chance = self._rng.random()
        if chance < 0.6:
            await self._http.post(f"/ack/{self._place}/{message.id}", **self._consumer)
            self._held.remove(message)
        elif chance < 0.8:
            await self._http.post(f"/nack/{self._place}/{message.id}", **self._consumer)
            self._back(message)

    def _back(self, message: Message) -> bool:
        """After a nack or the end of a lock: in its old place, or dead."""
        self._held.remove(message)
        lives = message.deliveries < message.max_retries
        if lives:
            self._available.append(message)
        return lives

    async def _settle_many(self) -> None:
        some = self._rng.sample(self._held, self._rng.randrange(len(self._held) + 1))
        ids = [message.id for message in some]
        if self._rng.random() < 0.7:
            response = await self._http.post(f"/ack-batch/{self._place}", **self._consumer, message_ids=ids)
            expect(response, {"acked": ids, "not_found": []}, "an ack-batch")
            self._held = [message for message in self._held if message not in some]
            return
        response = await self._http.post(f"/nack-batch/{self._place}", **self._consumer, message_ids=ids)
        dead = [message.id for message in some if not self._back(message)]
        expect(response["dead_lettered"], dead, "dead letters of a nack-batch")
        expect(len(response["unlocked"]), len(ids) - len(dead), "messages back by a nack-batch")

    async def _expire(self) -> None:
        """A lock that nobody ends but the clock."""
        message = await self._consume(1)
        if message is not None:
            self._back(message)
            await self._until_counted()

    async def _rename(self) -> None:
        name = self._name + "'" if len(self._name) < 60 else self._name.rstrip("'")
        await self._http.send("POST", "/update-queue", name=self._name, config={"name": name})
        self._name = name

    async def _purge(self) -> None:
        response = await self._http.post(f"/purge-queue/{self._place}")
        expect(response["purged_messages"], len(self._available) + len(self._held), "messages purged")
        self._available, self._held = [], []

    async def _by_websocket(self) -> None:
        """A subscriber that settles some, and goes without a word about the others."""
        prefetch = self._rng.choice([1, 4, 32])
        async with (
            connect(f"ws://127.0.0.1:{self._port}/ws", reconnect_seconds=0.0) as client,
            client.subscribe(self._name, prefetch=prefetch, lock_timeout=LOCK_SECONDS) as deliveries,
        ):
            # One more than is read would come while one is settled.
            for message in list(self._first(self._rng.randrange(1, 40))):
                delivery = await anext(deliveries)
                expect((delivery.id, delivery.payload), (message.id, message.payload), f"a delivery of {self._name}")
                await delivery.ack()
                self._available.remove(message)
        await self._until_counted()

    async def _count(self) -> None:
        expect(
            await self._http.counters(self._name), (len(self._available), len(self._held)), f"counters of {self._name}"
        )

    async def _until_counted(self) -> None:
        """What was given back is back."""
        wanted = len(self._available), len(self._held)
        try:
            with trio.fail_after(PATIENCE_SECONDS):
                while (found := await self._http.counters(self._name)) != wanted:  # noqa: ASYNC110  # nobody tells
                    await trio.sleep(0.2)
        except trio.TooSlowError:
            raise BrokenPromise(f"counters of {self._name}: {found} in place of {wanted}") from None

    async def _end(self) -> None:
        """Drained to the last message, or deleted as it is."""
        if self._rng.random() < 0.5:
            await self._count()
            while self._available:
                await self._consume()
            ids = [message.id for message in self._held]
            response = await self._http.post(f"/ack-batch/{self._place}", **self._consumer, message_ids=ids)
            expect(response, {"acked": ids, "not_found": []}, "the last ack-batch")
            self._held = []
        _, response = await self._http.send("DELETE", f"/delete-queue/{self._place}")
        expect(response["deleted_messages"], len(self._available) + len(self._held), "messages deleted")
