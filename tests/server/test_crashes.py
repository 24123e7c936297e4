"""A change that fails in a way nobody thought of, or for want of memory: it is told once, and everybody goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from qrusty_trio.api.call import Call, Reply
from qrusty_trio.config import Fsync
from qrusty_trio.errors import StorageFault
from qrusty_trio.server import engine as engine_module
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.sampler import SAMPLE_SECONDS, sample
from qrusty_trio.storage.memory import MemoryStorage
from tests.server.engines import (
    STEP_SECONDS,
    WatchedStorage,
    ack,
    call,
    consume,
    engine_on,
    publish,
    response,
    run,
    until_back,
)

ERRORS = [MemoryError(), KeyError("stale")]
EVERY_ERROR = pytest.mark.parametrize("error", ERRORS, ids=repr)


class Failing:
    """Stands for a function: fails so many times, then does what that does. Counts its calls."""

    def __init__(self, function: Callable[..., Any], error: Exception, times: float) -> None:
        self._function = function
        self._error = error
        self._left = times
        self.calls = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        if self._left > 0:
            self._left -= 1
            raise self._error
        return self._function(*args, **options)


def fail(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, times: float = 1) -> Failing:
    failing = Failing(getattr(owner, name), error, times)
    monkeypatch.setattr(owner, name, failing)
    return failing


async def in_parts(engine: Engine, way: str, calls: list[Call]) -> list[Reply]:
    """Run calls as a connection does, or request batching, or a benchmark."""
    replies: list[Reply] = []
    with trio.fail_after(STEP_SECONDS):
        for _ in range(2 * len(calls) + 2):
            rest = calls[len(replies) :]
            if not rest:
                return replies
            if way == "run":
                replies += await engine.run(rest)
            else:
                replies += engine.run_nowait(rest) if way == "nowait" else engine.run_to_end(rest)
            await trio.lowlevel.checkpoint()
    raise AssertionError("a call is tried for ever")


# Verifies: PER-0048
@EVERY_ERROR
@pytest.mark.parametrize("way", ["run", "nowait", "to_end"])
@pytest.mark.parametrize("operation", ["publish", "consume", "ack", "nack"])
async def test_a_call_that_fails_is_answered_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception, way: str, operation: str
) -> None:
    async with engine_on(WatchedStorage(MemoryStorage())) as engine:
        await run(engine, *[publish("old", f"q{number}") for number in range(2)])
        failing = fail(monkeypatch, engine.broker, operation, error, times=float("inf"))
        calls = {
            "publish": publish("x"),
            "consume": consume("q0"),
            "ack": ack("id"),
            "nack": call("POST", "/nack/q/id", consumer_id="c"),
        }
        failed = calls.pop(operation)
        others = [each for each in calls.values() if each.operation.name == "publish"] or [consume("q1")]
        replies = await in_parts(engine, way, [call("GET", "/health"), failed, *others])
        assert [reply.status for reply in replies] == [200, 503, 200]
        assert json.loads(replies[1].body)["code"] == "storage_error"
        assert failing.calls <= 2
        assert engine.fault is None
        assert engine.broker.catalog.by_number[1].available == 1


# Verifies: PER-0043
@EVERY_ERROR
@pytest.mark.parametrize("way", ["run", "nowait", "to_end"])
async def test_reads_are_answered_when_no_change_can_begin(
    monkeypatch: pytest.MonkeyPatch, error: Exception, way: str
) -> None:
    monkeypatch.setattr(engine_module, "PAUSE_SECONDS", 0.001)
    async with engine_on(WatchedStorage(MemoryStorage())) as engine:
        await run(engine, publish("x"))
        expire = fail(monkeypatch, engine.broker, "expire", error, times=20)
        await engine.transact(lambda broker, now: broker.consume("q", "c", 1, now - 5000), sync=True)
        replies = await in_parts(engine, way, [call("GET", "/health"), publish("y"), consume(), call("GET", "/queues")])
        assert [reply.status for reply in replies] == [200, 503, 503, 200]
        with trio.fail_after(STEP_SECONDS):
            while engine.broker.locks.count:  # noqa: ASYNC110  # no event tells of it
                await trio.sleep(0.01)
        assert expire.calls >= 20
        (body,) = await run(engine, consume())
        assert (body["payload"], body["retry_count"]) == ("x", 2)


async def test_a_task_whose_step_fails_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_on(WatchedStorage(MemoryStorage())) as engine:
        await run(engine, publish("x"))
        expire = fail(monkeypatch, engine.broker, "expire", MemoryError(), times=float("inf"))
        await engine.transact(lambda broker, now: broker.consume("q", "c", 1, now - 5000), sync=True)
        give_back = fail(monkeypatch, engine.sessions, "give_back", MemoryError(), times=float("inf"))
        search = fail(monkeypatch, engine.broker.deduplication, "search_on", MemoryError(), times=float("inf"))
        engine.recovered()  # wakes them all
        engine.dispatch_soon()
        for _ in range(200):
            await trio.lowlevel.checkpoint()
        assert expire.calls + give_back.calls + search.calls <= 6


@EVERY_ERROR
async def test_a_search_for_duplicates_is_not_lost(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whoever asked for it was told that it failed, and is gone."""
    monkeypatch.setattr(engine_module, "PAUSE_SECONDS", 0.001)
    async with engine_on(WatchedStorage(MemoryStorage())) as engine:
        await run(engine, *[publish(str(number % 2)) for number in range(300)])
        fail(monkeypatch, engine.broker.deduplication, "_index_message", error, times=3)
        await engine.run([call("POST", "/update-queue", name="q", config={"allow_duplicates": False})])
        queue = engine.broker.catalog.by_name["q"]
        with trio.fail_after(STEP_SECONDS):
            while queue.deduplicating:  # noqa: ASYNC110  # no event tells of it
                await trio.sleep(0.01)
        assert queue.available == 2


