"""How a smoke test ends badly.

Rule: each failure says what was expected and what was seen, in one line each, and knows its exit status.
"""

from __future__ import annotations

from collections.abc import Iterator


class Failure(Exception):
    """Base class. `what` names the check, `expected` and `seen` are phrases."""

    status = 1

    def __init__(self, what: str, expected: str, seen: str) -> None:
        super().__init__(what, expected, seen)
        self.what = what
        self.expected = expected
        self.seen = seen

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, seen {self.seen}"


class BrokenPromise(Failure):
    """The server did what it promises not to do."""


class NotStarted(Failure):
    """There is no server to test."""

    status = 3


class Died(Failure):
    """The server ended, or broke off a connection, before it was told to stop."""

    status = 4


class Interrupted(Exception):
    """Somebody does not want to wait for the end."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, however deeply nested."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
