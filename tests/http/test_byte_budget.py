"""What all HTTP connections together make the server hold: small budgets, real sockets with small buffers."""

from __future__ import annotations

import gc
import math
import os
import socket
import struct
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.api.call import Call, Pause, Reply
from qrusty_trio.http import byte_budget, fast_path
from qrusty_trio.http.batching import Batching
from qrusty_trio.http.byte_budget import LARGE_BYTES, SMALL_BYTES, Budget, Holding
from qrusty_trio.http.connection import FastConnection
from qrusty_trio.http.fallback import guard
from qrusty_trio.http.fallback.hypercorn import Fallback
from qrusty_trio.http.fast_path import FastPath
from qrusty_trio.http.shared import BODY, SENDING
from qrusty_trio.http.webui import web_file
from tests.http.test_held_bytes import CONSUME, LARGE, fill, non_readers, traced
from tests.http.web import PATHS, Client, Web, context_for, make_engine, request, running

both_paths = pytest.mark.parametrize("fast", PATHS, ids=["fast", "quart"])

LIMIT = 2 * LARGE_BYTES
SEND_BUFFER = 65536
PEERS = 10


def limited(web: Web) -> Budget:
    web.context.unsent.limit = web.context.received.limit = LIMIT
    return web.context.unsent


async def until_waiting(budget: Budget, count: int) -> None:
    with trio.fail_after(60):
        while len(budget.waiting) < count:
            await trio.testing.wait_all_tasks_blocked(0.01)


async def until_nothing_is_held(budget: Budget) -> None:
    with trio.fail_after(60):
        while budget.held or budget.waiting:
            await trio.testing.wait_all_tasks_blocked(0.01)


async def until_counts(web: Web, available: int, locked: int) -> None:
    with trio.fail_after(60):
        while True:
            stats = web.engine.broker.catalog.stats("q")
            assert stats is not None
            if (stats.available, stats.locked) == (available, locked):
                break
            await trio.testing.wait_all_tasks_blocked(0.005)


def runs_of(web: Web) -> list[int]:
    """How many calls the tasks of connections give to the engine, each time from now on."""
    ran: list[int] = []
    run = web.engine.run

    async def count(calls: Sequence[Call], pause: Pause | None = None) -> list[Reply]:
        ran.append(len(calls))
        return await run(calls, pause)

    web.engine.run = count  # type: ignore[method-assign]  # to look on
    return ran


async def takes(client: Client) -> None:
    assert (await client.response()).status == 200


# Verifies: API-0040
@both_paths
async def test_many_that_do_not_read_hold_the_budget_and_no_more(fast: bool) -> None:
    async with running(fast, send_buffer=SEND_BUFFER) as web, non_readers(web, PEERS) as clients:
        budget = limited(web)
        await fill(web, PEERS)
        with traced() as held:
            for client in clients:
                await client.send(CONSUME)
            await until_waiting(budget, 4)
            assert budget.held <= LIMIT
            assert held.now < 3 * (LIMIT + LARGE), "with the copy of what is locked in the store in memory"
            stats = web.engine.broker.catalog.stats("q")
            assert stats is not None
            assert stats.available >= len(budget.waiting), "nothing is locked for those who wait"
            # What is small is served to everybody all the while.
            assert (await web.ask("GET", "/health")).status == 200
            await fill(web, 1, 10)
            # All get theirs in turn.
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(takes, client)
        await until_nothing_is_held(budget)


