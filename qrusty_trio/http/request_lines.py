"""A cache of request lines and the operations they resolve to.

Rule: a cached result is what parsing the line again would give. The cache is bounded in entries and bytes. A line seen
once (its query changes, for example) evicts none that repeats.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from qrusty_trio.api.call import Operation
from qrusty_trio.api.operations import resolve
from qrusty_trio.http.header_block import RequestLine, read_line
from qrusty_trio.http.repeat_cache import RepeatCache

MAX_KEPT_TARGETS = 1024
"""Size of the cache of request lines: this many repeated ones, and as many that were seen once. The same again for
request lines up to a message id."""
MAX_KEPT_LINE_BYTES = 1024
"""Longer lines are not cached, which bounds the memory (4 MiB)."""
ROOT_PATH = b"/"
WEBSOCKET_PATH = b"/ws"
METRICS_PATH = b"/metrics"
_OWN_PATHS = frozenset({ROOT_PATH, WEBSOCKET_PATH, METRICS_PATH, b"/ui", b"/favicon.ico"})
_OWN_PREFIXES = (b"/ui/", b"/assets/")
_HTTP11 = b" HTTP/1.1"
_PLAIN_ID = re.compile(rb"[-0-9A-Za-z]{1,64}")
"""A message id without percent-encoding, and without a query."""


def app_serves(path: bytes) -> bool:
    """Whether only the app serves this undecoded path: the root, the WebSocket, the metrics and the web UI."""
    return path.startswith(_OWN_PREFIXES) or path in _OWN_PATHS


class Target(NamedTuple):
    """What a request line resolves to."""

    operation: Operation
    params: tuple[str, ...]
    query: str
    http11: bool
    head_only: bool


class Targets:
    """The request lines of all connections of the fast path.

    Requirements: API-0044
    """

    def __init__(self) -> None:
        self._targets: RepeatCache[Target] = RepeatCache(MAX_KEPT_TARGETS)
        self._up_to_id: RepeatCache[Target] = RepeatCache(MAX_KEPT_TARGETS)
        """Request lines up to the slash before the message id, since each id is seen only once."""

    def of(self, line: bytes) -> Target | None:
        """The target of a request line, if earlier lines tell it; else None."""
        target = self._targets.get(line)
        if target is None and line.endswith(_HTTP11):
            before, _, message_id = line[: -len(_HTTP11)].rpartition(b"/")
            known = self._up_to_id.get(before)
            if known is not None and _PLAIN_ID.fullmatch(message_id):
                operation, params, query, http11, head_only = known
                return Target(operation, (*params, message_id.decode()), query, http11, head_only)
        return target

    def quick(self, line: bytes) -> Target | None:
        """The same, but also parses a line that is not long. Raises NotFound, MethodNotAllowed, BadRequest."""
        target = self.of(line)
        if target is None and len(line) <= MAX_KEPT_LINE_BYTES:
            return self.resolve(line, read_line(line))
        return target

    def resolve(self, text: bytes, line: RequestLine) -> Target:
        """Resolve a request line and cache the result. Raises NotFound, MethodNotAllowed, BadRequest."""
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
