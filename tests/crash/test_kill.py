"""kill -9 at a random moment under load, restart, again and again: no promise is broken.

QRUSTY_CRASH_ROUNDS says how often (20), for HTTP; over WebSocket it is half of that, with batches and
waiting consumes a quarter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from tests.crash import audit
from tests.crash.ledger import QUEUES, Ledger
from tests.crash.workers import BatchWorker, HttpWorker, WebSocketWorker
from tests.server.running import Child, child_environment, child_process, child_server, client_of

ROUNDS = int(os.environ.get("QRUSTY_CRASH_ROUNDS", "20"))
ROUNDS_PER_STORE = 20
WORKERS = 6
RESPONSES = 1500
"""A server is killed when its clients got so many responses at most."""
ROUND_SECONDS = 120.0
START_UPS_TO_KILL = 0.2
"""Share of restarts that are killed once before the server listens."""


def stores(rounds: int) -> list[int]:
    """The rounds that are made on each store."""
    return [min(ROUNDS_PER_STORE, rounds - done) for done in range(0, rounds, ROUNDS_PER_STORE)]


# Verifies: SYS-0001, SYS-0004, PER-0005, DLV-0003
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", stores(ROUNDS))
async def test_http(tmp_path: Path, ledger: Ledger, rounds: int) -> None:
    available = await _rounds(tmp_path, ledger, [HttpWorker(ledger, f"http{n}") for n in range(WORKERS)], rounds)
    ledger.check_order(available)


# Verifies: SYS-0001
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", stores((ROUNDS + 3) // 4))
async def test_batches_and_waits(tmp_path: Path, ledger: Ledger, rounds: int) -> None:
    available = await _rounds(tmp_path, ledger, [BatchWorker(ledger, f"batch{n}") for n in range(WORKERS)], rounds)
    ledger.check_order(available)


# Verifies: SYS-0001, DLV-0003
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", stores((ROUNDS + 1) // 2))
async def test_websocket(tmp_path: Path, ledger: Ledger, rounds: int) -> None:
    await _rounds(tmp_path, ledger, [WebSocketWorker(ledger, f"ws{n}") for n in range(WORKERS // 2)], rounds)


async def _rounds(
    tmp_path: Path, ledger: Ledger, workers: Sequence[HttpWorker | WebSocketWorker], rounds: int
) -> list[str]:
    path = tmp_path / "data"
    available: list[str] = []
    for number in range(rounds):
        if number and ledger.random.random() < START_UPS_TO_KILL:
            await _kill_while_starting(ledger, path)
        await _life(ledger, path, workers, first=number == 0)
        available = audit.check(ledger, path, tmp_path / "audit")
    assert any(message.acked for message in ledger.messages.values())
    return available


async def _life(ledger: Ledger, path: Path, workers: Sequence[HttpWorker | WebSocketWorker], *, first: bool) -> None:
    """Start a server, let the workers at it, and kill it in their midst."""
    with trio.fail_after(ROUND_SECONDS):
        async with child_server(path, **_settings(ledger)) as server:
            if first:
                await create_queues(server)
            stop = trio.Event()
            async with trio.open_nursery() as nursery:
                for worker in workers:
                    nursery.start_soon(worker.run, server.port, stop)
                reached = trio.Event()

                def at_last() -> None:
                    if at_once:
                        server.kill_now()
                    reached.set()

                at_once = ledger.random.random() < 0.5
                ledger.call_after(ledger.random.randrange(1, RESPONSES), at_last)
                await reached.wait()
                await trio.sleep(ledger.random.uniform(0, 0.005))
                await server.kill()
                stop.set()
    assert "Traceback" not in server.log, server.log


def _settings(ledger: Ledger) -> dict[str, str]:
    """Settings of one life: often small ones, so that tiers are read on, tables flushed and segments compacted."""
    choose = ledger.random.choice
    hot_tier = choose([4, 50, 1000])
    return {
        # Against kill -9 the other policies promise the same.
        "QRUSTY_FSYNC": choose(["always", "always", "always", "everysec", "never"]),
        "QRUSTY_FAST_LANE": choose(["enabled", "enabled", "enabled", "disabled"]),
        "QRUSTY_HOT_TIER_SIZE": str(hot_tier),
        "QRUSTY_REFILL_THRESHOLD": str(hot_tier // 4),
        "QRUSTY_SEGMENT_MAX_MB": "1",
        "QRUSTY_COMPACT_INTERVAL_SECS": "1",
        "ROCKSDB_WRITE_BUFFER_MB": choose(["1", "8"]),
    }


async def _kill_while_starting(ledger: Ledger, path: Path) -> None:
    async with child_process(child_environment(path)) as server:
        await trio.sleep(ledger.random.uniform(0, 1.0))
        await server.kill()


async def create_queues(server: Child) -> None:
    """The queues of the ledger, empty."""
    async with client_of(server) as client:
        for queue, by_priority in QUEUES.items():
            config = {"ordering": "MaxFirst" if by_priority else "Fifo"}
            response = await client.request(
                "POST", "/create-queue", json.dumps({"name": queue, "config": config}).encode()
            )
            assert response.status == 200, response
