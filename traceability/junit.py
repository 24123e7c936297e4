"""Reads how the tests of a run ended, from the JUnit XML reports that pytest wrote, one for each part of the run.

Rule: a test function passed only if each of its cases ran and passed, in whichever part.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath

from traceability.model import Outcome


class ReportUnreadable(Exception):
    """There is no report, or it is not one."""


class Run:
    """The outcomes of one run, by test function."""

    def __init__(self, outcomes: dict[tuple[str, str], Outcome]) -> None:
        self._outcomes = outcomes

    def outcome(self, path: PurePosixPath, name: str) -> Outcome | None:
        """How test function `name` of a file ended; None if it was not in the run."""
        return self._outcomes.get((".".join(path.with_suffix("").parts), name))


def read(*paths: Path) -> Run:
    """Read the reports of all parts. Raises ReportUnreadable."""
    outcomes: dict[tuple[str, str], Outcome] = {}
    for path in paths:
        cases = _cases(path)
        for case in cases:
            key = (case.get("classname", ""), case.get("name", "").partition("[")[0])
            outcome = _outcome(case)
            if _WORSE.index(outcome) >= _WORSE.index(outcomes.get(key, Outcome.PASSED)):
                outcomes[key] = outcome
        if not cases:
            raise ReportUnreadable(f"{path} has no test in it")
    return Run(outcomes)


def _cases(path: Path) -> list[ET.Element]:
    try:
        return list(ET.parse(path).getroot().iter("testcase"))
    except FileNotFoundError:
        raise ReportUnreadable(f"there is no report of a test run at {path}: run `make test` first") from None
    except (OSError, ET.ParseError) as error:
        raise ReportUnreadable(f"{path} is not a JUnit report: {error}") from error


_WORSE = (Outcome.PASSED, Outcome.SKIPPED, Outcome.FAILED)


def _outcome(case: ET.Element) -> Outcome:
    if case.find("failure") is not None or case.find("error") is not None:
        return Outcome.FAILED
    return Outcome.PASSED if case.find("skipped") is None else Outcome.SKIPPED
