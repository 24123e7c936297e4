"""An engine with its tasks and without sockets, and a store whose steps a test can count, hold up and break."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio

from qrusty_trio.api.call import Call, Reply, Services
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.operations import resolve
from qrusty_trio.config import Fsync
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.pressure import Level
from qrusty_trio.core.timings import Timings
from qrusty_trio.errors import DiskFull, StorageFault
from qrusty_trio.server.clock import Clock
from qrusty_trio.server.committer import Committer
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.lock_syncs import sync_locks
from qrusty_trio.server.recovery import RETRY_SECONDS, load, recover
from qrusty_trio.storage.base import Batch, Storage

STEP_SECONDS = 60.0
"""No step of a test takes that long."""


class Memory:
    level = Level.NORMAL
    under_pressure = False
    usage_bytes = 1
    limit_bytes = 2


class WatchedStorage:
    """A real store. Its steps are counted, and can be held up or made to fail."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.persistent = True
        self.writes = 0
        self.syncs = 0
        self.sync_begun = threading.Event()
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.sync_fault: StorageFault | None = None
        """Raised by every sync until `reopen`."""
        self.write_fault: StorageFault | None = None
        """Raised by every write until `reopen`."""
        self.writes_left: int | None = None
        """So many more writes succeed; the next one fails, and all after it until `reopen`."""
        self.reopen_fault: StorageFault | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write(self, batch: Batch) -> None:
        if self.writes_left == 0:
            self.write_fault = DiskFull("No space left on the device.")
        if self.write_fault is not None:
            raise self.write_fault
        self.writes += 1
        if self.writes_left is not None:
            self.writes_left -= 1
        self.inner.write(batch)

    def sync(self) -> None:
        self.sync_begun.set()
        assert self.may_sync.wait(STEP_SECONDS)
        if self.sync_fault is not None:
            raise self.sync_fault
        self.syncs += 1
        self.inner.sync()

    watched = False

    def sync_descriptor(self) -> None:
        """Every sync is `sync`."""

    def reopen(self) -> None:
        if self.reopen_fault is not None:
            raise self.reopen_fault
        self.inner.reopen()
        self.sync_fault = self.write_fault = self.writes_left = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """No sync comes to its end."""
        self.may_sync.clear()
        self.sync_begun.clear()
        try:
            yield
        finally:
            self.may_sync.set()

    async def until_sync_begins(self) -> None:
        with trio.fail_after(STEP_SECONDS):
            while not self.sync_begun.is_set():  # noqa: ASYNC110  # set in a thread
                await trio.sleep(0.001)
        self.sync_begun.clear()


def make_engine(storage: Any, policy: Fsync = Fsync.ALWAYS, *, lock_syncs: bool = False, **options: Any) -> Engine:
    """An engine that has read nothing yet, without its tasks."""
    services = Services(Broker(storage, **options), Gate(), Timings(), Memory(), lambda: 0)
    engine = Engine(services, Dispatcher(), Clock())
    engine.committer = Committer(storage, None, policy, engine.write, engine.fail)
    if lock_syncs:
        sync_locks(engine.services, engine.dispatcher, engine.committer)
    return engine


@asynccontextmanager
async def engine_on(storage: Any, policy: Fsync = Fsync.ALWAYS, **options: Any) -> AsyncIterator[Engine]:
    """An engine with every task but the sampler's; `options` go to the broker."""
    engine = make_engine(storage, policy, **options)
    await load(engine)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.committer.run)
        await nursery.start(recover, engine, storage.reopen)
        await nursery.start(engine.dispatch)
        await nursery.start(engine.reap)
        await nursery.start(engine.search)
        yield engine
        nursery.cancel_scope.cancel()


def call(method: str, path: str, **body: Any) -> Call:
    path, _, query = path.partition("?")
    operation, params = resolve(method, path.encode())
    return Call(operation, params, json.dumps(body).encode() if body else b"", query)


def publish(payload: str, queue: str = "q", **fields: Any) -> Call:
    return call("POST", "/publish", **{"queue": queue, "priority": 0, "payload": payload, **fields})


def consume(queue: str = "q", seconds: int = 30) -> Call:
    return call("POST", f"/consume/{queue}", consumer_id="c", timeout_seconds=seconds)


def ack(id: str, queue: str = "q") -> Call:
    return call("POST", f"/ack/{queue}/{id}", consumer_id="c")


def response(reply: Reply) -> Any:
    """The body of a reply with status 200."""
    assert reply.status == 200, reply.body
    return json.loads(reply.body) if reply.body else None


async def until_back(engine: Engine) -> None:
    """The store has recovered, and nothing of the fault is left to be done."""
    # Recovery works in a thread, for which a mocked clock does not wait.
    given_up = time.monotonic() + STEP_SECONDS
    while engine.fault is not None:
        assert time.monotonic() < given_up, engine.fault
        await trio.sleep(RETRY_SECONDS / 100)
    assert engine.broker.journal.fault is None
    assert not engine.returns.unseen
    assert not engine.broken.is_set()
    assert not engine.sessions.departed


async def run(engine: Engine, *calls: Call) -> list[Any]:
    """Run a burst; the bodies."""
    return [response(reply) for reply in await engine.run(calls)]
