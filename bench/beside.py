"""This checkout beside another one, such as that of the commit before.

    python -m bench.beside OTHER [--rounds 5] [--seconds 2]

Rule: both servers run during all rounds of a workload and take turns, first the one, then the other. A figure is the
ratio of the medians, this checkout over OTHER: over 1 is faster. OTHER is a directory in which `make test` was run.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    exit_on_sigterm()
    program = build()
    here = Path(__file__).resolve().parent.parent
    print("| workload | this one, messages/s (lowest to highest) | the other | ratio |")
    print("|---|---:|---:|---:|")
    for protocol, mode, policy, connections in WORKLOADS:
        rates: list[list[float]] = [[], []]
        with tempfile.TemporaryDirectory(prefix="bench-beside-") as directory, ExitStack() as stack:
            running = [
                stack.enter_context(Running(server_of(checkout, policy), Path(directory) / str(index)))
                for index, checkout in enumerate((here, options.other.resolve()))
            ]
            for number in range(options.rounds):
                for index in (0, 1) if number % 2 else (1, 0):
                    result = load(
                        program,
                        running[index].address,
                        protocol,
                        mode,
                        connections=connections,
                        seconds=options.seconds,
                        window=WS_WINDOW if protocol == "ws" else 1,
                        payload=100,
                        queue=f"round-{number}",
                    )
                    rates[index].append(result["rate"])
        medians = [statistics.median(each) for each in rates]
        shown = [f"{m:,.0f} ({min(each):,.0f} to {max(each):,.0f})" for m, each in zip(medians, rates, strict=True)]
        what = f"{protocol} {mode}, fsync {policy}, {connections} connections"
        print(f"| {what} | {shown[0]} | {shown[1]} | {medians[0] / medians[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
