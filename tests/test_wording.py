"""Sentences that people read, and that none of them says `1 messages`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import qrusty_trio
from qrusty_trio.wording import counted

NOUNS = "bytes|connections|consumes|frames|locks|messages|queues|records|requests|seconds|segments|sockets|times"
COUNTS_AND_NOUN = re.compile(rf"(?:%d|\x00)(?: [a-z]+)? (?:{NOUNS})\b")
SOURCES = sorted(Path(qrusty_trio.__file__).parent.rglob("*.py"))


def test_a_number_and_its_noun() -> None:
    assert [counted(number, "queue") for number in (0, 1, 2)] == ["0 queues", "1 queue", "2 queues"]
    assert [counted(number, "is", "are") for number in (0, 1, 10)] == ["0 are", "1 is", "10 are"]


def sentences(tree: ast.AST) -> set[str]:
    """The texts of a module. In a formatted one a limit is an N, and any other value is a NUL."""
    formatted = [each for each in ast.walk(tree) if isinstance(each, ast.JoinedStr)]
    inside = {id(value) for each in formatted for value in each.values}
    found = {"".join(map(_shown, each.values)) for each in formatted}
    return found | {
        _shown(each) for each in ast.walk(tree) if isinstance(each, ast.Constant) and id(each) not in inside
    }


def _shown(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    is_limit = isinstance(value, ast.FormattedValue) and isinstance(value.value, ast.Name) and value.value.id.isupper()
    return "N" if is_limit else "\0"


MANY_FOR_SURE = {
    "fast_websocket.py": "the largest frame that was too big for a client",
    "connection.py": "a request of more than 2 MiB",
    "descriptors.py": "a limit of open files, of at least 64",
    "looking.py": "the limit of a text to look for",
    "keys.py": "a text priority of more than 1,024 bytes",
}
"""Modules whose counts are never 1."""


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_sentence_counts_one_of_many(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    wrong = [text for text in sentences(tree) if COUNTS_AND_NOUN.search(text)]
    assert not wrong or source.name in MANY_FOR_SURE
