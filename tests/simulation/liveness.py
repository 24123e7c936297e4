"""Rest: no more faults and no new requests. Whoever may get a message gets it, in turn, and nothing is left over.

answered   every request that was under way is answered, and the store is back
subscribed those that were subscribed before get what is in their queues, each its share
put back   what is kept aside comes back whole, or is erased; what is over is erased by itself
in turn    one connection for all queues, few locks: no queue waits for longer than it has to
nothing    everything is acked: no message, no lock, no search, nothing half forgotten is left
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import trio

from tests.core.stored import of_store
from tests.simulation.adapter import TURN
from tests.simulation.clients import NAMES, Client
from tests.simulation.peers import WebSocketPeer
from tests.simulation.requests import Ask, ManageAsk, PublishAsk, call
from tests.simulation.trace import short
from tests.simulation.undoing import put_back

if TYPE_CHECKING:
    from tests.simulation.adapter import Process
    from tests.simulation.world import World

ANSWER_SECONDS = 30.0
"""Nothing that is under way may take longer, once there are no more faults."""
LOCKS_SECONDS = 35.0
"""All locks have ended by then."""
FEW_LOCKS = 5
"""With an index of that size it is looked at whether queues wait in turn."""
EACH = 20
"""Messages in each queue then."""
PLENTY = 1_000_000


async def come_to_rest(world: World, process: Process) -> None:
    """Take the world to its end."""
    await _all_answered(world, process)
    publisher = _Publisher(world, "publisher")
    await put_back(world, publisher, 0.5)
    peers = [peer for peer in world.peers if not peer.over.is_set()]
    for peer in peers:
        peer.oblige()
    await trio.sleep(LOCKS_SECONDS)
    delivered = -1
    while delivered < (now := sum(each.deliveries for each in world.model.subscriptions)):
        delivered = now
        await trio.sleep(LOCKS_SECONDS)
    for each in world.model.peers.values():
        if not each.over and each.fault != world.model.faults:
            world.fail(f"connection {short(each.consumer)} outlives a fault of the store")
    _check_nobody_waits(world)
    await _check_shares(world, publisher)
    for queue in world.model.trash.overdue():
        world.fail(f"queue '{queue.name}' is still kept aside, although its time is over")
    await put_back(world, publisher, 1.0)
    for peer in peers:
        peer.peer.closed = True
        peer.transport.finish()
    await trio.sleep(1)
    await _drain(world, process, publisher)
    _check_nothing_is_left(world, process)


async def _all_answered(world: World, process: Process) -> None:
    with trio.move_on_after(ANSWER_SECONDS):
        # Whoever waits for the server to change notices that it does not, within a pause.
        await trio.sleep(3)
        while world.requests or process.faulty:  # noqa: ASYNC110  # no event tells of it
            await trio.sleep(0.1)
    if process.faulty:
        world.fail("the store does not come back")
    elif world.requests:
        world.fail(f"{len(world.requests)} requests are not answered")
    await trio.sleep(0.1)
    if process.untidy:
        world.fail("locks of purged queues are not freed before others have to end")


def _check_nobody_waits(world: World) -> None:
    model = world.model
    for subscription in model.subscriptions:
        queue = model.picture.queues.get(subscription.number) if subscription.number is not None else None
        if subscription.certain and queue is not None and queue.available:
            world.fail(
                f"queue '{queue.name}' has {len(queue.available)} messages, and {short(subscription.peer.consumer)}, "
                f"subscribed as '{subscription.name}', gets none"
            )


async def _check_shares(world: World, publisher: _Publisher) -> None:
    """Of what is published now every subscriber of a queue gets something."""
    model = world.model
    for queue in list(model.picture.in_use()):
        subscriptions = [each for each in model.subscriptions if each.certain and each.number == queue.number]
        if len(subscriptions) < 2:
            continue
        before = Counter({(each.peer.consumer, each.name): each.deliveries for each in subscriptions})
        await publisher.publish(queue.name, 4 * len(subscriptions))
        await trio.sleep(2)
        for each in subscriptions:
            if each.deliveries == before[each.peer.consumer, each.name]:
                world.fail(f"{short(each.peer.consumer)} gets nothing of queue '{queue.name}', others do")


async def _drain(world: World, process: Process, publisher: _Publisher) -> None:
    """One connection takes everything, and acks message by message."""
    for name in NAMES:
        if world.model.picture.named(name) is None:
            body = {"name": name, "config": {"ordering": "Fifo"}}
            await publisher.ask([ManageAsk(world, "publisher", f"create {name}", call("POST", "/create-queue", body))])
    names = [queue.name for queue in world.model.picture.in_use()]
    judge = WebSocketPeer(world, "judge")
    judge.connect(process)
    few = world.model.max_locked <= FEW_LOCKS
    if few:
        for name in names:
            await publisher.publish(name, EACH)
    judge.arrivals = []
    judge.send([{"type": "subscribe", "queue": name, "lock_timeout_secs": 3600} for name in names])
    await trio.sleep(0.1)
    waited: Counter[str] = Counter()
    longest = world.model.max_locked + len(names) * (TURN + 1)
    seen = acked = 0
    while acked < len(judge.arrivals) or await _more(judge, acked):
        for name, _ in judge.arrivals[seen:]:
            waited[name] = 0
            for other in names:
                queue = world.model.picture.named(other)
                if other != name and queue is not None and queue.available:
                    waited[other] += 1
                    if few and waited[other] > longest:
                        world.fail(f"queue '{other}' waits for a lock for {waited[other]} deliveries of others")
        seen = len(judge.arrivals)
        name, id = judge.arrivals[acked]
        judge.send([{"type": "ack", "queue": name, "id": id}])
        acked += 1
        if few or acked == len(judge.arrivals):
            await trio.sleep(0.01)
    await trio.sleep(3)
    judge.peer.closed = True
    judge.transport.finish()
    await judge.over.wait()
    await trio.sleep(1)


async def _more(judge: WebSocketPeer, acked: int) -> bool:
    """Whether something comes after a while: syncs may be slow."""
    for _ in range(10):
        await trio.sleep(1)
        if judge.arrivals is not None and len(judge.arrivals) > acked:
            return True
    return False


def _check_nothing_is_left(world: World, process: Process) -> None:
    if process.faulty:
        world.fail("there is a fault without a fault")
    for queue in world.model.picture.in_use():
        if queue.searching:
            world.fail(f"the search for duplicates in queue '{queue.name}' never ended")
        if queue.available or queue.locks:
            world.fail(f"queue '{queue.name}' has {queue.held}, although everything was taken and acked")
    for what in process.left_over():
        world.fail(f"there is left: {what}")
    if kept := world.model.picture.kept_aside():
        world.fail(f"there is something in the trash, although all was put back or erased: {kept[0].name}")
    if not world.model.payload_lost.isdisjoint(world.model.picture.places):
        return  # dead letters that nobody has looked at since their payload was lost
    try:
        of_store(world.storage, process.payloads)
    except AssertionError as error:
        world.fail(f"the store contradicts itself: {error!r}")
    world.storage.operations = 0


class _Publisher(Client):
    """Publishes what is needed, and waits for the responses."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.dice = random.Random(0)

    def burst(self) -> list[Ask]:
        return []

    async def publish(self, queue: str, count: int) -> None:
        for first in range(0, count, 8):
            asks: list[Ask] = [
                PublishAsk(self.world, self.name, queue, 1, f"{queue} {number} of {self.world.model.now()}", 3)
                for number in range(first, min(first + 8, count))
            ]
            await self.ask(asks, patient=True)