# Verifies: API-0041
@both_paths
async def test_while_others_wait_those_who_take_nothing_are_cut_off(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_budget, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(fast_path, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(guard, "WATCH_SECONDS", 0.05)
    async with running(fast, send_buffer=SEND_BUFFER) as web, non_readers(web, PEERS) as clients:
        budget = limited(web)
        await fill(web, 3)
        for client in clients:
            await client.send(CONSUME)
        # The messages of those who are cut off go to those who wait, and at last to this one, who takes it.
        async with web.client() as reader:
            await reader.send(CONSUME)
            with trio.fail_after(60):
                await takes(reader)
        assert budget.held <= LIMIT


# Verifies: API-0040
@both_paths
async def test_bodies_that_come_slowly_wait_for_room_in_their_sockets(fast: bool) -> None:
    async with running(fast) as web, non_readers(web, 2 * PEERS) as clients, trio.open_nursery() as nursery:
        limited(web)
        budget = web.context.received
        body = request("POST", "/publish", {"queue": "q", "priority": 1, "payload": "x" * LARGE})
        beginning, end = memoryview(body)[:-1000], body[-1000:]
        rest = trio.Event()
        answered: list[int] = []

        async def upload(client: Client) -> None:
            await client.send(beginning)
            await rest.wait()
            await client.send(end)
            answered.append((await client.response()).status)

        with traced() as held:
            for client in clients:
                nursery.start_soon(upload, client)
            await until_waiting(budget, PEERS)
            assert budget.held <= LIMIT
            assert held.now < 3 * LIMIT < len(clients) * LARGE
            assert (await web.ask("GET", "/health")).status == 200
            await fill(web, 1, 10)
        rest.set()
        with trio.fail_after(60):
            while len(answered) < len(clients):
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert set(answered) == {200}
        await until_nothing_is_held(budget)


# Verifies: API-0041
async def test_a_body_that_hardly_moves_gives_way_to_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_budget, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(fast_path, "TICK_SECONDS", 0.05)
    async with running(True) as web, non_readers(web, PEERS) as clients:
        limited(web)
        body = request("POST", "/publish", {"queue": "q", "priority": 1, "payload": "x" * LARGE})
        for client in clients:
            await client.send(body[:20_000])
        await until_waiting(web.context.received, 1)
        with trio.fail_after(60):
            assert (
                await web.ask("POST", "/publish", {"queue": "q", "priority": 1, "payload": "y" * LARGE})
            ).status == 200


async def test_nothing_more_is_run_for_one_that_left_while_it_was_answered() -> None:
    async with running(True, send_buffer=SEND_BUFFER) as web, non_readers(web, 1) as (client,):
        await fill(web, 3)
        await client.send(CONSUME * 3)
        await until_counts(web, 2, 1)
        ran = runs_of(web)
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.stream.aclose()
        await until_counts(web, 3, 0)
        await until_nothing_is_held(web.context.unsent)
        assert not ran


async def test_nothing_is_run_for_those_who_left_while_they_waited() -> None:
    async with running(True, send_buffer=SEND_BUFFER) as web, non_readers(web, PEERS) as clients:
        budget = limited(web)
        await fill(web, PEERS)
        for client in clients:
            await client.send(CONSUME)
        await until_waiting(budget, 4)
        ran = runs_of(web)
        for client in reversed(clients):
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.stream.aclose()
        await until_nothing_is_held(budget)
        assert not ran
        await until_counts(web, PEERS, 0)


# Verifies: API-0040
async def test_room_is_given_in_turn_and_to_those_who_are_still_there() -> None:
    budget = Budget(100_000)
    first, second, third = Holding(budget), Holding(budget), Holding(budget)
    await first.reserve(90_000)
    order: list[str] = []

    async def wait(holding: Holding, octets: int, name: str) -> None:
        await holding.reserve(octets)
        order.append(name)

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def leaves() -> None:
            with scope:
                await wait(second, 100_000, "left")

        nursery.start_soon(leaves)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait, third, 10_000, "third")
        await trio.testing.wait_all_tasks_blocked()
        assert order == [], "it fits, but it is not its turn"
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["third"]
    first.set(0)
    third.set(SMALL_BYTES)
    assert budget.held == 0
    await second.reserve(10**9)  # alone, whatever its size
    second.set(0)
    assert budget.held == 0


# Verifies: API-0040
async def test_who_leaves_as_its_turn_comes_takes_nothing() -> None:
    budget = Budget(100_000)
    first, second, third = Holding(budget), Holding(budget), Holding(budget)
    first.set(100_000)
    with trio.fail_after(60):
        async with trio.open_nursery() as waiting, trio.open_nursery() as leaving:
            leaving.start_soon(second.reserve, 60_000)
            await trio.testing.wait_all_tasks_blocked()
            waiting.start_soon(third.reserve, 50_000)
            await trio.testing.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
            first.set(0)
    assert (second.held, third.held, budget.held) == (0, 50_000, 50_000)


# Verifies: API-0040
async def test_while_anyone_waits_nobody_else_gets_room() -> None:
    budget = Budget(10 * LARGE_BYTES)
    first, second = Holding(budget), Holding(budget)
    await first.reserve(LARGE_BYTES)
    assert not any((budget.short, budget.tight))
    assert not Budget(LARGE_BYTES - 1).tight, "nothing is held"
    for held, short, tight in (
        (budget.limit - LARGE_BYTES, False, False),
        (budget.limit - LARGE_BYTES + 1, False, True),
        (budget.limit - 1, False, True),
        (budget.limit, True, True),
        (LARGE_BYTES, False, False),
    ):
        first.set(held)
        assert (budget.short, budget.tight) == (short, tight), held
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.reserve, budget.limit)
        await trio.testing.wait_all_tasks_blocked()
        assert all((budget.short, budget.tight))
        first.set(0)
    second.set(LARGE_BYTES)
    assert not any((budget.short, budget.tight))


