"""The client on Trio and on asyncio, against the real server in a process of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import anyio
import pytest
import trio

from qrusty_trio import client as q
from tests.client.server_process import ServerProcess, on_both_loops, server_process
from tests.http.ws_server import PATIENCE
from tests.server.running import ROOT


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture
def queue(server: ServerProcess, request: pytest.FixtureRequest) -> str:
    """A queue of this test alone."""
    name: str = request.node.name

    async def create() -> None:
        async with q.HttpClient(server.url) as client:
            await client.create_queue(name, "Fifo")

    trio.run(create)
    return name


async def settled(client: q.HttpClient, queue: str, available: int, locked: int) -> None:
    """Wait until the queue holds this many messages."""
    with anyio.fail_after(PATIENCE):
        while True:
            stats = await client.queue_stats(queue)
            if (stats["available"], stats["locked"]) == (available, locked):
                return
            await anyio.sleep(0.01)


# Verifies: SYS-0020, WS-0046, WS-0047
@on_both_loops
def test_http(server: ServerProcess, queue: str, backend: str) -> None:
    async def main() -> None:
        async with q.HttpClient(server.url, connections=4) as client, anyio.create_task_group() as tasks:
            got: Counter[str] = Counter()

            async def work() -> None:
                while message := await client.consume(queue, wait_seconds=0.2):
                    await client.ack(queue, message.id)
                    got[message.payload] += 1

            for _ in range(3):
                tasks.start_soon(work)
            for number in range(50):
                await client.publish(queue, str(number))
            await settled(client, queue, 0, 0)
        assert got == Counter(str(number) for number in range(50))

    anyio.run(main, backend=backend)


@on_both_loops
def test_http_refusals_and_lost_servers(server: ServerProcess, queue: str, backend: str) -> None:
    async def main() -> None:
        async with q.HttpClient(server.url) as client:
            with pytest.raises(q.QueueExists):
                await client.create_queue(queue)
            with pytest.raises(q.NotLocked):
                await client.ack(queue, "no such id")
        with pytest.raises(q.ClientClosed):
            await client.publish(queue, "p")
        async with q.HttpClient("http://127.0.0.1:1", patience_seconds=0.2) as client:
            with pytest.raises(q.NotSent, match=r"can't connect to 127\.0\.0\.1:1: .*refused"):
                await client.publish(queue, "p")

    anyio.run(main, backend=backend)


@on_both_loops
def test_a_cancelled_consume_takes_nothing(server: ServerProcess, queue: str, backend: str) -> None:
    async def main() -> None:
        async with q.HttpClient(server.url, connections=1) as client:
            with anyio.move_on_after(0.1) as scope:
                await client.consume(queue, wait_seconds=30)
            assert scope.cancelled_caught
            await client.publish(queue, "p")
            message = await client.consume(queue, wait_seconds=30)
            assert message is not None
            assert message.retry_count == 1
            with pytest.raises(q.TimedOut):
                await q.HttpClient(server.url, timeout_seconds=-29).consume(queue, wait_seconds=29.1)
            await client.nack(queue, message.id, "again")
            assert await client.consume(queue, wait_seconds=30) is not None

    anyio.run(main, backend=backend)


# Verifies: SYS-0020, WS-0034, WS-0037, WS-0047
@on_both_loops
def test_websocket(server: ServerProcess, queue: str, backend: str) -> None:
    async def main() -> None:
        ids: set[str] = set()
        got: Counter[str] = Counter()
        async with q.connect(server.websocket_url) as client:
            async with anyio.create_task_group() as tasks:

                async def publish(payload: str) -> None:
                    ids.add(await client.publish(queue, payload))

                for number in range(100):
                    tasks.start_soon(publish, str(number))
            assert len(ids) == 100
            async with client.subscribe(queue, prefetch=7) as deliveries, anyio.create_task_group() as tasks:

                async def work() -> None:
                    async for delivery in deliveries:
                        await delivery.ack()
                        got[delivery.id] += 1
                        if got.total() == 100:
                            tasks.cancel_scope.cancel()

                for _ in range(5):
                    tasks.start_soon(work)
            with pytest.raises(q.QueueNotFound):
                await client.publish("no such queue", "p")
            large = "x" * 1_000_000
            await client.publish(queue, large)
            async with client.subscribe(queue) as deliveries:
                delivery = await anext(deliveries)
                assert delivery.payload == large
                await delivery.renew(60)
                await delivery.ack()
        assert got == Counter(ids)
        with pytest.raises(q.ClientClosed):
            await client.publish(queue, "p")

    anyio.run(main, backend=backend)


# Verifies: WS-0047, WS-0049
@on_both_loops
def test_a_warning_before_a_lock_ends(server: ServerProcess, queue: str, backend: str) -> None:
    async def main() -> None:
        async with q.connect(server.websocket_url) as client:
            await client.publish(queue, "p")
            async with client.subscribe(queue, lock_timeout=300, deadline_soon=299) as deliveries:
                delivery = await anext(deliveries)
                with anyio.fail_after(PATIENCE):
                    assert await delivery.deadline_soon()
                await delivery.renew(600)
                await delivery.ack()
                assert not await delivery.deadline_soon()

    anyio.run(main, backend=backend)


# Verifies: WS-0047, WS-0049
@on_both_loops
def test_no_warning_of_a_lock_that_somebody_ended(server: ServerProcess, queue: str, backend: str) -> None:
    async def main() -> None:
        async with q.HttpClient(server.url) as http, q.connect(server.websocket_url) as client:
            await client.publish(queue, "p")
            async with client.subscribe(queue, prefetch=1, lock_timeout=3600, deadline_soon=1) as deliveries:
                delivery = await anext(deliveries)
                await http.force_unlock(queue, all=True)
                delivery.lock_ends = anyio.current_time() + 0.1  # as if the hour were nearly over
                with anyio.fail_after(PATIENCE):
                    assert not await delivery.deadline_soon()
                    assert (await anext(deliveries)).id == delivery.id  # there is a place for it

    anyio.run(main, backend=backend)


# Verifies: WS-0039, WS-0047
@on_both_loops
def test_what_is_held_goes_back_uncounted(server: ServerProcess, queue: str, backend: str) -> None:
    """However the client ends, the connection is closed in order."""

    async def main() -> None:
        async with q.HttpClient(server.url) as http:
            await http.publish(queue, "p")
            with anyio.CancelScope() as scope:
                async with q.connect(server.websocket_url) as client, client.subscribe(queue) as deliveries:
                    await anext(deliveries)
                    scope.cancel()
                    await anyio.sleep_forever()
            with pytest.raises(KeyError):
                async with q.connect(server.websocket_url) as client, client.subscribe(queue) as deliveries:
                    await anext(deliveries)
                    raise KeyError
            message = await http.consume(queue, wait_seconds=30)
            assert message is not None
            assert message.retry_count == 1

    anyio.run(main, backend=backend)


# Verifies: WS-0039
def test_a_task_that_asyncio_cancels_closes_in_order(server: ServerProcess, queue: str) -> None:
    async def main() -> None:
        async with q.HttpClient(server.url) as http:
            await http.publish(queue, "p")
            held = asyncio.Event()

            async def hold() -> None:
                async with q.connect(server.websocket_url) as client, client.subscribe(queue) as deliveries:
                    await anext(deliveries)
                    held.set()
                    await asyncio.sleep(PATIENCE)

            task = asyncio.create_task(hold())
            await held.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            message = await http.consume(queue, wait_seconds=30)
            assert message is not None
            assert message.retry_count == 1

    asyncio.run(main())


# Verifies: SYS-0020, WS-0036, WS-0047
@on_both_loops
def test_a_server_that_is_killed_and_started_again(server: ServerProcess, queue: str, backend: str) -> None:
    async def main() -> None:
        async with q.HttpClient(server.url) as http, q.connect(server.websocket_url) as client:
            for payload in ("first", "second"):
                await client.publish(queue, payload, max_retries=100)
            async with client.subscribe(queue, prefetch=1, lock_timeout=600) as deliveries:
                first = await anext(deliveries)
                await anyio.to_thread.run_sync(server.stop, signal.SIGKILL)
                with pytest.raises(q.ConnectionLost):
                    await first.ack()
                await anyio.to_thread.run_sync(server.start)
                for payload in ("first", "second"):
                    with anyio.fail_after(PATIENCE):
                        delivery = await anext(deliveries)
                    assert delivery.payload == payload
                    await delivery.ack()
            await settled(http, queue, 0, 0)

    anyio.run(main, backend=backend)


# Verifies: WS-0043, WS-0044, WS-0045, WS-0047
@on_both_loops
def test_worker(server: ServerProcess, queue: str, backend: str) -> None:
    """It acks, nacks, renews, and gives back what it did not finish."""

    async def main() -> None:
        stop, tried = anyio.Event(), Counter[str]()
        stuck = anyio.Event()

        async def renewed(id: str) -> None:
            ends: set[int] = set()
            while len(ends) < 2:
                locks = (await client.locks(queue))["locks"]
                ends |= {each["lock_until"] for each in locks if each["id"] == id}
                await anyio.sleep(0.05)

        async def handle(message: q.Message) -> None:
            tried[message.payload] += 1
            if message.payload == "bad":
                raise ValueError("no good")
            if message.payload == "long":
                await renewed(message.id)
            if message.payload == "stuck":
                stuck.set()
                await anyio.sleep_forever()

        async with q.HttpClient(server.url) as client, anyio.create_task_group() as tasks:
            for payload in ("good", "bad", "long", "stuck"):
                await client.publish(queue, payload, max_retries=2)

            async def work() -> None:
                await q.worker(
                    server.websocket_url, queue, handle, concurrency=3, lock_seconds=9, grace_seconds=0.1, stop=stop
                )

            tasks.start_soon(work)
            with anyio.fail_after(PATIENCE):
                await stuck.wait()
            await settled(client, queue, 0, 1)
            stop.set()
            await settled(client, queue, 1, 0)
            dead = (await client.dead_letters(queue))["messages"]
            assert [(each["reason"], each["error"]) for each in dead] == [("nacked", "ValueError: no good")]
            left = await client.consume(queue)
            assert left is not None
            assert (left.payload, left.retry_count) == ("stuck", 1)
        assert tried == {"good": 1, "bad": 2, "long": 1, "stuck": 1}

    anyio.run(main, backend=backend)


PROGRAM = """
import logging, signal, sys, anyio
from qrusty_trio.client import worker

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

