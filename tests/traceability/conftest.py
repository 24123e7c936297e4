"""A small checkout with two documents, one module and one test file, in which everything is traced."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = "settings:\n  digits: 4\n  prefix: SYS\n  sep: '-'\n"
CHILD = "settings:\n  digits: 4\n  parent: SYS\n  prefix: PER\n  sep: '-'\n"
CODE = (
    '"""Keeps things.\n\nRequirements: SYS-0001\n"""\n\n\n'
    'def keep() -> None:\n    """Keep it.\n\n    Requirements: PER-0001,\n    PER-0002\n    """\n'
)
TESTS = "import os\n\n\n# Verifies: SYS-0001, PER-0001\ndef test_keep() -> None:\n    assert os\n"
CASE = '<testcase classname="tests.test_keep" name="{name}">{inside}</testcase>'


def item(text: str = "The system shall keep it.", verification: str = "test", more: str = "") -> str:
    return f"active: true\nheader: |\n  Keep\ntext: |\n  {text}\nverification: {verification}\n{more}"


class Checkout:
    """`root` is the root of it. Files are changed by `write`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("requirements/system/.doorstop.yml", ROOT)
        self.write("requirements/system/SYS-0001.yml", item(more="links: []\n"))
        self.write("requirements/persistence/.doorstop.yml", CHILD)
        self.write("requirements/persistence/PER-0001.yml", item(more="links:\n- SYS-0001: x=\n"))
        more = "evidence: docs/figures.md#here\nlinks:\n- SYS-0001\n"
        self.write("requirements/persistence/PER-0002.yml", item(verification="demonstration", more=more))
        self.write("docs/figures.md", "# Here\n")
        self.write("qrusty_trio/keep.py", CODE)
        self.write("tests/test_keep.py", TESTS)
        self.ran("test_keep")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def ran(self, *names: str, **inside: str) -> None:
        """The report of a run: these tests passed, and those of `inside` ended with what is in it."""
        cases = [CASE.format(name=name, inside="") for name in names]
        cases += [CASE.format(name=name, inside=element) for name, element in inside.items()]
        self.write("junit.xml", f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)
