"""Sessions of pytest for mutants: one round that finds out which tests run which line, then those that judge.

Rule: a session runs in a copy of the tree, in a process group of its own, and ends with this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Self

import pytest

from mutants import forks, hits
from mutants.operators import Mutant

ROOT = Path(__file__).parent.parent
DIRECTORIES = ("core", "api", "storage", "server", "http", "wire", "access", "telemetry", "cli")
LEFT_OUT = (
    "tests/http/test_websocket_memory.py",  # measures the memory of its own process
    "tests/server/test_crashes.py",
    "tests/server/test_process.py",
    "tests/server/test_prometheus.py",
    "tests/server/test_system_faults.py",
    "tests/server/test_tls_process.py",
    "tests/server/test_webui_files.py",
)
"""Tests of processes and machines: what they run is not seen from here."""
OPTIONS = "-q --no-header --tb=no -p no:cacheprovider -p no:xdist --hypothesis-seed=0 --timeout 120"
SECONDS = 60.0
"""Tests of so many seconds are run for one mutant, the nearest and shortest first."""
PATIENCE = 6
"""A mutant whose tests take this many times what they take without it, and PATIENCE_SECONDS more, hangs."""
PATIENCE_SECONDS = 20
_SHORT = 2.0
"""Seconds of a test that is run early because of its name."""


def test_files(root: Path) -> list[str]:
    """Paths below the root."""
    found = [file for name in DIRECTORIES for file in sorted(root.glob(f"tests/{name}/**/test_*.py"))]
    return [name for name in (str(file.relative_to(root)) for file in found) if name not in LEFT_OUT]


class Hits:
    """Which tests run which line of which module, and how many seconds each test takes."""

    def __init__(self, parts: list[dict[str, object]]) -> None:
        self.tests: list[tuple[str, float]] = []
        self.failed: set[str] = set()
        """Tests that failed without any change. They judge nothing."""
        self._lines: dict[str, dict[int, list[int]]] = {}
        for part in parts:
            first = len(self.tests)
            self.failed |= set(part["failed"])  # type: ignore[call-overload]
            self.tests += [(name, seconds) for name, seconds in part["tests"]]  # type: ignore[attr-defined]
            for path, lines in part["lines"].items():  # type: ignore[attr-defined]
                mine = self._lines.setdefault(path, {})
                for line, tests in lines.items():
                    mine.setdefault(int(line), []).extend(first + test for test in tests)

    def near(self, mutant: Mutant) -> tuple[list[str], float]:
        """The tests that run its lines, in the order to run them, and how many seconds they take without it."""
        lines = self._lines.get(str(mutant.path), {})
        last = mutant.line + mutant.before.encode()[mutant.begin : mutant.end].count(b"\n")
        return self._in_order(mutant, {test for line in range(mutant.line, last + 1) for test in lines.get(line, ())})

    def of_module(self, mutant: Mutant) -> tuple[list[str], float]:
        """The same of those that run anything of its module."""
        lines = self._lines.get(str(mutant.path), {})
        return self._in_order(mutant, {test for tests in lines.values() for test in tests})

    def _in_order(self, mutant: Mutant, found: set[int]) -> tuple[list[str], float]:
        name = f"test_{mutant.path.stem}"

        def rank(test: int) -> tuple[bool, float]:
            test_name, seconds = self.tests[test]
            return not (name in test_name and seconds < _SHORT), seconds

        names: list[str] = []
        total = 0.0
        for test in sorted(found, key=rank):
            test_name, seconds = self.tests[test]
            if test_name in self.failed:
                continue
            if names and total + seconds > SECONDS:
                break
            names.append(test_name)
            total += seconds
        return names, total


def find_hits(trees: list[Path], environment: dict[str, str], kept: Path) -> Hits:
    """Run all tests once, a part of them in each tree. `kept`: where it is found again as long as nothing changes."""
    files = test_files(trees[0])
    digest = sha256()
    for file in sorted([*trees[0].glob("qrusty_trio/**/*.py"), *trees[0].glob("tests/**/*.py")]):
        digest.update(b"%b %b " % (str(file.relative_to(trees[0])).encode(), sha256(file.read_bytes()).digest()))
    with suppress(FileNotFoundError, ValueError, KeyError):
        found = json.loads(kept.read_text())
        if found["digest"] == digest.hexdigest():
            return Hits(found["parts"])
    running = []
    for index, tree in enumerate(trees):
        output = tree.parent / f"hits-{index}.json"
        mine = files[index :: len(trees)]
        process = _session(tree, "mutants.hits", mine, environment | {hits.OUTPUT: str(output)})
        running.append((process, output))
    parts = []
    try:
        for process, output in running:
            if process.wait() not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                raise RuntimeError(f"this could not run to its end: {process.args!r}")
            parts.append(json.loads(output.read_text()))
    finally:
        for process, _ in running:
            _end(process)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps({"digest": digest.hexdigest(), "parts": parts}))
    return Hits(parts)


def _session(
    tree: Path, plugin: str, files: list[str], environment: dict[str, str], descriptors: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["nice", "-n", "5", sys.executable, "-m", "pytest", *OPTIONS.split(), "-p", plugin, *files],
        cwd=tree,
        env=environment | {"PYTHONPATH": f"{tree}:{ROOT}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=descriptors,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Session:
    """Judges mutants, one at a time."""

    def __init__(self, tree: Path, environment: dict[str, str]) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._requests = os.fdopen(ours_out, "w", encoding="utf-8")
        self._verdicts = os.fdopen(ours_in, encoding="utf-8")
        descriptors = {forks.DESCRIPTORS: f"{theirs_in},{theirs_out}"}
        self._process = _session(
            tree, "mutants.forks", test_files(tree), environment | descriptors, (theirs_in, theirs_out)
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process)
        with suppress(BrokenPipeError):
            self._requests.close()
        self._verdicts.close()

    def judge(self, mutant: Mutant, tests: list[str], seconds: float) -> str:
        """`forks` says what the verdicts mean. Raises RuntimeError when the session has ended."""
        request = {
            "path": str(mutant.path),
            "before": mutant.before,
            "after": mutant.after,
            "tests": tests,
            "seconds": seconds * PATIENCE + PATIENCE_SECONDS,
        }
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self._requests, flush=True)
        line = self._verdicts.readline()
        if not line:
            raise RuntimeError(f"the tests could not be collected: {self._process.args!r}")
        return str(json.loads(line))
