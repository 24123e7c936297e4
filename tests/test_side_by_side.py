"""What is kept in one process is there, and everything else is shared out test by test."""

from __future__ import annotations

from pathlib import Path

from tests.side_by_side import TOGETHER, encodable, group_of

ROOT = Path(__file__).parent.parent


def test_what_is_kept_together_is_there() -> None:
    for paths in TOGETHER.values():
        for path in paths:
            assert Path(ROOT, path).exists(), path


def test_only_what_must_be_is_kept_together() -> None:
    (reason,) = {group_of(f"tests/browser/{name}") for name in ("test_queue.py::test_one", "test_log.py::test_two")}
    assert "browser" in reason
    alone = ["tests/core/test_model.py::test_in_memory", "tests/core/test_model.py::test_on_disk"]
    assert [group_of(each) for each in alone] == alone


def test_a_report_can_go_to_another_process() -> None:
    report = {"sections": [("log", "half \ud800"), ("err", "ü🎉")], "longrepr": None}
    assert encodable(report) == {"sections": [("log", "half \\ud800"), ("err", "ü🎉")], "longrepr": None}
