"""No descriptors, no memory, a disk that fails, a directory that is away: each background task tells, and goes on."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
from trio.testing import MockClock

from qrusty_trio.config import Fsync
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.pressure import Level
from qrusty_trio.errors import PayloadUnreadable, QrustyError, StorageFault
from qrusty_trio.server import sampler
from qrusty_trio.server import trouble as trouble_module
from qrusty_trio.server import watch as watch_module
from qrusty_trio.server.memory_usage import MemoryUsage, Usage
from qrusty_trio.server.pressure import PressureSettings, PressureStatus, monitor
from qrusty_trio.server.supervisor import Server
from qrusty_trio.server.trouble import Trouble
from qrusty_trio.server.watch import watch
from qrusty_trio.storage.files import Directory
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.server.room import large, room
from tests.server.running import client_of, running, settings_for, until_ready
from tests.server.test_pressure import CACHE, LIMIT, Readings, Target

ERRORS = [
    OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    OSError(errno.ENFILE, os.strerror(errno.ENFILE)),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    OSError(errno.EIO, os.strerror(errno.EIO)),
    MemoryError(),
    RuntimeError("can't start new thread"),
]
EVERY_ERROR = pytest.mark.parametrize("error", ERRORS, ids=repr)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  # what is waited for is a flag
            await trio.sleep(0.01)


def fail_with(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# --- memory ---------------------------------------------------------------------------------------------------------


# Verifies: SYS-0014
@EVERY_ERROR
async def test_the_monitor_goes_on_when_memory_can_be_read_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    readings, target, status = Readings(), Target(), PressureStatus()
    async with trio.open_nursery() as nursery:
        monkeypatch.setattr(readings, "read", fail_with(error))
        monkeypatch.setattr(readings, "resident_bytes", fail_with(error))
        await nursery.start(monitor, readings, target, PressureSettings(CACHE), status)
        await trio.sleep(30)
        assert len([record for record in caplog.records if "memory could not be read" in record.getMessage()]) == 1
        # What is done about it does not depend on what it can say of it.
        monkeypatch.setattr(readings, "read", lambda: Usage(LIMIT, LIMIT, "made up"))
        await trio.sleep(2)
        assert (status.level, target.refusing) == (Level.CRITICAL, True)
        monkeypatch.setattr(readings, "read", lambda: Usage(0, LIMIT, "made up"))
        await trio.sleep(2)
        assert (status.level, target.refusing) == (Level.NORMAL, False)
        nursery.cancel_scope.cancel()


@EVERY_ERROR
@pytest.mark.parametrize("step", ["flush_memtables", "compact_payloads", "trim_tiers", "set_cache_bytes"])
async def test_the_monitor_survives_a_step_that_the_system_does_not_let_it_take(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str, error: Exception
) -> None:
    readings, target, status = Readings(), Target(), PressureStatus()
    readings.set(0.95)
    monkeypatch.setattr(target, step, fail_with(error))
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor, readings, target, PressureSettings(CACHE), status)
        await until(lambda: "memory step failed" in caplog.text)
        assert target.refusing
        nursery.cancel_scope.cancel()


def test_memory_is_read_without_a_free_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (group / "memory.max").write_text("1000\n")
    (group / "memory.current").write_text("500\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 100\n")
    usage = MemoryUsage(root=tmp_path)
    assert usage.read()[:2] == (400, 1000)
    assert usage.resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    monkeypatch.setattr(os, "open", fail_with(ERRORS[0]))
    (group / "memory.current").write_text("700\n")
    (group / "memory.max").write_text("900\n")
    assert usage.read()[:2] == (600, 900)
    assert usage.resident_bytes() > 0


def test_a_group_that_was_made_again_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a file of a group that was removed is ENODEV."""
    usage = MemoryUsage()
    assert usage.resident_bytes() > 0
    really_read = os.pread
    errors = [OSError(errno.ENODEV, "No such device")]

    def read(descriptor: int, count: int, offset: int) -> bytes:
        if errors:
            raise errors.pop()
        return really_read(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", read)
    assert usage.resident_bytes() > 0


# Verifies: SYS-0014
def test_the_same_trouble_is_told_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr("qrusty_trio.server.trouble.time.monotonic", lambda: now)
    trouble = Trouble(logging.getLogger("qrusty_trio.test"), "it went wrong")
    for _ in range(50):
        trouble.note(ERRORS[0])
    now += trouble_module.TELL_SECONDS
    trouble.note(RuntimeError("a slip"))
    first, second = caplog.records
    assert first.getMessage() == "it went wrong: Too many open files (raise the limit of open files, ulimit -n)"
    assert first.exc_info is None
    assert second.getMessage() == "it went wrong: a slip (49 more times since it was last told)"
    assert second.exc_info is not None


# --- payloads -------------------------------------------------------------------------------------------------------


# Verifies: PER-0038
async def test_a_payload_that_cannot_be_read_just_now_is_that_request_s_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room(tmp_path) as it:
        id = await it.publish("q", large("first"))
        await it.publish("q", "second")
        it.payloads.retire()
        for error in ERRORS[:3]:
            with monkeypatch.context() as out_of_it:
                out_of_it.setattr(Directory, "open", fail_with(error))
                with pytest.raises(PayloadUnreadable) as refused:
                    await it.consume("q")
            assert (refused.value.status, refused.value.code) == (503, "storage_error")
            assert isinstance(refused.value, QrustyError)
            assert it.engine.fault is None
            stats = it.broker.catalog.stats("q")
            assert stats is not None
            assert (stats.available, stats.locked) == (2, 0)
        delivery = await it.consume("q")
        assert delivery is not None
        assert (delivery.id, delivery.payload, delivery.retry_count) == (id, large("first"), 1)


async def test_payloads_that_cannot_be_read_are_told_in_the_log_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sampler, "SAMPLE_SECONDS", 0.01)
    async with room(tmp_path) as it, trio.open_nursery() as nursery:
        await nursery.start(sampler.sample, it.engine)
        await it.publish("q", large("first"))
        it.payloads.retire()
        monkeypatch.setattr(Directory, "open", fail_with(ERRORS[0]))
        for _ in range(3):
            with pytest.raises(PayloadUnreadable):
                await it.consume("q")
        await until(lambda: bool(caplog.records))
        with pytest.raises(PayloadUnreadable):
            await it.consume("q")
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    (line,) = [record.getMessage() for record in caplog.records if record.name == sampler.log.name]
    assert "large payload" in line
    assert "Too many open files" in line


