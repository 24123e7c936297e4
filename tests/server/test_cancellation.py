"""Cancel the server at each of its steps: nothing is left behind, and what was answered is in the store.

The server does a small piece of everything (start, requests on both paths, a WebSocket, a long operation, a stop), and
is cancelled before its n-th step, for n from 1 until it gets to its end unharmed. Steps are those of all its tasks:
whatever awaits is cancelled there once. The same with batches, consumes that wait, and a requeue.
"""

from __future__ import annotations

import gc
import json
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from qrusty_trio.config import Settings
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dead_letters import EVERY
from qrusty_trio.logs import LogRing
from qrusty_trio.server import startup
from qrusty_trio.server.startup import Stores
from qrusty_trio.server.supervisor import Server, serve
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.server.collector import collector_restored
from tests.server.running import client_of, settings_for, websocket_of
from tests.tasks import all_tasks
from tests.wire.http_client import HttpClient

ROUND_SECONDS = 60.0
ROCKS_STRIDE = 23
"""With RocksDB a round takes long: only so many-th steps are tried."""
MEMORY_STRIDE = int(os.environ.get("QRUSTY_CANCEL_STRIDE", "1"))
HYPERCORN_STRIDE = int(os.environ.get("QRUSTY_CANCEL_STRIDE", "3"))
"""For batches on the fallback, where most of the steps are Hypercorn's."""
GONE = (EOFError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed)


class Durable(MemoryStorage):
    """A store in memory that passes for one on disk: syncs are waited for, and it outlives its server."""

    persistent = True

    def close(self) -> None:
        """As a store on disk: what it holds is still there."""


class CancelAt(trio.abc.Instrument):
    """Cancels a scope before step number `at` of the tasks under `root`."""

    def __init__(self, scope: trio.CancelScope, at: int) -> None:
        self.scope = scope
        self.at = at
        self.steps = 0
        self.root: trio.lowlevel.Task | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.root is not None and self._is_under(task):
            self.steps += 1
            if self.steps == self.at:
                self.scope.cancel()

    def _is_under(self, task: trio.lowlevel.Task) -> bool:
        at: trio.lowlevel.Task | None = task
        while at is not None and at is not self.root:
            at = at.parent_nursery.parent_task if at.parent_nursery is not None else None
        return at is not None


Use = Callable[[Server, set[str], set[str], set[str]], Awaitable[None]]


async def one_round(settings: Settings, at: int, use: Use) -> tuple[bool, set[str], set[str]]:
    """Run a server, cancelled at one step: whether it was, and what must be in the store now, and what must not."""
    published: set[str] = set()
    asked: set[str] = set()
    acked: set[str] = set()
    scope = trio.CancelScope()
    instrument = CancelAt(scope, at)

    async def run_server(task_status: trio.TaskStatus[Server]) -> None:
        instrument.root = trio.lowlevel.current_task()
        with scope:
            await serve(settings, LogRing(), task_status=task_status)
        instrument.root = None
        nursery.cancel_scope.cancel()

    trio.lowlevel.add_instrument(instrument)
    try:
        with trio.fail_after(ROUND_SECONDS):
            async with trio.open_nursery() as nursery:
                try:
                    server = await nursery.start(run_server)
                except RuntimeError:  # Cancelled before it had started.
                    assert scope.cancelled_caught
                    nursery.cancel_scope.cancel()
                else:
                    await use(server, published, asked, acked)
                    server.stopping.set()
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return scope.cancel_called, published - asked, acked


async def post(client: HttpClient, target: str, **body: Any) -> Any:
    response = await client.request("POST", target, json.dumps(body).encode())
    if response.status == 503:
        await trio.sleep(0.002)
        return await post(client, target, **body)
    assert response.status == 200, response
    return response.json() if response.body else None


@contextmanager
def nothing_more_than_gone() -> Iterator[None]:
    """The server may go at any time. Anything else that goes wrong does not go unseen."""
    try:
        yield
    except* GONE:
        pass


