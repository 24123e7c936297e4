"""HTTP clients and managers: they ask, wait, give up, vanish.

Rule: whatever they do is one of the things that a connection of the server does with the engine: run a burst, take part
in a round, be cancelled while it waits, give back a response that could not be written.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from qrusty_trio.api.call import Reply
from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import StorageFault
from qrusty_trio.http.byte_budget import Holding
from qrusty_trio.http.pauses import EventPause
from tests.simulation.requests import (
    Ask,
    ConsumeAsk,
    ConsumeBatchAsk,
    DeadLettersAsk,
    ManageAsk,
    PublishAsk,
    PublishBatchAsk,
    SettleAsk,
    SettleBatchAsk,
    SweepAsk,
    call,
)
from tests.simulation.undoing import look_for, undo
from tests.simulation.watching import LookAsk, RenewAsk, RenewBatchAsk, UnlockAsk

if TYPE_CHECKING:
    from tests.simulation.adapter import Process
    from tests.simulation.world import World

NAMES = ("a", "b", "c", "d")
SPARE = "spare"
"""The third name that two queues need to swap theirs."""
FLOOD = 0.01
"""Share of the bursts after which somebody publishes a lot."""
UNDOING = 0.35
"""Share of the bursts of a manager that have to do with the trash."""
BATCHES = 0.2
"""Share of the bursts that are a batch, or a consume that waits."""
LOCK_SECONDS = (1, 1, 2, 5, 30)


class Client:
    """Runs bursts until the world comes to rest."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.dice = random.Random(f"{world.seed} {name}")

    async def run(self) -> None:
        while not self.world.resting:
            await self.world.pause(self.pause())
            asks = self.burst()
            if asks:
                await self.ask(asks)

    def pause(self) -> float:
        return self.dice.choice((0.0, 0.0, 0.001, 0.01, 0.05, 0.3, self.dice.uniform(0, 1.5)))

    def burst(self) -> list[Ask]:
        raise NotImplementedError

    async def ask(self, asks: list[Ask], *, patient: bool = False) -> list[Reply] | None:
        """Run a burst. None: it was not answered. `patient`: the client stays until it is."""
        process = await self.world.process()
        if process is None:
            return None
        for each in asks:
            each.alone = len(asks) == 1
            each.begin()
        self._expect(asks)
        way = self.dice.random()
        replies: list[Reply] | None = None
        with self.world.request() as scope:
            if not patient and way < 0.15:
                replies = await self._leave_early(process, asks)
            elif way < 0.4 and all(each.batchable for each in asks):
                replies = await self._round(process, asks)
            else:
                replies = await self._run(process, asks)
        if scope.cancelled_caught or replies is None:
            for each in asks:
                each.unanswered()
            return None
        for each, reply in zip(asks, replies, strict=True):
            if isinstance(each, ConsumeAsk) and reply.deliveries and self.dice.random() < 0.08:
                # The socket broke before the response was written.
                self.world.model.trace.note(self.name, "could not be answered: gives back", len(reply.deliveries))
                each.given_back = True
                if await self._stuck(each):
                    continue
            each.answered(reply)
            if isinstance(each, ConsumeAsk) and each.given_back:
                process.engine.give_back(reply)
        await trio.lowlevel.checkpoint()  # it would be the response's way over the network
        return replies

    async def _run(self, process: Process, asks: list[Ask]) -> list[Reply]:
        mine, others = Holding(self.world.unsent), Holding(self.world.unsent)
        try:
            return await self._run_with(EventPause(mine), others, process, asks)
        finally:
            mine.set(0)
            others.set(0)

    async def _run_with(self, pause: EventPause, others: Holding, process: Process, asks: list[Ask]) -> list[Reply]:
        if not isinstance(asks[0], ConsumeBatchAsk) or self.dice.random() < 0.7:
            return await process.engine.run([each.call for each in asks], pause)
        replies: list[Reply] = []
        taken = False
        try:
            async with trio.open_nursery() as nursery:

                async def go() -> None:
                    # There is no room for a while. Its peer closes its side, or it is woken for nothing.
                    others.set(self.dice.choice((0, self.world.unsent.limit)))
                    await trio.sleep(self.dice.choice((0.0, 0.01, 0.5, 2.0)))
                    pause.wake()
                    others.set(0)
                    await trio.sleep(self.dice.choice((0.0, 0.01, 0.5)))
                    pause.give_up()

                nursery.start_soon(go)
                replies += await process.engine.run([each.call for each in asks], pause)
                nursery.cancel_scope.cancel()
            taken = True
        finally:
            if not taken:
                # Cancelled when the replies were there already: they are this client's to give back.
                for reply in replies:
                    process.engine.give_back(reply)
        return replies

    async def _stuck(self, ask: Ask) -> bool:
        """The response could not be written for a while. Whether the process ended meanwhile."""
        with self.world.request() as scope:
            await trio.sleep(self.dice.choice((0.0, 0.0, 0.0, 0.7, 1.5, 6.0)))
        if scope.cancelled_caught:
            ask.unanswered()
        return scope.cancelled_caught

    def _expect(self, asks: list[Ask]) -> None:
        """What a consume has to find: more messages than there are consumes, and a lock for each."""
        world = self.world
        consumes = [each for each in asks if isinstance(each, ConsumeAsk)]
        if not consumes or not world.process_clean or len(asks) > len(consumes):
            return
        others_wait = bool(world.model.subscriptions) or world.model.asked.consumes.total() > len(consumes)
        if others_wait and not all(each.batchable for each in consumes):
            # Before the first step of such a consume the dispatcher has its turn.
            return
        for each in consumes:
            queue = world.model.picture.named(each.queue)
            locks = sum(len(every.locks) for every in world.model.picture.in_use())
            each.expects = (
                queue is not None
                and not queue.searching
                and len(queue.available) >= len(consumes)
                and locks + len(consumes) <= world.model.max_locked
                and not world.loses_payloads
            )

    async def _leave_early(self, process: Process, asks: list[Ask]) -> list[Reply] | None:
        replies: list[Reply] | None = None
        with trio.move_on_after(self.dice.choice((0.0, 0.0005, 0.01, 0.5, 1.5))) as patience:
            if self.dice.random() < 0.5:
                # Cancelled at a checkpoint of a long operation, rather than while it waits.
                steps = self.dice.randint(0, 4)

                async def give_up() -> None:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    patience.cancel()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(give_up)
                    replies = await self._run(process, asks)
                    nursery.cancel_scope.cancel()
            else:
                replies = await self._run(process, asks)
        return replies

    async def _round(self, process: Process, asks: list[Ask]) -> list[Reply]:
        """As `http/batching.py` serves many connections at once."""
        engine = process.engine
        responses: dict[int, Reply] = {}
        done = trio.Event()
        gone = False

        def give(later: list[tuple[int, Reply]], fault: StorageFault | None) -> None:
            for index, reply in later:
                if fault is not None or gone:
                    engine.give_back(reply)
                responses[index] = reply if fault is None else error_reply(fault)
            if len(responses) == len(asks):
                done.set()

        first = 0
        try:
            while first < len(asks):
                replies = engine.run_nowait([each.call for each in asks[first:]])
                later = []
                for index, reply in enumerate(replies, first):
                    if reply.needs_sync and engine.waits:
                        later.append((index, reply))
                    else:
                        responses[index] = reply
                if later:
                    engine.when_durable(lambda fault, later=later: give(later, fault), [self])  # type: ignore[misc]  # bound now
                first += len(replies)
                if first < len(asks):
                    await trio.lowlevel.checkpoint()
            if len(responses) < len(asks):
                await done.wait()
        except trio.Cancelled:
            gone = True
            for reply in list(responses.values()):
                engine.give_back(reply)
            raise
        return [responses[index] for index in range(len(asks))]


