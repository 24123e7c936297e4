"""Reads request lines, and caches the meaning of those that repeat. This is the only cache of paths.

Rule: a cached target is what parsing the line again would give. The cache is bounded in entries and bytes. A line seen
once (its query changes, for example) evicts none that repeats. Refusals are not cached.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from qrusty_trio.api.call import Operation
from qrusty_trio.api.operations import OPERATIONS, resolve
from qrusty_trio.errors import BadRequest, QrustyError
from qrusty_trio.http.repeat_cache import RepeatCache
from qrusty_trio.http.webui import Files, WebFile

MAX_KEPT_LINES = 1024
"""Size of the cache of request lines: this many repeated ones, and as many that were seen once. The same again for
request lines up to a message id."""
MAX_KEPT_LINE_BYTES = 1024
"""Longer lines are not cached, which bounds the memory (4 MiB)."""
BATCHABLE = frozenset({"publish", "consume", "consume_from", "ack", "nack", "health"})
"""Operations that take microseconds: request batching may run them."""
ROOT_PATH = b"/"
WEBSOCKET_PATH = b"/ws"
METRICS_PATH = b"/metrics"
LOGIN_PATH = b"/login"
LOGOUT_PATH = b"/logout"
SESSION_PATHS = frozenset({LOGIN_PATH, LOGOUT_PATH})
DOCUMENT_PATHS = frozenset({b"/openapi.json", b"/asyncapi.json"})
DOCS_PATH = b"/docs"

_OWN_PATHS = frozenset(
    {ROOT_PATH, WEBSOCKET_PATH, METRICS_PATH, b"/ui", DOCS_PATH, DOCS_PATH + b"/", b"/favicon.ico"}
    | SESSION_PATHS
    | DOCUMENT_PATHS
)
_OWN_PREFIXES = (b"/ui/", b"/assets/")
_LINE = re.compile(rb"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.([01])")
_ABSOLUTE_LINE = re.compile(rb"([A-Z]{1,20}) (https?://[-A-Za-z0-9._]+(?::[0-9]{1,5})?(?:[/?][!-~]*)?) HTTP/1\.([01])")
_ORIGIN_OF_TARGET = re.compile(rb"https?://[^/?]*")
_HTTP11 = b" HTTP/1.1"
_PLAIN_ID = re.compile(rb"[-0-9A-Za-z]{1,64}")
"""A message id without percent-encoding, and without a query."""


def _siblings(path: str) -> set[str]:
    """The templates that differ from this one in their last segment only, itself included."""
    return {each.path for each in OPERATIONS if each.path.rpartition("/")[0] == path.rpartition("/")[0]}


_UP_TO_ID = frozenset(each.path for each in OPERATIONS if _siblings(each.path) == {each.path})
"""Templates whose last segment, if it is an id, may be any: no other template has a fixed segment there."""


class RequestLine(NamedTuple):
    """A request line. `path` is undecoded and without query; `query` is without '?'."""

    method: str
    path: bytes
    query: str
    http11: bool


NOT_KNOWN = ("-", "-")
"""Stands for the method and the path of a request that can't be read."""


class Target(msgspec.Struct, gc=False):
    """What a request line asks for: an operation, a refusal, a file, or, if all are None, what only the app serves."""

    http11: bool
    head_only: bool
    """The response has no body (HEAD)."""
    operation: Operation | None = None
    params: tuple[str, ...] = ()
    query: str = ""
    batchable: bool = False
    """Request batching may run the operation."""
    refusal: QrustyError | None = None
    websocket: bool = False
    """A GET of the WebSocket's path."""
    file: WebFile | None = None
    """A file of the web UI that is kept in memory."""
    asked: tuple[str, str] = NOT_KNOWN
    """Method and path as they came, of a refusal and of a file."""

    @property
    def only_for_app(self) -> bool:
        return self.operation is None and self.refusal is None and self.file is None


def app_serves(path: bytes) -> bool:
    """Whether only the app serves this undecoded path: root, WebSocket, metrics, login, documents, web UI."""
    return path.startswith(_OWN_PREFIXES) or path in _OWN_PATHS


def split_target(target: bytes) -> tuple[bytes, str]:
    """The undecoded path and the query of a request target. Accepts the absolute form (`http://host/path`) too."""
    if not target.startswith(b"/"):
        target = _ORIGIN_OF_TARGET.sub(b"", target, count=1)
    path, _, query = target.partition(b"?")
    return path or b"/", query.decode("ascii")


def read_line(line: bytes) -> RequestLine:
    """Read a request line (without CR LF). Raises BadRequest."""
    match = _LINE.fullmatch(line) or _ABSOLUTE_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("The request line can't be read")
    method, target, minor = match.groups()
    path, query = split_target(target)
    return RequestLine(method.decode("ascii"), path, query, minor == b"1")


class RequestLines:
    """Reads the request lines of all connections of the fast path.

    Requirements: API-0044
    """

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or {}
        self._whole: RepeatCache[Target] = RepeatCache(MAX_KEPT_LINES)
        self._up_to_id: RepeatCache[Target] = RepeatCache(MAX_KEPT_LINES)
        """Request lines up to the slash before the message id, since each id is seen only once."""

    def read(self, line: bytes) -> Target:
        """The target of a request line (without CR LF). Raises BadRequest if the line can't be read."""
        target = self._whole.get(line) or self._whole.seen_once(line)
        if target is not None:
            return target
        if line.endswith(_HTTP11):
            before, _, message_id = line[: -len(_HTTP11)].rpartition(b"/")
            known = self._up_to_id.get(before) or self._up_to_id.seen_once(before)
            if known is not None and _PLAIN_ID.fullmatch(message_id):
                params = (*known.params, message_id.decode())
                return Target(True, known.head_only, known.operation, params, "", known.batchable)
        return self._read_anew(line)

    def _read_anew(self, text: bytes) -> Target:
        line = read_line(text)
        head_only = line.method == "HEAD"
        asked = (line.method, line.path.decode("ascii"))
        if line.method == "OPTIONS" or app_serves(line.path):
            websocket = line.method == "GET" and line.path == WEBSOCKET_PATH
            file = self._files.get(line.path) if line.method == "GET" or head_only else None
            return Target(line.http11, head_only, websocket=websocket, file=file, asked=asked)
        try:
            operation, params = resolve(line.method, line.path, line.query)
        except QrustyError as refusal:
            return Target(line.http11, head_only, refusal=refusal.with_traceback(None), asked=asked)
        batchable = line.http11 and not head_only and operation.name in BATCHABLE
        target = Target(line.http11, head_only, operation, params, line.query, batchable)
        if len(text) > MAX_KEPT_LINE_BYTES:
            return target
        if not operation.path.endswith("/{id}"):
            self._whole.put(text, target)
        elif operation.path in _UP_TO_ID and text == f"{line.method} ".encode() + line.path + _HTTP11:
            before = text[: -len(_HTTP11)].rpartition(b"/")[0]
            self._up_to_id.put(before, msgspec.structs.replace(target, params=params[:-1]))
        return target
