"""Memory and disk over hours: what is free is given back, in quiet moments, and nobody is held up."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.catalog import Catalog
from qrusty_trio.core.keys import prefix
from qrusty_trio.errors import DiskFull, StorageFault
from qrusty_trio.server import upkeep
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.upkeep import LOOK_SECONDS, MEMORY_SECONDS, Collector, Upkeep
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.reclaim import Span
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.server.collector import collector_restored
from tests.server.engines import call, engine_on, publish
from tests.server.room import Room, room
from tests.server.running import running, settings_for, until_ready

MIB = 1024 * 1024
SIZE = 1000
STEP_SECONDS = 60.0


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    with collector_restored():
        yield


# Disk


def fill(queue: str, count: int, broker: Broker, now: int) -> None:
    for _ in range(count):
        broker.publish(queue, 0, os.urandom(SIZE // 2).hex(), 0, now)


async def filled(it: Room, queue: str, mib: int) -> None:
    for _ in range(mib):
        await it.engine.transact(partial(fill, queue, MIB // SIZE), sync=False)


@asynccontextmanager
async def disk_upkeep(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    """A room with upkeep that looks all the time, and for which less is much."""
    monkeypatch.setattr(upkeep, "DISK_SECONDS", 0.02)
    monkeypatch.setattr(upkeep, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(upkeep, "DEAD_BYTES", 3 * MIB)
    async with room(path) as it, trio.open_nursery() as nursery:
        await nursery.start(Upkeep(it.engine, it.stores.storage, Collector()).run)
        yield it
        nursery.cancel_scope.cancel()


def lock_some(bury: bool, broker: Broker, now: int) -> None:
    for _ in range(200):
        delivery = broker.consume("q", "c", 1000, now)
        if delivery is not None and bury:
            broker.nack("q", delivery.id, "c", now)


async def until_smaller(it: Room, octets: int) -> None:
    with trio.fail_after(STEP_SECONDS):
        while it.stores.storage.disk_bytes() > octets:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def settled(it: Room) -> int:
    """What is on disk once everything is in tables."""
    await trio.to_thread.run_sync(it.stores.storage.flush)
    return it.stores.storage.disk_bytes()


# Verifies: PER-0050
@pytest.mark.parametrize("how", ["purge", "delete", "locked", "dead letters", "many queues"])
async def test_the_space_of_what_is_purged_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with disk_upkeep(tmp_path, monkeypatch) as it:
        await filled(it, "stays", 1)
        queues = [f"q{number}" for number in range(8)] if how == "many queues" else ["q"]
        for queue in queues:
            await filled(it, queue, 8 // len(queues))
        if how in ("locked", "dead letters"):
            while it.broker.catalog.by_name["q"].available:
                await it.engine.transact(partial(lock_some, how == "dead letters"), sync=False)
        before = await settled(it)
        assert before > 8 * MIB
        remove = Catalog.purge if how in ("purge", "locked") else Catalog.delete
        for queue in queues:
            await it.engine.transact(lambda broker, now, queue=queue: remove(broker.catalog, queue), sync=True)  # type: ignore[misc]
        await until_smaller(it, before - 6 * MIB)
        number = it.broker.catalog.number_of("stays")
        handle = it.stores.storage.families[Family.MESSAGES]
        assert len(it.stores.storage.scan(handle, prefix(number), prefix(number + 1), 10_000)) == MIB // SIZE


# Verifies: PER-0050
async def test_a_small_purge_makes_no_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with disk_upkeep(tmp_path, monkeypatch) as it:
        looks: list[bool] = []
        reclaim = it.stores.storage.reclaim

        def watched(spans: Sequence[Span], at_least: int) -> bool:
            looks.append(reclaim(spans, at_least))
            return looks[-1]

        monkeypatch.setattr(it.stores.storage, "reclaim", watched)
        await filled(it, "stays", 6)
        for _ in range(3):
            await filled(it, "q", 1)
            await settled(it)
            await it.engine.transact(lambda broker, now: broker.catalog.purge("q"), sync=True)
            with trio.fail_after(STEP_SECONDS):
                before = len(looks)
                while len(looks) == before:  # noqa: ASYNC110
                    await trio.sleep(0.01)
        # Each is too little; together they are enough.
        assert looks == [False, False, True]


# Verifies: PER-0051
async def test_it_is_tried_again_after_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with disk_upkeep(tmp_path, monkeypatch) as it:
        reclaim, tries = it.stores.storage.reclaim, []

        def failing(spans: Sequence[Span], at_least: int) -> bool:
            tries.append(spans)
            if len(tries) < 3:
                raise DiskFull("no room")
            return bool(reclaim(spans, at_least))

        monkeypatch.setattr(it.stores.storage, "reclaim", failing)
        await filled(it, "q", 8)
        before = await settled(it)
        await it.engine.transact(lambda broker, now: broker.catalog.purge("q"), sync=True)
        await until_smaller(it, before - 6 * MIB)
        assert len(tries) == 3
        assert it.engine.fault is None


# Verifies: PER-0051
def test_a_store_that_is_closed_does_not_wait_for_the_compaction(tmp_path: Path) -> None:
    storage = RocksStorage.open(tmp_path / "store", cache_mb=8, write_buffer_mb=2, max_open_files=64)
    for first in range(0, 20_000, 200):
        batch = storage.batch()
        for number in range(first, first + 200):
            batch.put(number.to_bytes(4, "big"), os.urandom(SIZE), storage.families[1])
        storage.write(batch)
    storage.flush()
    spans = [Span(number.to_bytes(4, "big"), (number + 10).to_bytes(4, "big"), 10) for number in range(0, 20_000, 10)]
    outcome: list[object] = []

    def reclaim() -> None:
        try:
            while True:
                storage.reclaim(spans, 0)
        except StorageFault as fault:
            outcome.append(fault)

    thread = threading.Thread(target=reclaim)
    thread.start()
    storage.close()
    thread.join(STEP_SECONDS)
    assert not thread.is_alive()
    assert len(outcome) == 1


# Memory


@asynccontextmanager
async def memory_upkeep(trim: Callable[[], None]) -> AsyncIterator[Engine]:
    async with engine_on(MemoryStorage()) as engine, trio.open_nursery() as nursery:
        await nursery.start(Upkeep(engine, engine.broker.journal.storage, Collector(), trim).run)
        yield engine
        nursery.cancel_scope.cancel()


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what a thread does."""
    with trio.fail_after(100_000 * LOOK_SECONDS):
        while not happened():  # noqa: ASYNC110
            await trio.sleep(LOOK_SECONDS)