class Caller(Client):
    """Publishes, consumes, settles."""

    def __init__(self, world: World, name: str, consumer: str) -> None:
        super().__init__(world, name)
        self.consumer = consumer
        self._held: list[tuple[str, str]] = []
        """Queue, id."""
        self._consumes: list[ConsumeAsk] = []
        self._flood: list[str] = []
        """Queues that a burst each is to be published to, without a pause."""

    def pause(self) -> float:
        return 0.0 if self._flood else super().pause()

    def burst(self) -> list[Ask]:
        self._held += [held for each in self._consumes for held in each.handed_out]
        self._consumes.clear()
        if self._flood:
            queue = self._flood.pop()
            return [PublishAsk(self.world, self.name, *self.world.message(self.dice, queue)) for _ in range(8)]
        if self.dice.random() < BATCHES:
            return [self._batch()]
        if self.dice.random() < FLOOD:
            self._flood = [self.dice.choice(NAMES)] * self.dice.randint(3, 8)
        return [self._choose() for _ in range(self.dice.choice((1, 1, 1, 2, 3, self.dice.randint(1, 8))))]

    def _batch(self) -> Ask:
        """A batch, or a consume that waits."""
        dice, world = self.dice, self.world
        queue = dice.choice(NAMES)
        if dice.random() < 0.3:
            messages = [world.message(dice, queue)[1:] for _ in range(dice.randint(0, 9))]
            return PublishBatchAsk(world, self.name, queue, messages)
        names = [queue] if dice.random() < 0.7 else dice.sample((*NAMES, SPARE), dice.randint(2, 4))
        most = dice.choice((1, 1, 2, 5))
        wait = dice.choice((0, 0.001, 0.3, 1, dice.uniform(0, 4)))
        ask = ConsumeBatchAsk(world, self.name, names, self.consumer, most, wait)
        self._consumes.append(ask)
        return ask

    def _choose(self) -> Ask:
        dice, world = self.dice, self.world
        what = dice.random()
        queue = dice.choice(NAMES)
        if what < 0.4:
            return PublishAsk(world, self.name, *world.message(dice, queue))
        if what < 0.7 or not self._held:
            ask = ConsumeAsk(world, self.name, queue, self.consumer, dice.choice(LOCK_SECONDS))
            self._consumes.append(ask)
            return ask
        queue, id = self._held[dice.randrange(len(self._held))]
        if what < 0.74:
            return RenewAsk(world, self.name, queue, id, self.consumer, dice.choice(LOCK_SECONDS))
        if what < 0.93:
            if dice.random() < 0.9:
                self._held.remove((queue, id))
            kind = "ack" if what < 0.86 else "nack"
            return SettleAsk(world, self.name, kind, queue, id, self.consumer)
        if what < 0.96:
            ids = list(dict.fromkeys(each for of, each in self._held if of == queue))
            self._held = [each for each in self._held if each[0] != queue]
            kind = "ack-batch" if dice.random() < 0.6 else "nack-batch"
            return SettleBatchAsk(world, self.name, kind, queue, ids, self.consumer)
        if what < 0.97:
            ids = list(dict.fromkeys(each for of, each in self._held if of == queue))
            return RenewBatchAsk(world, self.name, queue, ids, self.consumer, dice.choice(LOCK_SECONDS))
        if what < 0.99:
            return LookAsk(world, self.name, queue, dice.choice(("messages", "messages", "locks", "priorities", id)))
        if dice.random() < 0.5:
            return look_for(world, self.name, dice)
        return ManageAsk(world, self.name, "stats", call("GET", "/stats"))


