"""Whichever way a sync goes: what was answered is safe, and what fails is a fault."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from qrusty_trio.errors import StorageFault
from qrusty_trio.server.kernel_sync import MOST_AT_ONCE, KernelSync
from qrusty_trio.storage import rocksdb
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.server.engines import STEP_SECONDS, call, engine_on, publish, response, run, until_back
from tests.server.room import Room, large, room, segment
from tests.server.test_broken_payloads import check
from tests.server.test_kernel_sync import failing_with, open_descriptors, opened

GONE_ON = "syncs go on in a thread"


class Ways:
    """Counts the syncs of each way, and breaks or holds those of the kernel."""

    def __init__(self, storage: RocksStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.storage = storage
        self.kernel = self.thread = 0
        self.results = [0] * MOST_AT_ONCE
        """Of the log and the segments after it, in place of the kernel's own: negative error numbers."""
        self.files = 0
        """How many the kernel syncs at most, of those it is given."""
        self.held = trio.Event()
        self.held.set()
        self.begun = trio.Event()
        submit, wait, sync = KernelSync.submit, KernelSync.wait, self.storage.sync

        def limited_submit(kernel: KernelSync, descriptors: list[int]) -> int:
            return submit(kernel, descriptors[: self.files or MOST_AT_ONCE])

        async def counted_wait(kernel: KernelSync) -> list[OSError | None]:
            self.begun.set()
            ended = await wait(kernel)
            with trio.CancelScope(shield=True):
                await self.held.wait()
            self.kernel += 1
            wrong = [OSError(-result, os.strerror(-result)) if result else None for result in self.results]
            return [error or other for error, other in zip(wrong, ended, strict=False)]

        def counted_sync() -> None:
            self.thread += 1
            sync()

        monkeypatch.setattr(KernelSync, "submit", limited_submit)
        monkeypatch.setattr(KernelSync, "wait", counted_wait)
        monkeypatch.setattr(self.storage, "sync", counted_sync)

    def forget(self) -> None:
        self.kernel = self.thread = 0


@pytest.fixture
async def ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (await opened()).close()
    storage = RocksStorage.open(tmp_path / "data", cache_mb=8, write_buffer_mb=4, max_open_files=64)
    ways = Ways(storage, monkeypatch)
    yield ways
    ways.storage.close()


def payloads(found: Any) -> set[str]:
    return {message["payload"] for message in found["messages"]}


def eventfds() -> int:
    """How many descriptors of the kind by which the kernel tells of its syncs are open."""
    links = [Path("/proc/self/fd", each) for each in open_descriptors()]
    return sum("eventfd" in str(link.readlink()) for link in links if link.is_symlink())


# Verifies: PER-0064
async def test_the_kernel_syncs_all_but_the_first(ways: Ways) -> None:
    before = eventfds()
    async with engine_on(ways.storage) as engine:
        for number in range(20):
            await run(engine, publish(f"{number}"))
        assert (ways.kernel, ways.thread) == (20, 1)  # and one of the kernel's to see whether it can
        assert engine.committer.syncs == 20
        assert eventfds() > before
    assert eventfds() == before


# Verifies: PER-0002, PER-0064
@pytest.mark.parametrize(("error", "status"), [(errno.EIO, 503), (errno.ENOSPC, 507), (errno.EDQUOT, 507)])
async def test_a_sync_of_the_kernel_that_fails_is_a_fault_of_the_store(ways: Ways, error: int, status: int) -> None:
    async with engine_on(ways.storage) as engine:
        for number in range(3):
            await run(engine, publish(f"before {number}"))
        ways.results = [-error] * MOST_AT_ONCE
        (reply,) = await engine.run([publish("in doubt")])
        assert reply.status == status
        assert engine.fault is not None
        ways.results = [0] * MOST_AT_ONCE
        await until_back(engine)
        await run(engine, publish("after"))
        ways.forget()
        await run(engine, publish("and on"))
        assert (ways.kernel, ways.thread) == (1, 0)
        (found,) = await run(engine, call("GET", "/queues/q/messages?limit=100"))
        assert payloads(found) - {"in doubt"} == {"before 0", "before 1", "before 2", "after", "and on"}


