"""Deliveries that were stored and that nobody saw, or that nobody can settle: after a fault, after a restart."""

from __future__ import annotations

import gc
import logging
import traceback
import uuid
from typing import Any

import pytest
import trio

from qrusty_trio.api.call import Reply
from qrusty_trio.config import Fsync
from qrusty_trio.core import broker as broker_module
from qrusty_trio.core.deduplication import PER_STEP
from qrusty_trio.core.model import WS_CONSUMER_PREFIX, is_websocket
from qrusty_trio.core.queue import Queue
from qrusty_trio.errors import DiskFull, StartupRefused, StorageFault
from qrusty_trio.server import engine as engine_module
from qrusty_trio.server import recovery
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.returns import GIVEN_BACK_PER_STEP
from tests.server.engines import (
    STEP_SECONDS,
    WatchedStorage,
    call,
    consume,
    engine_on,
    make_engine,
    publish,
    response,
    run,
    until_back,
)


class Session:
    """A WebSocket, as far as the engine knows it."""

    def __init__(self, consumer: str) -> None:
        self.consumer = consumer
        self.failed = False

    def has_left(self, id: str) -> bool:
        return True

    def sync_failed(self) -> None:
        raise AssertionError

    def store_failed(self) -> None:
        self.failed = True


async def test_what_was_written_before_a_fault_is_not_answered_after_a_sync_of_the_store_that_was_opened_since(
    store: WatchedStorage,
) -> None:
    """The burst is still at work when the store fails; it is over when the store is back, or nearly so."""
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        store.may_sync.clear()
        nursery.start_soon(engine.run, [publish("being synced")])
        await store.until_sync_begins()
        replies: list[Reply] = []

        async def burst() -> None:
            long = call("POST", "/nack-batch/q", consumer_id="c", message_ids=[str(uuid.uuid4()) for _ in range(200)])
            replies.extend(await engine.run([publish("in doubt"), long]))

        nursery.start_soon(burst)
        while store.writes < 2:  # the first step of the burst
            await trio.lowlevel.checkpoint()
        engine.fail(StorageFault("made up"))
        # As if the store were back at once: what waits for a sync then must not be taken for safe.
        engine.recovered()
        store.may_sync.set()
        with trio.fail_after(STEP_SECONDS):
            while not replies:  # noqa: ASYNC110
                await trio.sleep(0.001)
        assert [reply.status for reply in replies[:1]] == [503]
        nursery.cancel_scope.cancel()


SMALL_TIER: dict[str, Any] = {"hot_tier_size": 2, "refill_threshold": 1}
"""Every second or so consume reads on, and for that writes what is pending."""


@pytest.fixture(autouse=True)
def _tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.001)


# Verifies: PER-0044
@pytest.mark.parametrize("reopened_later", [False, True])
@pytest.mark.parametrize("nowait", [False, True])
async def test_a_refused_consume_locks_nothing(store: WatchedStorage, nowait: bool, reopened_later: bool) -> None:
    async with engine_on(store, **SMALL_TIER) as engine:
        ids = [body["id"] for body in await run(engine, *[publish(str(number)) for number in range(9)])]
        store.writes_left = 1
        calls = [consume() for _ in range(5)]
        if reopened_later:
            store.reopen_fault = DiskFull("No space left on the device.")
        replies = engine.run_nowait(calls) if nowait else await engine.run(calls)
        assert [reply.status for reply in replies] == [507] * 5
        if reopened_later:
            await trio.sleep(0.01)
            store.reopen_fault = None
        await until_back(engine)
        bodies = await run(engine, *[consume() for _ in range(9)])
        assert [(body["id"], body["retry_count"]) for body in bodies] == [(id, 1) for id in ids]


async def test_what_could_not_be_given_back_is_given_back_after_the_fault(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish("x"))
        (reply,) = await engine.run([consume()])
        store.writes_left = 0
        engine.give_back(reply)
        assert engine.fault is not None
        assert engine.services.gate.fault == str(engine.fault)
        engine.give_back(reply)
        await until_back(engine)
        (again,) = await engine.run([consume()])
        assert (response(again)["payload"], response(again)["retry_count"]) == ("x", 1)


