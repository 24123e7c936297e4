"""A plugin of pytest: judges mutants in forked children of one session that has collected all tests.

Rule: the session reads requests from one descriptor and writes a verdict for each to another, both as lines of JSON.
A child takes over the collected tests and the imported modules, exchanges the code of one function for that of the
mutant, and runs the tests it was told of until one fails. So a mutant costs what its tests take, and no more. The
parent changes nothing, ever.

    request   {"path", "before", "after": the module without and with the change, "tests": [...], "seconds": limit}
    verdict   "killed", "survived", or "unknown": it is not in the code of one function, such as a default value
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType

import pytest

DESCRIPTORS = "MUTANTS_DESCRIPTORS"
"""Environment: where requests come from and where verdicts go to, two numbers with a comma."""
_OPTIMIZED = 1
"""Flag of the code of functions, as opposed to that of classes (`inspect.CO_OPTIMIZED`)."""

_Place = tuple[str, str, int]
"""File, qualified name and first line of a function."""


def _functions() -> dict[_Place, list[FunctionType]]:
    """All functions of the server there are, whoever has them: decorated, bound, or in a table."""
    found: dict[_Place, list[FunctionType]] = {}
    gc.unfreeze()  # or it does not list them
    for each in gc.get_objects():
        if type(each) is FunctionType and "/qrusty_trio/" in each.__code__.co_filename:
            code = each.__code__
            found.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno), []).append(each)
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Those of the functions and methods of a module, without those inside of others."""
    for each in code.co_consts:
        if isinstance(each, CodeType):
            if each.co_flags & _OPTIMIZED:
                yield each
            else:
                yield from _codes(each)


def _same(one: CodeType, other: CodeType) -> bool:
    """Whether they do the same, wherever they stand."""
    fields = ("co_code", "co_names", "co_varnames", "co_freevars", "co_exceptiontable")
    if any(getattr(one, name) != getattr(other, name) for name in fields) or len(one.co_consts) != len(other.co_consts):
        return False
    for mine, theirs in zip(one.co_consts, other.co_consts, strict=True):
        if isinstance(mine, CodeType) and isinstance(theirs, CodeType):
            if not _same(mine, theirs):
                return False
        elif type(mine) is not type(theirs) or mine != theirs:
            return False
    return True


class Forks:
    """Takes the place of the loop that runs the tests."""

    def __init__(self, requests: int, verdicts: int) -> None:
        self._requests = requests
        self._verdicts = verdicts
        self._failed = False
        self._functions: dict[_Place, list[FunctionType]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.collect()
        self._functions = _functions()
        gc.freeze()
        items = {item.nodeid: item for item in session.items}
        with (
            os.fdopen(self._requests, encoding="utf-8") as requests,
            os.fdopen(self._verdicts, "w", encoding="utf-8") as verdicts,
        ):
            for line in requests:
                request = json.loads(line)
                tests = [items[name] for name in request["tests"] if name in items]
                print(json.dumps(self._judge(request, tests)), file=verdicts, flush=True)
        return True

    def _judge(self, request: dict[str, str], tests: list[pytest.Item]) -> str:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            self._in_child(request, tests, writing)
        os.close(writing)
        try:
            ready, _, _ = select.select([reading], [], [], float(request["seconds"]))
            # It hung, or it died.
            return (os.read(reading, 100).decode() if ready else "") or "killed"
        finally:
            os.close(reading)
            # Servers that its tests had started, too.
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _in_child(self, request: dict[str, str], tests: list[pytest.Item], writing: int) -> None:
        """Does not return."""
        verdict = "killed"
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            verdict = self._run(tests) if self._exchange(request) else "unknown"
        finally:
            os.write(writing, verdict.encode())
            os._exit(0)

    def _exchange(self, request: dict[str, str]) -> bool:
        """Whether the change could be made."""
        path = str(Path(request["path"]).absolute())
        before = list(_codes(compile(request["before"], path, "exec", dont_inherit=True)))
        after = list(_codes(compile(request["after"], path, "exec", dont_inherit=True)))
        changed = [pair for pair in zip(before, after, strict=False) if not _same(*pair)]
        if len(before) != len(after) or len(changed) != 1:
            return False
        ((old, new),) = changed
        functions = [
            each
            for each in self._functions.get((path, old.co_qualname, old.co_firstlineno), [])
            if len(each.__code__.co_freevars) == len(new.co_freevars)
        ]
        for each in functions:
            each.__code__ = new
        return bool(functions)

    def _run(self, tests: list[pytest.Item]) -> str:
        for item, following in zip(tests, [*tests[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed:
                return "killed"
        return "survived"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed |= report.failed


def pytest_configure(config: pytest.Config) -> None:
    requests, verdicts = map(int, os.environ[DESCRIPTORS].split(","))
    config.pluginmanager.register(Forks(requests, verdicts))
