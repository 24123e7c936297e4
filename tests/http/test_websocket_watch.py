"""Who is cut off when WebSockets hold more than their budget: by a clock of the test, with counting connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_outbox import (
    FULL_BYTES,
    ROOM_BYTES,
    SHORT_FULL_BYTES,
    SHORT_ROOM_BYTES,
    Outbox,
)
from qrusty_trio.http.websocket import WebSocketServices, WsConnection
from qrusty_trio.http.websocket_watch import (
    EXHAUSTED_STALL_SECONDS,
    LOOK_SECONDS,
    LOOKS_PER_STEP,
    STALL_SECONDS,
    watch_budget,
)

LIMIT = 1_000_000


class Counting:
    """What the watch sees of a connection."""

    def __init__(self, services: WebSocketServices, held: int = 0) -> None:
        self._services = services
        self.held = 0
        self.progress = 0
        self.at_work = False
        self.cut = False
        self.relieved = 0
        services.connections[cast(WsConnection, self)] = None
        self.hold(held)

    def hold(self, held: int) -> None:
        self._services.budget.change(held - self.held)
        self.held = held

    def cut_off(self) -> None:
        self.cut = True
        self.hold(0)
        del self._services.connections[cast(WsConnection, self)]

    def relieve(self) -> None:
        self.relieved += 1


def nothing_to_give() -> None:
    pass


@asynccontextmanager
async def watched(
    return_freed: Callable[[], None] = nothing_to_give, limit: int = LIMIT
) -> AsyncIterator[WebSocketServices]:
    nothing = cast(Any, None)
    services = WebSocketServices(
        nothing, nothing, nothing, nothing, 30, 10, budget=Budget(limit), return_freed=return_freed
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_budget, services)
        await trio.testing.wait_all_tasks_blocked()
        yield services
        nursery.cancel_scope.cancel()


# Verifies: WS-0021
async def test_nobody_is_cut_off_while_there_is_enough(autojump_clock: trio.testing.MockClock) -> None:
    async with watched() as services:
        stalled = Counting(services, LIMIT - 1)
        await trio.sleep(10 * STALL_SECONDS)
        assert not stalled.cut


# Verifies: WS-0021
async def test_who_takes_nothing_is_cut_off_those_that_hold_most_first(autojump_clock: trio.testing.MockClock) -> None:
    async with watched() as services:
        small = Counting(services, LIMIT // 4)
        large = Counting(services, LIMIT // 2)
        taking = Counting(services, LIMIT // 4)
        with trio.move_on_after(STALL_SECONDS - 1):
            while True:
                await trio.sleep(1)
                taking.progress += 1
        assert not large.cut
        taking.progress += 1
        await trio.sleep(1 + 2 * LOOK_SECONDS)
        assert (small.cut, large.cut, taking.cut) == (False, True, False)
        await trio.sleep(2 * STALL_SECONDS)
        assert not small.cut


# Verifies: WS-0021
async def test_those_that_held_most_for_longest_go_first(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    mib = 1 << 20
    async with watched(limit=64 * mib) as services:
        await trio.sleep(1000)
        Counting(services, 1)
        longer, larger = Counting(services, 40 * mib), Counting(services, 50 * mib)
        await trio.sleep(10)
        larger.progress += 1
        await trio.sleep(5)
        assert (longer.cut, larger.cut) == (False, False)
        at_work = Counting(services, 8 * mib)
        at_work.at_work = True
        assert services.budget.exhausted
        await trio.sleep(2 * LOOK_SECONDS)
        assert (longer.cut, larger.cut) == (True, False)
    assert caplog.messages == [
        "WebSockets cut off: 1, which held 40 MiB and took nothing for 2 s, while all of them held 58 MiB"
    ]


# Verifies: WS-0021
async def test_when_all_is_used_up_patience_is_short(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched() as services:
        many = [Counting(services, LIMIT // 4) for _ in range(7)]
        await trio.sleep(EXHAUSTED_STALL_SECONDS - LOOK_SECONDS)
        assert not any(each.cut for each in many)
        await trio.sleep(3 * LOOK_SECONDS)
        assert sum(each.cut for each in many) == 4
        assert "WebSockets cut off: 4, which held 0 MiB and took nothing for 2 s" in caplog.text
        assert not services.budget.short


# Verifies: WS-0021
async def test_who_holds_little_or_is_at_work_is_never_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with watched() as services:
        little = [Counting(services, SHORT_ROOM_BYTES - 1) for _ in range(LIMIT // SHORT_ROOM_BYTES)]
        at_work = Counting(services, LIMIT)
        at_work.at_work = True
        await trio.sleep(3 * STALL_SECONDS)
        assert not at_work.cut
        assert not any(each.cut for each in little)


async def test_who_holds_more_than_a_little_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with watched() as services:
        many = [Counting(services, SHORT_ROOM_BYTES) for _ in range(LIMIT // SHORT_ROOM_BYTES + 1)]
        await trio.sleep(STALL_SECONDS + 2 * LOOK_SECONDS)
        assert 0 < sum(each.cut for each in many) < len(many)
        assert not services.budget.short


class PerStep(trio.abc.Instrument):
    """Counts something in one step of any task."""

    def __init__(self) -> None:
        self.most = self._count = 0

    def add(self) -> None:
        self._count += 1
        self.most = max(self.most, self._count)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count = 0


# Verifies: SYS-0009
async def test_many_are_looked_at_in_short_steps(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, relieved = PerStep(), PerStep()

    class Looked(Counting):
        def relieve(self) -> None:
            relieved.add()

    monkeypatch.setattr(Looked, "at_work", property(lambda _: looked.add(), lambda *_: None), raising=False)
    async with watched() as services:
        for _ in range(3 * LOOKS_PER_STEP):
            Looked(services, SHORT_ROOM_BYTES)
        services.budget.held = 0
        for instrument in (looked, relieved):
            trio.lowlevel.add_instrument(instrument)
        services.budget.change(LIMIT)
        await trio.sleep(2 * LOOK_SECONDS)
        for instrument in (looked, relieved):
            trio.lowlevel.remove_instrument(instrument)
    assert looked.most == relieved.most == LOOKS_PER_STEP


async def one_holds_all(services: WebSocketServices) -> tuple[Counting, Counting]:
    """One connection that is at work, and one that waits to be decoded meanwhile."""
    holding, waiting = Counting(services, 2 * LIMIT), Counting(services)
    holding.at_work = True
    services.budget.decoded = LIMIT // 4
    await trio.sleep(1)
    assert waiting.relieved == 0
    return holding, waiting


# Verifies: WS-0056
async def test_those_that_wait_to_be_decoded_are_told_when_others_are_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched() as services:
        _, waiting = await one_holds_all(services)
        services.budget.decoded -= 1
        await trio.sleep(2 * LOOK_SECONDS)
        assert waiting.relieved > 0


async def test_those_that_wait_are_told_when_there_is_room(autojump_clock: trio.testing.MockClock) -> None:
    async with watched() as services:
        holding, waiting = await one_holds_all(services)
        holding.hold(LIMIT + LIMIT // 4)
        await trio.sleep(2 * LOOK_SECONDS)
        assert waiting.relieved > 0
        before = waiting.relieved
        holding.hold(0)
        await trio.sleep(2 * LOOK_SECONDS)
        assert waiting.relieved > before
        settled = waiting.relieved
        await trio.sleep(60)
        assert waiting.relieved == settled


def test_what_an_outbox_may_hold_follows_the_budget() -> None:
    budget = Budget(LIMIT)
    outbox = Outbox(lambda: None, budget)
    for others, room, full in [
        (0, ROOM_BYTES, FULL_BYTES),
        (LIMIT, SHORT_ROOM_BYTES, SHORT_FULL_BYTES),
        (LIMIT + LIMIT // 2, 0, SHORT_FULL_BYTES),
        (2 * LIMIT, 0, 0),
    ]:
        for size in (
            0,
            1,
            SHORT_ROOM_BYTES - 1,
            SHORT_ROOM_BYTES,
            ROOM_BYTES - 1,
            ROOM_BYTES,
            FULL_BYTES - 1,
            FULL_BYTES,
        ):
            outbox = Outbox(lambda: None, budget)
            budget.held = 0
            if size:
                outbox.put(bytes(size))
            assert budget.held == size
            budget.held = others if others else 0
            assert outbox.room() is (size < room), (others, size)
            assert outbox.full() is (size >= full), (others, size)
    budget.held = 0
    outbox = Outbox(lambda: None, budget)
    outbox.put(b"x" * 1000)
    outbox.put_responses([b"y" * 500, b"z" * 500])
    assert (outbox.size, budget.held) == (2000, 2000)
    outbox.take()
    assert budget.held == 2000
    outbox.sent()
    assert (outbox.size, budget.held) == (0, 0)
    outbox.put(b"x" * 1000)
    outbox.close()
    assert (outbox.size, budget.held) == (0, 0)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")], ids=repr)
async def test_the_watch_goes_on_when_freed_memory_can_t_be_given_back(
    autojump_clock: trio.testing.MockClock, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """When memory is short there may be none for a thread."""
    tries = 0

    def fail() -> None:
        nonlocal tries
        tries += 1
        raise error

    async with watched(fail) as services:
        for number in (1, 2):
            stuck = Counting(services, 2 * LIMIT)
            # `fail` runs in a real thread, for which the clock does not wait: it may jump any number of times before
            # the watch goes on.
            while not stuck.cut or tries < number:  # noqa: ASYNC110 - nothing tells when
                await trio.sleep(STALL_SECONDS)
    assert f"freed memory could not be given back to the system: {error!r}" in caplog.messages
