"""A worker against the real server, over real sockets, on both transports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from qrusty_trio import client as q
from qrusty_trio.client import subscription
from qrusty_trio.client.connection import Connection
from qrusty_trio.errors import StorageFault
from tests.client.hosting import Host, break_connections
from tests.http.ws_server import PATIENCE, Running, both_paths, running


async def during(server: Running, handler: q.Handler, until: Callable[[], Awaitable[None]], **options: int) -> None:
    """Run a worker until `until` has returned, and stop it."""
    stop = trio.Event()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: q.worker(server.url, "jobs", handler, stop=stop, **options))  # type: ignore[arg-type]
            await until()
            stop.set()


# Verifies: WS-0043
@both_paths
async def test_every_message_is_acked_or_fails_as_often_as_it_may(fast_path: bool) -> None:
    tries: Counter[str] = Counter()
    running_now = 0
    full = trio.Event()

    async def handle(message: q.Message) -> None:
        nonlocal running_now
        running_now += 1
        assert running_now <= 7
        if running_now == 7:
            full.set()
        await full.wait()
        running_now -= 1
        tries[message.payload] += 1
        if int(message.payload) % 50 == 7:
            raise ValueError(f"{message.payload} is not to my liking")

    async with running(fast_path) as server, q.connect(server.url) as client:
        await server.create()
        for number in range(300):
            await client.publish("jobs", str(number))
        await during(server, handle, lambda: server.settle_down(0, 0, 6), concurrency=7)
    assert tries == Counter({str(number): 3 if number % 50 == 7 else 1 for number in range(300)})


# Verifies: WS-0044
@both_paths
async def test_a_handler_that_takes_longer_than_its_lock_keeps_its_message(fast_path: bool) -> None:
    begun: Counter[str] = Counter()

    async def handle(message: q.Message) -> None:
        begun[message.payload] += 1
        await trio.sleep(2.5)

    async with running(fast_path) as server:
        await server.create()
        for number in range(3):
            await server.publish(str(number))
        await during(server, handle, lambda: server.settle_down(0, 0, 0), lock_seconds=1)
    assert begun == Counter("012")


# Verifies: WS-0045
@both_paths
@pytest.mark.parametrize("end", ["stop", "cancel"])
async def test_what_it_had_not_finished_goes_back_uncounted(fast_path: bool, end: str) -> None:
    """With `max_retries` 1, a delivery that counts is the last one."""
    stop = trio.Event()
    ended: list[str] = []

    async def handle(message: q.Message) -> None:
        if message.payload == "quick":
            return
        try:
            await trio.sleep_forever()
        finally:
            ended.append(message.payload)

    async with running(fast_path) as server:
        await server.create()
        for payload in ("quick", "slow", "slow", "later", "later"):
            await server.publish(payload, max_retries=1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: q.worker(server.url, "jobs", handle, concurrency=2, grace_seconds=0.1, stop=stop)
            )
            await server.settle_down(2, 2, 0)
            await trio.testing.wait_all_tasks_blocked()
            if end == "stop":
                stop.set()
            else:
                nursery.cancel_scope.cancel()
        await server.settle_down(4, 0, 0)
    assert ended == ["slow", "slow"]


@both_paths
async def test_a_broken_connection_cancels_handlers_and_brings_their_messages_back(fast_path: bool) -> None:
    begun: Counter[str] = Counter()
    cancelled: Counter[str] = Counter()
    all_begun = trio.Event()

    async def handle(message: q.Message) -> None:
        begun[message.payload] += 1
        if begun.total() == 4:
            all_begun.set()
        try:
            if begun[message.payload] == 1:
                await trio.sleep_forever()
        except trio.Cancelled:
            cancelled[message.payload] += 1
            raise

    async with running(fast_path) as server:
        await server.create()
        for number in range(4):
            await server.publish(str(number))

        async def until() -> None:
            await all_begun.wait()
            break_connections(server)
            await server.settle_down(0, 0, 0)

        await during(server, handle, until)
    assert cancelled == Counter("0123")
    assert begun == Counter("01230123")


@both_paths
async def test_it_outlives_its_server(fast_path: bool, tmp_path: Path) -> None:
    """It starts before the server does, and goes on after a restart."""
    done: Counter[str] = Counter()
    half_done = trio.Event()
    stop = trio.Event()

    async def handle(message: q.Message) -> None:
        await trio.sleep(0.001)
        done[message.payload] += 1
        if done.total() == 100:
            half_done.set()

    async with trio.open_nursery() as nursery:
        host = Host(nursery, fast_path, tmp_path / "data")
        server = await host.start()
        port, url = server.port, server.url
        await server.create()
        for number in range(200):
            await server.publish(str(number))
        await host.stop()
        nursery.start_soon(lambda: q.worker(url, "jobs", handle, stop=stop))
        await host.start(port)
        with trio.fail_after(PATIENCE):
            await half_done.wait()
        await host.stop()
        server = await host.start(port)
        await server.settle_down(0, 0, 0)
        stop.set()
        await host.stop()
    assert set(done) == {str(number) for number in range(200)}
    assert done.total() <= 200 + 8


async def when_nothing_is_locked(server: Running) -> tuple[int, int]:
    """Available messages and dead letters then."""
    while True:
        available, locked, dead = server.counts()
        if not locked:
            return available, dead
        await trio.sleep(0.001)


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when the tasks of a worker and of its connection have taken so many steps."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith(("qrusty_trio.client", "trio_websocket._impl.WebSocketConnection")):
            self._left -= 1
            if self._left == 0:
                self.scope.cancel()


@both_paths
async def test_cancelled_at_any_step_it_loses_nothing_and_counts_nothing(fast_path: bool) -> None:
    """A message that comes with `max_retries` 1 is a dead letter if its delivery counts."""
    async with running(fast_path) as server:
        await server.create()
        step = cancelled = 0
        caught = True
        while caught:
            step += 1
            done: set[str] = set()
            for number in range(3):
                await server.publish(str(number), max_retries=1)
            instrument = CancelAt(step)
            stop = trio.Event()

            async def handle(message: q.Message, done: set[str] = done, stop: trio.Event = stop) -> None:
                await trio.lowlevel.checkpoint()
                done.add(message.id)
                if len(done) == 3:
                    stop.set()

            trio.lowlevel.add_instrument(instrument)
            try:
                with trio.fail_after(PATIENCE), instrument.scope:
                    await q.worker(server.url, "jobs", handle, concurrency=2, stop=stop)
            finally:
                trio.lowlevel.remove_instrument(instrument)
            caught = instrument.scope.cancelled_caught
            cancelled += caught
            available, dead = await when_nothing_is_locked(server)
            assert dead == 0
            assert available + len(done) >= 3
            await server.http("POST", "/purge-queue/jobs")
        assert cancelled > 50


# Verifies: WS-0036, WS-0043
@both_paths
async def test_it_waits_for_a_store_with_a_fault(fast_path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is there when it subscribes for the first time. The server recovers by itself."""
    handled = trio.Event()
    attach = subscription.Deliveries.attach

    async def handle(message: q.Message) -> None:
        handled.set()

    async with running(fast_path) as server:
        await server.create()
        await server.publish()

        async def attach_to_a_fault(deliveries: subscription.Deliveries, connection: Connection) -> None:
            monkeypatch.undo()
            server.engine.fault = StorageFault("the disk is full")
            await attach(deliveries, connection)

        monkeypatch.setattr(subscription.Deliveries, "attach", attach_to_a_fault)
        await during(server, handle, handled.wait)
        await server.settle_down(0, 0, 0)


# Verifies: WS-0043, DLV-0028
@both_paths
async def test_an_ack_that_could_not_be_stored_means_the_work_once_more(fast_path: bool) -> None:
    """The fault ends the connection, and with it the lock. The first delivery does not count."""
    handled: list[str] = []
    twice = trio.Event()

    async def handle(message: q.Message) -> None:
        handled.append(message.id)
        if len(handled) == 1:
            server.engine.fault = StorageFault("the disk is full")
        else:
            twice.set()

    async with running(fast_path) as server:
        await server.create()
        id = await server.publish(max_retries=1)
        await during(server, handle, twice.wait)
        await server.settle_down(0, 0, 0)
    assert handled == [id, id]
