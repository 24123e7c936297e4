"""The clock of the tests jumps over idle time, and stands while a thread works."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

from qrusty_trio.server.worker import Worker

WORK_SECONDS = 0.1


async def test_idle_time_passes_at_once(autojump_clock: MockClock) -> None:
    await trio.sleep(80_000)
    assert trio.current_time() == 80_000


@pytest.mark.parametrize("kind", ["of Trio", "of a worker"])
async def test_no_time_passes_while_a_thread_works(autojump_clock: MockClock, kind: str) -> None:
    def work() -> None:
        time.sleep(WORK_SECONDS)

    async with Worker("works", work) as worker, trio.open_nursery() as nursery:
        if kind == "of Trio":
            nursery.start_soon(trio.to_thread.run_sync, work)
        else:
            nursery.start_soon(worker.call)
        await trio.sleep(WORK_SECONDS / 100)
        assert not nursery.child_tasks, "it was given all the time it needs"
