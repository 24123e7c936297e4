"""Brings requirements, tags and a run of the tests together, and says what is missing.

Rule: whatever is named here as a fault fails CI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from traceability import requirements as requirements_module
from traceability.junit import Run
from traceability.model import Document, Fault, Method, Outcome, Requirement, Tag, Traces
from traceability.tags import tags_of_code, tags_of_tests


class AllPassed(Run):
    """A run in which every test passed: what is left are the faults of requirements and tags."""

    def __init__(self) -> None:
        super().__init__({})

    def outcome(self, path: PurePosixPath, name: str) -> Outcome | None:
        return Outcome.PASSED


@dataclass(frozen=True)
class Matrix:
    """Everything that the report shows."""

    documents: list[Document]
    traces: list[Traces]
    orphans: list[Tag]
    """Tags that name no requirement."""
    faults: list[Fault]
    """All that fails CI: bad requirements, bad tags, orphans, and requirements without code or a passed test."""

    def of(self, document: Document) -> list[Traces]:
        """The requirements of one document."""
        return [one for one in self.traces if one.requirement.path.parent == document.directory]


def trace(root: Path, run: Run) -> Matrix:
    """The matrix of the checkout at `root`."""
    documents, requirements, faults = requirements_module.load(root)
    code, code_faults = tags_of_code(root)
    tests, test_faults = tags_of_tests(root)
    return _join(documents, requirements, code, tests, run, [*faults, *code_faults, *test_faults])


def _join(
    documents: list[Document],
    requirements: Sequence[Requirement],
    code: Sequence[Tag],
    tests: Sequence[Tag],
    run: Run,
    faults: list[Fault],
) -> Matrix:
    by_id = {requirement.id: Traces(requirement) for requirement in requirements}
    orphans = [tag for tag in [*code, *tests] if tag.requirement not in by_id]
    for tag in code:
        if tag.requirement in by_id:
            by_id[tag.requirement].code.append(tag)
    for tag in tests:
        if tag.requirement in by_id:
            by_id[tag.requirement].tests.append((tag, run.outcome(tag.path, tag.name)))
    faults = [
        *faults,
        *(Fault(tag.place, f"{tag.name} names {tag.requirement}, which is no requirement") for tag in orphans),
        *(fault for traces in by_id.values() for fault in _missing(traces)),
    ]
    return Matrix(documents, list(by_id.values()), orphans, faults)


def _missing(traces: Traces) -> Iterator[Fault]:
    requirement = traces.requirement
    place = str(requirement.path)
    if not traces.implemented:
        yield Fault(place, f"no code has 'Requirements: {requirement.id}' in a docstring")
    for tag, outcome in traces.tests:
        if outcome is Outcome.FAILED:
            yield Fault(tag.place, f"{tag.name} failed, which verifies {requirement.id}")
    if requirement.method is Method.TEST and Outcome.PASSED not in [outcome for _, outcome in traces.tests]:
        if not traces.tests:
            yield Fault(place, f"no test has '# Verifies: {requirement.id}' above it")
        else:
            ends = ", ".join(f"{tag.name}: {outcome.value if outcome else 'not run'}" for tag, outcome in traces.tests)
            yield Fault(place, f"no test that verifies it ran and passed ({ends})")
