"""What a power cut took before it was synced: gone before anybody is answered, and no loss."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qrusty_trio.config import Fsync
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.errors import DuplicatePayload
from qrusty_trio.server import compactor
from tests.core.ownership import check_ownership
from tests.server.room import LARGE, Room, large, room, segment


def check(it: Room) -> None:
    it.broker.commit()
    check_ownership(it.stores.storage)


async def two_synced_and_three_not(it: Room) -> int:
    """Publish five messages, of which only the first two are known to be synced. Returns the size of what was."""
    await it.publish("q", large("safe 0"))
    await it.publish("q", large("safe 1"))
    it.payloads.sync()
    for number in range(3):
        await it.publish("q", large(f"unsafe {number}"))
    return it.payloads.synced[1]


def cut(path: Path, end: int, how: str) -> None:
    """Leave of segment 1 what a power cut would."""
    data = segment(path, 1).read_bytes()
    assert len(data) > end
    if how == "short":
        segment(path, 1).write_bytes(data[:end])
    elif how == "half":
        segment(path, 1).write_bytes(data[: end + LARGE // 2])
    else:
        segment(path, 1).write_bytes(data[:end] + bytes(len(data) - end))


# Verifies: PER-0066
@pytest.mark.parametrize("how", ["short", "half", "zeroes"])
async def test_it_is_gone_when_the_server_is_ready(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        it.broker.catalog.create("q", QueueConfig(allow_duplicates=False))
        end = await two_synced_and_three_not(it)
    cut(tmp_path, end, how)
    caplog.clear()
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        assert it.compactor._suspects == {}
        assert not [record for record in caplog.records if record.levelno > logging.WARNING]
        assert "3 messages were not synced yet when the power failed" in caplog.text
        assert [each["reason"] for each in it.removed()] == ["cut off"] * 3
        with pytest.raises(DuplicatePayload):
            await it.publish("q", large("safe 1"))
        # It was not answered for. So its publisher sends it again, and may not be told that it is there.
        await it.publish("q", large("unsafe 0"))
        check(it)
        assert [each.partition("|")[0] for each in await it.drain("q")] == ["safe 0", "safe 1", "unsafe 0"]
    caplog.clear()
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        assert it.compactor._suspects == {}
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


# Verifies: PER-0066
async def test_what_is_whole_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A kill takes nothing that was written."""
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        await two_synced_and_three_not(it)
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        assert len(await it.drain("q")) == 5
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


# Verifies: PER-0037, PER-0066
async def test_damage_of_what_was_synced_is_a_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        end = await two_synced_and_three_not(it)
    cut(tmp_path, end - LARGE // 2, "short")
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        assert it.compactor._suspects == {1: "short segment"}
        await it.compactor.repair()
        await it.compactor._note()
        assert [each["reason"] for each in it.removed()] == ["cut off"] * 3 + ["short segment"]
        assert [each.partition("|")[0] for each in await it.drain("q")] == ["safe 0"]
        check(it)
    assert "1 message had lost its payload" in caplog.text


# Verifies: PER-0066
async def test_the_start_looks_at_so_much_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Under a policy that seldom syncs, there may be gigabytes."""
    monkeypatch.setattr(compactor, "CUT_OFF_BYTES", 40 * LARGE)
    monkeypatch.setattr(compactor, "GROUP_BYTES", LARGE)
    async with room(tmp_path, 1 << 30, fsync=Fsync.NEVER) as it:
        for number in range(100):
            await it.publish("q", large(f"{number}"))
    segment(tmp_path, 1).write_bytes(segment(tmp_path, 1).read_bytes()[: LARGE // 2])
    async with room(tmp_path, 1 << 30, fsync=Fsync.NEVER) as it:
        looked_at = len(it.removed())
        assert 40 <= looked_at < 100
        assert it.compactor._suspects == {1: "short segment"}
        await it.compactor.repair()
        await it.compactor._note()
        assert len(it.removed()) == 100
        check(it)


# Verifies: PER-0066
async def test_many_queues_hold_up_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "CUT_OFF_BYTES", 10 * LARGE)
    monkeypatch.setattr(compactor, "GROUP_BYTES", LARGE)
    async with room(tmp_path, 1 << 30, fsync=Fsync.NEVER) as it:
        for number in range(20):
            await it.publish(f"{number}", large("lost"))
    segment(tmp_path, 1).write_bytes(b"")
    async with room(tmp_path, 1 << 30, fsync=Fsync.NEVER) as it:
        assert len(it.removed()) == 5
        await it.compactor.repair()
        assert it.broker.payloads.removed_total == 20


# Verifies: PER-0066
async def test_queues_segments_and_dead_letters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each has entries of its own in the index."""
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        for queue in "pq":
            await it.publish(queue, large("safe"))
        it.payloads.sync()
        for queue in "pq":
            id = await it.publish(queue, large("dead"), priority=1, max_retries=1)
            await it.consume(queue)
            await it.nack(queue, id)
        it.payloads.retire()
        for queue in "pq":
            await it.publish(queue, large("in the next"))
        end = it.payloads.synced[1]
    cut(tmp_path, end, "short")
    next_one = segment(tmp_path, 2)
    next_one.write_bytes(next_one.read_bytes()[: LARGE + 100])
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        assert it.compactor._suspects == {}
        for queue, left in (("p", ["safe", "in the next"]), ("q", ["safe"])):
            assert [each.partition("|")[0] for each in await it.drain(queue)] == left
            stats = it.broker.catalog.stats(queue)
            assert stats is not None
            assert stats.dead == 0
        check(it)
    assert "3 messages were not synced" in caplog.text
