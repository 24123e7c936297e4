"""The next sync waits for those who were just answered, but not for long, and not for those who do not come back."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qrusty_trio.errors import StorageFault
from qrusty_trio.server.committer import STOPPED
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.window import FIRST_PAUSE, LEAST, LONGEST_PAUSE, WINDOW_SECONDS, Window
from tests.server.engines import WatchedStorage, engine_on, publish


def synced(window: Window, answered: int) -> bool:
    window.synced(range(answered))
    return window.open


# Verifies: PER-0060
def test_waits_until_all_that_were_answered_are_back() -> None:
    window = Window()
    assert synced(window, 8)
    window.came([7, 0, 1, 2])
    window.came([3, 4, 5])
    assert window.open
    window.came([6])
    assert not window.open


# Verifies: PER-0060
def test_nobody_is_expected_before_the_first_sync() -> None:
    assert not Window().open


# Verifies: PER-0060
def test_others_and_those_who_come_twice_do_not_count() -> None:
    window = Window()
    synced(window, 4)
    window.came([100, 101, 102, 103, 104])
    window.came([0, 0, 1, 2])
    window.came([2])
    assert window.open
    window.came([3])
    assert not window.open


# Verifies: PER-0060
@pytest.mark.parametrize("answered", range(LEAST))
def test_does_not_wait_for_fewer_than_three(answered: int) -> None:
    assert not synced(Window(), answered)


# Verifies: PER-0060
def test_expects_only_the_share_that_came_back() -> None:
    window = Window()
    synced(window, 10)
    window.came(range(6))
    window.ended()
    synced(window, 20)
    window.came(range(11))
    assert window.open
    window.came([11])
    assert not window.open


# Verifies: PER-0060
def test_tries_everybody_again_ever_more_rarely_while_they_stay_away() -> None:
    window = Window()
    synced(window, 10)
    window.ended()
    pauses = []
    for _ in range(10):
        syncs = 1
        while not synced(window, 10):
            syncs += 1
        pauses.append(syncs)
        window.ended()
    assert pauses[0] == 2 * FIRST_PAUSE
    assert all(later == min(2 * before, LONGEST_PAUSE) for before, later in pairwise(pauses))
    while not synced(window, 10):
        pass
    window.came(range(10))
    window.ended()
    synced(window, 10)
    window.came([0])
    window.ended()
    assert [synced(window, 10) for _ in range(2 * FIRST_PAUSE)].index(True) == 2 * FIRST_PAUSE - 1


async def answer(engine: Engine, *peers: object) -> trio.Event:
    """A change for which these wait. Returns what is set once they were answered."""
    sent = trio.Event()

    def send(fault: StorageFault | None) -> None:
        assert fault is None
        sent.set()

    engine.run_nowait([publish("x")])
    engine.when_durable(send, peers)
    await wait_all_tasks_blocked()
    return sent


PEERS = [object() for _ in range(4)]


# Verifies: PER-0060
async def test_a_sync_waits_until_all_are_back(store: WatchedStorage, mock_clock: MockClock) -> None:
    async with engine_on(store) as engine:
        await (await answer(engine, *PEERS)).wait()
        syncs = store.syncs
        early = await answer(engine, *PEERS[:3])
        assert (store.syncs, early.is_set()) == (syncs, False)
        last = await answer(engine, PEERS[3])
        await early.wait()
        await last.wait()
        assert store.syncs == syncs + 1


# Verifies: PER-0060
async def test_tasks_are_waited_for_too(store: WatchedStorage, mock_clock: MockClock) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        synced = [trio.Event() for _ in range(3)]
        again = [trio.Event() for _ in range(3)]

        async def change_twice(number: int) -> None:
            await engine.run([publish("x")])
            synced[number].set()
            await again[number].wait()
            await engine.run([publish("x")])

        with store.held():
            await answer(engine, object())
            for number in range(3):
                nursery.start_soon(change_twice, number)
            await wait_all_tasks_blocked()
        for each in synced:
            await each.wait()
        syncs = store.syncs
        again[0].set()
        again[1].set()
        await wait_all_tasks_blocked()
        assert store.syncs == syncs
        again[2].set()
    assert store.syncs == syncs + 1


# Verifies: PER-0060
async def test_a_sync_does_not_wait_longer_than_the_window(store: WatchedStorage, mock_clock: MockClock) -> None:
    async with engine_on(store) as engine:
        await (await answer(engine, *PEERS)).wait()
        early = await answer(engine, *PEERS[:3])
        assert not early.is_set()
        mock_clock.jump(WINDOW_SECONDS)
        await early.wait()
        # The next one expects only three quarters.
        await (await answer(engine, *PEERS)).wait()
        await (await answer(engine, *PEERS[:3])).wait()


# Verifies: PER-0060
async def test_those_who_wait_already_are_not_waited_for(store: WatchedStorage, mock_clock: MockClock) -> None:
    """A WebSocket sends on while its requests wait for a sync."""
    async with engine_on(store) as engine:
        with store.held():
            first = await answer(engine, *PEERS)
            again = await answer(engine, *PEERS)
        await first.wait()
        await again.wait()


# Verifies: PER-0060
async def test_there_is_no_window_once_its_time_is_over(store: WatchedStorage, mock_clock: MockClock) -> None:
    async with engine_on(store) as engine:
        await (await answer(engine, *PEERS)).wait()
        mock_clock.jump(WINDOW_SECONDS)
        await (await answer(engine, PEERS[0])).wait()


# Verifies: PER-0060
async def test_a_fault_ends_the_wait_of_those_who_are_held(store: WatchedStorage, mock_clock: MockClock) -> None:
    faults: list[StorageFault | None] = []
    async with engine_on(store) as engine:
        await (await answer(engine, *PEERS)).wait()
        engine.run_nowait([publish("x")])
        engine.when_durable(faults.append, PEERS[:2])
        await wait_all_tasks_blocked()
        assert not faults
        engine.fail(StorageFault("down"))
        assert [str(fault) for fault in faults] == ["down"]


# Verifies: PER-0060
async def test_the_end_of_the_server_fails_those_who_are_held(store: WatchedStorage, mock_clock: MockClock) -> None:
    """None of them may take its change for durable, and what it was handed out goes back."""
    faults: list[StorageFault | None] = []
    async with engine_on(store) as engine:
        await (await answer(engine, *PEERS)).wait()
        syncs = store.syncs
        engine.run_nowait([publish("x")])
        engine.when_durable(faults.append, PEERS[:2])
        await wait_all_tasks_blocked()
        assert not faults
    assert [str(fault) for fault in faults] == [STOPPED]
    assert store.syncs == syncs
