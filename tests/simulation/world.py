"""One simulated world: a server, its store, its clients, and everything that goes wrong. One seed, one course.

Rule: a world has three times. Life: clients do as they like, faults come, the process ends and begins anew. Rest: no
more faults, no new requests; all that is under way has to come to an end (`liveness.py`). Then the last look.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from trio.testing import MockClock

from qrusty_trio.http.byte_budget import LARGE_BYTES, Budget
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.simulation import adapter
from tests.simulation.adapter import Machine, Process, deterministic
from tests.simulation.clients import Caller, Manager
from tests.simulation.disk import Disk
from tests.simulation.liveness import come_to_rest
from tests.simulation.model import Model
from tests.simulation.peers import WebSocketPeer
from tests.simulation.storage import Odds, SimulatedStorage
from tests.simulation.trace import Trace, Violation

MOST_STEPS = 150_000
"""Many times what any world takes."""
TEXT_CONSUMER = "ws-00000000-0000-4000-8000-000000000001"
"""An HTTP consumer that calls itself what a WebSocket is called."""


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    life: float
    odds: Odds
    slow: float
    fdatasync: float
    restarts: int
    rocksdb: bool
    externals: bool
    callers: int
    peers: int
    managers: int
    short: float
    """How often the disk is found to have little room."""
    haste: float
    """How much faster than usual the managers are."""
    options: dict[str, int]

    @classmethod
    def of(cls, seed: int) -> Plan:
        dice = random.Random(f"plan {seed}")
        faults = dice.choice((0.0, 0.0, 1.0, 4.0, 15.0))
        externals = dice.random() < 0.3
        return cls(
            life=dice.choice((4.0, 12.0, 30.0)),
            odds=Odds(0.006 * faults, 0.008 * faults, 0.002 * faults, 0.4 if faults else 0.0),
            slow=dice.choice((0.0, 0.02, 0.2)),
            fdatasync=dice.choice((0.0, 0.02, 0.1)) if externals and faults else 0.0,
            restarts=dice.choice((0, 0, 1, 3)),
            rocksdb=dice.random() < 0.03,
            externals=externals,
            callers=dice.randint(1, 4),
            peers=dice.randint(0, 4),
            managers=dice.choice((0, 1, 1, 2)),
            short=dice.choice((0.0, 0.0, 0.1)),
            haste=dice.choice((1.0, 1.0, 10.0)),
            options={
                "hot_tier_size": dice.randint(1, 4),
                "max_locked_index": dice.choice((3, 5, 10, 1000)),
                "policy": dice.choice((0, 0, 0, 1, 2)),
                # Of its own, so that it changes nothing else of the worlds.
                "sync_locks": random.Random(f"locks {seed}").random() < 0.3,
                "segment_bytes": 2000,
                "external_bytes": 40,
            },
        )


class World:
    """See above."""

    def __init__(self, seed: int, directory: Path, machine: Machine) -> None:
        self.seed = seed
        self.plan = plan = Plan.of(seed)
        self.directory = directory
        self.dice = random.Random(f"world {seed}")
        self.trace = Trace()
        self.machine = machine
        self.resting = False
        self.rush = trio.Event()
        """Set when everybody is to act in the same instant."""
        self.unsent = Budget(2 * LARGE_BYTES)
        """Room for responses."""
        self.requests: set[trio.CancelScope] = set()
        self.failure: str | None = None
        self.peers: list[WebSocketPeer] = []
        self.steps = 0
        self.most_operations = 0
        self._scope = trio.CancelScope()
        self._process: Process | None = None
        self._process_changed = trio.Event()
        self._payload_count = 0
        inner = (
            RocksStorage.open(directory / "store", cache_mb=8, write_buffer_mb=4, max_open_files=64)
            if plan.rocksdb
            else MemoryStorage()
        )
        self.model = Model(self.trace, self.fail, trio.current_time, always=plan.options["policy"] == 0)
        self.model.locks_last = self.model.always and bool(plan.options["sync_locks"])
        self.model.prompt = plan.slow == 0.0 and not plan.externals
        self.model.max_locked = plan.options["max_locked_index"]
        self.storage = SimulatedStorage(inner, random.Random(f"store {seed}"), plan.odds, self.model)
        self.model.storage = self.storage

    # For clients

    def fail(self, what: str) -> None:
        """A promise was broken. The first one counts."""
        if self.failure is None:
            self.failure = what
            self.trace.note("MODEL", what)
            self._scope.cancel()

    def hurry(self) -> None:
        """Everybody acts at once: between the steps of what is at work now."""
        self.rush.set()
        self.rush = trio.Event()

    async def pause(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.rush.wait()

    async def process(self) -> Process | None:
        """The server, once it is up; None when the world has come to rest meanwhile."""
        while self._process is None:
            if self.resting:
                return None
            await self._process_changed.wait()
        return self._process

    @contextmanager
    def request(self) -> Iterator[trio.CancelScope]:
        """Ends when the process does."""
        with trio.CancelScope() as scope:
            self.requests.add(scope)
            try:
                yield scope
            finally:
                self.requests.discard(scope)

    def message(self, dice: random.Random, queue: str) -> tuple[str, int, str, int]:
        """Queue, priority, payload, max_retries."""
        if dice.random() < 0.5:
            payload = f"p{dice.randint(0, 5)}"
        else:
            self._payload_count += 1
            payload = f"u{self._payload_count}"
        if self.plan.externals and dice.random() < 0.6:
            payload = f"{payload:-<60}"
        return queue, dice.randint(0, 3), payload, dice.choice((0, 1, 2, 3, 3, 100))

    @property
    def process_clean(self) -> bool:
        return self._process is not None and self._process.clean

    @property
    def loses_payloads(self) -> bool:
        return self.plan.fdatasync > 0 or bool(self.model.payload_lost)

    def numbers(self, name: str) -> list[int]:
        """Of the queue with that name, or of all ("")."""
        assert self._process is not None
        if not name:
            return self._process.numbers()
        number = self._process.number_of(name)
        return [number] if number is not None else []

    async def peer_rests(self, peer: WebSocketPeer) -> None:
        """A connection that is open when the world comes to rest stays: it is served to the end."""
        self.peers.append(peer)
        peer.transport.read(True)
        peer.transport.answers_pings = True
        await peer.over.wait()

    def _short_of_room(self) -> bool:
        """What the server is told of the disk."""
        short = not self.resting and self.dice.random() < self.plan.short
        self.model.trash.urgent += short
        return short

    # The course of things

    async def main(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._processes)
                    for number in range(self.plan.callers):
                        consumer = TEXT_CONSUMER if number == 3 else f"c{number}"
                        nursery.start_soon(Caller(self, f"caller {number}", consumer).run)
                    for number in range(self.plan.peers):
                        nursery.start_soon(WebSocketPeer(self, f"peer {number}").run)
                    for number in range(self.plan.managers):
                        nursery.start_soon(Manager(self, f"manager {number}").run)
        finally:
            self.storage.inner.close()
        if self.failure is not None:
            raise Violation(self.failure)

    async def _processes(self) -> None:
        """The server, run after run."""
        for left in range(self.plan.restarts, -1, -1):
            process = await self._one_process(last=not left)
            if left:
                self._between(process)
        assert self.resting

    async def _one_process(self, *, last: bool) -> Process:
        disk = self.machine.disk
        # Nothing fails while it starts: the start would be refused, and nobody here repeats it.
        odds, self.storage.odds = self.storage.odds, Odds()
        faults, disk.faults = disk.faults, 0.0
        self.model.process_begins()
        directory = self.directory if self.plan.externals else None
        process = Process(self.storage, self.model, self.plan.options, directory, self._short_of_room)
        self.trace.note("server", "starts")
        async with process.running():
            self.storage.odds, disk.faults = odds, faults
            self._process = process
            self.model.troubled_until = trio.current_time()
            self._process_changed.set()
            self._process_changed = trio.Event()
            share = self.plan.life / (self.plan.restarts + 1)
            await trio.sleep(share if last else self.dice.uniform(0, 2 * share))
            if not last:
                await self._midst()
            if last:
                self.storage.odds = Odds()
                self.machine.slow = disk.faults = 0.0
                self.resting = True
                self._process_changed.set()
                await come_to_rest(self, process)
            elif self.dice.random() < 0.4:
                await self._stop(process)
            else:
                self.trace.note("server", "is killed")
                self.storage.dead = disk.dead = True
                self._leave_process()
        process.close()
        return process

    async def _midst(self) -> None:
        """Wait for a moment at which it hurts to be ended."""
        what = self.dice.random()
        if what < 0.25:
            await self.pause(5.0)
        elif what < 0.75:
            with trio.move_on_after(1.0):
                while self.storage.synced == self.storage.batches:  # noqa: ASYNC110  # no event tells of it
                    await trio.sleep(0.0007)

    async def _stop(self, process: Process) -> None:
        """As SIGTERM does it."""
        self.trace.note("server", "stops")
        self._process = None
        self.storage.odds = Odds()
        for peer in self.model.peers.values():
            peer.closed = True
        process.websockets.stopping.set()
        await process.engine.end_waits()
        with trio.move_on_after(self.dice.choice((0.0, 0.5, 10.0))):
            while self.requests or process.websockets.connections:  # noqa: ASYNC110  # no event tells of it
                await trio.sleep(0.01)
        self._leave_process()
        await trio.testing.wait_all_tasks_blocked()

    def _leave_process(self) -> None:
        self._process = None
        for peer in self.model.peers.values():
            peer.closed = True
            # One that is stopped may still get a message before it knows.
            peer.over |= self.storage.dead
        for scope in self.requests:
            scope.cancel()

    def _between(self, process: Process) -> None:
        """No server runs."""
        clean = not self.storage.dead
        if clean and not process.faulty:
            self.storage.close()
        power_cut = not clean and self.dice.random() < 0.6
        reboot = power_cut and self.dice.random() < 0.5
        if reboot:
            self.trace.note("world", "the machine starts anew")
            self.machine.reboot()
            self.model.boot += 1
        if power_cut:
            self.machine.disk.power_cut(self.directory / "payloads")
        self.machine.disk.dead = False
        self.storage.restart(power_cut)
        self.model.payloads_left(self.directory / "payloads")
        if self.dice.random() < 0.4:
            self.machine.ahead += self.dice.choice((-7200.0, -3.0, 3.0, 7200.0))
            self.trace.note("world", "sets the clock, which is ahead by", self.machine.ahead)
        self.model.ahead = self.machine.ahead
        self.model.clock_set()


class Watch(trio.abc.Instrument):
    """Looks at the world after every step of a task that touched the store."""

    def __init__(self, world: World) -> None:
        self._world = world

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._world.storage.operations = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        world = self._world
        world.steps += 1
        if world.steps == MOST_STEPS:
            world.fail("it does not come to an end")
        operations = world.storage.operations
        if not operations:
            return
        world.most_operations = max(world.most_operations, operations)
        if operations > adapter.STEP_OPERATIONS:
            world.fail(f"a step took {operations} operations of the store")
        process = world._process
        if process is None or not process.clean or world.failure is not None:
            return
        world.model.all_written()
        queues = world.model.picture.in_use()
        memory = process.counters()
        stored = {queue.number: (queue.name, queue.held) for queue in world.model.picture.in_use()}
        if memory != stored:
            world.fail(f"memory says {memory}, the store holds {stored}")
        memory = process.kept_aside()
        stored = {queue.number: (queue.name, queue.held) for queue in world.model.picture.kept_aside()}
        if memory != stored:
            world.fail(f"memory says that {memory} is kept aside, the store holds {stored}")
        locked = sum(len(queue.locks) for queue in queues)
        if process.locked() != locked:
            world.fail(f"the index has {process.locked()} locks, the store {locked}")
        if not process.giving_back:
            for queue in queues:
                for lock in queue.locks.values():
                    peer = world.model.held[lock.name, lock.message.id].peer
                    if peer is not None and peer.over:
                        world.fail(f"message {lock.message.id} is held for a connection that is gone")


def run(seed: int, directory: Path) -> World:
    """Run a world to its end. Raises Violation; the trace is in `world_of`."""
    plan = Plan.of(seed)
    machine = Machine(plan.slow, Disk(random.Random(f"disk {seed}"), plan.fdatasync))
    clock = MockClock(autojump_threshold=0)
    made: list[World] = []

    async def main() -> None:
        world = World(seed, directory, machine)
        made.append(world)
        watch = Watch(world)
        trio.lowlevel.add_instrument(watch)
        try:
            await world.main()
        finally:
            trio.lowlevel.remove_instrument(watch)

    with deterministic(seed, machine):
        try:
            trio.run(main, clock=clock)
        except BaseException as error:
            if made:
                error.trace = made[0].trace  # type: ignore[attr-defined]  # for whoever prints it
            raise
    return made[0]