class Manager(Client):
    """Makes, renames, empties and deletes queues; allows and refuses duplicates."""

    def pause(self) -> float:
        return (
            self.dice.choice((0.0, 0.1, self.dice.uniform(0.2, 6.0), self.dice.uniform(0.2, 6.0)))
            / self.world.plan.haste
        )

    async def run(self) -> None:
        while not self.world.resting:
            await trio.sleep(self.pause())
            async with trio.open_nursery() as nursery:
                # Now and then several at once.
                for _ in range(self.dice.choice((1, 1, 1, 2, 3))):
                    nursery.start_soon(self.ask, self.burst())
                if self.dice.random() < 0.4:
                    for _ in range(self.dice.randint(0, 6)):
                        await trio.lowlevel.checkpoint()
                    self.world.hurry()

    def burst(self) -> list[Ask]:
        dice, world = self.dice, self.world
        if dice.random() < UNDOING:
            return [undo(world, self.name, dice, NAMES, SPARE)]
        what = dice.random()
        queue = dice.choice(NAMES)
        if what < 0.3:
            config = {
                "ordering": dice.choice(("MaxFirst", "MinFirst", "Fifo")),
                "allow_duplicates": dice.random() < 0.7,
            }
            body = {"name": queue, "config": config}
            return [ManageAsk(world, self.name, f"create {queue} {config}", call("POST", "/create-queue", body))]
        if what < 0.45:
            return [self._rename(queue, dice.choice((*NAMES, SPARE)))]
        if what < 0.5:
            other = dice.choice(NAMES)
            return [self._rename(queue, SPARE), self._rename(other, queue), self._rename(SPARE, other)]
        if what < 0.68:
            return [SweepAsk(world, self.name, "purge-queue", queue)]
        if what < 0.8:
            return [SweepAsk(world, self.name, "delete-queue", dice.choice((*NAMES, SPARE)))]
        if what < 0.9:
            return [self._dead_letters(queue)]
        if what < 0.92:
            return [SweepAsk(world, self.name, dice.choice(("purge-all", "delete-all")), "")]
        if what < 0.94:
            return [UnlockAsk(world, self.name, queue, dice.choice(({"all": True}, {"consumer_id": "http-1"})))]
        allow = dice.random() < 0.4
        return [self._update(queue, f"duplicates in {queue}: {allow}", {"allow_duplicates": allow})]

    def _dead_letters(self, queue: str) -> Ask:
        """Requeue, purge or list them, or limit how many there are."""
        dice, world = self.dice, self.world
        what = dice.random()
        if what < 0.1:
            most = dice.choice((None, 1, 4))
            return self._update(queue, f"at most {most} dead letters in {queue}", {"dead_letter_max": most})
        if what < 0.2:
            path = f"/queues/{queue}/dead-letters"
            return ManageAsk(world, self.name, f"list dead letters of {queue}", call("GET", path))
        stored = world.model.picture.named(queue)
        ids = [each.id for each in stored.dead.values()] if stored is not None else []
        choices: list[dict[str, object]] = [
            {"all": True},
            {"filter": {"reason": "nacked"}},
            {"ids": dice.sample(ids, min(len(ids), 3))},
        ]
        chosen = dice.choice(choices)
        if what < 0.8:
            to = {"to": dice.choice(NAMES)} if dice.random() < 0.3 else {}
            return DeadLettersAsk(world, self.name, "requeue", queue, chosen | to)
        return DeadLettersAsk(world, self.name, "purge", queue, chosen)

    def _rename(self, queue: str, to: str) -> Ask:
        return self._update(queue, f"rename {queue} to {to}", {"name": to})

    def _update(self, queue: str, what: str, config: dict[str, object]) -> Ask:
        body = {"name": queue, "config": config}
        return ManageAsk(self.world, self.name, what, call("POST", "/update-queue", body))
