"""What is in the store by when: nothing that was answered or handed out is in memory only."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from qrusty_trio.api.call import Reply
from qrusty_trio.config import Fsync
from qrusty_trio.core import broker as broker_module
from qrusty_trio.core import trash
from qrusty_trio.core.dispatch import Subscription
from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import DiskFull
from qrusty_trio.server.engine import PENDING_CHANGES
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from tests.core.brokers import big, break_payload
from tests.server.engines import STEP_SECONDS, WatchedStorage, call, consume, engine_on, publish, run, until_back


class Sink:
    """A subscriber that takes everything."""

    def __init__(self) -> None:
        self.got: list[Delivery] = []
        self.arrived = trio.Event()

    def room(self) -> bool:
        return True

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        self.got.append(delivery)
        self.arrived.set()

    def paused(self, subscription: Subscription) -> None:
        raise AssertionError

    def renamed(self, subscription: Subscription) -> None:
        raise AssertionError


# Verifies: PER-0005
@pytest.mark.parametrize("policy", [Fsync.NEVER, Fsync.EVERYSEC])
async def test_an_answer_that_waits_for_no_sync_waits_for_its_write(store: WatchedStorage, policy: Fsync) -> None:
    async with engine_on(store, policy) as engine:
        for number in range(3):
            writes = store.writes
            await engine.transact(lambda broker, now: broker.publish("q", 0, "socket", 3, now), sync=True)
            assert store.writes == writes + 1
            await run(engine, publish(str(number)))
            assert store.writes == writes + 2
            assert engine.run_nowait([publish(str(number))])[0].status == 200
            assert store.writes == writes + 3
            assert engine.run_to_end([publish(str(number))])[0].status == 200
            assert store.writes == writes + 4


# Verifies: PER-0005
async def test_what_is_handed_out_is_written_although_a_sync_is_waited_for(store: WatchedStorage) -> None:
    """A consume, and the delivery to a subscriber: both leave before the sync that their burst waits for."""
    async with engine_on(store) as engine:
        await run(engine, publish("first", "other"), publish("second", "other"))
        engine.broker.catalog.create_default("q")
        sink = Sink()
        subscription = Subscription("q", engine.broker.catalog.number_of("q"), "s", 30, None, sink)
        await engine.transact(lambda broker, now: engine.dispatcher.add(subscription), sync=True)
        async with trio.open_nursery() as nursery:
            with store.held():
                nursery.start_soon(run, engine, publish("under way", "other"))
                await store.until_sync_begins()
                # From here on only a step of the engine can write, not the committer.
                writes = store.writes
                nursery.start_soon(run, engine, publish("waits", "other"))
                await trio.testing.wait_all_tasks_blocked()
                assert store.writes == writes
                # No task may send it before the end of the step.
                engine.run_nowait([publish("handed out")])
                assert [delivery.payload for delivery in sink.got] == ["handed out"]
                assert store.writes == writes + 1
                engine.run_nowait([publish("waits", "other"), consume("other")])
                assert store.writes == writes + 2


async def test_what_waits_for_a_sync_does_not_pile_up(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        with store.held():
            nursery.start_soon(run, engine, publish("under way"))
            await store.until_sync_begins()
            writes = store.writes
            for _ in range(PENDING_CHANGES // 20):
                nursery.start_soon(run, engine, *[publish("x") for _ in range(19)])
            await trio.testing.wait_all_tasks_blocked()
            assert store.writes == writes
            nursery.start_soon(run, engine, *[publish("x") for _ in range(40)])
            await trio.testing.wait_all_tasks_blocked()
            assert store.writes == writes + 1
            assert engine.broker.journal.size == 0


# Verifies: PER-0040
async def test_a_failed_sync_is_the_answer_only_to_what_waited_for_it(store: WatchedStorage) -> None:
    """What was read was there. What was consumed is with its consumer, who can settle it afterwards."""
    async with engine_on(store) as engine:
        (id,) = [body["id"] for body in await run(engine, publish("old"))]
        store.sync_fault = DiskFull("No space left on the device.")
        replies = await engine.run([call("GET", "/health"), consume(), publish("new")])
        assert [reply.status for reply in replies] == [200, 200, 507]
        await until_back(engine)
        await run(engine, call("POST", f"/ack/q/{id}", consumer_id="c"))


# Verifies: DLV-0005
@pytest.mark.parametrize("expired", [False, True])
async def test_a_late_answer_gives_back_its_own_delivery_only(expired: bool) -> None:
    """Given back twice, or after its lock had ended: the message is with its next consumer by then."""
    async with engine_on(MemoryStorage()) as engine:
        await run(engine, publish("x", max_retries=9))
        (first,) = await engine.run([consume(seconds=0 if expired else 30)])
        if expired:
            with trio.fail_after(STEP_SECONDS):
                while engine.broker.locks.count:  # noqa: ASYNC110  # a count of the core
                    await trio.sleep(0.001)
        else:
            engine.give_back(first)
        (second,) = await engine.run([consume()])
        engine.give_back(first)
        queue = engine.broker.catalog.by_name["q"]
        assert (queue.available, queue.locked) == (0, 1)
        engine.give_back(second)
        assert (queue.available, queue.locked) == (1, 0)
        (again,) = await run(engine, consume())
        assert again["retry_count"] == (2 if expired else 1)


# Verifies: DLV-0024
async def test_what_nobody_saw_does_not_count_although_its_lock_has_ended(mock_clock: trio.testing.MockClock) -> None:
    """Nobody has looked for ended locks since."""
    async with engine_on(MemoryStorage()) as engine:
        await run(engine, publish("x", max_retries=1))
        (reply,) = engine.run_nowait([consume(seconds=1)])
        mock_clock.jump(5)
        engine.give_back(reply)
        (again,) = await run(engine, consume())
        assert again["retry_count"] == 1


# Verifies: DLV-0035
async def test_a_subscriber_behind_broken_payloads_waits_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more of them than one step removes, and nothing happens but the steps."""
    monkeypatch.setattr(broker_module, "REMOVED_PER_CONSUME", 2)
    payloads = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=100)
    async with engine_on(MemoryStorage(), payloads=payloads, externalize_min_bytes=50) as engine:
        await run(engine, *[publish(big(str(number))) for number in range(8)])
        for number in range(7):
            break_payload(payloads, tmp_path, number)
        sink = Sink()
        subscription = Subscription("q", engine.broker.catalog.number_of("q"), "s", 30, None, sink)
        await engine.transact(lambda broker, now: engine.dispatcher.add(subscription), sync=False)
        with trio.fail_after(STEP_SECONDS):
            await sink.arrived.wait()
        assert [delivery.payload for delivery in sink.got] == [big("7")]
        assert engine.broker.payloads.removed_total == 7
    payloads.close()


