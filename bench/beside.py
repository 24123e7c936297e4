"""This checkout beside another one, such as that of the commit before.

    python -m bench.beside OTHER [--rounds 8] [--seconds 2] [--only TEXT]

Rule: whatever favours one side falls on both alike. Each round starts both servers anew, on new directories, because
the server that starts first is up to 10 % slower for as long as it runs: its files lie elsewhere on the disk. Four
rounds go through all orders of starting and of being measured. A figure is the ratio of the medians, this checkout over
OTHER: over 1 is faster. OTHER is a directory in which `make test` was run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.driver import build, load
from bench.servers import Running, Server, exit_on_sigterm, ours
from bench.workloads import WS_WINDOW
from qrusty_trio.wording import counted

WORKLOADS: tuple[tuple[str, str, str, int], ...] = (
    ("http", "cycle", "always", 1),
    ("http", "cycle", "always", 8),
    ("http", "cycle", "always", 32),
    ("http", "cycle", "always", 128),
    ("http", "cycle", "never", 8),
    ("http", "cycle", "never", 32),
    ("http", "publish", "always", 8),
    ("http", "publish", "always", 32),
    ("http", "publish", "never", 8),
    ("ws", "publish", "always", 4),
    ("ws", "cycle", "always", 4),
    ("ws", "cycle", "never", 4),
)
"""Protocol, mode, fsync policy, connections."""


def server_of(directory: Path, policy: str) -> Server:
    python = str(directory / ".venv" / "bin" / "python")
    # `-P`: what runs is what that environment has installed, not what lies in the working directory.
    return replace(ours(policy), command=lambda _directory, _port: [python, "-P", "-m", "qrusty_trio"])


def measure(
    program: Path, checkouts: tuple[Path, Path], workload: tuple[str, str, str, int], rounds: int, seconds: float
) -> list[list[float]]:
    """Messages a second in each round, for each checkout."""
    protocol, mode, policy, connections = workload
    rates: list[list[float]] = [[], []]
    for number in range(rounds):
        started = (0, 1) if number & 1 else (1, 0)
        measured = started if number & 2 else started[::-1]
        with tempfile.TemporaryDirectory(prefix="bench-beside-") as directory, ExitStack() as stack:
            running = {
                index: stack.enter_context(Running(server_of(checkouts[index], policy), Path(directory) / str(index)))
                for index in started
            }
            for index in measured:
                result = load(
                    program,
                    running[index].address,
                    protocol,
                    mode,
                    connections=connections,
                    seconds=seconds,
                    window=WS_WINDOW if protocol == "ws" else 1,
                    payload=100,
                    queue=f"round-{number}",
                )
                rates[index].append(result["rate"])
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default="", help="measure only the workloads whose name has this in it")
    options = parser.parse_args()
    exit_on_sigterm()
    program = build()
    checkouts = Path(__file__).resolve().parent.parent, options.other.resolve()
    print("| workload | this one, messages/s (lowest to highest) | the other | ratio |")
    print("|---|---:|---:|---:|")
    for workload in WORKLOADS:
        protocol, mode, policy, connections = workload
        what = f"{protocol} {mode}, fsync {policy}, {counted(connections, 'connection')}"
        if options.only not in what:
            continue
        rates = measure(program, checkouts, workload, options.rounds, options.seconds)
        medians = [statistics.median(each) for each in rates]
        shown = [f"{m:,.0f} ({min(each):,.0f} to {max(each):,.0f})" for m, each in zip(medians, rates, strict=True)]
        print(f"| {what} | {shown[0]} | {shown[1]} | {medians[0] / medians[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
