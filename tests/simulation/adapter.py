"""The engine as the simulation needs it: how it is put together, made deterministic, and looked into.

Rule: what depends on the inside of the server is here, and in `stored_form.py`; nowhere else in this directory.
"""

from __future__ import annotations

import logging
import os
import random
import traceback
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import trio
import trio._core._run as trio_run

from qrusty_trio.api import batches, browsing, locking, messages, queues, ws_outbox, ws_requests
from qrusty_trio.api import dead_letters as api_dead_letters
from qrusty_trio.api.call import Services
from qrusty_trio.api.gate import Gate
from qrusty_trio.config import Fsync
from qrusty_trio.core import (
    broker,
    catalog,
    dead_letter_moves,
    dead_letters,
    deduplication,
    dispatch,
    externals,
    finding,
    loading,
    locating,
    priorities,
    queue,
    relocation,
    trash,
)
from qrusty_trio.core import browsing as core_browsing
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.pressure import Level
from qrusty_trio.core.timings import Timings
from qrusty_trio.errors import StorageFault
from qrusty_trio.http import websocket, websocket_bursts
from qrusty_trio.http.seldom import Seldom
from qrusty_trio.http.websocket import WebSocketServices
from qrusty_trio.logs import LogRing
from qrusty_trio.server import clock, committer, compactor, engine, recovery, returns, waiters
from qrusty_trio.server.clock import Clock
from qrusty_trio.server.committer import Committer
from qrusty_trio.server.compactor import Compactor
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.lock_syncs import sync_locks
from qrusty_trio.server.recovery import load, recover
from qrusty_trio.server.retention import retain
from qrusty_trio.server.trash import empty_trash
from qrusty_trio.storage.payloads import PayloadStore
from qrusty_trio.storage.removed_log import RemovedLog
from tests.simulation.disk import Disk
from tests.simulation.known import EPOCH
from tests.simulation.model import Model
from tests.simulation.storage import SimulatedStorage

STEP_OPERATIONS = 75
"""Operations of the store that one step of the loop may take, with the small pieces below."""

TURN = 2
"""Messages that one queue may hand out before the next one has its turn."""
PIECES: list[tuple[Any, str, int]] = [
    (dead_letter_moves, "PER_STEP", 3),
    (dead_letters, "PER_STEP", 3),
    (dead_letters, "NUMBERS_PER_STEP", 20),
    (api_dead_letters, "READ_PER_STEP", 4),
    (engine, "EXPIRED_PER_STEP", 3),
    (engine, "DELIVERIES_PER_STEP", 4),
    (engine, "GIVEN_BACK_PER_STEP", 3),
    (engine, "TIDIED_PER_STEP", 3),
    (engine, "PENDING_CHANGES", 12),
    (returns, "GIVEN_BACK_PER_STEP", 3),
    (waiters, "WOKEN_PER_STEP", 2),
    (recovery, "GIVEN_BACK_PER_STEP", 3),
    (recovery, "SESSIONS_PER_STEP", 2),
    (broker, "REFILL_PIECE", 3),
    (broker, "REMOVED_PER_CONSUME", 3),
    (broker, "TIDIED_PER_EXPIRE", 3),
    (dispatch, "TURN", TURN),
    (dispatch, "MOVED_PER_STEP", 2),
    (externals, "_GROUPS_PER_STEP", 10),
    (deduplication, "PER_STEP", 3),
    (deduplication, "TRIM_EVERY", 6),
    (loading, "QUEUES_PER_STEP", 2),
    (loading, "LOCKS_PER_STEP", 3),
    (loading, "LOCK_NUMBERS_PER_STEP", 20),
    (queue, "TRIM_EVERY", 10),
    (catalog, "QUEUES_PER_STEP", 2),
    (relocation, "PIECE", 3),
    (messages, "BATCH_PIECE", 3),
    (batches, "PER_STEP", 3),
    (batches, "CONSUMED_PER_STEP", 2),
    (locking, "BATCH_PIECE", 3),
    (locking, "LOOKED_AT_PIECE", 4),
    (browsing, "MESSAGES_PER_STEP", 3),
    (core_browsing, "FEW_LOCKS", 3),
    (core_browsing, "LOCKS_PER_STEP", 3),
    (core_browsing, "LOCK_NUMBERS_PER_STEP", 20),
    (finding, "MESSAGES_PER_STEP", 3),
    (finding, "MESSAGES_PER_SEARCH", 12),
    (locating, "QUEUES_PER_STEP", 2),
    (locating, "WORK_PER_STEP", 3),
    (locating, "WORK_PER_CALL", 14),
    (locating, "WORK_PER_QUEUE", 1),
    (trash, "PER_STEP", 3),
    (trash, "LOCK_NUMBERS_PER_STEP", 20),
    (priorities, "COUNTED_MESSAGES", 6),
    (priorities, "MESSAGES_PER_STEP", 3),
    (priorities, "FIRST_MESSAGES", 2),
    (priorities, "WINDOW_MESSAGES", 2),
    (queues, "QUEUES_PIECE", 2),
    (ws_requests, "BATCH_PIECE", 3),
    (ws_outbox, "ROOM_BYTES", 1200),
    (ws_outbox, "FULL_BYTES", 5000),
    (ws_outbox, "TAKE_BYTES", 300),
    (websocket_bursts, "REQUESTS_PER_STEP", 3),
    (websocket_bursts, "UNANSWERED_BYTES", 1500),
]
"""What the server does in one step, made so small that a few messages need many steps."""


