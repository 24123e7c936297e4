"""Request lines that were read before, and what they mean.

Rule: what is remembered is what reading the line anew would give. Bounded in number and in bytes; when it is full, all
of it is forgotten.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from qrusty_trio.api.operations import Operation, resolve
from qrusty_trio.http.head import Line

MAX_KEPT_TARGETS = 4096
"""Request lines whose meaning is remembered."""
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
        self._targets: dict[bytes, Target] = {}
        self._up_to_id: dict[bytes, Target] = {}
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

    def resolve(self, text: bytes, line: Line) -> Target:
        """Find out what a request line means. Raises NotFound, MethodNotAllowed, BadRequest."""
        operation, params = resolve(line.method, line.path, line.query)
        target = Target(operation, params, line.query, line.http11, line.method == "HEAD")
        if len(text) > MAX_KEPT_LINE_BYTES:
            return target
        if len(self._targets) + len(self._up_to_id) >= MAX_KEPT_TARGETS:
            self._targets.clear()
            self._up_to_id.clear()
        if not operation.path.endswith("/{id}"):
            self._targets[text] = target
        elif text == f"{line.method} ".encode() + line.path + _HTTP11:
            before = text[: -len(_HTTP11)].rpartition(b"/")[0]
            self._up_to_id[before] = target._replace(params=params[:-1])
        return target
