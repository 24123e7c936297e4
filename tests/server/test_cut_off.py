"""What a power cut took before it was synced: gone before anybody is answered, and no loss."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from qrusty_trio.config import Fsync
from qrusty_trio.core import externals
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.errors import DuplicatePayload
from tests.core.ownership import check_ownership
from tests.server.room import LARGE, Room, large, room, segment

NO_DUPLICATES = QueueConfig(allow_duplicates=False)
BIG = 1 << 28
"""Bytes of a segment that takes all."""


def check(it: Room) -> None:
    it.broker.commit()
    check_ownership(it.stores.storage)


async def two_synced_and_three_not(it: Room) -> int:
    """Publish five messages, of which only the first two are known to be synced. Returns the size of what was."""
    it.broker.catalog.create("q", NO_DUPLICATES)
    await it.publish("q", large("safe 0"), 9)
    await it.publish("q", large("safe 1"), 9)
    for number in range(3):
        await it.publish("q", large(f"unsafe {number}"), sync=False)
    return it.payloads.synced[1]


def killed(path: Path) -> Path:
    """What a kill leaves: a copy of the directory of the running server."""
    left = path.with_name(f"{path.name} after a kill")
    shutil.copytree(path, left, ignore=shutil.ignore_patterns("LOCK"))
    return left


def cut(path: Path, end: int, how: str = "short", number: int = 1) -> None:
    """Leave of a segment what a power cut would."""
    data = segment(path, number).read_bytes()
    assert len(data) > end
    left = {"short": data[:end], "half": data[: end + LARGE // 2], "zeroes": data[:end] + bytes(len(data) - end)}
    segment(path, number).write_bytes(left[how])


def worse_than(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > level]


async def goes_again(it: Room, payload: str) -> None:
    """Its publisher was not answered. So it sends it again, and may not be told that it is there."""
    await it.publish("q", payload)
    with pytest.raises(DuplicatePayload):
        await it.publish("q", payload)


# Verifies: PER-0066
@pytest.mark.parametrize("how", ["short", "half", "zeroes"])
async def test_it_is_gone_when_the_server_is_ready(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    async with room(tmp_path / "data") as it:
        end = await two_synced_and_three_not(it)
        left = killed(tmp_path / "data")
    cut(left, end, how)
    caplog.clear()
    async with room(left) as it:
        assert it.compactor._suspects == {}
        assert not worse_than(caplog, logging.WARNING)
        assert "3 messages were not synced yet when the power failed" in caplog.text
        assert [each["reason"] for each in it.removed()] == ["cut off"] * 3
        with pytest.raises(DuplicatePayload):
            await it.publish("q", large("safe 1"))
        await goes_again(it, large("unsafe 0"))
        check(it)
        again = killed(left)
        assert [each.partition("|")[0] for each in await it.drain("q")] == ["safe 0", "safe 1", "unsafe 0"]
    caplog.clear()
    async with room(again) as it:
        assert it.compactor._suspects == {}
        assert len(await it.drain("q")) == 3
    assert not worse_than(caplog, logging.INFO)


# Verifies: PER-0066
async def test_what_a_kill_left_is_whole_and_is_synced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever sends it again is told that it is there. So it must be."""
    async with room(tmp_path / "data") as it:
        await two_synced_and_three_not(it)
        left = killed(tmp_path / "data")
        size = it.payloads.segments()[1]
    async with room(left) as it:
        with pytest.raises(DuplicatePayload):
            await it.publish("q", large("unsafe 0"))
        assert it.compactor._externals.mark == (2, 0)
        await it.publish("q", large("next"))
        again = killed(left)
        assert len(await it.drain("q")) == 6
    assert not worse_than(caplog, logging.INFO)
    # What is missing from then on was answered for.
    cut(again, size - 100)
    async with room(again) as it:
        assert it.compactor._suspects == {1: "short segment"}