async def test_a_search_for_duplicates_goes_on_when_payloads_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room(tmp_path) as it:
        for text in ("a", "b", "a", "b", "c"):
            await it.publish("q", large(text))

        def refuse_duplicates(broker: Broker, now: int) -> None:
            next(broker.catalog.update("q", None, False, now))

        with monkeypatch.context() as out_of_it:
            out_of_it.setattr(Directory, "open", fail_with(ERRORS[0]))
            await it.engine.transact(refuse_duplicates, sync=True)
            await trio.sleep(0.05)
            assert it.engine.fault is None
            assert it.broker.catalog.by_name["q"].deduplicating
        await until(lambda: not it.broker.catalog.by_name["q"].deduplicating)
        assert await it.drain("q") == [large("a"), large("b"), large("c")]


# Verifies: SYS-0014
@EVERY_ERROR
@pytest.mark.parametrize("where", ["compact", "repair"])
async def test_the_compactor_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str, error: Exception
) -> None:
    async with room(tmp_path) as it:
        it.compactor._interval = 0.0
        if where == "repair":
            it.compactor._suspects[1] = "made up"
        for number in range(10):
            await it.publish("q", large(str(number)))
        for _ in range(8):
            delivery = await it.consume("q")
            assert delivery is not None
            await it.ack("q", delivery.id)
        monkeypatch.setattr(it.payloads, "read", fail_with(error))
        async with trio.open_nursery() as nursery:
            await nursery.start(it.compactor.run)
            await until(lambda: "will try again" in caplog.text)
            monkeypatch.undo()
            it.compactor._suspects.clear()
            await until(lambda: 1 not in it.payloads.segments())
            nursery.cancel_scope.cancel()
        assert it.broker.payloads.removed_total == 0
        assert await it.drain("q") == [large("8"), large("9")]


# Verifies: PER-0031
@EVERY_ERROR
async def test_removed_messages_that_cannot_be_written_down_are_named_whatever_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async with room(tmp_path) as it:
        id = await it.publish("q", large("lost"))
        (tmp_path / "payloads/0000000001.payloads").write_bytes(b"")
        assert await it.consume("q") is None
        monkeypatch.setattr(it.compactor._removed_log, "record", fail_with(error))
        await it.compactor._note()
    assert f"q/{id}" in caplog.text


# --- the directory --------------------------------------------------------------------------------------------------


