"""The requirements of this project are traced.

Rule: what a run of the tests says is left to `make traceability`, which reads the report of one that has ended.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from traceability.matrix import AllPassed, Matrix, trace

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = {"API", "DLV", "PER", "SCH", "SYS", "WS"}


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    """Of a run in which every test passed."""
    return trace(ROOT, AllPassed())


def test_every_requirement_has_code_and_what_verifies_it(matrix: Matrix) -> None:
    assert [str(fault) for fault in matrix.faults] == []
    assert {document.prefix for document in matrix.documents} == DOCUMENTS
    assert all(matrix.of(document) for document in matrix.documents)
