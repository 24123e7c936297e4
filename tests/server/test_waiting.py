"""Calls that wait, in the engine: faults, cancellations, limits, the end of the server, and many of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.api import waiting as waiting_rules
from qrusty_trio.api.batches import MAX_RESPONSE_BYTES
from qrusty_trio.api.call import WAITING, Call, Reply
from qrusty_trio.http.byte_budget import LARGE_BYTES, Budget, Holding
from qrusty_trio.http.pauses import EventPause
from qrusty_trio.server import waiters
from qrusty_trio.server.engine import Engine
from qrusty_trio.storage.memory import MemoryStorage
from tests.server.engines import WatchedStorage, call, engine_on, publish, response, run, until_back


def consume(queue: str = "q", seconds: float = 60, consumer: str = "c") -> Call:
    return call("POST", f"/consume/{queue}", consumer_id=consumer, wait_seconds=seconds)


def consume_batch(most: int = 10, seconds: float = 60) -> Call:
    return call("POST", "/consume-batch/q", consumer_id="c", max_messages=most, wait_seconds=seconds)


def a_pause(budget: Budget | None = None) -> EventPause:
    return EventPause(Holding(budget or Budget()))


class Waiting:
    """A call in a task of its own."""

    def __init__(self, engine: Engine, nursery: trio.Nursery, call: Call, pause: EventPause | None = None) -> None:
        self.pause = pause or a_pause()
        self.scope = trio.CancelScope()
        self.replies: list[Reply] = []
        self._done = trio.Event()
        nursery.start_soon(self._run, engine, call)

    async def _run(self, engine: Engine, call: Call) -> None:
        with self.scope:
            self.replies = await engine.run([call], self.pause)
        self._done.set()

    async def reply(self) -> Reply:
        with trio.fail_after(100):
            await self._done.wait()
        (reply,) = self.replies
        return reply

    async def cancelled(self) -> None:
        self.scope.cancel()
        await self._done.wait()
        assert not self.replies


async def until_waiting(engine: Engine, count: int = 1) -> None:
    with trio.fail_after(10):
        while len(engine.waiters) != count:  # no event tells of it
            await trio.lowlevel.checkpoint()


def nobody_waits(engine: Engine) -> bool:
    dispatcher: Any = engine.dispatcher
    return not (len(engine.waiters) or dispatcher._members or dispatcher._rings or dispatcher._orphans)


def counts(engine: Engine, queue: str = "q") -> tuple[int, int]:
    found = engine.broker.catalog.by_name[queue]
    return found.available, found.locked


async def test_without_a_pause_nobody_waits(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        assert await run(engine, consume(), consume_batch(), consume()) == [None]
        (reply,) = await engine.run([consume_batch()])
        assert response(reply) == {"messages": []}
        assert [reply.body for reply in engine.run_to_end([consume(), consume_batch()])] == [
            b"null",
            b'{"messages":[]}',
        ]


async def test_calls_before_it_are_answered_first_and_those_behind_it_later(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        calls = [publish("x", "other"), consume(), publish("y", "other")]
        pause = a_pause()
        replies = await engine.run(calls, pause)
        assert [reply.status for reply in replies] == [200]
        assert counts(engine, "other") == (1, 0)
        waits = Waiting(engine, nursery, consume(), pause)
        await until_waiting(engine)
        (id,) = [each["id"] for each in await run(engine, publish("z"))]
        assert response(await waits.reply())["id"] == id
        assert nobody_waits(engine)


async def test_in_a_batch_of_requests_a_call_that_waits_holds_up_nobody(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        replies = engine.run_nowait([publish("a"), consume(), consume(), consume("r"), publish("b"), consume()])
        assert [reply is WAITING for reply in replies] == [False, False, True, True, False, False]
        assert nobody_waits(engine)


# Verifies: DLV-0055
async def test_the_time_of_a_wait(autojump_clock: trio.testing.MockClock) -> None:
    async with engine_on(MemoryStorage()) as engine, trio.open_nursery() as nursery:
        begun = trio.current_time()
        for seconds in (0.25, 60):
            assert response(await Waiting(engine, nursery, consume(seconds=seconds)).reply()) is None
        assert trio.current_time() - begun == pytest.approx(60.25, abs=0.01)
        assert nobody_waits(engine)


async def test_a_lock_that_ends_wakes_it(autojump_clock: trio.testing.MockClock) -> None:
    async with engine_on(MemoryStorage()) as engine, trio.open_nursery() as nursery:
        await run(engine, publish("x"), call("POST", "/consume/q", consumer_id="o", timeout_seconds=5))
        begun = trio.current_time()
        waits = Waiting(engine, nursery, consume())
        (delivery,) = (await waits.reply()).deliveries
        assert trio.current_time() - begun == pytest.approx(5, abs=0.01)
        assert delivery.retry_count == 2
        assert delivery.expires_at_ms == pytest.approx(engine.clock.now_ms() + 30_000, abs=10)


# Verifies: DLV-0057
async def test_a_cancelled_call_takes_nothing(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume())
        await until_waiting(engine)
        await waits.cancelled()
        assert nobody_waits(engine)
        await run(engine, publish("x"))
        assert counts(engine) == (1, 0)


@pytest.mark.parametrize("asked", [consume(), consume_batch()])
async def test_a_call_cancelled_with_its_message_in_hand(store: WatchedStorage, asked: Call) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, asked)
        await until_waiting(engine)
        waits.scope.cancel()
        engine.run_to_end([publish("x"), publish("y")])
        assert counts(engine)[1] > 0
        await waits.cancelled()
        assert counts(engine) == (2, 0)
        (reply,) = await engine.run([consume()])
        assert response(reply)["retry_count"] == 1


# Verifies: DLV-0057
async def test_a_peer_that_is_gone_with_its_message_in_hand(store: WatchedStorage) -> None:
    """Its reply has the message. Whoever can't send that gives it back."""
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume())
        await until_waiting(engine)
        engine.run_to_end([publish("x")])
        waits.pause.give_up()
        reply = await waits.reply()
        assert len(reply.deliveries) == 1
        engine.give_back(reply)
        assert counts(engine) == (1, 0)