# Verifies: API-0040
async def test_of_one_connection_only_so_many_requests_hold_room() -> None:
    among = trio.Semaphore(1)
    holding = Holding(Budget(), among)
    holding.set(0)
    assert among.value == 1
    await holding.reserve(LARGE_BYTES)
    holding.set(LARGE_BYTES // 2)
    assert among.value == 0
    holding.set(0)
    assert among.value == 1


# Verifies: API-0041
@pytest.mark.parametrize("phase", [BODY, SENDING])
async def test_a_connection_lags_that_holds_a_request_and_hardly_moves(phase: int) -> None:
    context = context_for(make_engine(), True)
    context.received.limit = LARGE_BYTES
    shared = FastPath(context, Fallback(context).serve).shared
    connection = FastConnection(shared, Batching(shared), trio.testing.memory_stream_pair()[0])
    await connection.received.reserve(LARGE_BYTES)
    other = Holding(context.received)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.reserve, LARGE_BYTES)
        await trio.testing.wait_all_tasks_blocked()
        connection.phase = phase
        lags = []
        for shared.now in (0.0, 4.9, 5.0):
            lags.append(connection.lags())
        assert lags == [False, False, True]
        connection.received.set(0)
    other.set(0)


# Verifies: API-0040
async def test_a_long_header_block_waits_for_room() -> None:
    async with running(True) as web, web.client() as client:
        budget = web.context.received
        others = Holding(budget)
        await others.reserve(budget.limit)
        whole = request("GET", "/health", headers=b"X: %b\r\n" % (b"x" * 2 * SMALL_BYTES))
        await client.send(whole[:-1])
        await until_waiting(budget, 1)
        others.set(0)
        await client.send(whole[-1:])
        assert (await client.response()).status == 200
        await until_nothing_is_held(budget)


# Verifies: API-0040
async def test_a_file_of_the_ui_waits_for_room() -> None:
    async with running(True, files={b"/ui/": web_file("index.html", b"page")}) as web, web.client() as client:
        budget = web.context.unsent
        others = Holding(budget)
        for _ in range(2):
            await others.reserve(budget.limit)
            await client.send(request("GET", "/health"))
            assert (await client.response()).status == 200
            await client.send(request("GET", "/ui/"))
            await until_waiting(budget, 1)
            others.set(0)
            assert (await client.response()).body == b"page"
            await until_nothing_is_held(budget)


# Verifies: API-0040
async def test_requests_that_came_together_wait_for_room_for_their_responses() -> None:
    """They are to be served together, but those before them take all the room."""
    async with running(True, send_buffer=SEND_BUFFER) as web, non_readers(web, PEERS) as clients:
        budget = web.context.unsent
        budget.limit = LARGE_BYTES + LARGE
        await fill(web, PEERS)
        await trio.testing.wait_all_tasks_blocked()
        for client in clients:
            os.write(client.stream.socket.fileno(), CONSUME)  # without a turn for the server
        await until_waiting(budget, 1)
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(takes, client)
        await until_nothing_is_held(budget)


# Verifies: API-0040
async def test_those_who_run_later_wait_for_room_that_was_taken_meanwhile() -> None:
    """They came together, and only the first was served at once."""
    async with running(True) as web, non_readers(web, 4) as clients:
        budget = web.context.unsent
        others = Holding(budget)
        await fill(web, 12, 10)
        for client in clients * 2:
            await client.send(CONSUME)
            await takes(client)
        run = web.engine.run_nowait

        def only_the_first(calls: Sequence[Call]) -> list[Reply]:
            others.set(budget.limit)
            return run(calls[:1])

        web.engine.run_nowait = only_the_first  # type: ignore[method-assign]  # as if each took long
        await trio.testing.wait_all_tasks_blocked()
        for client in clients:
            os.write(client.stream.socket.fileno(), CONSUME)  # without a turn for the server
        await until_waiting(budget, 3)
        others.set(0)
        for client in clients:
            await takes(client)
        await until_nothing_is_held(budget)


# Verifies: API-0041
async def test_those_lag_who_hold_some_while_others_wait_and_hardly_move() -> None:
    budget = Budget(100_000)
    holding = Holding(budget)
    await holding.reserve(90_000)
    assert not holding.lags(0, 0)
    assert not holding.lags(1000, 0), "nobody waits"
    with trio.move_on_after(math.inf) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Holding(budget).reserve, 50_000)
            await trio.testing.wait_all_tasks_blocked()
            assert not holding.lags(0, 0)
            assert not holding.lags(4, 70_000), "it moves"
            assert not holding.lags(8, 70_001)
            assert holding.lags(9.1, 70_001)
            scope.cancel()
    assert not budget.waiting


async def test_a_connection_that_has_ended_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[FastConnection]] = []

    class Watched(FastConnection):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(weakref.ref(self))

    monkeypatch.setattr(fast_path, "FastConnection", Watched)
    async with running(True) as web:
        async with web.client() as client:
            assert (await client.ask("GET", "/health")).status == 200
        with trio.fail_after(60):
            while web.context.connections.value:
                await trio.testing.wait_all_tasks_blocked(0.005)
        gc.collect()
        assert [each() for each in made] == [None]
