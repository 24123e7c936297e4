"""What the server uses over time, and whether it ends where it was.

Rule: a figure is judged by the medians of two windows: the second eighth of the run and the last one. It is too much
when it has grown by more than its tolerance says; how busy the machine was at one moment decides nothing.
"""

from __future__ import annotations

import os
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 1024 * 1024
NAMES = ("memory MiB", "descriptors", "threads", "disk MiB", "p50 ms", "p99 ms")
TOLERANCES: dict[str, tuple[float, float]] = {
    "memory MiB": (1.15, 12.0),
    "descriptors": (1.0, 24.0),
    "threads": (1.0, 3.0),
    "disk MiB": (1.25, 64.0),
    "p50 ms": (1.5, 5.0),
    "p99 ms": (2.0, 40.0),
}
"""A figure may end at so many times what it was, and so much more. Tables of RocksDB, write-ahead logs and segments
come and go, latencies share the machine with whatever else it does."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look."""

    at: float
    """Seconds since the start."""
    values: tuple[float, ...]
    """In the order of `NAMES`."""
    requests: int
    """Answered since the last look."""


class Watch:
    """The figures of one server."""

    def __init__(self, pid: int, directory: Path) -> None:
        self._process = psutil.Process(pid)
        self._directory = directory
        self._latencies: list[float] = []
        self.samples: list[Sample] = []
        self.requests = 0

    def answered(self, seconds: float) -> None:
        """A request of a client took so long."""
        self._latencies.append(seconds)

    def look(self, at: float) -> Sample:
        """Take a sample. Raises psutil.NoSuchProcess when the server is gone."""
        latencies, self._latencies = sorted(self._latencies) or [0.0], []
        memory = self._process.memory_info().rss / MIB
        disk = _bytes_in(self._directory) / MIB
        p50, p99 = (1000 * latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99))
        values = (memory, float(self._process.num_fds()), float(self._process.num_threads()), disk, p50, p99)
        sample = Sample(at, values, len(latencies))
        self.samples.append(sample)
        self.requests += len(latencies)
        return sample


def _bytes_in(directory: Path) -> int:
    total = 0
    for path, _, files in os.walk(directory):
        for name in files:
            with suppress(OSError):  # Removed meanwhile.
                total += os.stat(os.path.join(path, name)).st_blocks * 512  # noqa: PTH116, PTH118  # many files
    return total


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure at the beginning and at the end."""

    name: str
    first: float
    last: float
    limit: float

    @property
    def good(self) -> bool:
        return self.last <= self.limit


def judge(samples: list[Sample], seconds: float) -> list[Verdict]:
    """The figures of a run of `seconds`."""
    first = [sample for sample in samples if seconds / 8 <= sample.at <= seconds / 4] or samples[:1]
    last = [sample for sample in samples if sample.at >= seconds * 7 / 8] or samples[-1:]
    verdicts = []
    for index, name in enumerate(NAMES):
        before, after = (statistics.median(sample.values[index] for sample in window) for window in (first, last))
        times, more = TOLERANCES[name]
        verdicts.append(Verdict(name, before, after, before * times + more))
    return verdicts


def table(samples: list[Sample], rows: int = 40) -> str:
    """At most about so many rows, evenly chosen."""
    lines = ["seconds  requests  " + "  ".join(f"{name:>11}" for name in NAMES)]
    step = max(1, -(-len(samples) // rows))
    for number in range(0, len(samples), step):
        part = samples[number : number + step]
        values = (statistics.median(sample.values[index] for sample in part) for index in range(len(NAMES)))
        requests = sum(sample.requests for sample in part)
        lines.append(f"{part[-1].at:7.0f}  {requests:8}  " + "  ".join(f"{value:11.1f}" for value in values))
    return "\n".join(lines)


def report(verdicts: list[Verdict]) -> str:
    """What `judge` found, a line a figure."""
    lines = []
    for verdict in verdicts:
        word = "ok" if verdict.good else "TOO MUCH"
        lines.append(
            f"{verdict.name:>11}: {verdict.first:8.1f} -> {verdict.last:8.1f} (at most {verdict.limit:.1f}) {word}"
        )
    return "\n".join(lines)
