"""A refusal that tells of another change, as that of a duplicate does, leaves after the sync of that change."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from qrusty_trio.api.call import Call
from qrusty_trio.config import Fsync
from qrusty_trio.errors import DiskFull
from qrusty_trio.server.engine import Engine
from tests.server.engines import WatchedStorage, call, engine_on, publish, run, until_back
from tests.server.test_lock_syncs import Asked, counts, out_of_memory

LARGE = "x" * 300_000


def create(name: str) -> Call:
    return call("POST", "/create-queue", name=name, config={"ordering": "Fifo", "allow_duplicates": False})


def batch(*payloads: str) -> Call:
    messages = [{"priority": 0, "payload": each} for each in payloads]
    return call("POST", "/publish-batch", queue="q", messages=messages)


REFUSALS: dict[str, tuple[Call, Call, str]] = {
    "publish": (publish("x"), publish("x"), "duplicate_payload"),
    "large": (publish(LARGE), publish(LARGE), "duplicate_payload"),
    "batch": (publish("x"), batch("x"), "duplicate_payload"),
    "long batch": (publish("x"), batch(*["x"] * 200), "duplicate_payload"),
    "create": (create("new"), create("new"), "queue_exists"),
    "rename": (create("new"), call("POST", "/update-queue", name="q", config={"name": "new"}), "queue_exists"),
}
"""A change, what is refused since it was made, and the code of that."""
each_refusal = pytest.mark.parametrize(("change", "refused", "code"), REFUSALS.values(), ids=REFUSALS)


async def ask_both(
    engine: Engine, nursery: trio.Nursery, store: WatchedStorage, change: Call, refused: Call
) -> tuple[Asked, Asked]:
    """A change, and once its sync has begun, what is refused since."""
    first = Asked(engine, nursery, change)
    await store.until_sync_begins()
    second = Asked(engine, nursery, refused)
    await trio.testing.wait_all_tasks_blocked()
    return first, second


# Verifies: PER-0068
@each_refusal
async def test_a_refusal_waits_for_what_it_tells_of(
    store: WatchedStorage, change: Call, refused: Call, code: str
) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        await run(engine, create("q"))
        with store.held():
            first, second = await ask_both(engine, nursery, store, change, refused)
            assert (first.replies, second.replies) == (None, None)
        assert [reply.status for reply in await first.done()] == [200]
        (reply,) = await second.done()
        assert code in reply.body.decode()


# Verifies: PER-0068
@each_refusal
async def test_a_refusal_is_an_error_if_that_sync_fails(
    store: WatchedStorage, change: Call, refused: Call, code: str
) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        await run(engine, create("q"))
        with store.held():
            store.sync_fault = DiskFull("No space left on the device.")
            asked = await ask_both(engine, nursery, store, change, refused)
        for each in asked:
            (reply,) = await each.done()
            assert (reply.status, json.loads(reply.body)["code"]) == (507, "disk_full")
        await until_back(engine)


# Verifies: PER-0068
@each_refusal
async def test_a_refusal_is_an_error_if_its_own_sync_can_not_begin(
    store: WatchedStorage, change: Call, refused: Call, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change it tells of is not known to be on the disk, as no sync has succeeded since."""
    async with engine_on(store) as engine:
        await run(engine, create("q"))
        with monkeypatch.context() as short:
            short.setattr(store, "sync", out_of_memory)
            for each in (change, refused):
                (reply,) = await engine.run([each])
                assert reply.status == 503
        (reply,) = await engine.run([refused])
        assert code in reply.body.decode()


# Verifies: PER-0068
@pytest.mark.parametrize("policy", [Fsync.EVERYSEC, Fsync.NEVER])
@each_refusal
async def test_it_waits_only_where_changes_do(
    store: WatchedStorage, change: Call, refused: Call, code: str, policy: Fsync
) -> None:
    async with engine_on(store, policy) as engine:
        await run(engine, create("q"))
        with store.held():
            await run(engine, change)
            (reply,) = await engine.run([refused])
        assert code in reply.body.decode()


# Verifies: PER-0068
@pytest.mark.parametrize(
    "refused",
    [
        publish("y", priority="high"),
        publish("y", queue=""),
        call("POST", "/publish-batch", queue="q", messages=[{"priority": "high", "payload": "y"}]),
        call("POST", "/update-queue", name="unknown", config={"name": "other"}),
    ],
)
async def test_a_refusal_that_tells_of_no_change_waits_for_nothing(store: WatchedStorage, refused: Call) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        await run(engine, create("q"))
        with store.held():
            Asked(engine, nursery, publish("x"))
            await store.until_sync_begins()
            (reply,) = await engine.run([refused])
        assert reply.status >= 400 or b"priority_kind_mismatch" in reply.body
        assert counts(engine) == (1, 0)
