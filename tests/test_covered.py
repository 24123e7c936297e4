"""What is said of a coverage report, and which ones are enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.covered import main


def report(path: Path, lines: int, branches: int) -> str:
    totals = {"covered_lines": lines, "num_statements": 1000, "covered_branches": branches, "num_branches": 300}
    path.write_text(json.dumps({"totals": totals}))
    return str(path)


@pytest.mark.parametrize(
    ("lines", "branches", "status"), [(1000, 300, 0), (950, 270, 0), (949, 300, 1), (1000, 269, 1)]
)
def test_lines_and_branches_have_a_limit_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: int, branches: int, status: int
) -> None:
    assert main([report(tmp_path / "coverage.json", lines, branches)]) == status
    assert capsys.readouterr().out == (
        f"{lines:,} of 1,000 lines ({lines / 10:.2f} %, at least 95), {branches} of 300 branches "
        f"({10_000 * branches // 300 / 100:.2f} %, at least 90)\n"
    )


def test_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", report(tmp_path / "coverage.json", 999, 299)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "lines": 999,
        "all_lines": 1000,
        "branches": 299,
        "all_branches": 300,
        "percent_lines": 99.9,
        "percent_branches": 99.66,
    }


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None) -> None:
    path = tmp_path / "coverage.json"
    if content is not None:
        path.write_text(content)
    assert main([str(path)]) == 2
    assert f"{path} is no JSON report of coverage.py, run `make coverage` first" in capsys.readouterr().err
