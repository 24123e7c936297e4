"""The compactor on real stores: what it gives back, what it saves, what it removes, and that nobody loses a message."""

from __future__ import annotations

import errno
import logging
import os
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.config import Fsync, StorageMode
from qrusty_trio.core import relocation
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.errors import DiskFull, QrustyError, StorageFault
from qrusty_trio.server.compactor import Compactor
from tests.core.ownership import check_ownership
from tests.server.engines import until_back
from tests.server.room import LARGE, Room, large, room, segment
from tests.server.running import running, settings_for, until_ready

POLICIES = pytest.mark.parametrize("fsync", list(Fsync), ids=str)


async def publish_many(room: Room, count: int, queue: str = "q") -> list[str]:
    payloads = [large(f"{queue}-{number}") for number in range(count)]
    for payload in payloads:
        await room.publish(queue, payload)
    return payloads


def check(room: Room) -> dict[int, int]:
    room.broker.commit()
    return check_ownership(room.stores.storage)


# Giving back


# Verifies: PER-0034
@POLICIES
async def test_dead_segments_are_removed_and_sparse_ones_rewritten(tmp_path: Path, fsync: Fsync) -> None:
    async with room(tmp_path, fsync=fsync) as it:
        payloads = await publish_many(it, 45)
        kept = []
        for number, payload in enumerate(payloads):
            delivery = await it.consume("q")
            assert delivery is not None
            assert delivery.payload == payload
            # Segment 1 dies, of 2 a third stays, of 3 most.
            if number >= 9 and (number % 3 == 0 or number >= 18):
                kept.append(payload)
            else:
                await it.ack("q", delivery.id)
        assert sorted(it.payloads.segments()) == [1, 2, 3, 4, 5]
        await it.compactor.compact()
        assert sorted(it.payloads.segments()) == [3, 4, 5, 6]
        check(it)
        # Those are locked; a restart finds them at their new places.
    async with room(tmp_path, fsync=fsync) as it:
        check(it)
        assert it.broker.locks.count == len(kept)
        for lock in list(it.broker.catalog.by_name["q"].locks):
            await it.nack("q", lock.id)
        assert await it.drain("q") == kept
        # Twice at most: the segment that takes new payloads is closed first.
        await it.compactor.compact()
        await it.compactor.compact()
        assert it.payloads.disk_bytes() == 0
        assert check(it) == {}


# Verifies: PER-0027
async def test_the_bytes_are_synced_before_a_record_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refer = relocation.refer
    seen: list[bool] = []

    def watching(*arguments: Any) -> None:
        seen.append(it.payloads.needs_sync)
        refer(*arguments)

    monkeypatch.setattr(relocation, "refer", watching)
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        for payload in await publish_many(it, 20):
            delivery = await it.consume("q")
            assert delivery is not None
            if not payload.startswith("q-3|"):
                await it.ack("q", delivery.id)
        await it.compactor.compact()
    assert seen == [False]


# Verifies: PER-0024, PER-0026
async def test_a_thread_syncs_a_payload_before_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path) as it:
        order: list[str] = []

        def noted(name: str, sync: Callable[[], None]) -> None:
            order.append(name)
            sync()

        monkeypatch.setattr(it.payloads, "sync", partial(noted, "payloads", it.payloads.sync))
        monkeypatch.setattr(it.stores.storage, "sync_descriptor", lambda: None)  # else the kernel syncs
        monkeypatch.setattr(it.stores.storage, "sync", partial(noted, "log", it.stores.storage.sync))
        await it.publish("q", large("p"))
        await it.publish("q", "short")
        assert order == ["payloads", "log", "log"]
        monkeypatch.undo()


async def test_a_round_syncs_what_the_policy_never_would(tmp_path: Path) -> None:
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        await publish_many(it, 30)
        assert it.payloads.needs_sync
        await it.compactor.compact()
        assert it.payloads._unsynced == {}
        assert await it.drain("q") == [large(f"q-{number}") for number in range(30)]


