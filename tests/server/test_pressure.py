"""The memory monitor with readings that are made up, and a target that writes down what it is told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from qrusty_trio.core.pressure import COMPACTION_COOLDOWN_SECONDS, REPEAT_SECONDS, Level
from qrusty_trio.errors import StorageFault
from qrusty_trio.server.memory_usage import Usage
from qrusty_trio.server.pressure import (
    CACHE_PIECE_BYTES,
    MIB,
    MINIMAL_CACHE_BYTES,
    POLL_SECONDS,
    TIER_FRACTION,
    PressureSettings,
    PressureStatus,
    monitor,
)

LIMIT = 1000 * MIB
CACHE = 128 * MIB
THREAD_SECONDS = 30.0


class Readings:
    """A `UsageSource` that says what it is told to."""

    def __init__(self) -> None:
        self.used = 0

    def set(self, share: float) -> None:
        self.used = round(LIMIT * share)

    def read(self) -> Usage:
        return Usage(self.used, LIMIT, "made up")

    def resident_bytes(self) -> int:
        return self.used


class Target:
    """A `PressureTarget`. Calls from threads are noted like the others."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refusing = False
        self.cache = CACHE
        self.cache_sizes: list[int] = []
        self.tiers = 1.0
        self.fault: str | None = None
        """The method that fails."""
        self.compacting = threading.Event()
        self.compaction_may_end = threading.Event()
        self.compaction_may_end.set()

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if self.fault == name:
            raise StorageFault("No space left.")

    def refuse_publishes(self, refuse: bool) -> None:
        self._note("refuse" if refuse else "accept")
        self.refusing = refuse

    def set_cache_bytes(self, capacity: int) -> None:
        self.cache = capacity
        self.cache_sizes.append(capacity)

    async def trim_tiers(self, fraction: float) -> None:
        self._note("tiers")
        self.tiers = fraction

    async def drop_idle_structures(self) -> None:
        self._note("idle")

    async def shrink_indexes(self) -> None:
        self._note("indexes")

    async def compact_payloads(self) -> None:
        self._note("payloads")

    def flush_memtables(self) -> None:
        self._note("flush")

    def compact_range(self) -> None:
        self._note("compact")
        self.compacting.set()
        assert self.compaction_may_end.wait(THREAD_SECONDS)

    async def restore(self) -> None:
        self._note("restore")
        self.tiers = 1.0


