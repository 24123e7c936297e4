"""Those who wait for a sync without a task: they go on in pieces, and nobody is forgotten."""

from __future__ import annotations

import errno
import json
from functools import partial
from itertools import pairwise
from unittest import mock

import pytest
import trio
import trio.testing

from qrusty_trio.errors import StorageFault
from qrusty_trio.server.committer import RESPONSES_PER_STEP
from qrusty_trio.storage.memory import MemoryStorage
from tests.server.engines import STEP_SECONDS, WatchedStorage, engine_on, publish, until_back

HOW_MANY = RESPONSES_PER_STEP // 4


# Verifies: SCH-0035
@pytest.mark.parametrize("end", ["sync", "fault", "cancelled"])
async def test_answers_leave_in_steps(store: WatchedStorage, end: str) -> None:
    called: list[tuple[int, StorageFault | None]] = []
    steps: list[int] = []

    async def look() -> None:
        while True:
            steps.append(sum(HOW_MANY if number >= 0 else 1 for number, _ in called))
            await trio.lowlevel.checkpoint()

    def note(number: int, fault: StorageFault | None) -> None:
        called.append((number, fault))

    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        with store.held():
            engine.run_nowait([publish("first")])
            engine.when_durable(partial(note, -1), [object()])
            await store.until_sync_begins()
            engine.run_nowait([publish("x")])
            for number in range(40):
                engine.when_durable(partial(note, number), [object()] * HOW_MANY)
            if end == "fault":
                engine.fail(StorageFault("down"))
            nursery.start_soon(look)
            if end == "fault":
                await trio.lowlevel.checkpoint()
        with trio.fail_after(STEP_SECONDS):
            while len(called) < (5 if end == "cancelled" else 41):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert sorted(number for number, _ in called) == list(range(-1, 40))
    assert [number for number, _ in called if number >= 0] == list(range(40))
    assert {fault is None for number, fault in called if number >= 0} == {end != "fault"}
    if end != "cancelled":
        most = max(after - before for before, after in pairwise(steps))
        # A task may run last in one batch of the scheduler and first in the next. The first change is of another group.
        assert most <= 2 * RESPONSES_PER_STEP + 1


async def test_how_long_a_sync_takes_and_how_many_wait_for_it_is_noted(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        committer = engine.committer
        assert committer.seconds_under_way == 0
        syncs, sizes, taken = committer.syncs, committer.group_sizes.total, committer.sync_ns.total
        answered = trio.Event()
        with store.held():
            engine.run_nowait([publish("x")])
            engine.when_durable(lambda fault: answered.set(), [object() for _ in range(5)])
            await store.until_sync_begins()
            under_way = committer.seconds_under_way
            assert 0 < under_way < STEP_SECONDS
        await answered.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert committer.seconds_under_way == 0
        assert (committer.syncs, committer.group_sizes.total) == (syncs + 1, sizes + 5)
        assert committer.sync_ns.count == committer.group_sizes.count == committer.syncs
        assert under_way <= (committer.sync_ns.total - taken) / 1e9 < STEP_SECONDS


async def test_a_sync_that_could_not_begin_fails_who_waits_and_the_next_one_has_all(
    store: WatchedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_on(store) as engine:
        with mock.patch.object(store, "sync", side_effect=OSError(errno.ENOMEM, "Cannot allocate memory")):
            (reply,) = await engine.run([publish("x")])
        assert reply.status == 503
        assert "What was changed could not be synced: Cannot allocate memory" in json.loads(reply.body)["error"]
        assert engine.fault is None
        [said] = [record.getMessage() for record in caplog.records if "sync" in record.getMessage()]
        assert said.startswith("a sync failed, will try again with the next change: Cannot allocate memory")
        syncs = store.syncs
        (reply,) = await engine.run([publish("y")])
        assert (reply.status, store.syncs) == (200, syncs + 1)


# Verifies: PER-0046
async def test_a_sync_into_removed_files_makes_nothing_safe() -> None:
    """Such a sync succeeds; only a look after it tells."""
    store = WatchedStorage(MemoryStorage())

    def gone() -> None:
        assert store.syncs > syncs
        raise StorageFault("gone")

    async with engine_on(store) as engine:
        syncs = store.syncs
        with mock.patch.object(store, "check", gone, create=True):
            (reply,) = await engine.run([publish("x")])
            assert reply.status == 503
            assert engine.fault is not None
        await until_back(engine)