# Verifies: PER-0064
@pytest.mark.parametrize("when", ["submit", "wait"])
async def test_a_file_system_without_such_syncs_is_synced_in_a_thread(
    ways: Ways, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    caplog.set_level("INFO")
    async with engine_on(ways.storage) as engine:
        await run(engine, publish("first"))
        if when == "submit":
            monkeypatch.setattr(KernelSync, "submit", failing_with(OSError(errno.EINVAL, "Invalid argument")))
        else:
            ways.results = [-errno.EOPNOTSUPP] * MOST_AT_ONCE
        ways.forget()
        for number in range(3):
            await run(engine, publish(f"{number}"))
        assert (ways.kernel, ways.thread) == (1 if when == "wait" else 0, 3)
        assert caplog.text.count(GONE_ON) == 1


# Verifies: PER-0064
async def test_a_kernel_without_room_is_asked_again(
    ways: Ways, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with engine_on(ways.storage) as engine:
        await run(engine, publish("first"))
        ways.forget()
        with monkeypatch.context() as patch:
            patch.setattr(KernelSync, "submit", failing_with(OSError(errno.EAGAIN, "Try again")))
            await run(engine, publish("second"))
        assert (ways.kernel, ways.thread) == (0, 1)
        await run(engine, publish("third"))
        assert (ways.kernel, ways.thread) == (1, 1)
        assert GONE_ON not in caplog.text


# Verifies: PER-0040
async def test_a_fault_meanwhile_fails_those_who_wait_for_the_kernel(ways: Ways) -> None:
    async with engine_on(ways.storage) as engine:
        await run(engine, publish("first"))
        ways.held, ways.begun = trio.Event(), trio.Event()
        replies: list[Any] = []

        async def ask() -> None:
            replies.extend(await engine.run([publish("second")]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await ways.begun.wait()
            engine.fail(StorageFault("down"))
            ways.held.set()
        assert [reply.status for reply in replies] == [503]
        await until_back(engine)


# Verifies: PER-0001
async def test_a_stop_waits_for_the_kernel(ways: Ways) -> None:
    """The sync that has begun comes to its end, and those who wait for it get what it came to."""
    faults: list[StorageFault | None] = []
    stopped = trio.Event()

    async def serve(task_status: trio.TaskStatus[Any]) -> None:
        async with engine_on(ways.storage) as engine:
            await run(engine, publish("first"))
            ways.held, ways.begun = trio.Event(), trio.Event()
            engine.run_nowait([publish("second")])
            engine.when_durable(faults.append, [object()])
            await ways.begun.wait()
            task_status.started()
        stopped.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert not stopped.is_set()
        assert not faults
        ways.held.set()
        with trio.fail_after(STEP_SECONDS):
            await stopped.wait()
    assert faults == [None]


# Verifies: PER-0046
@pytest.mark.parametrize("gone", ["*.log", "CURRENT"])
async def test_a_sync_of_the_kernel_into_removed_files_makes_nothing_safe(
    ways: Ways, tmp_path: Path, gone: str
) -> None:
    async with engine_on(ways.storage) as engine:
        await run(engine, publish("first"), publish("second"))
        await run(engine, publish("third"))
        ways.forget()
        for file in (tmp_path / "data").glob(gone):
            file.unlink()
        (reply,) = await engine.run([publish("lost")])
        assert (ways.kernel, reply.status) == (1, 503)
        assert b"was removed" in reply.body


# Verifies: PER-0065
async def test_a_flush_between_write_and_sync(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before a new log is in the old one: RocksDB syncs both."""
    async with engine_on(ways.storage) as engine:
        await run(engine, publish("first"))
        write = engine.broker.commit

        def write_and_flush() -> None:
            write()
            ways.storage.flush()

        ways.forget()
        with monkeypatch.context() as patch:
            patch.setattr(engine.broker, "commit", write_and_flush)
            await run(engine, publish("second"))
        assert (ways.kernel, ways.thread) == (0, 1)
        assert response((await engine.run([call("GET", "/stats")]))[0])


@pytest.fixture
async def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Room, Ways]]:
    """A server with payload segments, whose first one is known to its directory."""
    (await opened()).close()
    async with room(tmp_path) as it:
        storage = it.stores.storage
        assert isinstance(storage, RocksStorage)
        ways = Ways(storage, monkeypatch)
        await it.publish("q", large("first"))
        ways.forget()
        yield it, ways


# Verifies: PER-0026, PER-0064
async def test_the_kernel_syncs_segments_beside_the_log(beside: tuple[Room, Ways]) -> None:
    it, ways = beside
    for number in range(5):
        await it.publish("q", large(f"{number}"))
        assert not it.payloads.needs_sync
    await it.publish("q", "small")
    assert (ways.kernel, ways.thread) == (6, 0)
    # A segment that is new needs its directory synced, too.
    it.payloads.retire()
    await it.publish("q", large("in a new one"))
    assert (ways.kernel, ways.thread) == (6, 1)
    await it.publish("q", large("in the same"))
    assert (ways.kernel, ways.thread) == (7, 1)


# Verifies: PER-0026, PER-0040, PER-0041
@pytest.mark.parametrize("failing", ["log", "segment", "both"])
async def test_a_failed_sync_of_either_fails_the_publish(beside: tuple[Room, Ways], failing: str) -> None:
    it, ways = beside
    ways.results = {"log": [-errno.EIO, 0], "segment": [0, -errno.EIO], "both": [-errno.EIO] * 2}[failing]
    with pytest.raises(StorageFault):
        await it.publish("q", large("in doubt"))
    ways.results = [0] * MOST_AT_ONCE
    await until_back(it.engine)
    assert bool(it.compactor._doubtful) == (failing != "log")
    await it.publish("q", large("after"))
    await it.compactor.repair()
    check(it)
    left = [payload.partition("|")[0] for payload in await it.drain("q")]
    assert left in (["first", "after"], ["first", "in doubt", "after"])


# Verifies: PER-0026, PER-0064
@pytest.mark.parametrize("refused", ["log", "segment", "not begun"])
async def test_what_the_kernel_leaves_is_synced_in_the_thread(beside: tuple[Room, Ways], refused: str) -> None:
    it, ways = beside
    ways.results = {"log": [-errno.EINVAL, 0], "segment": [0, -errno.EINVAL], "not begun": [0, 0]}[refused]
    ways.files = 1 if refused == "not begun" else 0
    await it.publish("q", large("second"))
    assert (ways.kernel, ways.thread) == (1, 1)
    assert not it.payloads.needs_sync
    await it.publish("q", large("third"))
    # It is not asked again when it said that it has no such sync.
    assert (ways.kernel, ways.thread) == ((2, 2) if refused == "not begun" else (1, 2))


# Verifies: PER-0026
async def test_a_segment_that_was_removed_meanwhile_is_a_fault(beside: tuple[Room, Ways], tmp_path: Path) -> None:
    it, ways = beside
    segment(tmp_path, 1).unlink()
    with pytest.raises(StorageFault, match="was removed"):
        await it.publish("q", large("second"))
    assert (ways.kernel, ways.thread) == (1, 0)


# Verifies: PER-0064
async def test_one_way_is_named_where_the_directory_is_not_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(rocksdb, "NewestLog", failing_with(OSError(errno.EMFILE, "Too many open files")))
    async with room(tmp_path) as it:
        await it.publish("q", "x")
    assert "syncs run in a thread, as the data directory can't be watched" in caplog.text
    assert "the kernel can sync" not in caplog.text