async def test_a_peer_that_is_gone(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume())
        await until_waiting(engine)
        waits.pause.give_up()
        assert response(await waits.reply()) is None
        assert response(await Waiting(engine, nursery, consume(), waits.pause).reply()) is None
        assert nobody_waits(engine)


async def test_a_wake_without_a_reason(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume())
        for _ in range(3):
            await until_waiting(engine)
            waits.pause.wake()
            await trio.testing.wait_all_tasks_blocked()
        await run(engine, publish("x"))
        assert response(await waits.reply())["payload"] == "x"


# Verifies: DLV-0058
async def test_a_fault_answers_all(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        await run(engine, publish("x"), consume())
        every = [Waiting(engine, nursery, each) for each in (consume(), consume("unknown"), consume_batch())]
        await until_waiting(engine, 3)
        store.writes_left = 0
        (failed,) = await engine.run([publish("y")])
        assert failed.status == 507
        assert [(await each.reply()).status for each in every] == [507] * 3
        await until_back(engine)
        assert nobody_waits(engine)
        again = Waiting(engine, nursery, consume())
        await until_waiting(engine)
        await run(engine, publish("z"))
        assert response(await again.reply())["payload"] == "z"


async def test_a_fault_as_its_message_is_stored(store: WatchedStorage) -> None:
    """The write that holds the publish and the delivery fails: neither has happened."""
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        await run(engine, publish("first"), consume())
        waits = Waiting(engine, nursery, consume())
        await until_waiting(engine)
        store.writes_left = 0
        (failed,) = await engine.run([publish("x")])
        assert (failed.status, (await waits.reply()).status) == (507, 507)
        await until_back(engine)
        assert counts(engine) == (0, 1)


async def test_a_fault_after_its_message_was_stored(store: WatchedStorage) -> None:
    """Before its task could take it: the call gets the fault, and the message goes back uncounted."""
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume())
        await until_waiting(engine)
        engine.run_to_end([publish("x")])
        store.writes_left = 0
        engine.run_to_end([publish("y")])
        assert (await waits.reply()).status == 507
        await until_back(engine)
        assert counts(engine) == (1, 0)
        (reply,) = await engine.run([consume()])
        assert response(reply)["retry_count"] == 1


