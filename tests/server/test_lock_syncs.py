"""With QRUSTY_FSYNC_LOCKS a message leaves after a sync of its lock, and goes back if that fails."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.api.call import Call, Reply
from qrusty_trio.config import Fsync
from qrusty_trio.errors import DiskFull, StorageFault
from qrusty_trio.http.byte_budget import Budget, Holding
from qrusty_trio.http.pauses import EventPause
from qrusty_trio.server.engine import Engine
from tests.server.engines import STEP_SECONDS, WatchedStorage, call, engine_on, publish, response, run, until_back
from tests.server.engines import consume as consume_one

C = {"consumer_id": "c"}

CONSUMES = {
    "consume": call("POST", "/consume/q", **C),
    "consume_from": call("POST", "/consume", queues=["other", "q"], **C),
    "consume_batch": call("POST", "/consume-batch/q", max_messages=300, **C),
}
each_consume = pytest.mark.parametrize("consume", CONSUMES.values(), ids=CONSUMES)


def waiting(consume: Call) -> Call:
    """The same, which waits for a message."""
    body = consume.body[:-1] + b', "wait_seconds": 60}'
    return Call(consume.operation, consume.params, body)


class Asked:
    """A burst in a task of its own."""

    def __init__(self, engine: Engine, nursery: trio.Nursery, *calls: Call) -> None:
        self.scope = trio.CancelScope()
        self.replies: list[Reply] | None = None
        self._done = trio.Event()
        nursery.start_soon(self._run, engine, calls)

    async def _run(self, engine: Engine, calls: tuple[Call, ...]) -> None:
        with self.scope:
            self.replies = await engine.run(calls, EventPause(Holding(Budget())))
        self._done.set()

    async def done(self) -> list[Reply]:
        with trio.fail_after(STEP_SECONDS):
            await self._done.wait()
        return self.replies or []


def counts(engine: Engine) -> tuple[int, int]:
    queue = engine.broker.catalog.by_name["q"]
    return queue.available, queue.locked


async def until_locked(engine: Engine, count: int = 1) -> None:
    with trio.fail_after(STEP_SECONDS):
        while counts(engine)[1] != count:  # noqa: ASYNC110  # a count of the core
            await trio.sleep(0.001)


async def delivered_again(engine: Engine) -> int:
    (body,) = await run(engine, consume_one())
    retry_count: int = body["retry_count"]
    return retry_count


# Verifies: PER-0061
@each_consume
async def test_a_message_leaves_after_the_sync_of_its_lock(store: WatchedStorage, consume: Call) -> None:
    async with engine_on(store, lock_syncs=True) as engine, trio.open_nursery() as nursery:
        (id,) = [body["id"] for body in await run(engine, publish("x"))]
        with store.held():
            asked = Asked(engine, nursery, consume)
            await store.until_sync_begins()
            await trio.testing.wait_all_tasks_blocked()
            assert (counts(engine), asked.replies) == ((0, 1), None)
            assert engine.broker.journal.size == 0
        (reply,) = await asked.done()
        assert id in reply.body.decode()
        response(reply)


# Verifies: PER-0061
@each_consume
async def test_a_message_that_was_waited_for_leaves_after_the_sync_of_its_lock(
    store: WatchedStorage, consume: Call
) -> None:
    """A nack that nobody syncs for makes it available."""
    async with engine_on(store, lock_syncs=True) as engine, trio.open_nursery() as nursery:
        await run(engine, publish("x"))
        (first,) = await engine.run([consume_one()])
        asked = Asked(engine, nursery, waiting(consume))
        await trio.testing.wait_all_tasks_blocked()
        with store.held():
            engine.give_back(first)
            await store.until_sync_begins()
            await trio.testing.wait_all_tasks_blocked()
            assert (counts(engine), asked.replies) == ((0, 1), None)
        (reply,) = await asked.done()
        assert len(reply.deliveries) == 1


# Verifies: PER-0061
@pytest.mark.parametrize("batch", [False, True])
async def test_a_renewal_is_answered_after_its_sync(store: WatchedStorage, batch: bool) -> None:
    async with engine_on(store, lock_syncs=True) as engine, trio.open_nursery() as nursery:
        (id,) = [body["id"] for body in await run(engine, publish("x"))]
        await run(engine, consume_one())
        renew = call("POST", "/renew-batch/q", message_ids=[id], **C) if batch else call("POST", f"/renew/q/{id}", **C)
        with store.held():
            asked = Asked(engine, nursery, renew)
            await store.until_sync_begins()
            await trio.testing.wait_all_tasks_blocked()
            assert asked.replies is None
        (reply,) = await asked.done()
        response(reply)


# Verifies: PER-0061
@pytest.mark.parametrize(
    "asked",
    [*CONSUMES.values(), call("POST", "/renew-batch/q", message_ids=["unknown"], **C)],
    ids=[*CONSUMES, "renew_batch"],
)
async def test_what_changes_nothing_waits_for_nothing(store: WatchedStorage, asked: Call) -> None:
    async with engine_on(store, lock_syncs=True) as engine:
        engine.broker.catalog.create_default("q")
        with store.held():
            (reply,) = await engine.run([asked])
        assert not reply.needs_sync


# Verifies: PER-0061
@pytest.mark.parametrize("policy", list(Fsync))
@each_consume
async def test_a_message_waits_for_nothing(store: WatchedStorage, policy: Fsync, consume: Call) -> None:
    """Without the setting, and under the policies that let nothing wait."""
    async with engine_on(store, policy, lock_syncs=policy is not Fsync.ALWAYS) as engine:
        await run(engine, publish("x"))
        with store.held():
            (reply,) = await engine.run([consume])
        assert len(reply.deliveries) == 1


# Verifies: PER-0061
async def test_a_batch_of_requests_is_written_by_the_committer(store: WatchedStorage) -> None:
    """One write for all that wait for the same sync, as for other changes."""
    async with engine_on(store, lock_syncs=True) as engine:
        await run(engine, *(publish("x") for _ in range(8)))
        writes = store.writes
        for _ in range(8):
            (reply,) = engine.run_nowait([consume_one()])
            assert reply.needs_sync
        assert store.writes == writes
        await engine.committer.durable()
        assert store.writes == writes + 1


def out_of_memory() -> None:
    raise MemoryError


# Verifies: PER-0062
@pytest.mark.parametrize("waits", [False, True], ids=["at_once", "waiting"])
@each_consume
async def test_a_sync_of_a_lock_that_fails_gives_the_message_back(
    store: WatchedStorage, consume: Call, waits: bool
) -> None:
    async with engine_on(store, lock_syncs=True) as engine, trio.open_nursery() as nursery:
        await run(engine, publish("x"))
        if waits:
            (first,) = await engine.run([consume_one()])
            asked = Asked(engine, nursery, waiting(consume))
            await trio.testing.wait_all_tasks_blocked()
            store.sync_fault = DiskFull("No space left on the device.")
            engine.give_back(first)
        else:
            store.sync_fault = DiskFull("No space left on the device.")
            asked = Asked(engine, nursery, consume)
        (reply,) = await asked.done()
        assert (reply.status, reply.deliveries) == (507, ())
        await until_back(engine)
        assert counts(engine) == (1, 0)
        assert await delivered_again(engine) == 1


# Verifies: PER-0062
@pytest.mark.parametrize("batched", [False, True])
async def test_a_second_fault_before_the_message_is_back(
    store: WatchedStorage, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery fails at first, after which the lock ends. The delivery does not count even so."""
    async with engine_on(store, lock_syncs=True) as engine:
        await run(engine, publish("x", max_retries=1))
        faults = break_loads(store, monkeypatch, 2)
        store.sync_fault = DiskFull("No space left on the device.")
        if batched:
            (reply,) = engine.run_nowait([consume_one(seconds=1)])
            engine.when_durable(lambda _: engine.give_back(reply), [engine])
        else:
            (reply,) = await engine.run([consume_one(seconds=1)])
            assert reply.status == 507
        with trio.fail_after(STEP_SECONDS):
            await engine.broken.wait()
        await until_back(engine)
        assert not faults
        assert counts(engine) == (1, 0)
        assert await delivered_again(engine) == 1