async def handle(message):
    print("begun", flush=True)
    await anyio.sleep(float(message.payload))
    print("done", flush=True)

async def main():
    grace = float(sys.argv[3])
    await worker(sys.argv[1], sys.argv[2], handle, concurrency=2, grace_seconds=grace, signals=[signal.SIGTERM])

anyio.run(main, backend=sys.argv[4])
print("ended", flush=True)
"""


# Verifies: WS-0045, WS-0047
@on_both_loops
@pytest.mark.parametrize(
    ("works", "grace", "again", "after"),
    [
        (1, 60, False, ["done", "done", "ended"]),  # what runs is finished, and what was not begun goes back
        (3600, 0.1, False, ["ended"]),  # what does not end in time goes back, too
        (3600, 3600, True, ["ended"]),  # a second signal ends the wait
    ],
)
def test_a_worker_stops_on_a_signal(
    server: ServerProcess, queue: str, backend: str, works: float, grace: float, again: bool, after: list[str]
) -> None:
    async def publish() -> None:
        async with q.HttpClient(server.url) as client:
            for _ in range(3):
                await client.publish(queue, str(works))

    async def look() -> None:
        async with q.HttpClient(server.url) as client:
            await settled(client, queue, 3 - after.count("done"), 0)
            message = await client.consume(queue)
            assert message is not None
            assert message.retry_count == 1

    trio.run(publish)
    command = [sys.executable, "-c", PROGRAM, server.websocket_url, queue, str(grace), backend]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
            process.send_signal(signal.SIGTERM)
            assert any("SIGTERM: the worker" in line for line in process.stdout)
            if again:
                process.send_signal(signal.SIGTERM)
            printed = process.stdout.read().splitlines()
            cancelled = [line for line in printed if line.startswith("handlers were cancelled")]
            when = "at a second signal" if again else f"after {grace:g} s"
            went_back = [] if "done" in after else [f"handlers were cancelled {when}, and their messages go back"]
            assert cancelled == went_back
            assert [line for line in printed if line in ("begun", "done", "ended")] == after
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    trio.run(look)