async def test_a_fault_as_it_begins_to_wait(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        await run(engine, publish("x"))
        engine.broker.locks.limit = 0
        waits = Waiting(engine, nursery, consume())
        await until_waiting(engine)
        engine.broker.locks.limit = 10
        store.writes_left = 0
        second = Waiting(engine, nursery, consume())
        assert {(await each.reply()).status for each in (waits, second)} == {507}
        await until_back(engine)
        assert counts(engine) == (1, 0)
        assert nobody_waits(engine)


async def test_a_server_that_stops_answers_all_and_lets_nobody_wait(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "WOKEN_PER_STEP", 2)
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        every = [Waiting(engine, nursery, consume()) for _ in range(5)]
        await until_waiting(engine, 5)
        await engine.end_waits()
        assert [response(await each.reply()) for each in every] == [None] * 5
        assert response(await Waiting(engine, nursery, consume()).reply()) is None
        assert nobody_waits(engine)


async def test_a_limit_of_places(store: WatchedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiters, "MAX_PLACES", 3)
    several = call("POST", "/consume", consumer_id="c", queues=["a", "b"], wait_seconds=60)
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        first = Waiting(engine, nursery, several)
        await until_waiting(engine)
        refused = await Waiting(engine, nursery, several).reply()
        assert (refused.status, json.loads(refused.body)["code"]) == (503, "unavailable")
        second = Waiting(engine, nursery, consume())
        await until_waiting(engine, 2)
        await first.cancelled()
        await second.cancelled()
        third = Waiting(engine, nursery, several)
        await until_waiting(engine)
        await third.cancelled()


async def test_without_room_for_a_response_nothing_is_taken(store: WatchedStorage) -> None:
    budget = Budget(2 * LARGE_BYTES)
    other = Holding(budget)
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume(), a_pause(budget))
        await until_waiting(engine)
        assert budget.held == 0, "nothing is held while it waits"
        other.set(LARGE_BYTES + 10_000)
        await run(engine, publish("x" * 20_000))
        await trio.testing.wait_all_tasks_blocked()
        assert counts(engine) == (1, 0)
        assert len(budget.waiting) == 1
        other.set(0)
        reply = await waits.reply()
        assert len(reply.deliveries) == 1
        assert budget.held == 20_000


async def test_without_room_until_its_time_is_up(autojump_clock: trio.testing.MockClock) -> None:
    budget = Budget(LARGE_BYTES)
    other = Holding(budget)
    async with engine_on(MemoryStorage()) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume(seconds=3), a_pause(budget))
        await until_waiting(engine)
        other.set(LARGE_BYTES)
        await run(engine, publish("x"))
        assert response(await waits.reply()) is None
        assert (counts(engine), len(budget.waiting), budget.held) == ((1, 0), 0, LARGE_BYTES)


# Verifies: DLV-0058
@pytest.mark.parametrize("end", ["fault", "stop", "gone"])
async def test_what_ends_a_wait_ends_it_while_it_waits_for_room_too(store: WatchedStorage, end: str) -> None:
    """It takes nothing any more, although there is room later."""
    budget = Budget(LARGE_BYTES)
    other = Holding(budget)
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume(), a_pause(budget))
        await until_waiting(engine)
        other.set(LARGE_BYTES)
        await run(engine, publish("x"))
        await trio.testing.wait_all_tasks_blocked()
        assert len(budget.waiting) == 1
        if end == "fault":
            store.writes_left = 0
            await engine.run([publish("y")])
            await until_back(engine)
        elif end == "stop":
            await engine.end_waits()
        else:
            waits.pause.give_up()
        await trio.testing.wait_all_tasks_blocked()
        other.set(0)
        assert (await waits.reply()).status == (507 if end == "fault" else 200)
        assert (counts(engine), len(budget.waiting), budget.held) == ((1, 0), 0, 0)
        assert nobody_waits(engine)


