"""Which tests must run in one process when several share them out, and so never beside one another.

Rule: every other test may run in any process, beside any other test, in any order.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "one browser, and one server that it looks at": ("tests/browser/",),
    "an image is built once": ("tests/docker/",),
    "packages are built once": ("tests/release/test_packages.py",),
    "all requirements are traced once": ("tests/traceability/test_this_project.py",),
    "loop devices are given out one at a time": (
        "tests/faults/test_kill_compaction.py",
        "tests/storage/test_payload_crash.py",
    ),
    "servers full to their limits of memory": (
        "tests/http/test_websocket_memory.py",
        "tests/http/test_websocket_busy.py",
        "tests/faults/test_memory_limit.py",
    ),
}
"""Reason -> how the paths of these tests begin."""


def group_of(nodeid: str) -> str:
    """The reason that keeps a test together with others; without one, the test itself."""
    return next((reason for reason, paths in TOGETHER.items() if nodeid.startswith(paths)), nodeid)


class SideBySide(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives each process the next group when it has little left to do, those of many tests first."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def encodable(report: Any) -> Any:
    """The same plain values, with `\\ud800` for a character that UTF-8 does not have."""
    if isinstance(report, str):
        return report.encode("utf-8", "backslashreplace").decode()
    if isinstance(report, dict):
        return {name: encodable(value) for name, value in report.items()}
    if isinstance(report, list | tuple):
        return type(report)(encodable(each) for each in report)
    return report
