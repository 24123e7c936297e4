"""Side by side: this server and its peers under the same load, in turns.

    python -m bench.run [--rounds 5] [--seconds 3] [--only cycle-8-100 …] [--quick] [--report] [--dir DIRECTORY]

Rule: a workload's servers all run during its rounds and take turns, so that what the machine does meanwhile hits all.
Each workload's figures go to bench/results/run/<workload>.json; the section is made from whatever is there. --quick
only shows that all works: it stores and writes nothing, and prints its section.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict

from bench import machine, peers_report, plots
from bench.driver import RESULTS, Load, build, load
from bench.report import today
from bench.servers import BEANSTALKD, BEANSTALKD_SYNC, Running, exit_on_sigterm
from bench.workloads import WORKLOADS, WS_WINDOW, Side, Workload

STORED = RESULTS / "run"
SETTLE_SECONDS = 0.5
"""Between two runs, so that one server's background work does not run into the next one's measurement."""
LEAST_SECONDS = 3.0
"""Of a round whose figures are kept: a shorter one may end before a server's background work begins."""
OPEN_WAY = 0o711
"""Of the directories that hold the servers' own: a server may run under an account of its own."""
QUICK_DEPTH = 20_000
DEEP_QUEUE = "deep"


class Measured(TypedDict):
    """What is kept of a workload: by side, its rounds."""

    workload: str
    date: str
    seconds: float
    machine: dict[str, str]
    missing: list[str]
    failures: dict[str, list[str]]
    rounds: dict[str, list[Load]]


def protocol_of(workload: Workload, side: Side) -> str:
    return "ws" if workload.socket and side.server.speaks_http else side.server.protocol


def last_line(error: RuntimeError) -> str:
    """What a server or the driver said last, for the report; the whole of it is printed."""
    return str(error).strip().splitlines()[-1]


def fill(program: Path, side: Side, running: Running, depth: int, payload: int) -> None:
    """Put the side's messages in. A server that syncs each put is filled without that and started again."""
    if side.server is BEANSTALKD_SYNC:
        running.stop()
        with Running(BEANSTALKD, running.directory) as unsynced:
            _put(program, side, unsynced, depth, payload)
        running.start()
    else:
        _put(program, side, running, depth, payload)


def _put(program: Path, side: Side, running: Running, depth: int, payload: int) -> None:
    # All but one are the driver's filling, which is quick; the last is its measurement, which nobody looks at.
    protocol = "ws" if side.server.speaks_http else side.server.protocol
    load(
        program,
        running.address,
        protocol,
        "publish",
        connections=1,
        count=1,
        prefill=depth - 1,
        payload=payload,
        queue=DEEP_QUEUE,
        keep=True,
    )


def one_round(program: Path, workload: Workload, side: Side, running: Running, number: int, seconds: float) -> Load:
    # beanstalkd can't drop a tube; emptying it would take longer than the run, and a tube is nobody else's concern.
    keep = side.depth > 0 or side.server.protocol == "beanstalkd"
    queue = DEEP_QUEUE if side.depth else f"round-{number}"
    before = running.cpu_seconds()
    result = load(
        program,
        running.address,
        protocol_of(workload, side),
        workload.mode,
        connections=workload.connections,
        payload=workload.payload,
        window=WS_WINDOW,
        changing_headers=workload.changing_headers,
        rate=workload.rate,
        batch=workload.batch,
        seconds=seconds,
        warmup=min(1.0, seconds / 3),
        queue=queue,
        keep=keep,
    )
    result["server_cpu_seconds"] = running.cpu_seconds() - before
    return result


def measure(program: Path, workload: Workload, directory: Path, rounds: int, seconds: float, quick: bool) -> Measured:
    """All rounds of one workload."""
    missing = sorted({why for side in workload.sides if (why := side.server.missing())})
    sides = [side for side in workload.sides if side.server.missing() is None]
    results: dict[str, list[Load]] = {side.key: [] for side in sides}
    failures: dict[str, list[str]] = {}
    with ExitStack() as stack:
        servers: dict[str, Running] = {}
        for side in sides:
            depth = min(side.depth, QUICK_DEPTH) if quick else side.depth
            try:
                running = stack.enter_context(Running(side.server, directory / side.key))
                if depth:
                    fill(program, side, running, depth, workload.payload)
            except RuntimeError as error:
                failures[side.key] = [last_line(error)]
                print(f"  {workload.key} {side.label}: {error}", flush=True)
                continue
            servers[side.key] = running
        for number in range(rounds):
            for side in (side for side in sides if side.key in servers):
                time.sleep(SETTLE_SECONDS)
                try:
                    result = one_round(program, workload, side, servers[side.key], number, seconds)
                except RuntimeError as error:
                    failures.setdefault(side.key, []).append(last_line(error))
                    print(f"  {workload.key} round {number + 1} {side.label}: {error}", flush=True)
                    continue
                results[side.key].append(result)
                trouble = f", errors {result['error_kinds']}" if result["errors"] else ""
                print(f"  {workload.key} round {number + 1} {side.label}: {result['rate']:,.0f}/s{trouble}", flush=True)
    return Measured(
        workload=workload.key,
        date=today(),
        seconds=seconds,
        machine=machine.describe(directory),
        missing=missing,
        failures=failures,
        rounds=results,
    )


def main() -> None:
    exit_on_sigterm()
    arguments = parse()
    if not arguments.report:
        fresh = measure_all(arguments)
        if arguments.quick:
            print(peers_report.text(fresh))
            return
    stored = {path.stem: json.loads(path.read_text()) for path in sorted(STORED.glob("*.json"))}
    if not stored:
        sys.exit("nothing has been measured yet")
    peers_report.write(stored, plots.draw(stored))


def measure_all(arguments: argparse.Namespace) -> dict[str, Measured]:
    """Measure the workloads asked for, and store each once it is done."""
    program = build()
    STORED.mkdir(parents=True, exist_ok=True)
    fresh = {}
    with tempfile.TemporaryDirectory(prefix="qrusty-bench-", dir=arguments.dir) as name:
        machine.refuse_memory_disk(Path(name))
        Path(name).chmod(OPEN_WAY)
        for workload in WORKLOADS:
            if arguments.only and workload.key not in arguments.only:
                continue
            print(workload.title, flush=True)
            with tempfile.TemporaryDirectory(dir=name) as home:
                Path(home).chmod(OPEN_WAY)
                done = measure(
                    program, workload, Path(home), arguments.rounds, arguments.seconds, quick=arguments.quick
                )
            fresh[workload.key] = done
            if not arguments.quick:
                (STORED / f"{workload.key}.json").write_text(json.dumps(done, indent=1))
    return fresh


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each workload (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured seconds of each round (default: 3)")
    parser.add_argument(
        "--only", nargs="+", metavar="WORKLOAD", choices=[workload.key for workload in WORKLOADS], help="these only"
    )
    parser.add_argument("--quick", action="store_true", help="one round of half a second: does it all work?")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report from what is stored")
    parser.add_argument("--dir", type=Path, help="where the servers' data goes for the time (default: the system's)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.5
    elif arguments.seconds < LEAST_SECONDS:
        parser.error(f"--seconds must be {LEAST_SECONDS:g} or more, for figures that are kept")
    return arguments


if __name__ == "__main__":
    main()