async def test_payloads_of_many_sizes_move_in_bounded_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    move = Compactor._move

    async def watching(self: Compactor, places: list[Any], payloads: list[Any]) -> None:
        pieces.append(sum(map(len, payloads)))
        await move(self, places, payloads)

    monkeypatch.setattr(Compactor, "_move", watching)
    sizes = [4096, 2_000_000, 300_000, 300_000, 5000, 1_000_000] * 3
    async with room(tmp_path, segment_max_bytes=64 * 2**20) as it:
        for number, size in enumerate([*sizes, *[2_000_000] * 10]):
            await it.publish("q", large(str(number), size), priority=number)
        it.payloads.retire()
        for _ in range(10):
            delivery = await it.consume("q")
            assert delivery is not None
            await it.ack("q", delivery.id)
        await it.compactor.compact()
        assert sorted(it.payloads.segments()) == [2]
        assert sum(pieces) == sum(sizes)
        assert all(piece <= relocation.PIECE_BYTES or piece in sizes for piece in pieces)
        assert [payload.split("|")[0] for payload in await it.drain("q")] == [str(n) for n in reversed(range(18))]


# Verifies: PER-0025
async def test_disabled_keeps_new_payloads_inline_and_reads_and_moves_old_ones(tmp_path: Path) -> None:
    async with room(tmp_path) as it:
        old = await publish_many(it, 12, "old")
    async with room(tmp_path, payload_store=False) as it:
        before = it.payloads.disk_bytes()
        new = await publish_many(it, 12, "new")
        assert it.payloads.disk_bytes() == before
        for _ in range(8):
            delivery = await it.consume("old")
            assert delivery is not None
            await it.ack("old", delivery.id)
        await it.compactor.compact()
        check(it)
        assert it.payloads.disk_bytes() < before
        assert await it.drain("old") == old[8:]
        assert await it.drain("new") == new


