"""What traceability is about: requirements, the tags that name them, and what is wrong with them.

Rule: no file is read here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath

REQUIREMENT_ID = re.compile(r"[A-Z]+-\d{4}")


class Method(Enum):
    """How it is shown that a requirement is met."""

    INSPECTION = "inspection"
    """By reading: a rule that a checker or a reviewer holds."""
    ANALYSIS = "analysis"
    """By reasoning from measurements or from the design."""
    DEMONSTRATION = "demonstration"
    """By a measurement that anybody can repeat, such as a benchmark."""
    TEST = "test"
    """By a test of the suite."""


class Outcome(Enum):
    """How a test function ended in a run, all its cases together."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """At least one of its cases was skipped, and none failed."""


@dataclass(frozen=True)
class Fault:
    """Something to put right. `place` is a file, or a file and a line."""

    place: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.place}: {self.sentence}"


@dataclass(frozen=True)
class Document:
    """A directory of requirements. `parent`: prefix of the document that its links lead to; empty for the root."""

    prefix: str
    parent: str
    directory: PurePosixPath


@dataclass(frozen=True)
class Requirement:
    """One requirement. Paths are relative to the root of the checkout.

    `evidence` is where a method other than `test` shows what it claims: a file, perhaps with an anchor.
    """

    id: str
    header: str
    text: str
    method: Method
    parents: tuple[str, ...]
    evidence: str
    path: PurePosixPath


@dataclass(frozen=True)
class Tag:
    """A place that names a requirement. `name` is the module, class, function or test that carries the tag."""

    requirement: str
    path: PurePosixPath
    line: int
    name: str

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.path}:{self.line}"


@dataclass
class Traces:
    """One requirement with everything that names it."""

    requirement: Requirement
    code: list[Tag] = field(default_factory=list)
    tests: list[tuple[Tag, Outcome | None]] = field(default_factory=list)
    """Each test with its outcome; None if it was not in the run."""

    @property
    def implemented(self) -> bool:
        """Whether any code names the requirement."""
        return bool(self.code)

    @property
    def verified(self) -> bool:
        """Whether a test that names the requirement passed, and none of them failed."""
        outcomes = [outcome for _, outcome in self.tests]
        return Outcome.PASSED in outcomes and Outcome.FAILED not in outcomes