# Verifies: PER-0001
@pytest.mark.parametrize("fails", [False, True])
async def test_a_refusal_in_the_middle_leaves_after_the_sync_of_what_was_done(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """It tells how many messages are back, so these must be as durable as after a success."""
    monkeypatch.setattr(trash, "PER_STEP", 1)
    replies: list[Reply] = []
    async with engine_on(store) as engine, trio.open_nursery() as nursery:
        await run(engine, *(publish(f"p{number}") for number in range(300)))
        _, kept = await engine.transact(lambda broker, now: broker.trash.purge("q", 600, now), sync=True)
        assert kept is not None

        async def restore() -> None:
            replies.extend(await engine.run([call("POST", f"/trash/{kept.number}/restore")]))

        nursery.start_soon(restore)
        with trio.fail_after(STEP_SECONDS):
            while not engine.broker.catalog.by_name["q"].available:  # no event tells of it
                await trio.lowlevel.checkpoint()
        with store.held():
            (erased,) = engine.run_to_end([call("POST", f"/trash/{kept.number}/erase")])
            assert erased.status == 200
            with trio.fail_after(STEP_SECONDS):
                while not (replies or store.sync_begun.is_set()):  # noqa: ASYNC110  # set in a thread
                    await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked()
            assert not replies
            if fails:
                store.sync_fault = DiskFull("No space left on the device.")
    (reply,) = replies
    assert reply.status == (507 if fails else 404)
