"""Builds and runs the load driver, `bench/load`.

Rule: the driver's line of JSON is passed on whole; what it counted as an error stays in the result.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NotRequired, TypedDict

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
SOURCES = ROOT / "bench" / "load"
NO_GO = (
    "The load driver is a Go program and there is no `go` here (1.22 or newer is needed).\n"
    "Debian, Ubuntu: apt install golang-go. Elsewhere: https://go.dev/dl/"
)


class Latencies(TypedDict):
    """Microseconds."""

    p50: float
    p90: float
    p99: float
    max: float
    count: int


class Load(TypedDict):
    """What the driver reports; `latency_us` by step: cycle, publish, consume, ack.

    `run_seconds` goes from the first request to the last answer, warm-up included.
    """

    protocol: str
    mode: str
    connections: int
    window: int
    payload_bytes: int
    prefill: int
    messages: int
    seconds: float
    rate: float
    latency_us: dict[str, Latencies]
    empty: int
    errors: int
    error_kinds: dict[str, int]
    driver_cpu_seconds: float
    run_seconds: float
    server_cpu_seconds: NotRequired[float]
    """What the server took from before the driver's start to after its end. Not the driver's: `bench.run` adds it."""


def build() -> Path:
    """Compile the driver when its sources are newer; gives the program. Ends the program when there is no Go."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    program = RESULTS / "load-driver"
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    if program.exists() and program.stat().st_mtime > newest:
        return program
    if go is None:
        sys.exit(NO_GO)
    RESULTS.mkdir(exist_ok=True)
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    subprocess.run([go, "build", "-o", str(program), "."], cwd=SOURCES, check=True, env=environment)
    return program


def load(program: Path, address: str, protocol: str, mode: str, **options: int | float | str | bool) -> Load:
    """Run the driver once. Options are its flags, `_` for `-`. Raises RuntimeError when it could not do its work."""
    command = [str(program), "-addr", address, "-protocol", protocol, "-mode", mode]
    command += [f"-{name.replace('_', '-')}={_flag(value)}" for name, value in options.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    result: Load = json.loads(done.stdout)
    return result


def _flag(value: int | float | str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