def break_loads(store: WatchedStorage, monkeypatch: pytest.MonkeyPatch, times: int) -> list[StorageFault]:
    """Let the next so many scans fail. Returns the faults that are left."""
    faults = [StorageFault("a read failed") for _ in range(times)]
    scan = store.inner.scan

    def failing(*arguments: Any) -> Any:
        if faults:
            raise faults.pop()
        return scan(*arguments)

    monkeypatch.setattr(store, "scan", failing)
    return faults


# Verifies: PER-0062
@each_consume
async def test_a_sync_that_can_not_begin_gives_the_message_back(
    store: WatchedStorage, consume: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has not failed: what was changed is in it, and in memory."""
    async with engine_on(store, lock_syncs=True) as engine:
        await run(engine, *(publish("x") for _ in range(200)))
        with monkeypatch.context() as short:
            short.setattr(store, "sync", out_of_memory)
            (reply,) = await engine.run([consume])
        assert (reply.status, reply.deliveries) == (503, ())
        assert engine.fault is None
        await until_locked(engine, 0)
        assert counts(engine) == (200, 0)
        assert await delivered_again(engine) == 1


# Verifies: PER-0062
@each_consume
async def test_a_consumer_that_goes_while_its_message_waits(store: WatchedStorage, consume: Call) -> None:
    async with engine_on(store, lock_syncs=True) as engine, trio.open_nursery() as nursery:
        await run(engine, publish("x"))
        with store.held():
            asked = Asked(engine, nursery, consume)
            await store.until_sync_begins()
            asked.scope.cancel()
            assert await asked.done() == []
            assert counts(engine) == (1, 0)
        assert await delivered_again(engine) == 1


# Verifies: PER-0062
@pytest.mark.parametrize("reason", ["fault", "stop"])
async def test_a_callback_is_told_that_no_sync_comes(store: WatchedStorage, reason: str) -> None:
    """Request batching has no task that could be cancelled with the message in hand."""
    told: list[Exception | None] = []
    async with engine_on(store, lock_syncs=True) as engine:
        await run(engine, publish("x"))
        (reply,) = engine.run_nowait([consume_one()])

        def synced(fault: Exception | None) -> None:
            told.append(fault)
            engine.give_back(reply)

        engine.when_durable(synced, [engine])
        if reason == "fault":
            engine.fail(DiskFull("No space left on the device."))
            await until_back(engine)
    assert len(told) == 1
    assert told[0] is not None
    assert counts(engine) == (1, 0)