# Verifies: PER-0037, PER-0066
async def test_damage_of_what_was_synced_is_a_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with room(tmp_path / "data") as it:
        end = await two_synced_and_three_not(it)
        left = killed(tmp_path / "data")
    cut(left, end - LARGE // 2)
    async with room(left) as it:
        assert it.compactor._suspects == {1: "short segment"}
        await it.compactor.repair()
        await it.compactor._note()
        assert [each["reason"] for each in it.removed()] == ["cut off"] * 3 + ["short segment"]
        assert [each.partition("|")[0] for each in await it.drain("q")] == ["safe 0"]
        check(it)
    assert "1 message had lost its payload" in caplog.text


# Verifies: PER-0066
async def test_after_a_stop_in_order_every_damage_is_a_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server says at its end how far it synced, and each second before."""
    async with room(tmp_path) as it, trio.open_nursery() as nursery:
        await nursery.start(it.compactor.run)
        await it.publish("q", large("one"))
        await it.publish("q", large("two"))
        nursery.cancel_scope.cancel()
    data = bytearray(segment(tmp_path, 1).read_bytes())
    data[-10] ^= 1
    segment(tmp_path, 1).write_bytes(data)
    async with room(tmp_path) as it:
        assert not it.removed()
        assert [each.partition("|")[0] for each in await it.drain("q")] == ["one"]
        await it.compactor._note()
        assert [each["reason"] for each in it.removed()] == ["checksum"]


# Verifies: PER-0066
async def test_one_that_is_locked_goes_too(tmp_path: Path) -> None:
    """Otherwise its publisher would be refused, and the message lost when the lock ends."""
    async with room(tmp_path / "data") as it:
        end = await two_synced_and_three_not(it)
        first = await it.engine.transact(lambda broker, now: broker.consume("q", "c", 1000, now), sync=False)
        assert first is not None

        def both(broker: Broker, now: int) -> None:
            broker.publish("q", 99, large("locked"), 10, now)
            delivery = broker.consume("q", "c", 1000, now)
            assert delivery is not None
            assert delivery.payload == large("locked")

        await it.engine.transact(both, sync=False)
        left = killed(tmp_path / "data")
    cut(left, end)
    async with room(left) as it:
        assert it.broker.locks.count == 1
        assert len(it.removed()) == 4
        await goes_again(it, large("locked"))
        await it.ack("q", first.id)
        assert [each.partition("|")[0] for each in await it.drain("q")] == ["safe 1", "locked"]
        check(it)


# Verifies: PER-0066
async def test_a_dead_letter_before_the_first_publish_moves_no_mark(tmp_path: Path) -> None:
    async with room(tmp_path / "data") as it:
        old = await it.publish("p", large("old"), max_retries=1)
        end = await two_synced_and_three_not(it)
        left = killed(tmp_path / "data")
        async with room(left) as other:
            mark = other.compactor._externals.mark
            await other.consume("p")
            await other.nack("p", old)
            assert other.compactor._externals.mark == mark == (2, 0)
    assert end


# Verifies: PER-0066
async def test_all_of_a_large_group_is_looked_at(tmp_path: Path) -> None:
    async with room(tmp_path / "data", BIG) as it:
        end = await two_synced_and_three_not(it)
        for number in range(40):
            await it.publish("q", large(f"{number}", 1 << 20), sync=False)
        left = killed(tmp_path / "data")
    cut(left, end, "zeroes")
    async with room(left, BIG) as it:
        assert len(it.removed()) == 43
        await goes_again(it, large("39", 1 << 20))


# Verifies: PER-0066
async def test_a_new_segment_whose_name_was_not_synced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with room(tmp_path / "data") as it:
        await two_synced_and_three_not(it)
        it.payloads.retire()
        await it.publish("q", large("in the next"), sync=False)
        left = killed(tmp_path / "data")
    segment(left, 2).unlink()
    async with room(left) as it:
        assert it.compactor._suspects == {}
        assert [each["segment"] for each in it.removed()] == [2]
        await goes_again(it, large("in the next"))
        assert it.payloads.active == 3, "a number is used once"
    assert not worse_than(caplog, logging.WARNING)


# Verifies: PER-0066
async def test_queues_segments_and_dead_letters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each has entries of its own in the index."""
    async with room(tmp_path / "data", fsync=Fsync.ALWAYS) as it:
        for queue in "pq":
            await it.publish(queue, large("safe"))
        end = it.payloads.synced[1]

        def die(queue: str) -> Callable[[Broker, int], None]:
            def run(broker: Broker, now: int) -> None:
                id = broker.publish(queue, 1, large("dead"), 1, now)
                broker.consume(queue, "c", 1000, now)
                broker.nack(queue, id, "c", now)

            return run

        for queue in "pq":
            await it.engine.transact(die(queue), sync=False)
        it.payloads.retire()
        for queue in "pq":
            await it.publish(queue, large("in the next"), sync=False)
        left = killed(tmp_path / "data")
    cut(left, end)
    cut(left, LARGE + 100, number=2)
    async with room(left) as it:
        assert it.compactor._suspects == {}
        for queue, payloads in (("p", ["safe", "in the next"]), ("q", ["safe"])):
            assert [each.partition("|")[0] for each in await it.drain(queue)] == payloads
            stats = it.broker.catalog.stats(queue)
            assert stats is not None
            assert stats.dead == 0
        check(it)
    assert "3 messages were not synced" in caplog.text


# Verifies: PER-0066
async def test_what_is_kept_aside_is_still_expected(tmp_path: Path) -> None:
    """What was locked when its queue was deleted is not looked for, so nobody knows that it is not there."""
    async with room(tmp_path / "data") as it:
        await two_synced_and_three_not(it)
        for _ in range(5):
            await it.consume("q")
        await it.engine.transact(lambda broker, now: broker.trash.delete("q", 3600, now), sync=False)
        it.broker.commit()
        expected = it.compactor._externals.least_sizes()
        left = killed(tmp_path / "data")
    async with room(left) as it:
        assert it.compactor._externals.least_sizes() == expected


# Verifies: PER-0066
async def test_other_policies_leave_no_mark(tmp_path: Path) -> None:
    """With them nobody can tell what was answered from what was not."""
    async with room(tmp_path / "data", fsync=Fsync.ALWAYS) as it:
        await it.publish("q", large("one"))
        await it.publish("q", large("two"))
        assert it.compactor._externals.mark != (0, 0)
    async with room(tmp_path / "data", fsync=Fsync.NEVER) as it:
        assert it.compactor._externals.mark == (0, 0)
        await it.publish("q", large("three"))
        assert it.compactor._externals.mark == (0, 0)
        left = killed(tmp_path / "data")
    async with room(left, fsync=Fsync.ALWAYS) as it:
        assert it.broker.journal.get(it.broker.journal.meta, b"P") is None or it.compactor._externals.mark[0] > 2
        assert len(await it.drain("q")) == 3


# Verifies: PER-0066
async def test_many_queues_are_looked_at_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(externals, "_GROUPS_PER_STEP", 10)
    async with room(tmp_path, BIG) as it:
        await it.publish("q", large("safe"))
        await it.publish("q", large("safe"))
        for number in range(50):
            await it.publish(f"{number}", large("unsafe"), sync=False)
        tails = list(it.compactor._externals.tails())
        assert tails.count(None) == 5
        assert len({tail for tail in tails if tail is not None}) == 50
