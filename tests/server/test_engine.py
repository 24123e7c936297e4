"""The engine over a real store: bursts, group commit, policies, faults and recovery, cancellation."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from qrusty_trio.api.call import WAITING, Call, Reply, Wait
from qrusty_trio.api.messages import LARGE_BYTES
from qrusty_trio.config import Fsync
from qrusty_trio.errors import DiskFull, StorageFault
from qrusty_trio.server.bursts import REPLY_BYTES, REQUEST_WEIGHT
from qrusty_trio.server.committer import SYNC_SECONDS
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


def payloads(replies: list[Reply]) -> list[str]:
    return [response(reply)["payload"] for reply in replies]


# Verifies: PER-0006
async def test_a_burst_is_one_batch_and_one_sync(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        writes, syncs = store.writes, store.syncs
        replies = await engine.run([publish(str(number)) for number in range(64)])
        assert (store.writes - writes, store.syncs - syncs) == (1, 1)
        assert len({response(reply)["id"] for reply in replies}) == 64
        assert payloads(await engine.run([consume() for _ in range(64)])) == [str(number) for number in range(64)]


# Verifies: SCH-0029
async def test_large_answers_let_others_run(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        text = "x" * (REPLY_BYTES // 4)
        for number in range(10):
            await run(engine, publish(f"{number}{text}"))
        begun = store.writes
        seen: list[int] = []

        async def look() -> None:
            while True:
                seen.append(engine.broker.catalog.by_number[1].available)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            while not seen:
                await trio.lowlevel.checkpoint()
            calls = [*[consume() for _ in range(10)], publish("last")]
            replies: list[Reply] = []
            while len(replies) < len(calls):
                # Run on only when these have been sent: no more is held than there is to send.
                part = await engine.run(calls[len(replies) :])
                assert sum(len(reply.body) for reply in part[:-1]) < REPLY_BYTES
                replies += part
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert [text[0] for text in payloads(replies[:10])] == [str(number) for number in range(10)]
        assert replies[10].needs_sync
        assert {6, 2} & set(seen)
        assert store.writes - begun == 3


# Verifies: SCH-0029
async def test_a_burst_without_waiting_of_large_answers_is_run_in_parts(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        for number in range(6):
            await run(engine, publish(f"{number}".ljust(REPLY_BYTES // 2)))
        calls = [consume() for _ in range(7)]
        parts: list[list[Reply]] = []
        while calls:
            parts.append(engine.run_nowait(calls))
            calls = calls[len(parts[-1]) :]
        assert [len(part) for part in parts] == [2, 2, 2, 1]
        assert [text.strip() for part in parts[:3] for text in payloads(part)] == [str(number) for number in range(6)]
        assert response(parts[3][0]) is None


async def test_a_burst_goes_on_behind_a_call_that_waits(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        waits = call("POST", "/consume/q", consumer_id="c", timeout_seconds=30, wait_seconds=5)
        replies = engine.run_nowait([waits, publish("x", "other"), waits, consume("other"), waits])
        assert [reply is WAITING for reply in replies] == [True, False, True, False, True]
        assert payloads(replies[3:4]) == ["x"]


# Verifies: SCH-0029
@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("size", [1000, 20_000, 65_000, LARGE_BYTES - 200])
async def test_a_burst_without_waiting_of_large_requests_is_run_in_parts(
    store: WatchedStorage, size: int, refused: bool
) -> None:
    async with engine_on(store) as engine:
        calls = [publish(f"{number}".ljust(size), priority=-1 if refused else 0) for number in range(64)]
        parts: list[int] = []
        while calls:
            replies = engine.run_nowait(calls)
            assert {reply.status for reply in replies} == {422 if refused else 200}
            parts.append(len(replies))
            calls = calls[len(replies) :]
        assert (max(parts) - 1) * size < REPLY_BYTES / REQUEST_WEIGHT
        assert sum(parts) == 64
        assert (len(parts) == 1) == (size == 1000)
        got = [text.strip() for text in payloads(await engine.run([consume() for _ in range(0 if refused else 64)]))]
        assert got == [str(number) for number in range(len(got))]


# Verifies: SCH-0030
@pytest.mark.parametrize("policy", [Fsync.ALWAYS, Fsync.NEVER])
async def test_a_large_publish_lets_others_run_between_reading_and_storing(
    store: WatchedStorage, policy: Fsync
) -> None:
    async with engine_on(store, policy) as engine:
        large = publish("x" * LARGE_BYTES)
        steps = large.operation.function(engine.services, large, 1000)
        assert not isinstance(steps, Reply | Wait)
        next(steps)
        assert not engine.broker.catalog.by_name
        steps.close()
        syncs = store.syncs
        replies = await engine.run([publish("before"), large, publish("behind")])
        assert all(reply.status == 200 and reply.needs_sync for reply in replies)
        assert (store.syncs > syncs) == (policy is Fsync.ALWAYS)
        assert [text[:6] for text in payloads(await engine.run([consume()] * 3))] == ["before", "xxxxxx", "behind"]


# Verifies: SCH-0030
async def test_a_large_publish_is_refused_like_a_small_one(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        engine.run_to_end(
            [call("POST", "/create-queue", name="q", config={"ordering": "Fifo", "allow_duplicates": False})]
        )
        for size in (10, LARGE_BYTES):
            wrong, good = publish("x" * size, priority=-1), publish("x" * size)
            broken = Call(good.operation, good.params, good.body[:-1])
            replies = await engine.run([wrong, broken, good, good])
            assert [reply.status for reply in replies] == [422, 400, 200, 400]
            store.writes_left = 0
            (failed,) = await engine.run([publish("y" * size)])
            assert failed.status in (503, 507)
            await until_back(engine)
            assert engine.broker.catalog.by_number[1].available == (1 if size == 10 else 2)


async def test_replies_come_in_the_order_of_the_calls(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, *[publish(str(number)) for number in range(300)])
        ids = [response(reply)["id"] for reply in await engine.run([consume() for _ in range(200)])]
        replies = await engine.run(
            [
                publish("a", priority="text"),
                call("POST", "/ack-batch/q", consumer_id="c", message_ids=ids),
                call("GET", "/queues"),
                call("POST", "/consume/q"),
                consume(),
                call("POST", "/purge-all"),
                consume(),
            ]
        )
        assert [reply.status for reply in replies] == [400, 200, 200, 400, 200, 200, 200]
        assert len(response(replies[1])["acked"]) == 200
        assert response(replies[2]) == ["q"]
        assert response(replies[4])["payload"] == "200"
        assert response(replies[6]) is None


# Verifies: PER-0002
async def test_one_sync_for_all_that_came_during_the_last(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        store.may_sync.clear()
        before = store.syncs
        done: list[str] = []

        async def one(number: int) -> None:
            done.append((await run(engine, publish(str(number))))[0]["id"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, 0)
            await store.until_sync_begins()
            for number in range(1, 100):
                nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
            assert not done
            store.may_sync.set()
        assert len(set(done)) == 100
        assert store.syncs - before == 2


async def test_nothing_changes_while_the_gate_is_closed(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        engine.services.gate.starting = True
        mutating = [publish("x"), consume(), ack("i"), call("POST", "/purge-all"), call("DELETE", "/delete-queue/q")]
        for reply in await engine.run(mutating):
            assert reply.status == 503
            assert json.loads(reply.body) == {
                "status": "starting",
                "message": "Qrusty is initialising. Retry shortly.",
                "retry_after_secs": 2,
            }
        reads = await engine.run([call("GET", "/queues"), call("GET", "/stats"), call("GET", "/health")])
        assert [reply.status for reply in reads] == [200, 200, 200]
        assert response(reads[0]) == []
        assert response(reads[2])["status"] == "starting"


# Verifies: SCH-0031
async def test_a_long_operation_lets_others_run(store: WatchedStorage) -> None:
    async with engine_on(store, Fsync.NEVER) as engine:
        await run(engine, *[publish(str(number)) for number in range(2000)])
        ids = [response(reply)["id"] for reply in await engine.run([consume() for _ in range(2000)])]
        finished: list[str] = []

        async def settle() -> None:
            (outcome,) = await run(engine, call("POST", "/ack-batch/q", consumer_id="c", message_ids=ids))
            assert len(outcome["acked"]) == 2000
            finished.append("batch")

        async def ask() -> None:
            for _ in range(10):
                await run(engine, publish("x"))
                await trio.lowlevel.checkpoint()
            finished.append("others")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(settle)
            nursery.start_soon(ask)
        assert finished == ["others", "batch"]


# Verifies: DLV-0019
async def test_what_is_given_back_was_never_delivered(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish("first"), publish("second"))
        (reply,) = await engine.run([consume()])
        engine.give_back(reply)
        engine.give_back(reply)
        first, second, nothing = await run(engine, consume(), consume(), consume())
        assert (first["payload"], first["retry_count"]) == ("first", 1)
        assert second["payload"] == "second"
        assert nothing is None


async def test_cancelled_while_it_waits_for_a_sync(store: WatchedStorage) -> None:
    """The change stands, the delivery does not."""
    async with engine_on(store) as engine:
        await run(engine, publish("old"))
        store.may_sync.clear()
        store.sync_begun.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run, [consume(), publish("new")])
            await store.until_sync_begins()
            nursery.cancel_scope.cancel()
        store.may_sync.set()
        old, new = await run(engine, consume(), consume())
        assert (old["payload"], old["retry_count"]) == ("old", 1)
        assert (new["payload"], new["retry_count"]) == ("new", 1)


# Verifies: PER-0001
async def test_always_waits_for_the_sync(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        for change in (publish("a"), consume(), publish("b")):
            store.may_sync.clear()
            store.sync_begun.clear()
            replies: list[Reply] = []

            async def one(change=change, replies=replies) -> None:  # type: ignore[no-untyped-def]  # of the loop
                replies += await engine.run([change])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(one)
                await trio.testing.wait_all_tasks_blocked()
                # A consume promises nothing that a power cut could take.
                assert bool(replies) is (change.operation.name == "consume")
                store.may_sync.set()
            assert replies[0].status == 200


async def test_a_transaction_waits_for_a_sync_if_it_is_to_be_durable(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        ended: list[bool] = []

        async def change(sync: bool) -> None:
            await engine.transact(lambda broker, now: broker.publish("q", 1, "p", 3, now), sync=sync)
            ended.append(sync)

        with store.held():
            nursery.start_soon(change, True)
            await store.until_sync_begins()
            nursery.start_soon(change, False)
            with trio.fail_after(STEP_SECONDS):
                while not ended:
                    await trio.lowlevel.checkpoint()
            assert ended == [False]
    assert ended == [False, True]


# Verifies: PER-0004
async def test_never_does_not_sync(store: WatchedStorage) -> None:
    async with engine_on(store, Fsync.NEVER) as engine:
        before = store.syncs
        store.may_sync.clear()
        await run(engine, publish("a"))
        (got,) = await run(engine, consume())
        await run(engine, ack(got["id"]))
        assert store.syncs == before


# Verifies: PER-0003
async def test_everysec_syncs_by_the_clock(store: WatchedStorage, mock_clock: trio.testing.MockClock) -> None:
    async with engine_on(store, Fsync.EVERYSEC) as engine:
        before = store.syncs
        for number in range(1, 4):
            await run(engine, publish(str(number)))
            assert store.syncs == before + number - 1
            await trio.testing.wait_all_tasks_blocked()
            begun = engine.committer.syncs
            mock_clock.jump(SYNC_SECONDS)
            while engine.committer.syncs == begun:
                await trio.lowlevel.checkpoint()
            assert store.syncs == before + number


# Verifies: PER-0040
async def test_a_failed_sync_fails_everyone_who_waits(store: WatchedStorage) -> None:
    """All get the fault; afterwards the store comes back by itself, with everything that was answered."""
    async with engine_on(store) as engine:
        answered = [(await run(engine, publish(f"answered {number}")))[0]["id"] for number in range(3)]
        store.may_sync.clear()
        store.sync_begun.clear()
        refused: list[Reply] = []

        async def one(number: int) -> None:
            refused.extend(await engine.run([publish(f"refused {number}")]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, 0)
            await store.until_sync_begins()
            for number in range(1, 20):
                nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
            store.sync_fault = DiskFull("No space left on the device.")
            store.may_sync.set()
        assert [reply.status for reply in refused] == [507] * 20
        assert json.loads(refused[0].body) == {"error": "No space left on the device.", "code": "disk_full"}
        await until_back(engine)
        found = []
        while (got := (await run(engine, consume()))[0]) is not None:
            found.append(got["id"])
        assert set(answered) <= set(found)
        assert len(set(found)) == len(found)
        assert (await run(engine, publish("after")))[0]["id"]


# Verifies: SYS-0009
async def test_a_call_that_fails_before_it_changes_anything_fails_alone(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish("p"))

        def broken(*_: object) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(engine.broker, "ack", broken)
        replies = await engine.run([ack("a message"), consume()])
        assert replies[0].status == 503
        assert json.loads(replies[0].body)["code"] == "storage_error"
        assert payloads(replies[1:]) == ["p"]
        assert engine.fault is None


# Verifies: PER-0042
async def test_a_write_that_fails_is_a_fault_and_says_so(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish("x"))
        store.reopen_fault = store.write_fault = DiskFull("No space left on the device.")
        engine.change(lambda broker, now: broker.publish("q", 0, "y", 3, now), sync=True)
        with pytest.raises(DiskFull):
            engine.write()
        assert type(engine.fault) is DiskFull


# Verifies: PER-0042
async def test_while_the_store_is_at_fault_nothing_is_written(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        store.reopen_fault = DiskFull("No space left on the device.")
        fault = StorageFault("Input/output error")
        engine.fail(fault)
        writes = store.writes
        with pytest.raises(StorageFault, match="Input/output error"):
            engine.write()
        assert store.writes == writes


async def test_a_failed_write_fails_its_burst_only(store: WatchedStorage) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish("kept"), publish("held"))
        (held,) = await run(engine, consume())
        store.write_fault = DiskFull("No space left on the device.")
        store.reopen_fault = DiskFull("No space left on the device.")
        replies = await engine.run([publish("lost"), consume(), ack(held["id"]), call("GET", "/queues")])
        assert [reply.status for reply in replies] == [507, 507, 507, 200]
        # As long as there is no room, changes are refused and reads are answered.
        replies = await engine.run([publish("lost"), call("GET", "/health"), call("GET", "/queue-stats/q")])
        assert [reply.status for reply in replies] == [507, 200, 200]
        store.reopen_fault = None
        await until_back(engine)
        await run(engine, ack(held["id"]))
        rest, nothing = await run(engine, consume(), consume())
        assert (rest["payload"], rest["retry_count"]) == ("held", 1)
        assert nothing is None


async def test_what_waits_for_the_next_sync_is_not_answered_after_a_fault(store: WatchedStorage) -> None:
    """A change that was dropped when the store failed must not pass for synced when a later sync succeeds."""
    async with engine_on(store) as engine:
        await run(engine, publish("old"))
        store.may_sync.clear()
        store.sync_begun.clear()
        replies: dict[str, Reply] = {}

        async def one(payload: str) -> None:
            (replies[payload],) = await engine.run([publish(payload)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "in the sync")
            await store.until_sync_begins()
            nursery.start_soon(one, "behind it")
            await trio.testing.wait_all_tasks_blocked()
            store.write_fault = DiskFull("No space left on the device.")
            assert (await engine.run([consume()]))[0].status == 507
            await until_back(engine)
            store.may_sync.set()
        assert replies["behind it"].status == 507
        found = []
        while (got := (await run(engine, consume()))[0]) is not None:
            found.append(got["payload"])
        assert "behind it" not in found
        assert ("in the sync" in found) or replies["in the sync"].status == 507
