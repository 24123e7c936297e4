"""kill -9 while dead letters are requeued or purged: each is in one place afterwards, and what was answered stands.

QRUSTY_CRASH_ROUNDS says how often in all (20).
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dead_letters import EVERY
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.server.startup import PAYLOADS_DIRECTORY
from qrusty_trio.storage.payloads import PayloadStore
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.core.ownership import check_ownership
from tests.crash.workers import GONE
from tests.server.running import child_server, client_of

ROUNDS = int(os.environ.get("QRUSTY_CRASH_ROUNDS", "20"))
LETTERS = 3_000
LARGE_EVERY = 20
"""One in so many has its payload in a segment file."""
QUEUES = ("from", "to")
CHOICES: list[dict[str, object]] = [
    {"all": True},
    {"filter": {"reason": "nacked"}},
    {"filter": {"text": "7"}, "to": "to"},
    {"filter": {"consumer": "c"}, "to": "to", "priority": 9},
]
LONG_SECONDS = 100_000


class Places(NamedTuple):
    """Where the messages are."""

    available: set[str]
    dead: set[str]


def opened(path: Path) -> tuple[Broker, Callable[[], None]]:
    """A broker on a store, and how to close it."""
    storage = RocksStorage.open(path, cache_mb=8, write_buffer_mb=4, max_open_files=64)
    payloads = PayloadStore.open(path / PAYLOADS_DIRECTORY, segment_max_bytes=2**20)
    broker = Broker(storage, payloads=payloads)
    for _ in broker.load():
        pass

    def close() -> None:
        broker.journal.detach()
        payloads.close()
        storage.close()

    return broker, close


def bury(path: Path) -> set[str]:
    """A store with dead letters only."""
    broker, close = opened(path)
    ids = set()
    for name in QUEUES:
        broker.catalog.create(name, QueueConfig())
    for number in range(LETTERS):
        payload = str(number).ljust(5000 if number % LARGE_EVERY == 0 else 10)
        id = broker.publish("from", number % 3, payload, 1, 1000)
        assert broker.consume("from", "c", LONG_SECONDS, 1000) is not None
        broker.nack("from", id, "c", 1000, "why")
        ids.add(id)
        broker.commit()
    close()
    return ids


def places(path: Path, scratch: Path) -> Places:
    """What a killed server left. Nothing is in two places, and the store agrees with itself."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(path, scratch)
    broker, close = opened(scratch)
    check_ownership(broker.journal.storage)
    available: list[str] = []
    dead: list[str] = []
    for name in QUEUES:
        queue = broker.catalog.by_name[name]
        counted = queue.available, queue.dead
        letters = [
            letter.id
            for batch in broker.dead_letters.search(queue, EVERY, 0, queue.next_dead, 100)
            for letter in batch.letters
        ]
        messages = []
        while (delivery := broker.consume(name, "audit", LONG_SECONDS, 1000)) is not None:
            assert delivery.retry_count == 1
            messages.append(delivery.id)
        assert counted == (len(messages), len(letters))
        available += messages
        dead += letters
    close()
    assert len({*available, *dead}) == len(available) + len(dead), "a message is in two places"
    return Places(set(available), set(dead))


async def killed(path: Path, dice: random.Random, verb: str, body: dict[str, object]) -> bool:
    """Start a server, ask for something, and kill the server meanwhile. Whether a response came."""
    answered = False

    async with child_server(path) as server, trio.open_nursery() as nursery:

        async def run() -> None:
            nonlocal answered
            try:
                async with client_of(server) as client:
                    target = f"/queues/from/dead-letters/{verb}"
                    response = await client.request("POST", target, json.dumps(body).encode())
                    assert response.status == 200, response
                    answered = True
            except GONE:
                pass

        nursery.start_soon(run)
        await trio.sleep(dice.uniform(0.0, 0.15))
        await server.kill()
    return answered


@pytest.mark.timeout(600)
async def test_a_requeue_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    path, dice = tmp_path / "data", random.Random(12)
    ids = bury(path)
    cut = 0
    for number in range(ROUNDS):
        choice = CHOICES[number % len(CHOICES)]
        before = places(path, tmp_path / "audit")
        answered = await killed(path, dice, "requeue", choice)
        after = places(path, tmp_path / "audit")
        assert after.available | after.dead == ids
        assert after.available >= before.available
        if answered and choice == {"all": True}:
            assert after.dead == set()
        cut += before.dead > after.dead != set()
        if not after.dead:
            shutil.rmtree(path)
            ids = bury(path)
    assert cut, "no kill came in the midst of a requeue"


@pytest.mark.timeout(600)
async def test_a_purge_stands_once_it_was_answered(tmp_path: Path) -> None:
    dice = random.Random(13)
    for number in range(max(2, ROUNDS // 4)):
        path = tmp_path / f"data{number}"
        ids = bury(path)
        body: dict[str, object] = {"all": True} if number % 2 else {"filter": {"consumer": "c"}}
        answered = await killed(path, dice, "purge", body)
        after = places(path, tmp_path / "audit")
        assert after.available == set()
        assert after.dead <= ids
        if answered:
            assert after.dead == set()
        if body == {"all": True}:
            assert len(after.dead) in (0, LETTERS)
        shutil.rmtree(path)
