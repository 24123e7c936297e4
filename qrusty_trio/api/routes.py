"""Which operation a request line means.

Rule: one routing function for every carrier. A path is split at '/' first and its parameters are percent-decoded after
that, so `%2F` is a slash inside a queue's name and never a separator. What no template matches is 404, a template with
another method 405, a parameter that is not percent-encoded UTF-8 400.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from qrusty_trio.core.model import MAX_QUEUE_NAME_BYTES
from qrusty_trio.errors import BadRequest, InvalidQueueName, MethodNotAllowed, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qrusty_trio.api.operations import Operation

MAX_CACHED_PATHS = 4096
"""Paths without message ids that are kept with what they mean; all are dropped when there are more."""
_UUID = -36
"""Where an id of the usual length starts, counted from the end of a path."""

_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")

Route = tuple["Operation", tuple[str, ...]]


class Router:
    """Finds the operation for a method and a path. Templates look like `/ack/{queue}/{id}`."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        # By number of segments and the segments that are no parameters: every template has its own such shape.
        self._templates: dict[tuple[bytes | None, ...], dict[str, Operation]] = {}
        for operation in operations:
            shape = tuple(None if part.startswith("{") else part.encode() for part in operation.path.split("/")[1:])
            methods = self._templates.setdefault(shape, {})
            methods[operation.method] = operation
            if operation.method == "GET":
                methods["HEAD"] = operation
        # Whole paths, and paths up to a message id: what comes again and again.
        self._whole: dict[tuple[str, bytes], Route] = {}
        self._up_to_id: dict[tuple[str, bytes], tuple[Operation, str]] = {}

    def resolve(self, method: str, raw_path: bytes) -> Route:
        """The operation and its path parameters, decoded. HEAD is resolved as GET.

        `raw_path` is the target without the query, as it came. Raises NotFound, MethodNotAllowed, BadRequest,
        InvalidQueueName.
        """
        route = self._whole.get((method, raw_path))
        if route is not None:
            return route
        known = self._up_to_id.get((method, raw_path[:_UUID]))
        if known is not None:
            # The usual case; whatever is not plainly so is looked at in full. Searching text is faster than bytes.
            message_id = raw_path[_UUID:].decode("latin-1")
            if message_id.isascii() and "%" not in message_id and "/" not in message_id:
                return known[0], (known[1], message_id)
        return self._find(method, raw_path)

    def _find(self, method: str, raw_path: bytes) -> Route:
        segments = raw_path.split(b"/")
        if segments.pop(0) or not all(segments):
            raise NotFound("there is nothing under this path")
        shape = self._shape(segments)
        methods = self._templates[shape]
        operation = methods.get(method)
        if operation is None:
            refusal = MethodNotAllowed(f"this path takes {' or '.join(methods)}")
            refusal.allow = ", ".join(methods)
            raise refusal
        params = tuple(_decode(part) for fixed, part in zip(shape, segments, strict=True) if fixed is None)
        if params and len(params[0].encode()) > MAX_QUEUE_NAME_BYTES:
            raise InvalidQueueName(f"a queue name must be at most {MAX_QUEUE_NAME_BYTES} bytes of UTF-8")
        if len(self._whole) + len(self._up_to_id) >= MAX_CACHED_PATHS:
            self._whole.clear()
            self._up_to_id.clear()
        if operation.path.endswith("/{queue}/{id}"):
            self._up_to_id[method, raw_path[: -len(segments[-1])]] = operation, params[0]
        else:
            self._whole[method, raw_path] = operation, params
        return operation, params

    def _shape(self, segments: list[bytes]) -> tuple[bytes | None, ...]:
        for shape in self._templates:
            if len(shape) == len(segments) and all(
                fixed is None or fixed == segment for fixed, segment in zip(shape, segments, strict=True)
            ):
                return shape
        raise NotFound("there is nothing under this path")


def _decode(part: bytes) -> str:
    """Percent-decode one segment. Raises BadRequest."""
    try:
        if b"%" not in part:
            return part.decode()
        for escape in part.split(b"%")[1:]:
            if len(escape) < 2 or escape[0] not in _HEX_DIGITS or escape[1] not in _HEX_DIGITS:
                raise BadRequest("'%' in the path must be followed by two hexadecimal digits")
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise BadRequest("the path must be percent-encoded UTF-8") from None
