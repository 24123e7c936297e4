"""The task that erases what is kept aside."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.config import Fsync
from qrusty_trio.errors import DiskFull
from qrusty_trio.server import trash
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.trash import empty_trash, little_room
from qrusty_trio.storage.memory import MemoryStorage
from tests.core.brokers import Keeping
from tests.server.engines import WatchedStorage, call, engine_on, publish, run, until_back
from tests.server.running import child_server, client_of


class Disk:
    short = False


@asynccontextmanager
async def erasing(storage: Any) -> AsyncIterator[tuple[Engine, Disk]]:
    disk = Disk()
    async with engine_on(storage, Fsync.NEVER) as engine, trio.open_nursery() as nursery:
        await nursery.start(empty_trash, engine, lambda: disk.short)
        yield engine, disk
        nursery.cancel_scope.cancel()


async def put_aside(engine: Engine, seconds: int) -> int:
    """Purge a message with a way back; returns the id in the trash."""
    await run(engine, publish("p"))
    (answer,) = await run(engine, call("POST", f"/purge-queue/q?undo_seconds={seconds}"))
    return int(answer["undo"]["id"])


async def kept(engine: Engine) -> list[int]:
    (answer,) = await run(engine, call("GET", "/trash"))
    return [each["id"] for each in answer["trash"]]


# Verifies: DLV-0063
async def test_it_goes_when_its_time_is_over(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with erasing(Keeping()) as (engine, _):
        long, short = await put_aside(engine, 600), await put_aside(engine, 60)
        await trio.sleep(55)
        assert await kept(engine) == [long, short]
        await trio.sleep(10)
        assert await kept(engine) == [long]
        assert "1 message of queue 'q' that were kept aside erased: its time is over" in caplog.text
        await trio.sleep(600)
        assert await kept(engine) == []
        before = engine.transactions
        await trio.sleep(100)
        assert engine.transactions == before


# Verifies: DLV-0063
async def test_one_goes_at_a_time_when_the_disk_has_little_room(autojump_clock: trio.testing.MockClock) -> None:
    """The space of one comes back only later."""
    async with erasing(Keeping()) as (engine, disk):
        first, second, third = [await put_aside(engine, 600) for _ in range(3)]
        disk.short = True
        await trio.sleep(trash.GIVE_BACK_SECONDS)
        assert await kept(engine) == [second, third]
        await trio.sleep(trash.GIVE_BACK_SECONDS)
        assert await kept(engine) == [third]
        assert first


# Verifies: DLV-0063
async def test_the_oldest_goes_early_when_the_disk_has_little_room(autojump_clock: trio.testing.MockClock) -> None:
    async with erasing(Keeping()) as (engine, disk):
        first, second = await put_aside(engine, 600), await put_aside(engine, 60)
        disk.short = True
        await trio.sleep(1.5)
        assert await kept(engine) == [second]
        disk.short = False
        await trio.sleep(10)
        assert await kept(engine) == [second]
        assert first != second


async def test_a_store_that_fails_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    storage = WatchedStorage(MemoryStorage())
    async with erasing(storage) as (engine, _):
        number = await put_aside(engine, 5)
        storage.write_fault = DiskFull("No space left on the device.")
        storage.reopen_fault = storage.write_fault
        await trio.sleep(10)
        assert engine.fault is not None
        storage.reopen_fault = None
        await until_back(engine)
        assert number
        await trio.sleep(3)
        assert await kept(engine) == []


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "LEAST_FREE_BYTES", 0)
    assert not little_room(tmp_path)
    monkeypatch.setattr(trash, "LEAST_FREE_BYTES", 2**63)
    monkeypatch.setattr(trash, "LEAST_FREE_SHARE", 1.0)
    assert little_room(tmp_path)


# Verifies: DLV-0059
async def test_what_is_kept_aside_outlives_a_kill(tmp_path: Path) -> None:
    async with child_server(tmp_path) as server, client_of(server) as client:
        for text in ("a", "b"):
            body = json.dumps({"queue": "q", "priority": 1, "payload": text}).encode()
            assert (await client.request("POST", "/publish", body)).status == 200
        answer = (await client.request("DELETE", "/delete-queue/q?undo_seconds=600")).json()
        assert answer["deleted_messages"] == 2
        await server.kill()
    async with child_server(tmp_path) as server, client_of(server) as client:
        (found,) = (await client.request("GET", "/trash")).json()["trash"]
        assert (found["id"], found["expires_at"]) == tuple(answer["undo"].values())
        restored = await client.request("POST", f"/trash/{found['id']}/restore")
        assert restored.json() == {"queue": "q", "restored_messages": 2, "refused": 0}
        body = b'{"consumer_id":"c"}'
        assert (await client.request("POST", "/consume/q", body)).json()["payload"] == "a"
