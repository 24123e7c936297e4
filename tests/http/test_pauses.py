"""How a connection waits with a call that waits for a message: for room, for the message, and for its peer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qrusty_trio.http.byte_budget import LARGE_BYTES, Budget, Holding
from qrusty_trio.http.pauses import READ_AHEAD_BYTES, EventPause, SocketPause


class Connection:
    """What a pause needs of a connection, and of request batching. `answers`: what reading ahead finds."""

    def __init__(self, unsent: Holding, answers: list[bool | None]) -> None:
        self.unsent = unsent
        self.answers = answers
        self.limits: list[int] = []
        self.watched: list[bool] = []
        self._woken = trio.Event()

    def read_ahead(self, limit: int) -> bool | None:
        self.limits.append(limit)
        return self.answers.pop(0)

    async def watch(self, connection: object, *, reading: bool) -> None:
        assert connection is self
        self.watched.append(reading)
        self._woken = trio.Event()
        await self._woken.wait()

    def wake(self, connection: object) -> None:
        assert connection is self
        self._woken.set()


def pause_of(kind: str, unsent: Holding, answers: list[bool | None] | None = None) -> tuple[Any, Connection]:
    connection: Any = Connection(unsent, answers or [])
    return (EventPause(unsent) if kind == "event" else SocketPause(connection, connection)), connection


both = pytest.mark.parametrize("kind", ["event", "socket"])


@both
async def test_its_room(kind: str) -> None:
    budget = Budget(2 * LARGE_BYTES)
    other, unsent = Holding(budget), Holding(budget)
    pause, _ = pause_of(kind, unsent)
    assert (pause.over, pause.waited, pause.room()) == (False, False, True)
    other.set(LARGE_BYTES)
    assert pause.room()
    other.set(LARGE_BYTES + 1)
    assert not pause.room()
    unsent.set(LARGE_BYTES - 1)
    assert not pause.room()
    unsent.set(LARGE_BYTES)
    assert pause.room(), "it has it already"
    pause.took(100_000)
    assert unsent.held == 100_000
    pause.release()
    assert unsent.held == 0
    other.set(0)
    await pause.reserve()
    assert unsent.held == LARGE_BYTES


@both
async def test_who_waits_for_room_can_be_woken(kind: str) -> None:
    budget = Budget(LARGE_BYTES)
    await Holding(budget).reserve(LARGE_BYTES)
    unsent = Holding(budget)
    pause, _ = pause_of(kind, unsent)
    for wake in (pause.wake, pause.give_up):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pause.reserve)
            await wait_all_tasks_blocked()
            assert len(budget.waiting) == 1
            wake()
        assert (unsent.held, len(budget.waiting)) == (0, 0)
    assert pause.over


@both
async def test_it_waits_until_it_is_woken_or_the_time_is_over(kind: str, autojump_clock: MockClock) -> None:
    pause, connection = pause_of(kind, Holding(Budget()))
    begun = trio.current_time()
    for _ in range(2):
        await pause.wait(7)
        assert not pause.over
    assert trio.current_time() - begun == 14
    assert pause.waited
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pause.wait, math.inf)
            await wait_all_tasks_blocked()
            pause.wake()
    pause.wake()  # before it waits
    await pause.wait(math.inf)
    await pause.wait(7)
    assert trio.current_time() - begun == 21, "it was woken once for each"
    assert connection.watched == ([] if kind == "event" else [True] * 5)
    pause.give_up()
    await pause.wait(math.inf)
    assert pause.over


async def test_what_comes_meanwhile_is_read_up_to_a_limit_and_the_end_is_seen() -> None:
    pause, connection = pause_of("socket", Holding(Budget()), [True, True, False])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pause.wait, math.inf)
        for _ in range(3):
            await wait_all_tasks_blocked()
            connection.wake(connection)
        await wait_all_tasks_blocked()
        assert not pause.over
        assert connection.watched == [True, True, True, False]
        connection.wake(connection)  # It is the end that it is woken for: no more is read.
    assert pause.over
    assert connection.limits == [READ_AHEAD_BYTES] * 3
    pause, connection = pause_of("socket", Holding(Budget()), [None])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pause.wait, math.inf)
        await wait_all_tasks_blocked()
        connection.wake(connection)
    assert pause.over
