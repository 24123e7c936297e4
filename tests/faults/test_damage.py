"""Any segment file, damaged anyhow: each message is then either whole or removed, counted and named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.ownership import check_ownership
from tests.server.room import SEGMENT_BYTES, Room, large, room, segment

SIZES = [100, 4096, 5000, 5001, 9000, 12_000]
LOCKED, DEAD, MESSAGES = 3, 3, 30
SEGMENTS = 4
POSITIONS = st.one_of(st.integers(0, SEGMENT_BYTES), st.integers(0, 60))
"""Anywhere, and more often in the header."""


@dataclass
class Original:
    """A store that was closed in good order."""

    path: Path
    available: list[str]
    dead: int
    locked: dict[str, str]
    """Id -> payload."""


async def make(path: Path) -> Original:
    async with room(path) as it:
        payloads = [large(str(number), SIZES[number % len(SIZES)]) for number in range(MESSAGES)]
        for payload in payloads:
            await it.publish("q", payload, max_retries=1)
        locked: dict[str, str] = {}
        for number in range(LOCKED + DEAD):
            delivery = await it.consume("q")
            assert delivery is not None
            if number % 2:
                await it.nack("q", delivery.id)
            else:
                locked[delivery.id] = delivery.payload
        assert sorted(it.payloads.segments()) == list(range(1, SEGMENTS + 1))
        return Original(path, payloads[LOCKED + DEAD :], DEAD, locked)


@pytest.fixture(scope="module")
def original() -> Iterator[Original]:
    with TemporaryDirectory() as path:
        yield trio.run(make, Path(path))


def damage(path: Path, number: int, how: str, position: int, data: bytes) -> None:
    file = segment(path, number)
    if not file.exists():
        return
    if how == "delete":
        file.unlink()
    elif how == "cut":
        with file.open("r+b") as opened:
            opened.truncate(min(position, file.stat().st_size))
    elif how == "swap":
        other = segment(path, number % SEGMENTS + 1)
        if other.exists():
            mine, others = file.read_bytes(), other.read_bytes()
            file.write_bytes(others)
            other.write_bytes(mine)
    else:
        with file.open("r+b") as opened:
            opened.seek(position)
            opened.write(data)


DAMAGES = st.lists(
    st.tuples(
        st.integers(1, SEGMENTS),
        st.sampled_from(["delete", "cut", "cut", "swap", "overwrite", "overwrite", "overwrite"]),
        POSITIONS,
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=3,
)


# Verifies: PER-0028
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(damages=DAMAGES, consume_first=st.booleans())
async def test_whole_or_removed_and_counted(
    original: Original, damages: list[tuple[int, str, int, bytes]], consume_first: bool
) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "data"
        shutil.copytree(original.path, path)
        for each in damages:
            damage(path, *each)
        async with room(path) as it:
            found = await it.drain("q") if consume_first else []
            await it.compactor.repair()
            await it.compactor.compact()
            found += await it.drain("q")
            await _check(it, original, found)


async def _check(room: Room, original: Original, found: list[str]) -> None:
    """Those found are whole and in order, those that are not found were removed, and all others are as they were."""
    assert found == [payload for payload in original.available if payload in set(found)]
    broker = room.broker
    stats = broker.catalog.stats("q")
    assert stats is not None
    assert (stats.available, stats.locked) == (0, LOCKED)
    lost_dead = original.dead - stats.dead
    assert broker.payloads.removed_total == len(original.available) - len(found) + lost_dead
    # Who has a locked one has its payload, too. Handed back, it goes the way of all.
    for id in original.locked:
        await room.ack("q", id)
    broker.commit()
    check_ownership(room.stores.storage)
    await room.compactor._note()
    named = {each["id"] for each in room.removed()}
    assert len(named) == broker.payloads.removed_total
    assert not named & original.locked.keys()
