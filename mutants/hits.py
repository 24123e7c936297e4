"""A plugin of pytest: notes which test runs which line of the server, and how long each test takes.

Rule: what it found is written as JSON into the file that the environment names (`HITS`), when the session ends:

    tests    [[name, seconds], ...]
    failed   names of those that failed
    lines    path below the root -> line -> indexes of the tests that run it
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest

OUTPUT = "MUTANTS_HITS"
SOURCE = "qrusty_trio"


class Hits:
    """Watches a session."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._coverage = coverage.Coverage(source=[SOURCE], data_file=None, config_file=False, concurrency=["thread"])
        self._times: dict[str, float] = {}
        self._failed: set[str] = set()

    def pytest_collection_finish(self) -> None:
        # Not before: what modules do when they are imported belongs to no test.
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._coverage.switch_context(item.nodeid)
        began = time.monotonic()
        try:
            return (yield)
        finally:
            self._times[item.nodeid] = time.monotonic() - began
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        numbers = {name: number for number, name in enumerate(self._times)}
        lines = {
            os.path.relpath(path): {
                line: [numbers[name] for name in names if name in numbers]
                for line, names in data.contexts_by_lineno(path).items()
            }
            for path in data.measured_files()
        }
        self._output.write_text(
            json.dumps({"tests": list(self._times.items()), "failed": sorted(self._failed), "lines": lines})
        )
        data.close()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Hits(Path(os.environ[OUTPUT])))