# Verifies: DLV-0016
async def test_what_a_websocket_held_is_available_in_the_next_process(store: WatchedStorage) -> None:
    """As it was before: a restart counts for nothing. An HTTP consumer keeps its locks, whatever it calls itself."""
    gone = WS_CONSUMER_PREFIX + str(uuid.uuid4())
    async with engine_on(store) as engine:
        await run(engine, *[publish(str(number), max_retries=1) for number in range(200)])
        now = engine.clock.now_ms()
        for number in range(200):
            engine.broker.consume("q", gone if number % 2 else gone[1:], 30, now)
        engine.broker.commit()
    async with engine_on(store) as engine:
        assert engine.broker.locks.count == 100
        (first,) = await run(engine, consume())
        assert (first["payload"], first["retry_count"]) == ("1", 1)
        assert len([body for body in await run(engine, *[consume() for _ in range(100)]) if body]) == 99
        assert engine.broker.catalog.by_name["q"].dead == 0


async def test_what_ended_while_nobody_was_there_counts_only_for_those_who_could_settle_it(
    store: WatchedStorage,
) -> None:
    here = WS_CONSUMER_PREFIX + str(uuid.uuid4())
    async with engine_on(store) as engine:
        await run(engine, publish("http", "a", max_retries=1), publish("ws", "b", max_retries=1))
        long_ago = engine.clock.now_ms() - 60_000
        engine.broker.consume("a", "worker", 30, long_ago)
        engine.broker.consume("b", here, 30, long_ago)
        engine.broker.commit()
    async with engine_on(store) as engine:
        await run(engine, call("POST", "/purge-queue/none"))
        queues = engine.broker.catalog.by_name
        assert [(queues[name].available, queues[name].dead) for name in "ab"] == [(0, 1), (1, 0)]


# Verifies: DLV-0028
@pytest.mark.parametrize("sync", [False, True])
async def test_a_fault_closes_the_websockets_and_gives_back_what_they_held(store: WatchedStorage, sync: bool) -> None:
    here = WS_CONSUMER_PREFIX + str(uuid.uuid4())
    async with engine_on(store) as engine:
        session = Session(here)
        engine.join(session)
        await run(engine, publish("x", max_retries=1), publish("y", max_retries=1))
        await engine.transact(lambda broker, now: broker.consume("q", here, 30, now), sync=True)
        await run(engine, consume(seconds=3600))
        if sync:
            store.sync_fault = DiskFull("No space left on the device.")
        else:
            store.writes_left = 0
        assert (await engine.run([publish("z")]))[0].status == 507
        await until_back(engine)
        assert session.failed
        engine.leave(session, counts=True, unsent=frozenset())
        (first,) = await run(engine, consume())
        assert (first["payload"], first["retry_count"]) == ("x", 1)
        assert engine.broker.locks.count == 2


# Verifies: DLV-0028
async def test_a_websocket_that_goes_during_the_fault_leaves_nothing_locked(store: WatchedStorage) -> None:
    here = WS_CONSUMER_PREFIX + str(uuid.uuid4())
    async with engine_on(store) as engine:
        session = Session(here)
        engine.join(session)
        await run(engine, publish("x"))
        await engine.transact(lambda broker, now: broker.consume("q", here, 3600, now), sync=True)
        store.writes_left = 0
        store.reopen_fault = StorageFault("still down")
        await engine.run([publish("z")])
        engine.leave(session, counts=True, unsent=frozenset())
        await trio.sleep(0.01)
        store.reopen_fault = None
        await until_back(engine)
        queue = engine.broker.catalog.by_name["q"]
        assert (queue.available, queue.locked) == (1, 0)


