"""The command behind `make traceability`: what it says of a small checkout, and of one with a fault in it.

Rule: each fault is one line on stderr that names the place, and the exit status is not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.traceability.conftest import CASE, CHILD, CODE, TESTS, Checkout, item
from traceability.__main__ import main

Command = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def command(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run it; returns the exit status, what it printed, and the lines on stderr."""

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        status = main(["--junit", str(checkout.root / "junit.xml"), *arguments], checkout.root)
        printed = capsys.readouterr()
        return status, printed.out, printed.err.splitlines()

    return run


def test_everything_is_traced(command: Command) -> None:
    status, out, err = command()
    assert (status, err) == (0, [])
    lines = [line.split() for line in out.splitlines()]
    assert ["PER-0001", "test", "verified", "1", "in", "code", "1", "in", "tests", "Keep"] in lines
    assert ["PER-0002", "demonstration", "has", "evidence", "1", "in", "code", "0", "in", "tests", "Keep"] in lines
    assert ["all", "3", "3", "(100", "%)", "2", "2", "(100", "%)"] in lines


def test_the_report_leads_to_requirements_code_tests_and_evidence(command: Command, checkout: Checkout) -> None:
    assert command("--write", "docs/report.md") == (0, "", [])
    report = (checkout.root / "docs/report.md").read_text()
    assert "## Untraced requirements\n\nNone.\n\n## Orphan tags\n\nNone.\n" in report
    assert (
        "| [PER-0001](../requirements/persistence/PER-0001.yml) (SYS-0001) **Keep.** The system shall keep it. | test "
        "| [keep.py: keep](../qrusty_trio/keep.py#L7) | [test\\_keep.py: test\\_keep](../tests/test_keep.py#L5) |\n"
    ) in report
    assert "| [keep.py](../qrusty_trio/keep.py#L1) |" in report
    assert "| [docs/figures.md](figures.md#here) |" in report
    assert "| all | 3 | 3 (100 %) | 2 | 2 (100 %) |" in report


def test_the_report_of_a_run_that_is_not_all_well(command: Command, checkout: Checkout) -> None:
    checkout.write("qrusty_trio/keep.py", CODE.replace("PER-0002", "PER-0003"))
    checkout.ran(test_keep='<skipped message="no strace"/>')
    status, _, err = command("--write", "docs/report.md")
    assert (status, len(err)) == (1, 4)
    report = (checkout.root / "docs/report.md").read_text()
    assert "- [PER-0002](../requirements/persistence/PER-0002.yml): not implemented\n" in report
    assert "- [PER-0001](../requirements/persistence/PER-0001.yml): not verified\n" in report
    assert "## Orphan tags\n\n- PER-0003 in [keep.py: keep](../qrusty_trio/keep.py#L7)\n" in report
    assert "test\\_keep](../tests/test_keep.py#L5) (skipped) |" in report
    assert "| all | 3 | 2 (66 %) | 2 | 0 (0 %) |" in report


SYS = "requirements/system/SYS-0001.yml"
PER = "requirements/persistence/PER-0001.yml"
CODE_FILE = "qrusty_trio/keep.py"
TEST_FILE = "tests/test_keep.py"
LINKED = "links:\n- SYS-0001\n"
FAULTS: dict[str, tuple[str, str, str]] = {
    "a link to nothing": (PER, item(more="links:\n- SYS-0009\n"), f"{PER}: links to SYS-0009, which does not exist"),
    "a link to a sibling": (
        PER,
        item(more="links:\n- PER-0002\n"),
        f"{PER}: links to PER-0002, which is not a requirement of SYS",
    ),
    "a link of the root": (
        SYS,
        item(more="links:\n- PER-0001\n"),
        f"{SYS}: links to PER-0001, which is not a requirement of a parent",
    ),
    "no link": (PER, item(), f"{PER}: must link to a requirement of SYS"),
    "no shall": (PER, item("It keeps.", more=LINKED), f"{PER}: 'text' must begin with 'The system shall'"),
    "another method": (
        PER,
        item(verification="hope", more=LINKED),
        f"{PER}: 'verification' must be inspection, analysis, demonstration or test, not 'hope'",
    ),
    "no evidence": (
        PER,
        item(verification="analysis", more=LINKED),
        f"{PER}: 'evidence' must name the file that shows it, as it is verified by analysis",
    ),
    "another name": ("requirements/persistence/PER-7.yml", item(more=LINKED), "must have a name such as PER-0001.yml"),
    "another prefix": (
        "requirements/persistence/SYS-0007.yml",
        item(more=LINKED),
        "requirements/persistence/SYS-0007.yml: must have a name such as PER-0001.yml",
    ),
    "no YAML": (PER, "text: [", f"{PER}: can't be read: while parsing"),
    "no mapping": (PER, "- text\n", f"{PER}: is not a mapping of fields"),
    "no prefix": (
        "requirements/persistence/.doorstop.yml",
        "settings: {}\n",
        "requirements/persistence/.doorstop.yml: has no 'prefix' among its 'settings'",
    ),
    "an orphan in code": (
        CODE_FILE,
        CODE.replace("SYS-0001", "SYS-0001, SYS-0002"),
        f"{CODE_FILE}:1: module names SYS-0002, which is no requirement",
    ),
    "an orphan in a test": (
        TEST_FILE,
        TESTS.replace("PER-0001", "PER-0001, PER-0009"),
        f"{TEST_FILE}:5: test_keep names PER-0009, which is no requirement",
    ),
    "a tag that is no id": (
        CODE_FILE,
        CODE.replace("SYS-0001", "SYS-1"),
        f"{CODE_FILE}:1: 'SYS-1' is not the id of a requirement, such as PER-0001",
    ),
    "words behind a tag": (
        CODE_FILE,
        CODE.replace("SYS-0001\n", "SYS-0001\n\nAnd more.\n"),
        f"{CODE_FILE}:1: 'SYS-0001 And more.' is not the id of a requirement, such as PER-0001",
    ),
    "a tag above no test": (
        TEST_FILE,
        "# Verifies: PER-0001\n\n" + TESTS,
        f"{TEST_FILE}:1: 'Verifies:' must stand directly above a test",
    ),
    "a tag inside a test": (
        TEST_FILE,
        TESTS + "    # Verifies: PER-0001\n",
        f"{TEST_FILE}:7: 'Verifies:' must stand directly above a test",
    ),
    "no code": (
        CODE_FILE,
        CODE.replace("PER-0001,\n    ", ""),
        f"{PER}: no code has 'Requirements: PER-0001' in a docstring",
    ),
    "no test": (TEST_FILE, TESTS.replace(", PER-0001", ""), f"{PER}: no test has '# Verifies: PER-0001' above it"),
}


