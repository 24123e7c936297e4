"""The changes that `make mutants` makes: each is one, still parses, and is not one of words; those set aside exist."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest

from mutants import sessions
from mutants.operators import Mutant, mutants_of
from mutants.run import equivalent
from mutants.sessions import ROOT, Session, find_hits

SOURCE = '''"""Words."""

LIMIT = 64
"""Of something."""


def take(queue: list[int], most: int = 3) -> list[int] | None:
    """Take some."""
    taken = []
    for number in queue:
        if number < most and not taken:
            continue
        taken.append(max(number, most))
    if not taken:
        log.warning("there are %d", len(queue))
        raise ValueError(f"nothing, but {most}")
    assert most > 0
    return taken
'''
CHANGES = {
    ("def take(queue: list[int], most: int = 3) -> list[int] | None:", "most: int = 4)"),
    ("if number < most and not taken:", "if number <= most and not taken:"),
    ("if number < most and not taken:", "if number < most or not taken:"),
    ("if number < most and not taken:", "if (number < most):"),
    ("if number < most and not taken:", "if number < most and (taken):"),
    ("continue", "break"),
    ("taken.append(max(number, most))", "pass"),
    ("taken.append(max(number, most))", "taken.append(min(number, most))"),
    ("if not taken:", "if (taken):"),
    ('raise ValueError(f"nothing, but {most}")', "pass"),
    ("return taken", "return None"),
}
WORDS = ("Words", "Of something", "Take some", "assert", "LIMIT", "list[int]) ")


def test_each_is_one_change_of_what_is_done(tmp_path: Path) -> None:
    Path(tmp_path, "module.py").write_text(SOURCE)
    found = [each for each in mutants_of(tmp_path, Path("module.py")) if each.is_one()]
    for each in found:
        ast.parse(each.after)
        assert each.before == SOURCE
        assert each.was
        assert not any(word in each.was for word in WORDS)
        assert each.diff().count("\n@@") == 1
    for was, becomes in CHANGES:
        assert [each for each in found if each.was == was and becomes in each.becomes], (was, becomes)
    assert len({each.after for each in found}) == len(found)


@pytest.mark.parametrize(
    ("call", "swapped"),
    [
        ("min(a, b)", set()),
        ("max(a, b, c)", set()),
        ("pick(a, b)", {"pick(b, a)"}),
        ("these.max(a, b)", {"these.max(b, a)"}),
        ("max(a, b, key=c)", {"max(b, a, key=c)"}),
    ],
)
def test_the_order_of_what_is_compared_makes_no_difference(tmp_path: Path, call: str, swapped: set[str]) -> None:
    """Except where two may come out equal by a key."""
    Path(tmp_path, "module.py").write_text(f"def f():\n    return {call}\n")
    found = [each for each in mutants_of(tmp_path, Path("module.py")) if each.kind == "swapped"]
    assert {each.becomes for each in found} == {f"return {each}" for each in swapped}


def test_whether_a_zip_is_strict_stays(tmp_path: Path) -> None:
    Path(tmp_path, "module.py").write_text("def f():\n    return zip(a, b, strict=True)\n")
    found = {each.becomes for each in mutants_of(tmp_path, Path("module.py"))}
    assert found == {"return None", "return zip(b, a, strict=True)"}


def test_what_is_set_aside_exists() -> None:
    known = equivalent()
    found = set()
    for path in {path for path, *_ in known}:
        places = {within for other, within, *_ in known if other == path}
        for each in mutants_of(ROOT, Path(path)):
            if each.within in places:
                found.add((path, each.within, each.was, each.becomes))
    assert known <= found


COUNTED = '''"""A module of a small tree."""


class Counter:
    step: int = 1

    def count(self, words: list[str]) -> int:
        total = 0
        for word in words:
            total += self.step if word else 0
        return total

    def forever(self) -> None:
        number = 1
        while number < 2:
            number += 1


def unused() -> int:
    return 1
'''
COUNTED_TESTS = """from qrusty_trio.core.counted import Counter

KEPT = Counter().count


def test_words():
    assert KEPT(["a", "", "b"]) == 2


def test_nothing():
    assert Counter().count([]) == 0


def test_end():
    Counter().forever()


def test_fails():
    assert Counter().count([]) == 1
"""


def test_mutants_are_judged_by_the_tests_of_their_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PATIENCE_SECONDS", 2)
    tree = tmp_path / "tree"
    for name, text in (("qrusty_trio/core/counted.py", COUNTED), ("tests/core/test_counted.py", COUNTED_TESTS)):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_text(text)
    (tree / "qrusty_trio" / "__init__.py").touch()
    (tree / "qrusty_trio" / "core" / "__init__.py").touch()
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    kept = tmp_path / "build" / "hits.json"
    hits = find_hits([tree], environment, kept)
    assert hits.failed == {"tests/core/test_counted.py::test_fails"}
    verdicts: dict[tuple[str, str], str] = {}
    with Session(tree, environment) as session:
        for each in filter(Mutant.is_one, mutants_of(tree, Path("qrusty_trio/core/counted.py"))):
            tests, seconds = hits.near(each)
            if tests or each.within == "Counter":
                verdicts[each.was, each.becomes] = session.judge(each, tests, seconds)
    assert verdicts["total = 0", "total = 1"] == "killed"
    assert verdicts["return total", "return None"] == "killed"
    assert verdicts["number += 1", "pass"] == "killed"  # it hangs
    assert verdicts["while number < 2:", "while number <= 2:"] == "survived"
    assert verdicts["step: int = 1", "step: int = 2"] == "unknown"
    assert not any("return 1" in was for was, _ in verdicts), "no test runs that line"
    (unused,) = (
        each
        for each in mutants_of(tree, Path("qrusty_trio/core/counted.py"))
        if each.becomes == "return None" and each.within == "unused"
    )
    assert hits.near(unused) == ([], 0)
    assert len(hits.of_module(unused)[0]) == 3
    # It is not found out again until something changes.
    noted = json.loads(kept.read_text())
    noted["parts"][0]["failed"] = []
    kept.write_text(json.dumps(noted))
    assert find_hits([tree], environment, kept).failed == set()
    (tree / "tests" / "core" / "test_counted.py").write_text(COUNTED_TESTS + "\n")
    assert find_hits([tree], environment, kept).failed == hits.failed