class Machine:
    """Its clocks, one that people set and one that runs since it was started; its disk, and how slow that is."""

    def __init__(self, slow: float, disk: Disk) -> None:
        self.slow = slow
        """Share of the calls in threads that take long."""
        self.disk = disk
        self.ahead = 0.0
        """Seconds by which the wall clock has been set."""
        self.boot = 1
        self.booted_at = 0.0

    def time(self) -> float:
        return EPOCH + trio.current_time() + self.ahead

    def since_boot(self, _: int) -> float:
        return trio.current_time() - self.booted_at

    def reboot(self) -> None:
        self.boot += 1
        self.booted_at = trio.current_time()


class _Worker:
    """Stands for `server.worker.Worker`: what would run in a thread runs here, at some moment of a wait."""

    def __init__(self, dice: random.Random, machine: Machine, _: str, function: Callable[[], None]) -> None:
        self._dice, self._machine, self._function = dice, machine, function

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    async def call(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        await _as_in_thread(self._dice, self._machine, self._function)


async def _as_in_thread(dice: random.Random, machine: Machine, function: Callable[[], Any]) -> Any:
    """Call it somewhere within a wait that can't be cancelled."""
    with trio.CancelScope(shield=True):
        await trio.sleep(_length(dice, machine))
        try:
            return function()
        finally:
            await trio.sleep(_length(dice, machine))


def _length(dice: random.Random, machine: Machine) -> float:
    at = dice.random()
    if at < machine.slow:
        return dice.uniform(0.2, 3.0)
    return 0.0 if at > 0.8 else dice.uniform(0.0001, 0.002)


@contextmanager
def deterministic(seed: int, machine: Machine) -> Iterator[None]:
    """Everything in here takes the same course whenever it is run with the same seed. Puts back what it replaces."""
    dice = random.Random(f"threads {seed}")
    ids = random.Random(f"ids {seed}")

    async def run_sync(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        return await _as_in_thread(dice, machine, partial(function, *args))

    def new_id() -> str:
        return str(uuid.UUID(int=ids.getrandbits(128), version=4))

    replaced: list[tuple[Any, str, Any]] = [
        *PIECES,
        (trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        (trio_run, "_r", random.Random(seed)),
        (trio.to_thread, "run_sync", run_sync),
        (committer, "Worker", partial(_Worker, dice, machine)),
        # Its first sync is a real one, for which the virtual clock does not wait.
        (committer, "open_kernel", _no_kernel),
        (broker, "new_id", new_id),
        (websocket, "uuid", SimpleNamespace(uuid4=new_id)),
        (clock, "time", SimpleNamespace(time=machine.time, clock_gettime=machine.since_boot, CLOCK_BOOTTIME=7)),
        (clock, "_boot", lambda: machine.boot),
        (os, "fdatasync", machine.disk.fdatasync),
        (compactor, "LOOK_SECONDS", 0.7),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


async def _no_kernel() -> None:
    await trio.lowlevel.checkpoint()


class _Engine(Engine):
    """Tells the model of faults."""

    model: Model

    def fail(self, fault: StorageFault) -> None:
        if self.fault is None and not self.broker.journal.storage.dead:  # type: ignore[attr-defined]  # it is simulated
            self.model.trace.note("engine", "fault:", str(fault))
            self.model.fault_begins()
        super().fail(fault)

    def recovered(self) -> None:
        super().recovered()
        self.model.troubled_until = self.model.now()
        self.model.trace.note("engine", "recovered")


@dataclass(slots=True)
class _Failures(Seldom):
    """A connection that the server failed to serve: never to be seen."""

    model: Model | None = None

    def log(self, line: str, failure: BaseException | None = None) -> None:
        assert self.model is not None
        self.model.fail(f"{line}: {''.join(traceback.format_exception(failure))}")


class Memory:
    """No pressure."""

    level = Level.NORMAL
    under_pressure = False
    usage_bytes = 1
    limit_bytes = 2


class Process:
    """One run of the server, from its start to its end."""

    def __init__(
        self,
        storage: SimulatedStorage,
        model: Model,
        options: dict[str, int],
        directory: Path | None,
        short_of_room: Callable[[], bool],
    ) -> None:
        self._short_of_room = short_of_room
        self.storage = storage
        self.model = model
        self.payloads: PayloadStore | None = None
        limits: dict[str, Any] = {
            "hot_tier_size": options["hot_tier_size"],
            "refill_threshold": 1,
            "max_locked_index": options["max_locked_index"],
        }
        if directory is not None:
            self.payloads = PayloadStore.open(directory / "payloads", segment_max_bytes=options["segment_bytes"])
            limits |= {"payloads": self.payloads, "externalize_min_bytes": options["external_bytes"]}
        self._directory = directory
        self.services = Services(Broker(storage, **limits), Gate(starting=True), Timings(), Memory(), lambda: 0)
        self.engine = _Engine(self.services, Dispatcher(), Clock())
        self.engine.model = model
        policy = list(Fsync)[options["policy"]]
        self.engine.committer = Committer(storage, self.payloads, policy, self.engine.write, self.engine.fail)
        if options["sync_locks"]:
            sync_locks(self.services, self.engine.dispatcher, self.engine.committer)
        self.websockets = WebSocketServices(
            self.engine,
            self.engine.dispatcher,
            self.services.gate,
            LogRing(),
            ping_interval=30,
            ping_timeout=10,
            failures=_Failures(model=model),
        )
        self.compactor: Compactor | None = None
        self.nursery: trio.Nursery
        self.ready = False
        """It was loaded, and has not ended."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All tasks of the background, after the store was loaded."""
        engine = self.engine
        if self._directory is not None and self.payloads is not None:
            self.model.decoder.payloads = self.payloads
            self.compactor = Compactor(engine, self.payloads, RemovedLog(self._directory), 6.0)
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            await nursery.start(engine.committer.run)
            await nursery.start(recover, engine, self._reopen)
            await nursery.start(engine.dispatch)
            await load(engine)
            if self.compactor is not None:
                await self.compactor.check()
            self.services.gate.starting = False
            await nursery.start(engine.reap)
            await nursery.start(engine.search)
            await nursery.start(retain, engine)
            await nursery.start(empty_trash, engine, self._short_of_room)
            if self.compactor is not None:
                await nursery.start(self.compactor.run)
            self.ready = True
            try:
                yield
            finally:
                self.ready = False
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Blocks for some microseconds."""
        self.engine.broker.journal.detach()
        if self.payloads is not None:
            with suppress(StorageFault):  # what could not be synced was never answered for
                self.payloads.close()

    def _reopen(self) -> None:
        self.storage.reopen()
        if self.compactor is not None:
            self.compactor.doubt()

    # What it holds in memory

    @property
    def faulty(self) -> bool:
        return self.engine.fault is not None

    @property
    def clean(self) -> bool:
        """Memory and store should be the same now: there is no fault, and nothing that is not written."""
        journal = self.engine.broker.journal
        return self.ready and self.engine.fault is None and not journal.size and not journal.dirty

    def counters(self) -> dict[int, tuple[str, tuple[int, int, int]]]:
        """Queue number -> name; available, locked, dead."""
        queues = self.engine.broker.catalog.by_number
        return {number: (each.name, (each.available, each.locked, each.dead)) for number, each in queues.items()}

    def kept_aside(self) -> dict[int, tuple[str, tuple[int, int, int]]]:
        """The same of what is in the trash."""
        kept = self.engine.broker.trash.everything()
        return {each.number: (each.name, (each.available, each.locked, each.dead)) for each in kept}

    def locked(self) -> int:
        return self.engine.broker.locks.count

    def number_of(self, name: str) -> int | None:
        found = self.engine.broker.catalog.by_name.get(name)
        return found.number if found is not None else None

    def numbers(self) -> list[int]:
        return list(self.engine.broker.catalog.by_number)

    @property
    def untidy(self) -> bool:
        """Whether locks of purged queues take room."""
        return bool(self.engine.broker.locks.untidy)

    @property
    def giving_back(self) -> bool:
        """Whether what connections held that are gone is still on its way back."""
        return bool(self.engine.sessions.departed)

    def left_over(self) -> list[str]:
        """What should not be there when everything has come to rest."""
        engine, locks = self.engine, self.engine.broker.locks
        found = {
            "a search for duplicates": engine.broker.deduplication.searching,
            "locks of purged queues": locks.untidy,
            "locks without an end": locks._windows,
            "connections that hold something": locks._connections,
            "messages of connections that are gone": engine.sessions.departed,
            "deliveries that nobody saw": engine.returns.unseen,
            "subscribers that wait for a free lock": engine.dispatcher._starved,
            "what is put back": engine.broker.trash._at_work,
        }
        return [what for what, there in found.items() if there]


def quiet() -> None:
    """Nothing is logged: what goes wrong here is meant to."""
    logging.getLogger("qrusty_trio").setLevel(logging.CRITICAL + 1)