class Watched:
    """A monitor that runs in a nursery."""

    def __init__(self) -> None:
        self.readings, self.target, self.status = Readings(), Target(), PressureStatus()

    async def start(self, nursery: trio.Nursery) -> None:
        await nursery.start(monitor, self.readings, self.target, PressureSettings(CACHE), self.status)
        # From now on the test looks in the middle between two readings.
        await trio.sleep(POLL_SECONDS / 2)

    async def read(self, share: float, seconds: float = POLL_SECONDS) -> None:
        """Let a reading, or those of so many seconds, see this share in use."""
        self.readings.set(share)
        await trio.sleep(seconds)

    def refusing(self) -> bool:
        return self.target.refusing

    def level(self) -> Level:
        return self.status.level

    def under_pressure(self) -> bool:
        return self.status.under_pressure

    async def until(self, condition: Callable[[], bool], step: float = 0.001) -> None:
        """Wait for what threads do: they do not know of our clock."""
        end = time.monotonic() + THREAD_SECONDS
        while not condition():
            assert time.monotonic() < end, self.target.calls
            await trio.sleep(step)


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def test_the_first_reading_is_there_when_it_has_started(watched: Watched, autojump_clock: MockClock) -> None:
    watched.readings.set(0.85)
    async with trio.open_nursery() as nursery:
        await watched.start(nursery)
        status = watched.status
        assert (status.level, status.usage_bytes, status.limit_bytes) == (Level.WARNING, LIMIT * 85 // 100, LIMIT)
        assert (status.source, status.under_pressure) == ("made up", True)
        nursery.cancel_scope.cancel()


# Verifies: SCH-0039, SCH-0041
async def test_warning_sheds_and_the_way_back_restores(watched: Watched, autojump_clock: MockClock) -> None:
    target = watched.target
    async with trio.open_nursery() as nursery:
        await watched.start(nursery)
        await watched.read(0.79)
        assert target.calls == []
        assert not watched.under_pressure()
        await watched.read(0.81)
        await watched.until(
            lambda: target.cache == CACHE // 4 and {"idle", "indexes", "flush", "compact"} <= {*target.calls}
        )
        assert not watched.refusing()
        assert target.tiers == 1.0
        # In pieces, or the loop would stand still.
        assert all(
            before - after <= CACHE_PIECE_BYTES
            for before, after in zip([CACHE, *target.cache_sizes], target.cache_sizes, strict=False)
        )
        await watched.read(0.71)
        assert watched.under_pressure()
        await watched.read(0.69)
        await watched.until(lambda: target.cache == CACHE)
        assert target.calls[-1] == "restore"
        assert not watched.under_pressure()
        nursery.cancel_scope.cancel()


# Verifies: SCH-0040
async def test_critical_refuses_publishes_until_it_is_over(watched: Watched, autojump_clock: MockClock) -> None:
    target = watched.target
    async with trio.open_nursery() as nursery:
        await watched.start(nursery)
        await watched.read(0.95)
        assert watched.level() is Level.CRITICAL
        assert target.calls[0] == "refuse"
        assert target.tiers == TIER_FRACTION
        await watched.until(lambda: target.cache == MINIMAL_CACHE_BYTES and {"payloads", "flush"} <= {*target.calls})
        await watched.read(0.85)
        assert watched.refusing()
        await watched.read(0.79)
        assert watched.level() is Level.WARNING
        assert not watched.refusing()
        assert target.tiers == 1.0
        await watched.until(lambda: target.cache == CACHE // 4)
        await watched.read(0.95)
        assert watched.refusing()
        await watched.read(0.5)
        assert not watched.refusing()
        await watched.until(lambda: target.cache == CACHE)
        assert target.calls.count("restore") == 1
        nursery.cancel_scope.cancel()


# Verifies: SCH-0042
async def test_a_compaction_that_takes_long_holds_up_nothing(watched: Watched, mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0
    target = watched.target
    target.compaction_may_end.clear()
    async with trio.open_nursery() as nursery:
        await watched.start(nursery)
        await watched.read(0.95)
        await watched.until(target.compacting.is_set)
        await watched.read(0.5)
        assert not watched.refusing()
        assert watched.level() is Level.NORMAL
        # Another one does not begin beside it.
        await watched.read(0.95, 2 * COMPACTION_COOLDOWN_SECONDS)
        assert target.calls.count("compact") == 1
        target.compaction_may_end.set()
        await watched.until(lambda: target.calls.count("compact") >= 2, COMPACTION_COOLDOWN_SECONDS)
        nursery.cancel_scope.cancel()


# Verifies: SCH-0039
async def test_steps_that_free_what_is_there_now_are_repeated(watched: Watched, autojump_clock: MockClock) -> None:
    target = watched.target
    async with trio.open_nursery() as nursery:
        await watched.start(nursery)
        await watched.read(0.85, 10 * REPEAT_SECONDS + 1)
        assert 10 <= target.calls.count("idle") <= 11
        assert target.calls.count("indexes") == target.calls.count("idle")
        await watched.until(lambda: "compact" in target.calls)
        assert target.calls.count("compact") == 1
        nursery.cancel_scope.cancel()


# Verifies: SCH-0044
async def test_every_step_is_logged_with_what_it_freed(
    watched: Watched, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with trio.open_nursery() as nursery:
            await watched.start(nursery)
            await watched.read(0.95)
            await watched.until(lambda: "block cache to 1.0 MiB" in caplog.text and "compact the whole" in caplog.text)
            await watched.until(lambda: "memory step: flush memtables" in caplog.text)
            await watched.read(0.5)
            await watched.until(lambda: "block cache to 128.0 MiB" in caplog.text)
            nursery.cancel_scope.cancel()
    said = [record.getMessage() for record in caplog.records]
    assert "memory pressure: critical, was normal: 950.0 of 1000.0 MiB in use (95 %, made up)" in said
    assert "memory pressure: normal, was critical: 500.0 of 1000.0 MiB in use (50 %, made up)" in said
    steps = [line for line in said if line.startswith("memory step: ")]
    assert all(" freed " in line and "resident" in line for line in steps)
    named = {line.split(": ")[1] for line in steps}
    assert named >= {
        "refuse publishes",
        "hot tiers to 10 %",
        "drop structures of empty queues",
        "shrink lock index and dedup caches",
        "flush memtables",
        "compact payload store",
        "compact the whole store",
        "restore",
        "accept publishes",
    }


# Verifies: SCH-0044
@pytest.mark.parametrize("fails", ["flush", "compact", "payloads", "tiers", "idle"])
async def test_a_step_that_fails_fails_alone(
    watched: Watched, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    target = watched.target
    target.fault = fails
    async with trio.open_nursery() as nursery:
        await watched.start(nursery)
        await watched.read(0.95)
        await watched.until(lambda: "memory step failed" in caplog.text)
        await watched.until(
            lambda: {"refuse", "tiers", "idle", "indexes", "flush", "compact", "payloads"} <= {*target.calls}
        )
        await watched.read(0.5)
        await watched.until(lambda: target.cache == CACHE)
        assert not watched.refusing()
        nursery.cancel_scope.cancel()
