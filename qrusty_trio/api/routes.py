"""Which operation a request line means.

Rule: one routing function for every carrier. A path is split at '/' first and its parameters are percent-decoded after
that, so `%2F` is a slash inside a queue's name and never a separator. What no template matches is 404, a template with
another method 405, a parameter that is not percent-encoded UTF-8 400.

Every template with parameters has a second form that takes all of them from the query: `/ack?queue=a%2Fb&id=...` is
`/ack/a%2Fb/...`. That is for names that do not survive the way here: clients and proxies take `.` and `..` out of a
path, and some decode or refuse `%2F`. A parameter is given once, in one of the two places, or the request is 400.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import unquote, unquote_to_bytes

from qrusty_trio.api.call import Operation
from qrusty_trio.core.model import MAX_QUEUE_NAME_BYTES
from qrusty_trio.errors import BadRequest, InvalidQueueName, MethodNotAllowed, NotFound

MAX_CACHED_PATHS = 4096
"""Paths without message ids that are kept with what they mean; all are dropped when there are more."""
MAX_QUERY_PARAMETERS = 100
"""Parameters in the query of a route that takes any."""
MAX_ENCODED_BYTES = 4096
"""A segment of a path, or a parameter, that is percent-encoded: decoding costs 0.3 µs an escape."""
_LONGEST_NAME = 3 * len("seconds")
"""Of a parameter, with every character percent-encoded."""
_UUID = -36
"""Where an id of the usual length starts, counted from the end of a path."""
NOTHING_THERE = "there is nothing under this path; GET / lists the routes"

_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")

Route = tuple[Operation, tuple[str, ...]]


class Router:
    """Finds the operation for a method and a path. Templates look like `/ack/{queue}/{id}`."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        # By number of segments and the segments that are no parameters: every template has its own such shape.
        self._templates: dict[tuple[bytes | None, ...], dict[str, Operation]] = {}
        # The paths of the second form: templates without their parameters.
        self._by_query: dict[bytes, dict[str, Operation]] = {}
        for operation in operations:
            parts = operation.path.split("/")[1:]
            shape = tuple(None if part.startswith("{") else part.encode() for part in parts)
            tables = [self._templates.setdefault(shape, {})]
            if None in shape:
                path = b"/" + b"/".join(part for part in shape if part is not None)
                tables.append(self._by_query.setdefault(path, {}))
            for methods in tables:
                methods[operation.method] = operation
                if operation.method == "GET":
                    methods["HEAD"] = operation
        # Whole paths, and paths up to a message id: what comes again and again.
        self._whole: dict[tuple[str, bytes], Route] = {}
        self._up_to_id: dict[tuple[str, bytes], tuple[Operation, str]] = {}

    def resolve(self, method: str, raw_path: bytes, query: str = "") -> Route:
        """The operation and its parameters, decoded, in the order of the template. HEAD is resolved as GET.

        `raw_path` is the target without the query, as it came, and `query` what follows the '?'. Raises NotFound,
        MethodNotAllowed, BadRequest, InvalidQueueName.
        """
        if query:
            return self._with_query(method, raw_path, query)
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

    def _with_query(self, method: str, raw_path: bytes, query: str) -> Route:
        methods = self._by_query.get(raw_path)
        if methods is None:
            route = self.resolve(method, raw_path)
            names = _parameters(route[0])
            for name in read_query(query, names) if names else ():
                raise BadRequest(f"'{name}' must be given once: it is in the path and in the query")
            return route
        names = _parameters(next(iter(methods.values())))
        given = read_query(query, names)
        if not given:
            raise self._incomplete(raw_path)
        operation = _choose(methods, method)
        for name in names:
            if not given.get(name):
                missing = "must not be empty" if name in given else "is missing in the query"
                raise BadRequest(f"'{name}' {missing}")
        return operation, _checked(tuple(given[name] for name in names))

    def _incomplete(self, raw_path: bytes) -> NotFound:
        """The refusal for the path of a second form without its parameters."""
        operation = next(iter(self._by_query[raw_path].values()))
        second = f"{raw_path.decode()}?{'&'.join(f'{name}=...' for name in _parameters(operation))}"
        return NotFound(f"there is nothing under this path; what is meant may be {operation.path} or {second}")

    def _find(self, method: str, raw_path: bytes) -> Route:
        segments = raw_path.split(b"/")
        if segments.pop(0) or not all(segments):
            raise NotFound(NOTHING_THERE)
        if raw_path in self._by_query:
            raise self._incomplete(raw_path)
        shape = self._shape(segments)
        operation = _choose(self._templates[shape], method)
        params = _checked(tuple(_decode(part) for fixed, part in zip(shape, segments, strict=True) if fixed is None))
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
        raise NotFound(NOTHING_THERE)


def _choose(methods: dict[str, Operation], method: str) -> Operation:
    operation = methods.get(method)
    if operation is None:
        refusal = MethodNotAllowed(f"this path takes {' or '.join(methods)}")
        refusal.allow = ", ".join(methods)
        raise refusal
    return operation


def _parameters(operation: Operation) -> list[str]:
    """The names of the parameters of its template, in order."""
    return [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]


def _checked(params: tuple[str, ...]) -> tuple[str, ...]:
    """The first parameter is the name of a queue. Raises InvalidQueueName."""
    if params and len(params[0].encode()) > MAX_QUEUE_NAME_BYTES:
        raise InvalidQueueName(f"a queue name must be at most {MAX_QUEUE_NAME_BYTES} bytes of UTF-8")
    return params


def read_query(query: str, names: Collection[str]) -> dict[str, str]:
    """The parameters among `names` that a raw query gives, decoded; '+' is a space. All others are ignored.

    Raises BadRequest.
    """
    if query.count("&") >= MAX_QUERY_PARAMETERS:
        raise BadRequest(f"the query may have at most {MAX_QUERY_PARAMETERS} parameters")
    given: dict[str, str] = {}
    for pair in query.split("&"):
        raw_name, _, raw_value = pair.partition("=")
        name = raw_name if len(raw_name) > _LONGEST_NAME else unquote(raw_name)
        if name in names:
            if name in given:
                raise BadRequest(f"'{name}' must be given once in the query")
            if not raw_value.isascii():
                raise BadRequest(f"'{name}' in the query must be percent-encoded UTF-8")
            given[name] = _decode(raw_value.replace("+", " ").encode(), f"'{name}' in the query")
    return given


def _decode(part: bytes, what: str = "the path") -> str:
    """Percent-decode one segment of a path, or the value of a parameter. Raises BadRequest."""
    try:
        if b"%" not in part:
            return part.decode()
        if len(part) > MAX_ENCODED_BYTES:
            raise BadRequest(f"what is percent-encoded in {what} may have at most {MAX_ENCODED_BYTES} bytes")
        for escape in part.split(b"%")[1:]:
            if len(escape) < 2 or escape[0] not in _HEX_DIGITS or escape[1] not in _HEX_DIGITS:
                raise BadRequest(f"'%' in {what} must be followed by two hexadecimal digits")
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{what} must be percent-encoded UTF-8") from None
