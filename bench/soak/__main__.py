"""A soak: 40 minutes of queues, consumers and connections that come and go, against the real server.

    python -m bench.soak                # SOAK_SECONDS, or --seconds, makes it shorter
    python -m bench.soak --seed 7

Every answer is held to a ledger: nothing lost, nothing twice under a lock, nothing out of order, counters exact.
Memory, descriptors, threads, disk and latencies are recorded, and must end where they were after the first eighth. The
exit status is 1 when a promise was broken or a figure has grown.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

import trio

from bench.soak.clients import BrokenPromise
from bench.soak.crowd import Crowd
from bench.soak.lives import Life
from bench.soak.watch import Watch, judge, report, table
from tests.server.running import Child, child_server

SECONDS = 2400.0
OWNERS = 8
"""Lives of queues at a time."""
CROWDS = 2
CROWD_SECONDS = 45.0
LOOK_SECONDS = 10.0
SETTINGS = {"QRUSTY_COMPACT_INTERVAL_SECS": "20", "QRUSTY_SEGMENT_MAX_MB": "16", "QRUSTY_HOT_TIER_SIZE": "100"}
SETTINGS["QRUSTY_REFILL_THRESHOLD"] = "25"


class Soak:
    """One run."""

    def __init__(self, server: Child, directory: Path, seconds: float, seed: int) -> None:
        self._server = server
        self._seconds = seconds
        self._seed = seed
        self._end = trio.current_time() + seconds
        self._lives = count()
        self.watch = Watch(server.process.pid, directory)

    async def run(self) -> None:
        """Raises BrokenPromise, alone or in a group."""
        began = trio.current_time()
        async with trio.open_nursery() as watching:
            watching.start_soon(self._look, began)
            async with trio.open_nursery() as nursery:
                for _ in range(OWNERS):
                    nursery.start_soon(self._owners)
                for _ in range(CROWDS):
                    nursery.start_soon(self._crowds)
            watching.cancel_scope.cancel()

    async def _owners(self) -> None:
        while trio.current_time() < self._end:
            number = next(self._lives)
            rng = Random(f"{self._seed} {number}")
            await Life(f"life {number}", self._server.port, self.watch, rng).run(rng.choice([5, 50, 200]))

    async def _crowds(self) -> None:
        while (left := self._end - trio.current_time()) > 0:
            number = next(self._lives)
            rng = Random(f"{self._seed} {number}")
            await Crowd(f"crowd {number}", self._server.port, self.watch, rng).run(min(left, CROWD_SECONDS))

    async def _look(self, began: float) -> None:
        interval = min(LOOK_SECONDS, self._seconds / 48)
        for number in range(1, int(self._seconds / interval) + 1):
            await trio.sleep_until(began + number * interval)
            sample = self.watch.look(trio.current_time() - began)
            if number % 6 == 1:
                print(table([sample]).splitlines()[1], flush=True)


async def main(seconds: float, seed: int) -> int:
    print(f"seed {seed}, {seconds:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="qrusty-soak-") as directory:
        path = Path(directory) / "data"
        async with child_server(path, **SETTINGS) as server:
            soak = Soak(server, path, seconds, seed)
            broken: list[str] = []
            try:
                await soak.run()
            except* BrokenPromise as group:
                broken += [str(error) for error in _leaves(group)]
            status = await server.stop()
            if status != 0:
                broken.append(f"the server has ended with status {status}")
            if "Traceback" in server.log:
                broken.append(server.log[server.log.index("Traceback") - 300 :][:3000])
    verdicts = judge(soak.watch.samples, seconds)
    print(table(soak.watch.samples))
    print(f"{soak.watch.requests} requests over HTTP")
    print(report(verdicts))
    for sentence in broken:
        print(f"BROKEN: {sentence}")
    return 1 if broken or not all(verdict.good for verdict in verdicts) else 0


def _leaves(group: BaseExceptionGroup[BrokenPromise]) -> list[BrokenPromise]:
    leaves: list[BrokenPromise] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Soak the server.")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS") or SECONDS))
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    given = parser.parse_args()
    # Ended in whatever way, it leaves no server behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(trio.run(partial(main, given.seconds, given.seed)))