async def use(server: Server, published: set[str], asked: set[str], acked: set[str]) -> None:
    """Notes what was published, which acks were sent, and which of them answered."""
    with nothing_more_than_gone():
        async with client_of(server) as client:
            for number in range(3):
                response = await post(client, "/publish", queue="q", priority=number, payload=str(number) * 10)
                published.add(response["id"])
            got = await post(client, "/consume/q", consumer_id="c", timeout_seconds=1000)
            asked.add(got["id"])
            await post(client, f"/ack/q/{got['id']}", consumer_id="c")
            acked.add(got["id"])
            await post(client, "/update-queue", name="q", config={"allow_duplicates": False})
            got = await post(client, "/consume/q", consumer_id="c", timeout_seconds=1000)
            asked.add(got["id"])
            await post(client, "/ack-batch/q", consumer_id="c", message_ids=[got["id"]])
            acked.add(got["id"])
            await client.request("GET", "/stats")
            await client.request("GET", "/ui/")
        async with websocket_of(server) as socket:
            for request in (
                {"type": "publish", "queue": "q", "payload": "over a socket"},
                {"type": "subscribe", "queue": "q", "credits": 1},
            ):
                await socket.send_message(json.dumps(request))
                response = json.loads(await socket.get_message())
                if "id" in response:
                    published.add(response["id"])
            response = json.loads(await socket.get_message())
            asked.add(response["id"])
            await socket.send_message(json.dumps({"type": "ack", "queue": "q", "id": response["id"]}))
            json.loads(await socket.get_message())
            acked.add(response["id"])


async def use_batches_and_waits(server: Server, published: set[str], asked: set[str], acked: set[str]) -> None:
    with nothing_more_than_gone():
        async with client_of(server) as client:
            await use_batches(client, published, asked, acked)
            await use_a_wait(server, client, published, asked, acked)


async def use_batches(client: HttpClient, published: set[str], asked: set[str], acked: set[str]) -> None:
    """Three messages: one is acked, one requeued, one purged."""
    messages = [{"priority": 1, "payload": f"{number}", "max_retries": 1} for number in range(3)]
    ids = (await post(client, "/publish-batch", queue="b", messages=messages))["ids"]
    # The last may be purged, or die of an expiry in the check.
    published |= set(ids[:2])
    got = await post(client, "/consume-batch/b", consumer_id="c", max_messages=5, timeout_seconds=1000, wait_seconds=5)
    assert [message["id"] for message in got["messages"]] == ids
    asked.add(ids[0])
    await post(client, "/ack-batch/b", consumer_id="c", message_ids=ids[:1])
    acked.add(ids[0])
    await post(client, "/renew-batch/b", consumer_id="c", message_ids=ids[1:])
    dead = await post(client, "/nack-batch/b", consumer_id="c", message_ids=ids[1:], error="e")
    assert dead["dead_lettered"] == ids[1:]
    await post(client, "/create-queue", name="q", config={"ordering": "Fifo"})
    moved = await post(client, "/queues/b/dead-letters/requeue", filter={"text": "1"}, to="q", priority=5)
    assert moved["requeued"] == 1
    asked.add(ids[2])
    assert (await post(client, "/queues/b/dead-letters/purge", ids=[ids[2], "x"]))["purged"] == 1
    acked.add(ids[2])


async def use_a_wait(server: Server, client: HttpClient, published: set[str], asked: set[str], acked: set[str]) -> None:
    """A consume of several queues waits, and gets what is published meanwhile. Another one is left."""
    async with client_of(server) as other, trio.open_nursery() as nursery:

        async def consume() -> None:
            terms = {"consumer_id": "c", "timeout_seconds": 1000, "wait_seconds": 60}
            got = await post(other, "/consume", queues=["w", "v"], **terms)
            if got is not None:  # The server stops.
                asked.add(got["id"])
                await post(other, f"/ack/w/{got['id']}", consumer_id="c")
                acked.add(got["id"])

        nursery.start_soon(consume)
        await client.request("GET", "/queue-stats/b")
        published.add((await post(client, "/publish", queue="w", priority=1, payload="waited for"))["id"])
    async with client_of(server) as gone, trio.open_nursery() as nursery:
        nursery.start_soon(partial(post, gone, "/consume-batch/w", consumer_id="c", max_messages=2, wait_seconds=60))
        await client.request("GET", "/queue-stats/b")
        nursery.cancel_scope.cancel()


