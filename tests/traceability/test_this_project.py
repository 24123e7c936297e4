"""The requirements of this project are traced, and the report is of its present tags.

Rule: what a run of the tests says is left to `make traceability`, which reads the report of one that has ended.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest

from traceability import report
from traceability.matrix import AllPassed, Matrix, trace

ROOT = Path(__file__).parent.parent.parent
REPORT = PurePosixPath("docs/traceability_report.md")
DOCUMENTS = {"API", "DLV", "PER", "SCH", "SYS", "WS"}


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    """Of a run in which every test passed."""
    return trace(ROOT, AllPassed())


def test_every_requirement_has_code_and_what_verifies_it(matrix: Matrix) -> None:
    assert [str(fault) for fault in matrix.faults] == []
    assert {document.prefix for document in matrix.documents} == DOCUMENTS
    assert all(matrix.of(document) for document in matrix.documents)


def test_the_report_is_of_the_present_tags(matrix: Matrix) -> None:
    """But for lines and outcomes, which change by themselves. `make test traceability-report` writes it anew."""
    written = (ROOT / REPORT).read_text(encoding="utf-8")
    assert rows(written) == rows(report.markdown(matrix, REPORT))


def rows(text: str) -> list[str]:
    """The rows of all requirements."""
    found = [line for line in text.splitlines() if line.startswith("| [")]
    return [re.sub(r"#L\d+\)(?: \((?:failed|skipped|not run)\))?", ")", line) for line in found]
