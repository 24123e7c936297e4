"""Finds the tags: `Requirements: PER-0001, ...` in docstrings of the code, `# Verifies: ...` above tests.

Rule: a tag that can't be read, or that stands where it means nothing, is a fault and never passed over.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from traceability.model import REQUIREMENT_ID, Fault, Tag

CODE = re.compile(r"^[ \t]*Requirements:(.*)\Z", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"#\s*Verifies:(.*)")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def tags_of_code(root: Path, tree: str = "qrusty_trio") -> tuple[list[Tag], list[Fault]]:
    """The tags in the docstrings of a tree."""
    tags: list[Tag] = []
    faults: list[Fault] = []
    for path in sorted((root / tree).rglob("*.py")):
        where = PurePosixPath(path.relative_to(root).as_posix())
        for name, node in _documented(ast.parse(path.read_text(encoding="utf-8"))):
            ids = _in_docstring(node)
            if ids is not None:
                line = 1 if isinstance(node, ast.Module) else node.lineno
                found, wrong = _read(ids, where, line, name)
                tags += found
                faults += wrong
    return tags, faults


def tags_of_tests(root: Path, tree: str = "tests") -> tuple[list[Tag], list[Fault]]:
    """The tags above the tests of a tree. Their lines are those of the tests."""
    tags: list[Tag] = []
    faults: list[Fault] = []
    for path in sorted((root / tree).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "Verifies:" not in source:
            continue
        where = PurePosixPath(path.relative_to(root).as_posix())
        tests = dict(_tests(ast.parse(source)))
        comments = dict(_comments(source))
        for line, comment in comments.items():
            match = TEST.fullmatch(comment)
            if match is None:
                continue
            below = line + 1
            while below in comments:
                below += 1
            test = tests.get(below)
            if test is None:
                faults.append(Fault(f"{where}:{line}", "'Verifies:' must stand directly above a test"))
                continue
            found, wrong = _read(match[1], where, test.lineno, test.name)
            tags += found
            faults += wrong
    return tags, faults


def _read(ids: str, where: PurePosixPath, line: int, name: str) -> tuple[list[Tag], list[Fault]]:
    """The tags of a list of ids such as `PER-0001, PER-0002`."""
    tags: list[Tag] = []
    faults: list[Fault] = []
    for id in dict.fromkeys(" ".join(part.split()) for part in ids.split(",")):
        if REQUIREMENT_ID.fullmatch(id):
            tags.append(Tag(id, where, line, name))
        else:
            faults.append(Fault(f"{where}:{line}", f"{id!r} is not the id of a requirement, such as PER-0001"))
    return tags, faults


def _documented(module: ast.Module) -> Iterator[tuple[str, ast.Module | Definition]]:
    """The module, its classes and functions, and those inside them, each with its name."""
    yield "module", module
    todo: list[tuple[str, ast.stmt]] = [("", statement) for statement in module.body]
    for prefix, statement in todo:
        if isinstance(statement, Definition):
            name = f"{prefix}{statement.name}"
            yield name, statement
            todo += [(f"{name}.", inner) for inner in statement.body]


def _in_docstring(node: ast.Module | Definition) -> str | None:
    """What follows `Requirements:` in the docstring of a node, to its end; None without it."""
    docstring = ast.get_docstring(node, clean=False)
    match = CODE.search(docstring) if docstring is not None else None
    return match[1] if match is not None else None


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each comment that has a line of its own, at the start of the line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and (token.start[1] == 0 or TEST.fullmatch(token.string)):
            yield token.start[0], token.string


def _tests(module: ast.Module) -> Iterator[tuple[int, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(line of its first decorator, or else its own; test) of each test."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]), node
