"""Deep queues and large payloads: memory, start after kill -9, the cost of a cycle, writes to the disk and space back.

    python -m bench.depth [--only queue drained payloads] [--messages 10000000] [--payloads 100000] … (see --help)

Rule: everything is done to the real server over its sockets, with its default fsync policy, while its resident memory
is read ten times a second; the peak given is that of the whole part, start to end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bench import machine
from bench.core import consume_and_return
from bench.driver import RESULTS, build, load
from bench.report import section, spread, table, today
from bench.servers import OURS_ALWAYS, Running, exit_on_sigterm
from bench.wire import Connection

MEBIBYTE = 2**20
SAMPLE_SECONDS = 0.1
SOCKETS = 4
CONSUMERS = 64
EMPTY_CONSUMES = 1_000
COMPACT_SECONDS = 20
"""QRUSTY_COMPACT_INTERVAL_SECS while payloads are measured: the default of 300 would only make it long."""
GIVEN_BACK = 0.05
"""Of the payload bytes, what may still be on the disk when it counts as given back."""
STORED = RESULTS / "depth"
PARTS = ("queue", "drained", "payloads")
Row = list[str]
"""Figure, value, what is to be reached, whether it is."""
Flags = dict[str, int | str | bool]


class MemoryWatch:
    """Reads the server's resident memory in a thread while the block runs; `peak` is in MiB."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0.0

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            try:
                self.peak = max(self.peak, self._running.resident_bytes() / MEBIBYTE)
            except (psutil.Error, RuntimeError):
                continue  # between a kill and the next start there is no process

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()


def row(
    figure: str, values: Sequence[float], digits: int, most: float | None = None, least: float | None = None
) -> Row:
    """One line of the table; the median is held against `most` or `least`."""
    median = statistics.median(values)
    value = spread(values, digits) if len(values) > 1 else f"{median:,.{digits}f}"
    if most is not None:
        return [figure, value, f"{most:g} or less", "yes" if median <= most else "**no**"]
    if least is not None:
        return [figure, value, f"{least:g} or more", "yes" if median >= least else "**no**"]
    return [figure, value, "", ""]


def deep_queue(program: Path, directory: Path, messages: int, rounds: int, seconds: float) -> list[Row]:
    """One queue with very many small messages."""
    rows = []
    running = Running(OURS_ALWAYS, directory)
    with MemoryWatch(running) as memory:
        running.start()
        try:
            filled = load(
                program, running.address, "ws", "publish",
                connections=SOCKETS, window=256, count=messages, queue="bench", keep=True, cap="3h",
            )  # fmt: skip
            rows.append(row(f"publishes/s while filling, {SOCKETS} sockets", [filled["rate"]], 0))
            ready = []
            for _ in range(rounds):
                running.kill()
                begun = time.perf_counter()
                running.start()
                consume_and_return(running.port)
                ready.append(time.perf_counter() - begun)
            rows.append(row("seconds from start to the first consume, after kill -9", ready, 2, most=1))
            rows += _cycles(program, running, rounds, seconds, "fsync always")
            running.stop()
            # Without fsync in between, the server's own work is what is compared.
            running.extra["QRUSTY_FSYNC"] = "never"
            running.start()
            rows += _cycles(program, running, rounds, seconds, "fsync never")
        finally:
            running.stop()
    return [row(f"MiB resident at the peak, {messages:,} messages of 100 B", [memory.peak], 0, most=250), *rows]


def _cycles(program: Path, running: Running, rounds: int, seconds: float, policy: str) -> list[Row]:
    """Cycles on the deep queue and on an empty one, in turns."""
    costs: dict[str, list[float]] = {"bench": [], "empty": []}
    tails: dict[str, list[float]] = {"bench": [], "empty": []}
    for _ in range(rounds):
        for queue, kept in costs.items():
            result = load(
                program, running.address, "http", "cycle", connections=8, seconds=seconds, queue=queue, keep=True
            )
            if result["errors"]:
                raise RuntimeError(f"errors on the queue {queue!r}: {result['error_kinds']}")
            kept.append(1e6 / result["rate"])
            tails[queue].append(result["latency_us"]["consume"]["p99"] / 1000)
    ratios = [deep / empty for deep, empty in zip(costs["bench"], costs["empty"], strict=True)]
    return [
        row(f"µs a cycle, empty queue, 8 connections, {policy}", costs["empty"], 1),
        row(f"µs a cycle, deep queue, 8 connections, {policy}", costs["bench"], 1),
        row(f"deep : empty, {policy}", ratios, 2, most=1.3),
        row(f"p99 of a consume, deep queue, 8 connections, {policy}, ms", tails["bench"], 2, most=5),
        row(f"p99 of a consume, empty queue, 8 connections, {policy}, ms", tails["empty"], 2),
    ]


def drained(program: Path, directory: Path, messages: int) -> list[Row]:
    """A queue from which very many messages were taken and acked."""
    running = Running(OURS_ALWAYS, directory)
    with MemoryWatch(running) as memory, running:
        options: Flags = {"count": messages, "queue": "bench", "keep": True, "cap": "1h"}
        load(program, running.address, "ws", "publish", connections=SOCKETS, window=256, **options)
        away = load(program, running.address, "http", "drain", connections=CONSUMERS, **options)
        waits = []
        connection = Connection(running.port)
        for _ in range(EMPTY_CONSUMES):
            begun = time.perf_counter()
            if connection.ask("POST", "/consume/bench", {"consumer_id": "empty"}) is not None:
                raise RuntimeError("the queue is not empty after the drain")
            waits.append((time.perf_counter() - begun) * 1000)
        connection.close()
    ordered = sorted(waits)
    return [
        row(f"consumes and acks/s while draining {messages:,} messages, {CONSUMERS} connections", [away["rate"]], 0),
        row("ms of a consume on the then empty queue, median", [statistics.median(waits)], 3, most=1),
        row("the same, p99", [ordered[int(0.99 * len(ordered))]], 3, most=1),
        row("the same, the first one", [waits[0]], 3),
        row("MiB resident at the peak of it", [memory.peak], 0),
    ]


