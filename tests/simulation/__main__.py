"""Run worlds: `python -m tests.simulation --seed 17`, or `--seeds 0 20000`. Exit status 1 when a promise was broken."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.simulation import adapter
from tests.simulation.trace import Trace, Violation
from tests.simulation.world import World, run

SHOWN = 3
"""Failing seeds whose trace is printed."""
HASH_SEED = "PYTHONHASHSEED"


def one(seed: int, *, lines: int) -> tuple[World | None, str]:
    """Run a seed. The world, or what went wrong with the last lines of its trace."""
    with tempfile.TemporaryDirectory(prefix="simulation-") as directory:
        try:
            return run(seed, Path(directory)), ""
        except BaseException as error:  # whatever it is, it belongs to this seed
            if isinstance(error, KeyboardInterrupt):
                raise
            trace: Trace | None = getattr(error, "trace", None)
            told = trace.lines(lines) if trace is not None else []
            if not isinstance(error, Violation):
                told.append("".join(traceback.format_exception(error)))
            return None, "\n".join([*told, f"seed {seed}: {type(error).__name__}: {error}"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.simulation")
    parser.add_argument("--seed", type=int, help="run this one and print its trace")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 20_000), metavar=("FIRST", "END"))
    parser.add_argument("--stop-after", type=int, default=20, help="failing seeds after which to stop")
    given = parser.parse_args()
    if os.environ.get(HASH_SEED) != "0":
        # Sets of texts are walked in another order in each process otherwise.
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], {**os.environ, HASH_SEED: "0"}
        )
    adapter.quiet()
    if given.seed is not None:
        world, report = one(given.seed, lines=3000)
        print(report if world is None else "\n".join(world.trace.lines()))
        return int(world is None)
    return many(range(*given.seeds), given.stop_after)


def many(seeds: range, stop_after: int) -> int:
    failing: list[int] = []
    began = told = time.monotonic()
    steps = 0
    for done, seed in enumerate(seeds, 1):
        world, report = one(seed, lines=60)
        if world is None:
            failing.append(seed)
            print(report if len(failing) <= SHOWN else report.splitlines()[-1], flush=True)
            if len(failing) >= stop_after:
                break
        else:
            steps += world.steps
        if time.monotonic() - told > 10 or done == len(seeds):
            told = time.monotonic()
            rate = done / (told - began)
            print(f"{done} of {len(seeds)} worlds, {steps} steps, {rate:.1f} a second, failing: {failing}", flush=True)
    if failing:
        print(f"{len(failing)} failing seeds: {failing}; again with: make simulate SEED={failing[0]}")
    return int(bool(failing))


if __name__ == "__main__":
    sys.exit(main())
