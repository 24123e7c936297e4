"""A refused duplicate is answered after the sync of the message it is equal to: over sockets, on all paths."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.errors import DiskFull
from tests.http.test_lock_syncs import Asked, Pushed, break_next_sync, connected, held, until_back
from tests.http.ws_server import Running, both_paths, running

MESSAGE: dict[str, Any] = {"priority": 0, "payload": "x"}
WAYS: dict[str, tuple[str, bytes]] = {
    "publish": ("/publish", json.dumps({"queue": "jobs", **MESSAGE}).encode()),
    "batch": ("/publish-batch", json.dumps({"queue": "jobs", "messages": [MESSAGE]}).encode()),
}
each_way = pytest.mark.parametrize("way", WAYS)


@asynccontextmanager
async def refusing(fast_path: bool, tmp_path: Path) -> AsyncIterator[Running]:
    """A server with a queue that refuses duplicates."""
    async with running(fast_path, data_path=tmp_path / "data") as server:
        config = {"ordering": "Fifo", "allow_duplicates": False}
        await server.http("POST", "/create-queue", {"name": "jobs", "config": config})
        yield server


# Verifies: PER-0068
@both_paths
@each_way
async def test_a_refused_duplicate_waits_for_its_equal(fast_path: bool, way: str, tmp_path: Path) -> None:
    async with refusing(fast_path, tmp_path) as server, connected(server) as one, connected(server) as another:
        async with trio.open_nursery() as nursery, held(server) as sync:
            await one.send("POST", *WAYS["publish"])
            await sync.until_reached()
            await another.send("POST", *WAYS[way])
            asked = Asked(another, nursery)
            await trio.testing.wait_all_tasks_blocked()
            assert asked.response is None
            sync.release()
            assert b"duplicate_payload" in (await asked.done()).body
        assert (await one.receive()).status == 200


# Verifies: PER-0068
@both_paths
@each_way
async def test_a_refused_duplicate_is_an_error_if_the_sync_of_its_equal_fails(
    fast_path: bool, way: str, tmp_path: Path
) -> None:
    async with refusing(fast_path, tmp_path) as server, connected(server) as one, connected(server) as another:
        break_next_sync(server, DiskFull("No space left on the device"))
        async with held(server) as sync:
            await one.send("POST", *WAYS["publish"])
            await sync.until_reached()
            await another.send("POST", *WAYS[way])
            await trio.testing.wait_all_tasks_blocked()
        for each in (one, another):
            response = await each.receive()
            assert (response.status, response.json()["code"]) == (507, "disk_full")
        await until_back(server)


# Verifies: PER-0068
async def test_publishes_that_came_together_wait_together(tmp_path: Path) -> None:
    """The refusal is in the same burst as the message it is equal to."""
    async with refusing(True, tmp_path) as server, connected(server) as connection:
        async with trio.open_nursery() as nursery, held(server) as sync:
            for _ in range(2):
                await connection.send("POST", *WAYS["publish"])
            await sync.until_reached()
            first = Asked(connection, nursery)
            await trio.testing.wait_all_tasks_blocked()
            assert first.response is None
            sync.release()
            assert (await first.done()).status == 200
        assert (await connection.receive()).json()["code"] == "duplicate_payload"


# Verifies: PER-0068
@both_paths
@pytest.mark.parametrize("batch", [False, True])
async def test_a_duplicate_over_websocket_waits_for_its_equal(fast_path: bool, batch: bool, tmp_path: Path) -> None:
    async with (
        refusing(fast_path, tmp_path) as server,
        connected(server) as one,
        server.socket() as another,
        trio.open_nursery() as nursery,
    ):
        pushed = Pushed(another, nursery)
        async with held(server) as sync:
            await one.send("POST", *WAYS["publish"])
            await sync.until_reached()
            if batch:
                await another.send(type="batch-publish", queue="jobs", messages=[MESSAGE])
            else:
                await another.send(type="publish", queue="jobs", **MESSAGE)
            await trio.testing.wait_all_tasks_blocked()
            assert not pushed.frames
        assert "duplicate" in json.dumps(await pushed.until(1)).lower()
        nursery.cancel_scope.cancel()
        assert (await one.receive()).status == 200