def large_payloads(program: Path, directory: Path, count: int, size: int) -> list[Row]:
    """Payloads that go to segment files: memory, bytes written, and the space back once all are acked."""
    running = Running(OURS_ALWAYS, directory, {"QRUSTY_COMPACT_INTERVAL_SECS": str(COMPACT_SECONDS)})
    payload_bytes = count * size
    with MemoryWatch(running) as memory, running:
        options: Flags = {
            "connections": SOCKETS,
            "payload": size,
            "count": count,
            "queue": "bench",
            "keep": True,
            "cap": "1h",
        }
        before = written(running)
        filled = load(program, running.address, "ws", "publish", window=16, **options)
        os.sync()
        amplification = (written(running) - before) / payload_bytes
        stored = on_disk(directory)
        away = load(program, running.address, "http", "drain", **{**options, "connections": CONSUMERS})
        left = []
        for _ in range(2):
            time.sleep(COMPACT_SECONDS + 1)
            left.append(on_disk(directory) / payload_bytes)
        whole = (written(running) - before) / payload_bytes
    what = f"{count:,} payloads of {size // 1024} KB"
    return [
        row(f"MiB resident at the peak, {what}", [memory.peak], 0, most=300),
        row("publishes/s while filling", [filled["rate"]], 0),
        row("bytes written per payload byte, filling", [amplification], 3, most=1.2),
        row("the same with draining and compaction", [whole], 3),
        row("on the disk per payload byte, full", [stored / payload_bytes], 3),
        row("deliveries and acks/s while draining", [away["rate"]], 0),
        row("on the disk per payload byte, one compaction round after the last ack", [left[0]], 3),
        row("the same after two rounds", [left[1]], 3, most=GIVEN_BACK),
    ]


def written(running: Running) -> int:
    """Bytes that the process has had written to the device so far."""
    count: int = psutil.Process(running.pid).io_counters().write_bytes
    return count


def on_disk(directory: Path) -> int:
    """Bytes that the files below a directory take."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue  # a compaction has just removed it
    return total


def report(parts: dict[str, list[Row]], described: dict[str, str], rounds: int) -> str:
    """The section in Markdown, from the parts measured so far."""
    titles = {"queue": "Millions of small messages", "drained": "A queue run empty", "payloads": "Large payloads"}
    lines = [
        "## Deep queues and large payloads",
        machine.sentence(described),
        f"Measured on {today()}, fsync always where nothing else is said; {rounds} rounds where a spread is given. "
        "Resident memory is read ten times a second, from the start of the part to its end.",
    ]
    for name in PARTS:
        if name in parts:
            lines += [f"### {titles[name]}", table(("figure", "value", "to reach", "reached"), parts[name])]
    return "\n\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.depth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts only")
    parser.add_argument("--messages", type=int, default=10_000_000, help="in the deep queue (default: 10,000,000)")
    parser.add_argument("--drain", type=int, default=1_000_000, help="messages to drain (default: 1,000,000)")
    parser.add_argument("--payloads", type=int, default=100_000, help="large payloads (default: 100,000)")
    parser.add_argument("--payload-bytes", type=int, default=65_536, help="their size (default: 65,536)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round of cycles (default: 3)")
    parser.add_argument("--dry", action="store_true", help="print the section, store and write nothing")
    parser.add_argument("--dir", type=Path, help="where the data goes for the time (default: the system's)")
    return parser.parse_args()


def main() -> None:
    exit_on_sigterm()
    arguments = parse()
    program = build()
    with tempfile.TemporaryDirectory(prefix="qrusty-bench-", dir=arguments.dir) as name:
        directory = Path(name)
        machine.refuse_memory_disk(directory)
        needed = max(2.5 * arguments.payloads * arguments.payload_bytes, 600 * arguments.messages)
        if (free := shutil.disk_usage(directory).free) < needed:
            sys.exit(f"{needed / 2**30:.0f} GiB of disk are needed in {directory}, {free / 2**30:.0f} are free")
        described = machine.describe(directory)
        measure = {
            "queue": lambda home: deep_queue(program, home, arguments.messages, arguments.rounds, arguments.seconds),
            "drained": lambda home: drained(program, home, arguments.drain),
            "payloads": lambda home: large_payloads(program, home, arguments.payloads, arguments.payload_bytes),
        }
        parts: dict[str, list[Row]] = {}
        for part in arguments.only:
            with tempfile.TemporaryDirectory(dir=directory) as home:
                parts[part] = measure[part](Path(home))
            print(table(("figure", "value", "to reach", "reached"), parts[part]), flush=True)
            if not arguments.dry:
                STORED.mkdir(parents=True, exist_ok=True)
                (STORED / f"{part}.json").write_text(json.dumps(parts[part], ensure_ascii=False, indent=1))
    if arguments.dry:
        return
    # Parts measured in an earlier run stay in the section.
    parts = {path.stem: json.loads(path.read_text()) for path in sorted(STORED.glob("*.json"))}
    section("depth", report(parts, described, arguments.rounds))


if __name__ == "__main__":
    main()