# Verifies: SCH-0036
async def test_freed_memory_is_given_back_in_a_quiet_moment_and_once(autojump_clock: trio.testing.MockClock) -> None:
    trims: list[float] = []
    async with memory_upkeep(lambda: trims.append(0.0)) as engine:
        # What loading has left.
        await until(lambda: len(trims) == 1)
        trims.clear()
        for _ in range(int(4 * MEMORY_SECONDS / LOOK_SECONDS)):
            engine.run_to_end([publish("x")])
            await trio.sleep(LOOK_SECONDS / 2)
        assert not trims
        await until(lambda: len(trims) == 1)
        await trio.sleep(10 * MEMORY_SECONDS)
        assert len(trims) == 1
        engine.run_to_end([publish("x")])
        await until(lambda: len(trims) == 2)


async def test_what_goes_wrong_ends_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    def failing() -> None:
        nonlocal tries
        tries += 1
        raise OSError("no memory")

    async with memory_upkeep(failing) as engine:
        for _ in range(3):
            before = tries
            engine.run_to_end([publish("x")])
            await until(lambda before=before: tries > before)  # type: ignore[misc]
    assert caplog.text.count("upkeep failed") == 1


# Verifies: PER-0055
async def test_a_purge_in_memory_is_freed_without_another_request(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_upkeep(lambda: None) as engine:
        for _ in range(100):
            engine.run_to_end([publish("x") for _ in range(100)])
        engine.run_to_end([call("POST", "/purge-queue/q")])
        storage = engine.broker.journal.storage
        assert isinstance(storage, MemoryStorage)
        assert storage._untidy
        await trio.sleep(2 * LOOK_SECONDS)
        assert not storage._untidy


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def old_knot() -> weakref.ref[Knot]:
    """One in the oldest generation."""
    knot = Knot()
    gc.collect()
    return weakref.ref(knot)


@pytest.mark.parametrize("busy", [False, True])
async def test_old_garbage_is_collected(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr(upkeep, "LONG_SECONDS", 1000.0)  # however slow the machine
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000_000, 50, 1_000_000)
    async with memory_upkeep(lambda: None) as engine:
        knot = old_knot()
        gc.disable()
        try:
            for _ in range(int(2 * MEMORY_SECONDS / LOOK_SECONDS)):
                if busy or knot():
                    engine.run_to_end([publish("x")])
                await trio.sleep((1 if busy else 3) * LOOK_SECONDS)
        finally:
            gc.enable()
        assert knot() is None


# Verifies: SCH-0036
def test_a_collection_that_would_be_long_waits_for_a_quiet_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    # However fast the machine: everything is long.
    monkeypatch.setattr(upkeep, "LONG_SECONDS", 0.0)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        collector = Collector()
        knot = old_knot()
        assert not collector.collect(quiet=False)
        frozen = gc.get_freeze_count()
        assert collector.collect(quiet=True)
        assert knot() is None
        # What is there is not looked at again ...
        assert gc.get_freeze_count() > frozen
        lost = old_knot()
        gc.freeze()
        collector.collect(quiet=True)
        assert lost() is not None
        # ... until memory is short.
        collector.collect_frozen()
        assert lost() is None
    finally:
        gc.enable()


# Verifies: SCH-0036
def test_while_busy_nothing_is_collected_that_was_not_measured() -> None:
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        collector = Collector()
        assert collector.collect(quiet=False)
        gc.collect(1)
        assert not collector.collect(quiet=False)
        assert collector.collect(quiet=True)
        assert collector.collect(quiet=False)
        for _ in range(upkeep.YOUNG_COLLECTIONS + 1):
            gc.collect(0)
        assert not collector.collect(quiet=False)
    finally:
        gc.enable()


async def test_a_server_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Upkeep] = []
    run = Upkeep.run

    async def noted(self: Upkeep, *, task_status: Any) -> None:
        started.append(self)
        await run(self, task_status=task_status)

    monkeypatch.setattr(Upkeep, "run", noted)
    async with running(settings_for(tmp_path / "data")) as server:
        await until_ready(server)
        with trio.fail_after(STEP_SECONDS):
            while not started:  # noqa: ASYNC110
                await trio.sleep(0.01)
