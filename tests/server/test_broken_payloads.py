"""Messages whose payload is lost: found, removed, counted, named; all others are given as ever."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from qrusty_trio.core.broker import REMOVED_PER_CONSUME, Broker
from qrusty_trio.errors import DiskFull
from qrusty_trio.server import compactor as compactor_module
from tests.core.ownership import check_ownership
from tests.server.room import LARGE, Room, large, room, segment


async def publish_many(room: Room, count: int) -> list[str]:
    payloads = [large(f"q-{number}") for number in range(count)]
    for payload in payloads:
        await room.publish("q", payload)
    return payloads


def check(room: Room) -> dict[int, int]:
    room.broker.commit()
    return check_ownership(room.stores.storage)


# Verifies: PER-0037
@pytest.mark.parametrize("damage", ["missing", "short", "header", "checksum"])
async def test_messages_that_lost_their_payload_are_removed_the_others_given(tmp_path: Path, damage: str) -> None:
    async with room(tmp_path) as it:
        await publish_many(it, 9)
        whole = await publish_many(it, 5)
        dead = await it.publish("other", large("dead"), max_retries=1)
        await it.consume("other")
        await it.nack("other", dead)
    file = segment(tmp_path, 1)
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "short":
        file.write_bytes(data[: 4 * LARGE])
    elif damage == "header":
        file.write_bytes(bytes(3 * LARGE) + data[3 * LARGE :])
    else:
        file.write_bytes(data[:LARGE] + bytes([data[LARGE] ^ 1]) + data[LARGE + 1 :])
    lost = {"missing": range(9), "short": range(3, 9), "header": range(3), "checksum": range(1)}[damage]
    async with room(tmp_path) as it:
        assert set(it.compactor._suspects) == (set() if damage == "checksum" else {1})
        if damage != "checksum":
            await it.compactor.repair()
            assert it.broker.payloads.removed_total == len(lost)
        stats = it.broker.catalog.stats("q")
        assert stats is not None
        assert stats.available == 14 - len(lost) * (damage != "checksum")
        expected = [large(f"q-{number}") for number in range(9) if number not in lost] + whole
        assert await it.drain("q") == expected
        assert it.broker.payloads.removed_total == len(lost)
        check(it)
        await it.compactor._note()
        assert [each["queue"] for each in it.removed()] == ["q"] * len(lost)
        assert {each["segment"] for each in it.removed()} == {1}


# Verifies: PER-0037
async def test_a_lost_segment_of_many_messages_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor_module, "NOTE_AT", 500)
    count = 3000
    async with room(tmp_path, 1 << 30, externalize_min_bytes=256) as it:
        await it.publish("q", large("locked", 300))
        delivery = await it.consume("q")
        assert delivery is not None
        for number in range(count):
            publish = partial(Broker.publish, name="q", priority=0, payload=large(str(number), 300), max_retries=3)
            await it.engine.transact(lambda broker, now: publish(broker, now=now), sync=False)  # noqa: B023
        it.payloads.retire()
        await it.publish("q", large("valid", 300))
        it.compactor._mark()
    segment(tmp_path, 1).unlink()
    async with room(tmp_path, 1 << 30, externalize_min_bytes=256) as it:
        # One consume looks at so many only.
        assert await it.consume("q") is None
        assert it.broker.payloads.removed_total == REMOVED_PER_CONSUME
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.compactor.repair)
            consumes = 0
            while (found := await it.consume("q")) is None:
                consumes += 1
            assert found.payload == large("valid", 300)
        assert it.broker.payloads.removed_total == count
        # The one that was locked was delivered before.
        assert it.broker.locks.count == 2
        await it.ack("q", delivery.id)
        await it.compactor._note()
        assert len(it.removed()) == count
        assert len({each["id"] for each in it.removed()}) == count
        assert set(check(it)) == {2}


# Verifies: PER-0029
async def test_what_was_removed_is_written_down_when_the_server_stops(tmp_path: Path) -> None:
    async with room(tmp_path) as it:
        await it.publish("q", large("lost"))
        it.compactor._mark()
    segment(tmp_path, 1).unlink()
    async with room(tmp_path) as it, trio.open_nursery() as nursery:
        it.compactor._suspects.clear()
        await nursery.start(it.compactor.run)
        await trio.testing.wait_all_tasks_blocked()
        assert await it.consume("q") is None
        nursery.cancel_scope.cancel()
    assert [each["reason"] for each in it.removed()] == ["missing segment"]


# Verifies: PER-0031
async def test_removals_that_cannot_be_written_down_are_named_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with room(tmp_path) as it:
        id = await it.publish("q", large("lost"))
        segment(tmp_path, 1).write_bytes(b"")
        assert await it.consume("q") is None

        def full(*_: object) -> None:
            raise DiskFull("No space left on the device: free some.")

        monkeypatch.setattr(it.compactor._removed_log, "record", full)
        await it.compactor._note()
    assert f"could not be written down: No space left on the device: free some.: q/{id}" in caplog.text
