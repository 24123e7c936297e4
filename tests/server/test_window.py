"""The next sync waits for those who were just answered, but not for long, and not for those who do not come back."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qrusty_trio.errors import StorageFault
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.window import FIRST_PAUSE, LEAST, LONGEST_PAUSE, WINDOW_SECONDS, Window
from tests.server.engines import WatchedStorage, engine_on, publish


def synced(window: Window, answered: int, waiting: int = 0) -> int:
    window.synced(answered, waiting)
    return window.target


# Verifies: PER-0060
def test_expects_back_whom_it_answered_beside_those_who_wait() -> None:
    window = Window()
    assert window.target == 0
    assert synced(window, 8) == 8
    window.ended(8)
    assert synced(window, 8, waiting=5) == 13


# Verifies: PER-0060
@pytest.mark.parametrize("answered", range(LEAST))
def test_does_not_wait_for_fewer_than_three(answered: int) -> None:
    assert synced(Window(), answered, waiting=20) == 0


# Verifies: PER-0060
def test_expects_only_the_share_that_came_back() -> None:
    window = Window()
    synced(window, 10)
    window.ended(6)
    assert synced(window, 10, waiting=2) == 8
    window.ended(8)
    assert synced(window, 20) == 12


# Verifies: PER-0060
def test_tries_everybody_again_ever_more_rarely_while_they_stay_away() -> None:
    window = Window()
    synced(window, 10)
    window.ended(0)
    pauses = []
    for _ in range(10):
        syncs = 1
        while synced(window, 10) == 0:
            syncs += 1
        pauses.append(syncs)
        window.ended(0)
    assert pauses[0] == 2 * FIRST_PAUSE
    assert all(later == min(2 * before, LONGEST_PAUSE) for before, later in pairwise(pauses))
    while synced(window, 10) == 0:
        pass
    window.ended(10)
    synced(window, 10)
    window.ended(1)
    assert [synced(window, 10) for _ in range(2 * FIRST_PAUSE)][-1] == 10


# Verifies: PER-0060
def test_a_group_that_a_fault_has_emptied_counts_as_nobody() -> None:
    window = Window()
    synced(window, 10, waiting=5)
    window.ended(0)
    assert synced(window, 10) == 0


async def answer(engine: Engine, responses: int) -> trio.Event:
    """A change for which so many responses wait. Returns what is set once they were sent."""
    sent = trio.Event()

    def send(fault: StorageFault | None) -> None:
        assert fault is None
        sent.set()

    engine.run_nowait([publish("x")])
    engine.when_durable(send, responses)
    await wait_all_tasks_blocked()
    return sent


# Verifies: PER-0060
async def test_a_sync_waits_until_all_are_back(store: WatchedStorage, mock_clock: MockClock) -> None:
    async with engine_on(store) as engine:
        await (await answer(engine, 4)).wait()
        syncs = store.syncs
        early = await answer(engine, 3)
        assert (store.syncs, early.is_set()) == (syncs, False)
        last = await answer(engine, 1)
        await early.wait()
        await last.wait()
        assert store.syncs == syncs + 1


# Verifies: PER-0060
async def test_a_sync_does_not_wait_longer_than_the_window(store: WatchedStorage, mock_clock: MockClock) -> None:
    async with engine_on(store) as engine:
        await (await answer(engine, 4)).wait()
        early = await answer(engine, 3)
        assert not early.is_set()
        mock_clock.jump(WINDOW_SECONDS)
        await early.wait()
        # The next one expects only three quarters.
        await (await answer(engine, 4)).wait()
        await (await answer(engine, 3)).wait()


# Verifies: PER-0060
async def test_there_is_no_window_once_its_time_is_over(store: WatchedStorage, mock_clock: MockClock) -> None:
    async with engine_on(store) as engine:
        await (await answer(engine, 4)).wait()
        mock_clock.jump(WINDOW_SECONDS)
        await (await answer(engine, 1)).wait()


# Verifies: PER-0060
async def test_a_fault_ends_the_wait_of_those_who_are_held(store: WatchedStorage, mock_clock: MockClock) -> None:
    faults: list[StorageFault | None] = []
    async with engine_on(store) as engine:
        await (await answer(engine, 4)).wait()
        engine.run_nowait([publish("x")])
        engine.when_durable(faults.append, 2)
        await wait_all_tasks_blocked()
        assert not faults
        engine.fail(StorageFault("down"))
        assert [str(fault) for fault in faults] == ["down"]


# Verifies: PER-0060
async def test_the_end_of_the_server_fails_those_who_are_held(store: WatchedStorage, mock_clock: MockClock) -> None:
    """None of them may take its change for durable."""
    async with engine_on(store) as engine:
        await (await answer(engine, 4)).wait()
        syncs = store.syncs
        held = await answer(engine, 2)
    assert not held.is_set()
    assert store.syncs == syncs
