"""Writes the matrix down: as lines for a terminal, and as the Markdown of docs/traceability_report.md.

Rule: the same requirements, tags and outcomes give the same text, so a report changes only with what it reports. Lines
of the source are in it only as the anchors of links.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from traceability.matrix import Matrix
from traceability.model import Method, Outcome, Tag, Traces


def lines(matrix: Matrix) -> Iterator[str]:
    """The matrix for a terminal: a line for each requirement, then the counts."""
    for traces in matrix.traces:
        requirement = traces.requirement
        yield (
            f"{requirement.id:9} {requirement.method.value:13} {_state(traces):15} "
            f"{len(traces.code):2} in code {len(traces.tests):2} in tests  {requirement.header}"
        )
    yield ""
    for row in _summary(matrix):
        yield "  ".join(cell.rjust(12) for cell in row)


def markdown(matrix: Matrix, path: PurePosixPath) -> str:
    """The report as Markdown, with links that are relative to its place."""
    return "\n".join([*_markdown(matrix, lambda target: os.path.relpath(target, path.parent))]) + "\n"


def _markdown(matrix: Matrix, relative: Callable[[PurePosixPath], str]) -> Iterator[str]:
    yield "# Traceability report"
    yield ""
    yield "Written by `make traceability-report` from `requirements/`, the tags and a run of the tests."
    yield "Each id leads to its requirement, each name to the code or the test."
    yield ""
    yield "## Summary"
    yield ""
    header, *rows = _summary(matrix)
    yield _row(header)
    yield _row(["---", *["---:"] * (len(header) - 1)])
    yield from map(_row, rows)
    yield ""
    yield "- *Implemented*: code names the requirement, in a docstring."
    yield "- *Verified*: of the requirements with method `test`, those whose test ran and passed, each of its cases."
    yield "- The other methods name their evidence instead."
    yield ""
    yield "## Untraced requirements"
    yield ""
    untraced = [traces for traces in matrix.traces if not traces.implemented or _unverified(traces)]
    yield from [f"- {_requirement(traces, relative)}: {_state(traces)}" for traces in untraced] or ["None."]
    yield ""
    yield "## Orphan tags"
    yield ""
    yield from [f"- {tag.requirement} in {_link(tag, relative)}" for tag in matrix.orphans] or ["None."]
    for document in matrix.documents:
        yield ""
        yield f"## {document.prefix}: {document.directory.name}"
        yield ""
        yield _row(["requirement", "verified by", "code", "tests or evidence"])
        yield _row(["---"] * 4)
        for traces in matrix.of(document):
            yield _row(_cells(traces, relative))


def _summary(matrix: Matrix) -> Iterator[list[str]]:
    yield ["document", "requirements", "implemented", "by test", "verified"]
    for name, group in [
        *((document.directory.name, matrix.of(document)) for document in matrix.documents),
        ("all", matrix.traces),
    ]:
        by_test = [traces for traces in group if traces.requirement.method is Method.TEST]
        yield [
            name,
            str(len(group)),
            _share(sum(traces.implemented for traces in group), len(group)),
            str(len(by_test)),
            _share(sum(traces.verified for traces in by_test), len(by_test)),
        ]


def _cells(traces: Traces, relative: Callable[[PurePosixPath], str]) -> list[str]:
    requirement = traces.requirement
    parents = f" ({', '.join(requirement.parents)})" if requirement.parents else ""
    tests = [_link(tag, relative) + _mark(outcome) for tag, outcome in traces.tests]
    if requirement.evidence:
        name, _, anchor = requirement.evidence.partition("#")
        target = relative(PurePosixPath(name)) + (f"#{anchor}" if anchor else "")
        tests.append(f"[{name}]({target})")
    return [
        f"{_requirement(traces, relative)}{parents} **{requirement.header}.** {requirement.text}",
        requirement.method.value,
        "<br>".join(_link(tag, relative) for tag in traces.code),
        "<br>".join(tests),
    ]


def _requirement(traces: Traces, relative: Callable[[PurePosixPath], str]) -> str:
    return f"[{traces.requirement.id}]({relative(traces.requirement.path)})"


def _link(tag: Tag, relative: Callable[[PurePosixPath], str]) -> str:
    """A link to the place of a tag, with the file and the name of what carries it."""
    file = tag.path.relative_to(tag.path.parts[0])
    text = str(file) if tag.name == "module" else f"{file}: {tag.name}"
    return f"[{text.replace('_', chr(92) + '_')}]({relative(tag.path)}#L{tag.line})"


def _mark(outcome: Outcome | None) -> str:
    return "" if outcome is Outcome.PASSED else f" ({outcome.value if outcome else 'not run'})"


def _state(traces: Traces) -> str:
    if not traces.implemented:
        return "not implemented"
    if traces.requirement.method is not Method.TEST:
        return "has evidence"
    return "verified" if traces.verified else "not verified"


def _unverified(traces: Traces) -> bool:
    return traces.requirement.method is Method.TEST and not traces.verified


def _share(part: int, whole: int) -> str:
    """Rounded down, so that 100 % means all."""
    return f"{part} ({100 * part // whole if whole else 100} %)"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