# Verifies: SYS-0014
@EVERY_ERROR
async def test_the_watch_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async with room(tmp_path / "data") as it, trio.open_nursery() as nursery:
        monkeypatch.setattr("qrusty_trio.server.watch.WATCH_SECONDS", 0.01)
        looks = [error, error]
        check = it.stores.storage.check

        def look() -> None:
            if looks:
                raise looks.pop()
            check()

        monkeypatch.setattr(it.stores.storage, "check", look)
        await nursery.start(watch, it.engine, it.stores)
        await until(lambda: not looks and "could not be looked at" in caplog.text)
        assert it.engine.fault is None
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        await until(lambda: it.engine.fault is not None)
        (tmp_path / "elsewhere").rename(tmp_path / "data")
        await until(lambda: it.engine.fault is None)
        await it.publish("q", "after")
        nursery.cancel_scope.cancel()


# Verifies: PER-0045
@pytest.mark.parametrize("fsync", [Fsync.ALWAYS, Fsync.NEVER], ids=str)
async def test_a_server_whose_directory_is_away_refuses_changes_and_goes_on_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fsync: Fsync
) -> None:
    settings = settings_for(tmp_path / "data", fsync=fsync)
    body = b'{"queue":"q","priority":1,"payload":"x"}'
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        responses = [(await client.request("POST", "/publish", body)).status]
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        if fsync is Fsync.NEVER:
            await until(lambda: server.engine.fault is not None)
        for _ in range(20):
            refused = await client.request("POST", "/publish", body)
            assert (refused.status, refused.json()["code"]) == (503, "storage_error")
            assert (await client.request("GET", "/stats")).status == 200
        (tmp_path / "elsewhere").rename(tmp_path / "data")
        await until(lambda: server.engine.fault is None)
        responses.append((await client.request("POST", "/publish", body)).status)
        assert responses == [200, 200]
        assert "Put the same one back" in caplog.text
        stats = (await client.request("GET", "/queue-stats/q")).json()
        assert stats["available"] >= 2
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        assert (await client.request("GET", "/queue-stats/q")).json()["available"] == stats["available"]


# Verifies: PER-0069
@pytest.mark.parametrize("fsync", [Fsync.ALWAYS, Fsync.EVERYSEC], ids=str)
async def test_a_disk_that_does_not_answer_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fsync: Fsync
) -> None:
    may_sync = threading.Event()
    may_sync.set()
    sync = RocksStorage.sync

    def held(self: RocksStorage) -> None:
        assert may_sync.wait(60)
        sync(self)

    monkeypatch.setattr(RocksStorage, "sync", held)
    monkeypatch.setattr(RocksStorage, "sync_descriptor", lambda _: None)
    monkeypatch.setattr(watch_module, "SLOW_SYNC_SECONDS", 0.1)
    body = b'{"queue":"q","priority":1,"payload":"x"}'
    answered: list[int] = []

    async def publish(server: Server) -> None:
        async with client_of(server) as client:
            answered.append((await client.request("POST", "/publish", body)).status)

    async with running(settings_for(tmp_path / "data", fsync=fsync)) as server, client_of(server) as client:
        await until_ready(server)
        may_sync.clear()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, server)
                await until(lambda: "the disk of the data directory does not answer" in caplog.text)
                ready = await client.request("GET", "/readyz")
                told = (await client.request("GET", "/server")).json()
                if fsync is Fsync.ALWAYS:
                    assert (ready.status, ready.json()["status"], answered) == (503, "storage_fault", [])
                    assert told["message"] == ready.json()["message"]
                    assert "Changes are answered when it does" in told["message"]
                else:
                    # Changes are answered, but a power cut may lose more than the last second.
                    assert (ready.status, told["message"]) == (200, None)
                    assert "a power cut may lose" in caplog.text
                may_sync.set()
        finally:
            may_sync.set()
        assert answered == [200]
        await until(lambda: "the disk answers again" in caplog.text)
        await until(lambda: server.engine.services.gate.ready)
        monkeypatch.setattr(watch_module, "SLOW_SYNC_SECONDS", 60.0)


# Verifies: PER-0046
async def test_a_server_whose_directory_was_removed_answers_no_change_and_makes_no_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"queue":"q","priority":1,"payload":"x"}'
    # It cannot be closed in order either, and says so.
    with pytest.raises(ExceptionGroup) as ended:
        async with running(settings_for(tmp_path / "data")) as server, client_of(server) as client:
            await until_ready(server)
            assert (await client.request("POST", "/publish", body)).status == 200
            shutil.rmtree(tmp_path / "data")
            for _ in range(5):
                assert (await client.request("POST", "/publish", body)).status == 503
    assert ended.group_contains(StorageFault)
    assert "put back a backup" in caplog.text
    assert not (tmp_path / "data").exists()