# Verifies: PER-0047
@EVERY_ERROR
@pytest.mark.parametrize("policy", [Fsync.ALWAYS, Fsync.NEVER])
async def test_a_write_that_fails_is_a_fault_like_any_other(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch, error: Exception, policy: Fsync
) -> None:
    async with engine_on(store, policy) as engine:
        await run(engine, publish("kept"))
        fail(monkeypatch, store, "write", error)
        (reply,) = await engine.run([publish("lost")])
        assert reply.status == 503
        await until_back(engine)
        assert [body and body["payload"] for body in await run(engine, consume(), consume())] == ["kept", None]


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")], ids=repr)
async def test_a_sync_that_the_system_does_not_let_begin_fails_those_who_wait_for_it(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async with engine_on(store) as engine:
        fail(monkeypatch, store, "sync", error, times=2)
        for _ in range(2):
            (reply,) = await engine.run([publish("perhaps")])
            assert reply.status == 503
        assert engine.fault is None
        await run(engine, publish("certain"))
        assert len([each for each in caplog.records if "a sync failed" in each.getMessage()]) == 1


async def test_a_sync_apart_that_fails_for_want_of_a_thread_fails_nobody_else(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine_on(store) as engine:
        fail(monkeypatch, trio.to_thread, "run_sync", RuntimeError("can't start new thread"))
        replies: list[Reply] = []

        async def ask() -> None:
            replies.extend(await engine.run([publish("x")]))

        async with trio.open_nursery() as nursery:
            with store.held():
                nursery.start_soon(ask)
                await store.until_sync_begins()
                with pytest.raises(StorageFault, match="can't start new thread"):
                    await engine.committer.sync_now()
        assert response(replies[0])["id"]


async def test_the_sampler_goes_on(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_on(WatchedStorage(MemoryStorage()), Fsync.NEVER) as engine, trio.open_nursery() as nursery:
        await run(engine, publish("x"))
        failing = fail(monkeypatch, engine.broker.catalog, "sample", MemoryError(), times=3)
        await nursery.start(sample, engine)
        await trio.sleep(5 * SAMPLE_SECONDS + 0.5)
        assert failing.calls == 5
        assert len(engine.broker.catalog.metrics("q")) == 2
        nursery.cancel_scope.cancel()