async def test_a_waiting_batch_is_of_one_queue(store: WatchedStorage) -> None:
    """All of it goes back if its response can't be sent, although another queue has the name by then."""
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume_batch())
        await until_waiting(engine)
        engine.run_to_end([publish("x")])
        engine.run_to_end([call("DELETE", "/delete-queue/q"), *(publish("y" * 2000) for _ in range(3))])
        reply = await waits.reply()
        assert [len(each["payload"]) for each in response(reply)["messages"]] == [1]
        engine.give_back(reply.receipt())
        assert counts(engine) == (3, 0)


async def test_a_waiting_batch_takes_what_fits(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, consume_batch())
        await until_waiting(engine)
        large = "x" * (waiting_rules.FULL_CHARACTERS - 1)
        engine.run_to_end([publish(large), publish('"' * (MAX_RESPONSE_BYTES // 2)), publish("later")])
        reply = await waits.reply()
        assert [len(each["payload"]) for each in response(reply)["messages"]] == [len(large)]
        assert len(reply.deliveries) == 1
        assert counts(engine) == (2, 1)


@pytest.mark.parametrize("over", [0, 1])
async def test_the_response_to_a_waiting_batch_has_2_mib_to_the_byte(store: WatchedStorage, over: int) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        *_, empty = engine.run_to_end([publish(""), publish(""), consume_batch()])
        waits = Waiting(engine, nursery, consume_batch())
        await until_waiting(engine)
        large = "x" * (waiting_rules.FULL_CHARACTERS - 1)
        pairs, odd = divmod(MAX_RESPONSE_BYTES - len(empty.body) - len(large) + over, 2)
        engine.run_to_end([publish(large), publish('"' * pairs + "x" * odd)])
        body = (await waits.reply()).body
        assert len(body) == MAX_RESPONSE_BYTES if not over else len(json.loads(body)["messages"]) == 1


@pytest.mark.parametrize("count", [1200])
async def test_many_wait_for_a_queue_that_is_made(store: WatchedStorage, count: int) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        every = [Waiting(engine, nursery, consume(consumer=str(number))) for number in range(count)]
        await until_waiting(engine, count)
        messages = [{"priority": 0, "payload": str(number)} for number in range(count)]
        await run(engine, call("POST", "/publish-batch", queue="q", messages=messages))
        got = {response(await each.reply())["payload"] for each in every}
        assert got == {str(number) for number in range(count)}
        assert nobody_waits(engine)


@pytest.mark.parametrize("end", ["rename", "delete"])
async def test_the_queue_of_its_message_is_gone_or_renamed_as_it_is_answered(store: WatchedStorage, end: str) -> None:
    asked = call("POST", "/consume", consumer_id="c", queues=["a", "b"], wait_seconds=60)
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        waits = Waiting(engine, nursery, asked)
        await until_waiting(engine)
        engine.run_to_end([publish("x", "b")])
        if end == "rename":
            engine.run_to_end([call("POST", "/update-queue", name="b", config={"name": "c"})])
        else:
            engine.run_to_end([call("DELETE", "/delete-queue/b")])
        assert response(await waits.reply())["queue"] == ("c" if end == "rename" else "b")


class NotedPause(EventPause):
    """Notes who is woken although its call has ended."""

    late = 0
    waiting = False

    def wake(self) -> None:
        NotedPause.late += not self.waiting
        super().wake()

    async def wait(self, seconds: float) -> None:
        self.waiting = True
        try:
            await super().wait(seconds)
        finally:
            self.waiting = False


# Verifies: DLV-0057
async def test_a_call_that_has_ended_meanwhile_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection may be closed, and its descriptor be that of another one."""
    monkeypatch.setattr(waiters, "WOKEN_PER_STEP", 1)
    monkeypatch.setattr(NotedPause, "late", 0)
    async with engine_on(MemoryStorage()) as engine, trio.open_nursery() as nursery:
        first = Waiting(engine, nursery, consume())
        await trio.testing.wait_all_tasks_blocked()
        others = [Waiting(engine, nursery, consume(), NotedPause(Holding(Budget()))) for _ in range(20)]
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(engine.end_waits)
        await first.reply()
        for other in others:
            other.scope.cancel()
    assert NotedPause.late == 0