@pytest.mark.parametrize(("path", "content", "line"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line_with_its_place(
    command: Command, checkout: Checkout, path: str, content: str, line: str
) -> None:
    checkout.write(path, content)
    status, _, err = command()
    assert status == 1
    assert [found for found in err if line in found] != []
    assert all(found.startswith(("requirements/", "qrusty_trio/", "tests/")) for found in err)


@pytest.mark.parametrize(
    ("inside", "line"),
    [
        ('<failure message="no"/>', "tests/test_keep.py:5: test_keep failed, which verifies PER-0001"),
        ('<error message="no"/>', "tests/test_keep.py:5: test_keep failed, which verifies PER-0001"),
        ("<skipped/>", f"{PER}: no test that verifies it ran and passed (test_keep: skipped)"),
    ],
)
def test_only_a_test_that_passed_verifies(command: Command, checkout: Checkout, inside: str, line: str) -> None:
    checkout.ran(test_keep=inside)
    status, _, err = command()
    assert status == 1
    assert line in err


def test_a_test_that_was_not_run_verifies_nothing(command: Command, checkout: Checkout) -> None:
    checkout.ran("test_other")
    status, _, err = command()
    assert status == 1
    assert f"{PER}: no test that verifies it ran and passed (test_keep: not run)" in err


@pytest.mark.parametrize(("worst", "status"), [("", 0), ("<skipped/>", 1), ("<failure/>", 1)])
def test_every_case_of_a_test_has_to_pass(command: Command, checkout: Checkout, worst: str, status: int) -> None:
    cases = [CASE.format(name=f"test_keep[{number}]", inside=worst if number == 1 else "") for number in range(3)]
    checkout.write("junit.xml", f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    assert command()[0] == status


def test_a_run_may_have_several_parts(command: Command, checkout: Checkout) -> None:
    """A test passed if its cases passed in all of them."""
    (checkout.root / "junit.xml").rename(checkout.root / "first.xml")
    parts = ["--junit", str(checkout.root / "first.xml"), str(checkout.root / "junit.xml")]
    checkout.ran("test_another")
    assert command(*parts)[0] == 0
    checkout.ran(test_keep="<failure/>")
    assert command(*parts)[0] == 1


def test_decorators_and_further_comments_may_stand_between(command: Command, checkout: Checkout) -> None:
    checkout.write(
        TEST_FILE,
        "import pytest\n\n\n# Verifies: SYS-0001\n# It matters.\n# Verifies: PER-0001\n"
        '@pytest.mark.parametrize(\n    "x", [1]\n)\nasync def test_keep(x: int) -> None:\n    assert x\n',
    )
    checkout.ran("test_keep[1]")
    assert command()[0] == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no report of a test run at"),
        ("not XML", "is not a JUnit report: syntax error"),
        ("<testsuites/>", "has no test in it"),
    ],
)
def test_a_run_that_cant_be_read(command: Command, checkout: Checkout, content: str | None, sentence: str) -> None:
    (checkout.root / "junit.xml").unlink()
    if content is not None:
        checkout.write("junit.xml", content)
    status, out, (line,) = command()
    assert (status, out) == (2, "")
    assert sentence in line


def test_no_documents_at_all(command: Command, checkout: Checkout, tmp_path: Path) -> None:
    for config in tmp_path.rglob(".doorstop.yml"):
        config.unlink()
    status, _, err = command()
    assert status == 1
    assert "requirements: there is no document: a directory with a .doorstop.yml" in err


def test_inactive_requirements_are_left_out(command: Command, checkout: Checkout) -> None:
    more = "evidence: docs/figures.md#here\nlinks:\n- SYS-0001\n"
    inactive = item(verification="demonstration", more=more).replace("true", "false")
    checkout.write("requirements/persistence/PER-0002.yml", inactive)
    status, _, err = command()
    assert (status, err) == (1, [f"{CODE_FILE}:7: keep names PER-0002, which is no requirement"])


def test_a_document_that_is_a_root_too(command: Command, checkout: Checkout) -> None:
    """Its requirements need no parent, and may have none."""
    checkout.write("requirements/persistence/.doorstop.yml", CHILD.replace("  parent: SYS\n", ""))
    status, _, err = command()
    assert status == 1
    assert f"{PER}: links to SYS-0001, which is not a requirement of a parent" in err
