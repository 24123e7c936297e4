"""Those who wait for a sync without a task: they go on in pieces, and nobody is forgotten."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from unittest import mock

import pytest
import trio

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
