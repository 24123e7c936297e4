"""Request lines that were read before, and what they mean.

Rule: what is remembered is what reading the line anew would give. Bounded in number and in bytes; lines that come once
only (a query that changes) displace none that come again.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from qrusty_trio.api.call import Operation
from qrusty_trio.api.operations import resolve
from qrusty_trio.http.head import Line, read_line
from qrusty_trio.http.remembered import Remembered

MAX_KEPT_TARGETS = 1024
"""Request lines whose meaning is remembered: so many that came again, and so many that came once; the same for lines up
to a message id."""
MAX_KEPT_LINE_BYTES = 1024
"""Longer lines are read anew each time, so that the memory is bounded (4 MiB)."""
_HTTP11 = b" HTTP/1.1"
_PLAIN_ID = re.compile(rb"[-0-9A-Za-z]{1,64}")
"""A message id that is not percent-encoded, and no query."""


class Target(NamedTuple):
    """What a request line means."""

    operation: Operation
    params: tuple[str, ...]
    query: str
    http11: bool
    head_only: bool


class Targets:
    """The request lines of all connections of a lane."""

    def __init__(self) -> None:
        self._targets: Remembered[Target] = Remembered(MAX_KEPT_TARGETS)
        self._up_to_id: Remembered[Target] = Remembered(MAX_KEPT_TARGETS)
        """Without the message id, which comes once only: request lines up to the slash before it."""

    def of(self, line: bytes) -> Target | None:
        """What a request line means, if that is known from lines before it."""
        target = self._targets.get(line)
        if target is None and line.endswith(_HTTP11):
            before, _, message_id = line[: -len(_HTTP11)].rpartition(b"/")
            known = self._up_to_id.get(before)
            if known is not None and _PLAIN_ID.fullmatch(message_id):
                operation, params, query, http11, head_only = known
                return Target(operation, (*params, message_id.decode()), query, http11, head_only)
        return target

    def quick(self, line: bytes) -> Target | None:
        """The same, found out if need be and if the line is not long. Raises what `resolve` and `read_line` raise."""
        target = self.of(line)
        if target is None and len(line) <= MAX_KEPT_LINE_BYTES:
            return self.resolve(line, read_line(line))
        return target

    def resolve(self, text: bytes, line: Line) -> Target:
        """Find out what a request line means. Raises NotFound, MethodNotAllowed, BadRequest."""
        operation, params = resolve(line.method, line.path, line.query)
        target = Target(operation, params, line.query, line.http11, line.method == "HEAD")
        if len(text) > MAX_KEPT_LINE_BYTES:
            return target
        if not operation.path.endswith("/{id}"):
            self._targets.put(text, target)
        elif text == f"{line.method} ".encode() + line.path + _HTTP11:
            before = text[: -len(_HTTP11)].rpartition(b"/")[0]
            self._up_to_id.put(before, target._replace(params=params[:-1]))
        return target
