"""What happened in a run, for people: time, actor, what was done and what came of it.

Rule: bounded, and cheap as long as nobody reads it: words are kept as they are and put together when printed.
"""

from __future__ import annotations

from collections import deque

import trio

LINES = 3000
"""The last ones are what matters."""
SHORT = 8
"""Characters at the end of an id that tell one message of a run from another."""


class Violation(Exception):
    """A promise was broken. `str()` says which."""


class Trace:
    """The last lines of a run."""

    def __init__(self) -> None:
        self._lines: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=LINES)
        self.total = 0

    def note(self, actor: str, *words: object) -> None:
        """`actor` did or met something."""
        self.total += 1
        self._lines.append((trio.current_time(), actor, words))

    def lines(self, last: int = LINES) -> list[str]:
        """The last lines, oldest first."""
        kept = list(self._lines)[-last:]
        left_out = self.total - len(kept)
        head = [f"... {left_out} lines before"] if left_out else []
        return head + [f"{when:9.3f}  {actor:<10} {_text(words)}" for when, actor, words in kept]


def _text(words: tuple[object, ...]) -> str:
    return " ".join(short(word) if isinstance(word, str) else repr(word) for word in words)


def short(word: str) -> str:
    """An id as people can compare it."""
    return word[-SHORT:] if len(word) >= 36 and word.count("-") >= 4 and " " not in word else word