# Verifies: DLV-0024
async def test_deliveries_that_nobody_saw_do_not_count_though_their_locks_end_meanwhile(
    store: WatchedStorage,
) -> None:
    async with engine_on(store, Fsync.NEVER, **SMALL_TIER) as engine:
        await run(engine, *[publish(str(number), max_retries=1) for number in range(9)])
        store.writes_left = 1
        store.reopen_fault = StorageFault("still down")
        replies = await engine.run([consume(seconds=0) for _ in range(5)])
        assert {reply.status for reply in replies} == {507}
        await trio.sleep(0.05)
        store.reopen_fault = None
        await until_back(engine)
        await run(engine, call("POST", "/purge-queue/none"))
        queue = engine.broker.catalog.by_name["q"]
        assert (queue.available, queue.locked, queue.dead) == (9, 0, 0)


# Verifies: PER-0020
async def test_numbers_are_not_used_again_after_a_fault(store: WatchedStorage) -> None:
    """Whoever still knows a queue or a delivery of before by its number meets nothing, and not another one."""
    async with engine_on(store) as engine:
        await run(engine, publish("x"))
        store.writes_left = 0
        (created, _) = await engine.run([publish("y", "other"), publish("z", "third")])
        assert created.status == 507
        lost = engine.broker.catalog.by_number.keys() - {engine.broker.catalog.number_of("q")}
        await until_back(engine)
        await run(engine, publish("y", "other"))
        assert engine.broker.catalog.number_of("other") not in lost
        (reply,) = await engine.run([consume()])
        (delivery,) = reply.deliveries
        store.writes_left = 0
        engine.give_back(reply)
        await until_back(engine)
        (again,) = await engine.run([consume()])
        (newer,) = again.deliveries
        assert newer.lock_number > delivery.lock_number
        engine.give_back(reply)
        assert engine.broker.catalog.by_name["q"].locked == 1


async def test_recoveries_leave_no_locks_of_before(store: WatchedStorage) -> None:
    async with engine_on(store, Fsync.NEVER) as engine:
        await run(engine, *[publish(str(number), f"leak-{number}") for number in range(5)])
        await run(engine, *[consume(f"leak-{number}", seconds=3600) for number in range(5)])
        for _ in range(3):
            store.writes_left = 0
            await engine.run([publish("lost")])
            await until_back(engine)
        with trio.fail_after(STEP_SECONDS):
            while engine.broker.locks.untidy:
                await trio.lowlevel.checkpoint()
        queues = [each for each in gc.get_objects() if type(each) is Queue and each.name.startswith("leak-")]
        assert sum(len(queue.locks) for queue in queues) == engine.broker.locks.count == 5