def census(others: set[threading.Thread]) -> tuple[int, list[str]]:
    """Tasks, and open files and sockets; fails for threads that still do something, besides `others`."""
    tasks = all_tasks()
    assert tasks
    for thread in set(threading.enumerate()) - others:
        own = thread is threading.main_thread() or re.fullmatch(r"Trio thread \d+|log output", thread.name)
        assert own, f"{thread.name} still runs"
    files = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            files.append(re.sub(r":\[\d+\]", "", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
    return len(tasks), sorted(files)


def check_stored(storage: Any, there: set[str], gone: set[str]) -> None:
    broker = Broker(storage)
    for _ in broker.load():
        pass
    broker.expire(2**42, 1000)
    found: set[str] = set()
    for queue in broker.catalog.everything():
        while delivery := broker.consume(queue.name, "check", 1000, 2**42):
            assert delivery.id not in found, "a message is in two places"
            found.add(delivery.id)
        for batch in broker.dead_letters.search(queue, EVERY, 0, queue.next_dead, 100):
            assert not found & {letter.id for letter in batch.letters}, "a message is in two places"
            found |= {letter.id for letter in batch.letters}
    broker.journal.detach()
    assert there <= found, f"lost: {there - found}"
    assert not gone & found, f"came back after their ack: {gone & found}"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What the garbage collector would close must not hide what was left open."""
    with collector_restored():
        gc.collect()
        gc.disable()
        yield
        gc.enable()


# Verifies: DLV-0025
@pytest.mark.timeout(900)
@pytest.mark.parametrize("of", ["messages", "batches"])
async def test_every_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fast_path: bool, of: str) -> None:
    settings = settings_for(tmp_path / "data", fast_path=fast_path)
    before = None
    others = set(threading.enumerate())  # such as those of a browser that other tests use
    at = 0
    cancelled = True
    function = use if of == "messages" else use_batches_and_waits
    stride = MEMORY_STRIDE if of == "messages" or fast_path else HYPERCORN_STRIDE
    while cancelled:
        at += stride
        storage = Durable()
        monkeypatch.setattr(startup, "open_stores", lambda settings, storage=storage: Stores(storage, None, None))
        cancelled, there, gone = await one_round(settings, at, function)
        check_stored(storage, there, gone)
        await trio.testing.wait_all_tasks_blocked()
        now = census(others)
        if before is not None:
            assert now == before, f"left behind when cancelled at step {at}"
        before = now
    assert at > 100


# Verifies: DLV-0025
@pytest.mark.timeout(900)
async def test_steps_over_rocksdb(tmp_path: Path, fast_path: bool) -> None:
    before = None
    others = set(threading.enumerate())  # such as those of a browser that other tests use
    at = 0
    cancelled = True
    while cancelled:
        at += ROCKS_STRIDE
        path = tmp_path / str(at)
        cancelled, there, gone = await one_round(settings_for(path, fast_path=fast_path), at, use)
        # The traceback of the cancellation may hold frames of the loader with a family of the store.
        gc.collect()
        # Opening it takes the lock of the directory, so nobody else has it.
        storage = RocksStorage.open(path, cache_mb=8, write_buffer_mb=4, max_open_files=64)
        try:
            check_stored(storage, there, gone)
        finally:
            storage.close()
        await trio.testing.wait_all_tasks_blocked()
        now = census(others)
        if before is not None:
            assert now == before, f"left behind when cancelled at step {at}"
        before = now