async def test_without_a_disk_there_are_no_segments(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", storage_mode=StorageMode.MEMORY)
    async with running(settings) as server:
        await until_ready(server)
        assert server.engine.broker.payloads.index is None
        publish = partial(Broker.publish, name="q", priority=0, payload=large("p", 2_000_000), max_retries=3)
        await server.engine.transact(lambda broker, now: publish(broker, now=now), sync=True)
        delivery = await server.engine.transact(lambda broker, now: broker.consume("q", "c", 30, now), sync=True)
        assert delivery is not None
        assert delivery.payload == large("p", 2_000_000)
        assert server.engine.services.payload_disk_bytes() == 0
    assert not (tmp_path / "data").exists()


# Verifies: PER-0034
async def test_the_running_server_compacts_by_itself(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", compact_interval_secs=1.0)
    async with running(settings) as server:
        await until_ready(server)
        publish = partial(Broker.publish, name="q", priority=0, payload=large("p"), max_retries=3)
        await server.engine.transact(lambda broker, now: publish(broker, now=now), sync=True)
        assert server.engine.services.payload_disk_bytes() > LARGE
        await server.engine.transact(lambda broker, now: broker.catalog.purge("q"), sync=True)
        with trio.fail_after(60):
            while server.engine.services.payload_disk_bytes():  # noqa: ASYNC110  # the store tells nobody
                await trio.sleep(0.02)


# Work during compaction


class Clients:
    """Random work on three queues, and what it must have left."""

    QUEUES = "abc"

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.alive: dict[str, str] = {}
        """Payload (each is published once) -> queue."""
        self.mortal: set[str] = set()
        """Payloads that are dead letters after one nack."""
        self.held: list[tuple[str, str, str]] = []
        """Queue, id, payload."""

    async def step(self, room: Room, text: str) -> None:
        queue, what = self.random.choice(self.QUEUES), self.random.random()
        if what < 0.45:
            await self._publish(room, queue, large(text, self.random.choice([100, LARGE, LARGE, 3 * LARGE])))
        elif what < 0.65:
            delivery = await room.consume(queue)
            if delivery is not None:
                assert self.alive[delivery.payload] == queue
                self.held.append((queue, delivery.id, delivery.payload))
        elif what < 0.93 and self.held:
            await self._settle(room, *self.held.pop(self.random.randrange(len(self.held))))
        elif what < 0.96:
            await room.engine.transact(partial(_rename_there_and_back, queue), sync=True)
        elif what < 0.98:
            await room.engine.transact(
                lambda broker, now: (
                    broker.catalog.purge(queue) if self.random.random() < 0.5 else broker.catalog.delete(queue)
                ),
                sync=True,
            )
            self.held = [each for each in self.held if each[0] != queue]
            self.alive = {payload: where for payload, where in self.alive.items() if where != queue}
        await trio.lowlevel.checkpoint()

    async def _publish(self, room: Room, queue: str, payload: str) -> None:
        mortal = self.random.random() < 0.2
        await room.publish(queue, payload, self.random.randrange(3), max_retries=1 if mortal else 100)
        self.alive[payload] = queue
        if mortal:
            self.mortal.add(payload)

    async def _settle(self, room: Room, queue: str, id: str, payload: str) -> None:
        ack = self.random.random() < 0.75
        await (room.ack if ack else room.nack)(queue, id)
        if ack or payload in self.mortal:
            del self.alive[payload]


# Verifies: PER-0035
@pytest.mark.parametrize("seed", range(3))
async def test_nobody_loses_anything_while_payloads_move(tmp_path: Path, seed: int) -> None:
    """Compaction all the time, restarts in between: at the end every payload is there, once."""
    clients = Clients(seed)
    for life in range(3):
        async with room(tmp_path, fsync=list(Fsync)[(seed + life) % 3]) as it, trio.open_nursery() as nursery:
            nursery.start_soon(_compact_always, it)
            if not life:
                await it.engine.transact(_create_b, sync=True)
            for step in range(150):
                await clients.step(it, f"{life}-{step}")
            nursery.cancel_scope.cancel()
            check(it)
    async with room(tmp_path) as it:
        for queue, id, _ in clients.held:
            await it.nack(queue, id)
        left = [payload for queue in it.broker.catalog.names() for payload in await it.drain(queue)]
        dead = {payload for _, _, payload in clients.held if payload in clients.mortal}
        assert Counter(left) == Counter(clients.alive.keys() - dead)
        check(it)
        await it.compactor.compact()
        assert set(it.payloads.segments()) == set(check(it))


def _create_b(broker: Broker, now: int) -> None:
    broker.catalog.create("b", QueueConfig(allow_duplicates=False))


async def test_a_round_can_be_cancelled_anywhere(tmp_path: Path) -> None:
    async with room(tmp_path) as it:
        payloads = await publish_many(it, 60)
        kept = []
        for number in range(60):
            delivery = await it.consume("q")
            assert delivery is not None
            if number % 5:
                await it.ack("q", delivery.id)
            else:
                kept.append(delivery.id)
        before = it.payloads.disk_bytes()
        for number in range(30):
            with trio.move_on_after(number / 3000):
                await it.compactor.compact()
            check(it)
        await it.compactor.compact()
        assert it.payloads.disk_bytes() < before / 2
        for id in kept:
            await it.nack("q", id)
        assert await it.drain("q") == payloads[::5]


async def _compact_always(room: Room) -> None:
    while True:
        await room.compactor.compact()
        await trio.lowlevel.checkpoint()


def _rename_there_and_back(queue: str, broker: Broker, now: int) -> None:
    if queue in broker.catalog.by_name:
        for _ in broker.catalog.update(queue, queue + "'", None, now):
            pass
        for _ in broker.catalog.update(queue + "'", queue, None, now):
            pass


# Faults


@pytest.fixture
def failing_syncs(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the next syncs of segments fail like a disk that lost a write."""
    left = 0
    fdatasync = os.fdatasync

    def fail_next(count: int) -> None:
        nonlocal left
        left = count

    def sync(descriptor: int) -> None:
        nonlocal left
        if left:
            left -= 1
            raise OSError(errno.EIO, "Input/output error")
        fdatasync(descriptor)

    monkeypatch.setattr("qrusty_trio.storage.payloads.os.fdatasync", sync)
    return fail_next


# Verifies: PER-0041
async def test_after_a_failed_sync_the_server_goes_on_and_saves_what_is_in_doubt(
    tmp_path: Path, failing_syncs: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room(tmp_path) as it:
        monkeypatch.setattr(it.stores.storage, "sync_descriptor", lambda: None)  # else the kernel syncs
        await it.publish("q", large("safe"))
        failing_syncs(1)
        with pytest.raises(StorageFault):
            await it.publish("q", large("in doubt"))
        await until_back(it.engine)
        await it.publish("q", large("after"))
        # The one in doubt was refused, and may be there all the same. If it is, its bytes must not stay in segment 1.
        await it.compactor.repair()
        assert set(check(it)) == {1, 2}
        assert check(it)[1] == LARGE
        assert [payload.split("|")[0] for payload in await it.drain("q")] in (
            ["safe", "after"],
            ["safe", "in doubt", "after"],
        )
        assert it.broker.payloads.removed_total == 0


async def test_what_a_failed_sync_lost_is_removed(tmp_path: Path, failing_syncs: Callable[[int], None]) -> None:
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        await it.publish("q", large("lost"))
        await it.publish("q", large("readable"))
        failing_syncs(1)
        with pytest.raises(StorageFault):
            await it.compactor.compact()
        await until_back(it.engine)
        with segment(tmp_path, 1).open("r+b") as file:
            file.seek(100)
            file.write(bytes(4096))
        async with trio.open_nursery() as nursery:
            await nursery.start(it.compactor.run)
            while it.compactor._doubtful or it.broker.payloads.removed:  # noqa: ASYNC110  # flags
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert await it.drain("q") == [large("readable")]
        assert [(each["queue"], each["reason"]) for each in it.removed()] == [("q", "checksum")]
        check(it)


async def test_a_failed_sync_while_moving_leaves_payloads_where_they_are(
    tmp_path: Path, failing_syncs: Callable[[int], None]
) -> None:
    async with room(tmp_path) as it:
        payloads = await publish_many(it, 18)
        for _ in range(8):
            delivery = await it.consume("q")
            assert delivery is not None
            await it.ack("q", delivery.id)
        failing_syncs(1)
        with pytest.raises(StorageFault):
            await it.compactor.compact()
        await until_back(it.engine)
        assert check(it)[1] == LARGE
        await it.compactor.repair()
        await it.compactor.compact()
        assert 1 not in it.payloads.segments()
        assert await it.drain("q") == payloads[8:]


async def test_a_sync_around_a_recovery_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path) as it:
        payloads = await publish_many(it, 18)
        for _ in range(8):
            delivery = await it.consume("q")
            assert delivery is not None
            await it.ack("q", delivery.id)
        sync_now = it.engine.committer.sync_now

        async def recovered_meanwhile() -> None:
            it.compactor.doubt()
            await sync_now()

        monkeypatch.setattr(it.engine.committer, "sync_now", recovered_meanwhile)
        with pytest.raises(StorageFault, match="opened again"):
            await it.compactor.compact()
        monkeypatch.undo()
        assert check(it)[1] == LARGE
        await it.compactor.compact()
        assert await it.drain("q") == payloads[8:]


# Verifies: PER-0036
async def test_without_room_what_is_dead_goes_and_what_found_room_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room(tmp_path) as it:
        payloads = await publish_many(it, 36)
        for number in range(36):
            delivery = await it.consume("q")
            assert delivery is not None
            if number < 9 or number % 4:
                await it.ack("q", delivery.id)
        kept = it.broker.locks.count
        append = it.payloads.append
        room_for = 1

        def append_while_there_is_room(data: bytes) -> Any:
            nonlocal room_for
            if not room_for:
                raise DiskFull("No space left on the device: free some.")
            room_for -= 1
            return append(data)

        monkeypatch.setattr(it.payloads, "append", append_while_there_is_room)
        with pytest.raises(DiskFull):
            await it.compactor.compact()
        assert it.engine.fault is None
        assert 1 not in it.payloads.segments()
        assert room_for == 0
        owned = check(it)
        assert sum(owned.values()) == kept * LARGE
        monkeypatch.undo()
        await it.compactor.compact()
        for lock in list(it.broker.catalog.by_name["q"].locks):
            await it.nack("q", lock.id)
        assert await it.drain("q") == [
            payload for number, payload in enumerate(payloads) if number >= 9 and number % 4 == 0
        ]


async def test_a_full_disk_is_no_crash_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with room(tmp_path, compact_interval_secs=1.0) as it:
        it.compactor._interval = 0.0
        await publish_many(it, 10)
        for _ in range(8):
            delivery = await it.consume("q")
            assert delivery is not None
            await it.ack("q", delivery.id)

        def full(data: bytes) -> Any:
            raise DiskFull("No space left on the device: free some.")

        monkeypatch.setattr(it.payloads, "append", full)
        with caplog.at_level(logging.WARNING):
            async with trio.open_nursery() as nursery:
                await nursery.start(it.compactor.run)
                while "will try again" not in caplog.text:  # noqa: ASYNC110  # a log
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        # And a publish of such a payload is refused by itself.
        with pytest.raises(QrustyError) as refused:
            await it.publish("q", large("too much"))
        assert (refused.value.status, refused.value.code) == (507, "disk_full")
        assert it.engine.fault is None
        await it.publish("q", "a small one")