async def test_locks_of_before_are_freed_though_nothing_happens_after_a_recovery(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that ends in the outage has woken whoever frees them too early."""
    monkeypatch.setattr(broker_module, "TIDIED_PER_EXPIRE", 1)
    async with engine_on(store, Fsync.NEVER) as engine:
        await run(engine, *[publish(str(number), "long") for number in range(5)])
        await run(engine, *[consume("long", seconds=3600) for _ in range(5)])
        # In whatever order the tasks go on.
        for _ in range(8):
            await run(engine, publish("x", "ended", max_retries=100), consume("ended", seconds=0))
            store.reopen_fault = StorageFault("still down")
            store.writes_left = 0
            await engine.run([publish("lost")])
            await trio.sleep(0.01)
            store.reopen_fault = None
            await until_back(engine)
            with trio.fail_after(STEP_SECONDS):
                while engine.broker.locks.untidy:  # noqa: ASYNC110  # no event tells of it
                    await trio.sleep(0.001)


# Verifies: SYS-0011
async def test_whatever_keeps_the_store_away_it_is_tried_again_and_told_seldom(
    store: WatchedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_on(store) as engine:
        for error in (StorageFault("down"), OSError(24, "Too many files"), StartupRefused("not ours"), ValueError("?")):
            store.reopen_fault = error  # type: ignore[assignment]  # whatever may come out of it
            store.writes_left = 0
            caplog.clear()
            await engine.run([publish("lost")])
            await trio.sleep(0.1)
            assert engine.fault is not None
            assert (str(engine.fault) == "down") == (type(error) is StorageFault), "the newest reason is told"
            assert str(engine.fault) != "No space left on the device."
            store.reopen_fault = None
            await until_back(engine)
            assert (await engine.run([publish("kept")]))[0].status == 200
            told = [record for record in caplog.records if "not back yet" in record.getMessage()]
            assert len(told) in (1, 2)


async def test_a_fault_does_not_grow_with_those_it_is_told_to(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        store.writes_left = 0
        store.reopen_fault = DiskFull("No space left on the device.")
        depths = []
        for _ in range(20):
            assert (await engine.run([publish("x")]))[0].status == 507
            assert engine.fault is not None
            depths.append(len(traceback.extract_tb(engine.fault.__traceback__)))
        assert depths[-1] == depths[2]
        store.reopen_fault = None
        await until_back(engine)


@pytest.mark.parametrize("consumer", ["ws-", "ws-1", "worker", "", "ws-2b0d7b3d-9c1e-4f6a-8a57-3f1f0e9f7c11", "ÿws-"])
def test_who_is_no_websocket(consumer: str) -> None:
    assert not is_websocket(consumer)


async def test_more_deliveries_that_nobody_saw_than_one_step_takes_back(
    store: WatchedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them are available as before, the recovery comes to its end, and so does the next one."""
    caplog.set_level(logging.INFO)
    count = GIVEN_BACK_PER_STEP * 3 // 2
    async with engine_on(store, Fsync.NEVER, **SMALL_TIER) as engine:
        ids = [body["id"] for body in await run(engine, *[publish(str(number)) for number in range(count)])]
        for _ in range(2):
            caplog.clear()
            store.writes_left = count // 2 - 5
            replies = await engine.run([consume(seconds=3600) for _ in range(count)])
            assert {reply.status for reply in replies} == {507}
            assert len(engine.returns.unseen) > GIVEN_BACK_PER_STEP
            await until_back(engine)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            assert [record.getMessage() for record in caplog.records].count(
                "the store is back, changes are accepted again"
            ) == 1
            queue = engine.broker.catalog.by_name["q"]
            assert (queue.available, queue.locked, queue.dead) == (count, 0, 0)
        bodies = await run(engine, *[consume() for _ in range(count)])
        assert [(body["id"], body["retry_count"]) for body in bodies] == [(id, 1) for id in ids]


async def test_what_a_recovery_takes_back_is_taken_back_by_the_next_one_if_the_store_fails_meanwhile(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = store.reopen
    opened = 0

    def reopen() -> None:
        nonlocal opened
        really()
        opened += 1
        if opened == 1:
            store.writes_left = 0

    monkeypatch.setattr(store, "reopen", reopen)
    async with engine_on(store, Fsync.NEVER, **SMALL_TIER) as engine:
        await run(engine, *[publish(str(number)) for number in range(9)])
        store.writes_left = 1
        await engine.run([consume(seconds=3600) for _ in range(5)])
        with trio.fail_after(STEP_SECONDS):
            while opened < 2:  # noqa: ASYNC110  # in a thread
                await trio.sleep(0.001)
        await until_back(engine)
        queue = engine.broker.catalog.by_name["q"]
        assert (queue.available, queue.locked) == (9, 0)


async def test_what_is_given_back_late_in_a_recovery_is_given_back(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery has already looked for such deliveries; what WebSockets held is being given back by now."""
    really = recovery._give_back_held
    late: list[Reply] = []

    async def give_back_held(engine: Engine) -> None:
        await really(engine)
        while late:
            engine.give_back(late.pop())

    async with engine_on(store) as engine:
        await run(engine, publish("x"), publish("y"))
        await engine.transact(
            lambda broker, now: broker.consume("q", WS_CONSUMER_PREFIX + str(uuid.uuid4()), 3600, now), sync=True
        )
        late += await engine.run([consume(seconds=3600)])
        monkeypatch.setattr(recovery, "_give_back_held", give_back_held)
        engine.fail(StorageFault("down"))
        await until_back(engine)
        bodies = await run(engine, consume(), consume())
        assert [(body["payload"], body["retry_count"]) for body in bodies] == [("x", 1), ("y", 1)]


# Verifies: DLV-0028
async def test_a_websocket_that_goes_in_the_midst_of_a_recovery_leaves_nothing_locked(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks were read already, and have not been given back yet."""
    session = Session(WS_CONSUMER_PREFIX + str(uuid.uuid4()))
    really = recovery._take_back_unseen

    async def take_back_unseen(engine: Engine) -> None:
        engine.leave(session, counts=True, unsent=frozenset())
        await really(engine)

    async with engine_on(store) as engine:
        engine.join(session)
        await run(engine, *[publish(str(number), max_retries=1) for number in range(3)])
        for _ in range(3):
            await engine.transact(lambda broker, now: broker.consume("q", session.consumer, 3600, now), sync=True)
        monkeypatch.setattr(recovery, "_take_back_unseen", take_back_unseen)
        engine.fail(StorageFault("down"))
        queue = await _until_available(engine, 3)
        assert (queue.locked, queue.dead) == (0, 0)


async def _until_available(engine: Engine, count: int) -> Queue:
    """Without a request that would do what a task should."""
    with trio.fail_after(STEP_SECONDS):
        while (queue := engine.broker.catalog.by_name.get("q")) is None or queue.available != count:  # noqa: ASYNC110
            await trio.sleep(0.001)
    return queue


# Verifies: SCH-0016
async def test_locks_end_after_a_recovery_although_nobody_asks(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish("x"))
        await run(engine, consume(seconds=1))
        engine.fail(StorageFault("down"))
        await until_back(engine)
        queue = engine.broker.catalog.by_name["q"]
        assert queue.locked + queue.available == 1  # a recovery may take longer than the lock lasts
        await _until_available(engine, 1)


# Verifies: DLV-0033
async def test_a_search_for_duplicates_goes_on_after_a_fault(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for it was told of the fault and is gone."""
    monkeypatch.setattr(engine_module, "PAUSE_SECONDS", 0.0)
    async with engine_on(store) as engine:
        count = 5 * PER_STEP
        await run(engine, *[publish(str(number // 2)) for number in range(count)])
        store.reopen_fault = StorageFault("down")
        store.writes_left = 2
        (reply,) = await engine.run([call("POST", "/update-queue", name="q", config={"allow_duplicates": False})])
        assert reply.status == 507
        for _ in range(100):
            await trio.lowlevel.checkpoint()  # the search has met the fault, too
        store.reopen_fault = None
        await until_back(engine)
        queue = await _until_available(engine, count // 2)
        with trio.fail_after(STEP_SECONDS):
            while queue.deduplicating:  # noqa: ASYNC110  # its last step removes nothing, and comes by itself
                await trio.sleep(0.001)


# Verifies: PER-0049
@pytest.mark.parametrize("steps", [1, 3, 6, 9, 12])
async def test_a_fault_while_a_start_reads_the_store_waits_for_its_end(store: WatchedStorage, steps: int) -> None:
    """A sync failed, or the directory was gone. Two that read at the same time would know all twice."""
    async with engine_on(store) as engine:
        for first in range(0, 300, 50):
            await run(engine, *[publish("x", f"q{number}") for number in range(first, first + 50)])
        await run(engine, *[consume(f"q{number}") for number in range(50)])
        engine.broker.journal.detach()
    engine = make_engine(store)
    async with trio.open_nursery() as tasks:
        await tasks.start(recovery.recover, engine, store.reopen)
        async with trio.open_nursery() as start:
            start.start_soon(recovery.load, engine)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            engine.fail(StorageFault("down"))
        await until_back(engine)
        catalog = engine.broker.catalog
        assert len(catalog.names()) == len(set(catalog.names())) == 300
        assert engine.broker.locks.count == sum(len(queue.locks) for queue in catalog.everything()) == 50
        tasks.cancel_scope.cancel()
