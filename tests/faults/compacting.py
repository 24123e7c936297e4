"""A process that publishes, consumes, acks and compacts without pause, and says on stdout what it was answered.

    python -m tests.faults.compacting PATH POLICY SEED

    published <payload's name> | acking <name> | acked <name>

Rule: a line is written after the response (`acking`: before the request), whole, so whoever kills the process can hold
what it left behind to what it said.
"""

from __future__ import annotations

import os
import random
import sys
from functools import partial
from pathlib import Path

import trio

from qrusty_trio.config import Fsync
from tests.server.room import LARGE, Room, large, room

KEPT = 20
"""Messages that stay in the queue, about."""


def say(what: str, payload: str) -> None:
    os.write(1, f"{what} {name_of(payload)}\n".encode())


def name_of(payload: str) -> str:
    return payload.partition("|")[0]


async def main(path: Path, policy: Fsync, seed: int) -> None:
    chance = random.Random(seed)
    async with room(path, fsync=policy) as it, trio.open_nursery() as nursery:
        # What the last life held is up for grabs again, in any order.
        for lock in list(it.broker.catalog.by_name["q"].locks) if "q" in it.broker.catalog.by_name else []:
            await it.nack("q", lock.id)
        os.write(1, b"ready\n")
        nursery.start_soon(_compact, it)
        nursery.start_soon(partial(_work, it, chance, str(seed)))


async def _compact(room: Room) -> None:
    while True:
        await room.compactor.compact()
        await trio.lowlevel.checkpoint()


async def _work(room: Room, chance: random.Random, name: str) -> None:
    number = 0
    while True:
        queue = room.broker.catalog.by_name.get("q")
        if chance.random() < (0.7 if queue is None or queue.available < KEPT else 0.4):
            payload = large(f"{name}-{number}", chance.choice([100, LARGE, LARGE, 2 * LARGE]))
            number += 1
            await room.publish("q", payload, chance.randrange(3), max_retries=10**6)
            say("published", payload)
            continue
        delivery = await room.consume("q")
        if delivery is None:
            continue
        assert delivery.payload == large(name_of(delivery.payload), len(delivery.payload))
        if chance.random() < 0.8:
            say("acking", delivery.payload)
            await room.ack("q", delivery.id)
            say("acked", delivery.payload)
        else:
            await room.nack("q", delivery.id)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), Fsync(sys.argv[2]), int(sys.argv[3]))
