"""Routing: which operation a request line means.

Rule: both paths use one routing function. A path is split at '/' before its parameters are percent-decoded, so
`%2F` is a slash inside a queue's name and never a separator. A path that matches no template gets 404, another method
405, and a parameter that is not percent-encoded UTF-8 400.

Every template with parameters has a second form that takes all of them from the query: `/ack?queue=a%2Fb&id=...` means
`/ack/a%2Fb/...`. It is for names that a path may not carry intact: clients and proxies remove `.` and `..` from paths,
and some decode or refuse `%2F`. Each parameter must be given once, in one of the two places; otherwise the request gets
400.

Requirements: SYS-0010, API-0014
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from qrusty_trio.api.call import Operation
from qrusty_trio.core.model import MAX_QUEUE_NAME_BYTES
from qrusty_trio.errors import BadRequest, InvalidQueueName, MethodNotAllowed, NotFound

MAX_QUERY_PARAMETERS = 100
"""Most parameters in the query of a route that takes any."""
MAX_ENCODED_BYTES = 4096
"""Most bytes of a percent-encoded path segment or parameter: decoding costs 0.3 µs an escape."""
_LONGEST_NAME = 3 * 32
"""Length of the longest parameter name with every character percent-encoded."""
NOTHING_THERE = "there is nothing under this path; GET / lists the routes"

_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")

Route = tuple[Operation, tuple[str, ...]]
_Shape = tuple[bytes | None, ...]


class _Template(NamedTuple):
    """The operations of one shape, by method."""

    methods: dict[str, Operation]
    parameters: tuple[int, ...]
    """Which segments are parameters."""
    fixed: tuple[tuple[int, bytes], ...]
    """The fixed segments behind the first."""

    @classmethod
    def of(cls, shape: _Shape, methods: dict[str, Operation]) -> _Template:
        parameters = tuple(index for index, part in enumerate(shape) if part is None)
        return cls(methods, parameters, tuple((i, part) for i, part in enumerate(shape) if i and part is not None))


class Router:
    """Finds the operation for a method and a path. Templates look like `/ack/{queue}/{id}`.

    Requirements: API-0001
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        # By shape: the fixed segments, with None for each parameter.
        by_shape: dict[_Shape, dict[str, Operation]] = {}
        # The paths of the second form: templates without their parameters. Several may share one.
        self._by_query: dict[bytes, list[dict[str, Operation]]] = {}
        for operation in operations:
            shape = _shape_of(operation.path)
            methods = by_shape.setdefault(shape, {})
            methods[operation.method] = operation
            if operation.method == "GET":
                methods["HEAD"] = operation
        # By number of segments and first one, which is fixed in every template. The more specific shape comes first.
        self._templates: dict[tuple[int, bytes | None], list[_Template]] = {}
        for shape, methods in sorted(by_shape.items(), key=lambda item: item[0].count(None)):
            self._templates.setdefault((len(shape), shape[0]), []).append(_Template.of(shape, methods))
            if None in shape:
                path = b"/" + b"/".join(part for part in shape if part is not None)
                # Those with more parameters first: what is given decides which one is meant.
                self._by_query.setdefault(path, []).insert(0, methods)

    def resolve(self, method: str, raw_path: bytes, query: str = "") -> Route:
        """The operation and its decoded parameters, in template order. HEAD resolves as GET.

        `raw_path`: the undecoded path of the target. `query`: what follows the '?'. Raises NotFound, MethodNotAllowed,
        BadRequest, InvalidQueueName.
        """
        if query:
            return self._with_query(method, raw_path, query)
        return self._find(method, raw_path)

    def _with_query(self, method: str, raw_path: bytes, query: str) -> Route:
        second_forms = self._by_query.get(raw_path)
        given = read_query(query, _names_of(second_forms)) if second_forms else {}
        if not given:
            operation, params = self.resolve(method, raw_path)
            names = _parameters(operation)
            for name in read_query(query, names) if names else ():
                raise BadRequest(f"'{name}' must be given once: it is in the path and in the query")
            return operation, params
        assert second_forms is not None
        for methods in second_forms:
            operation = next(iter(methods.values()))
            if given.keys() >= set(_parameters(operation)):
                break
        operation = _choose(methods, method)
        names = _parameters(operation)
        for name in names:
            if not given.get(name):
                missing = "must not be empty" if name in given else "is missing in the query"
                raise BadRequest(f"'{name}' {missing}")
        return operation, _checked(tuple(given[name] for name in names))

    def _incomplete(self, raw_path: bytes) -> NotFound:
        """The refusal for the path of a second form whose parameters are missing."""
        operation = next(iter(self._by_query[raw_path][-1].values()))
        second = f"{raw_path.decode()}?{'&'.join(f'{name}=...' for name in _parameters(operation))}"
        return NotFound(f"there is nothing under this path; what is meant may be {operation.path} or {second}")

    def _find(self, method: str, raw_path: bytes) -> Route:
        segments = raw_path.split(b"/")
        if segments.pop(0) or not segments or not all(segments):
            raise NotFound(NOTHING_THERE)
        template = self._template(segments)
        if template is None or (template.parameters and raw_path in self._by_query):
            raise self._incomplete(raw_path) if raw_path in self._by_query else NotFound(NOTHING_THERE)
        operation = _choose(template.methods, method)
        return operation, _checked(tuple([_decode(segments[index]) for index in template.parameters]))

    def _template(self, segments: list[bytes]) -> _Template | None:
        for template in self._templates.get((len(segments), segments[0]), ()):
            for index, part in template.fixed:
                if segments[index] != part:
                    break
            else:
                return template
        return None


def _shape_of(template: str) -> _Shape:
    return tuple(None if part.startswith("{") else part.encode() for part in template.split("/")[1:])


def _names_of(second_forms: list[dict[str, Operation]]) -> set[str]:
    """The names of all parameters that one of these forms takes."""
    return {name for methods in second_forms for name in _parameters(next(iter(methods.values())))}


def _choose(methods: dict[str, Operation], method: str) -> Operation:
    operation = methods.get(method)
    if operation is None:
        refusal = MethodNotAllowed(f"this path takes {' or '.join(methods)}")
        refusal.allow = ", ".join(methods)
        raise refusal
    return operation


def _parameters(operation: Operation) -> list[str]:
    """The parameter names of its template, in order.

    Requirements: API-0011
    """
    return [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]


def _checked(params: tuple[str, ...]) -> tuple[str, ...]:
    """Check the first parameter, which is a queue name. Raises InvalidQueueName.

    Requirements: API-0013
    """
    if params and len(params[0].encode()) > MAX_QUEUE_NAME_BYTES:
        raise InvalidQueueName(f"a queue name must be at most {MAX_QUEUE_NAME_BYTES} bytes of UTF-8")
    return params


def read_query(query: str, names: Collection[str]) -> dict[str, str]:
    """The parameters of a raw query that are among `names`, decoded; '+' is a space. Others are ignored.

    Raises BadRequest, also when one is given twice.

    Requirements: API-0012
    """
    given: dict[str, str] = {}
    for name, value in _read_pairs(query, names):
        if name in given:
            raise BadRequest(f"'{name}' must be given once in the query")
        given[name] = value
    return given


def read_queries(query: str, name: str) -> list[str]:
    """All values of a parameter that may be given more than once. Raises BadRequest."""
    return [value for _, value in _read_pairs(query, (name,))]


def _read_pairs(query: str, names: Collection[str]) -> Iterator[tuple[str, str]]:
    if query.count("&") >= MAX_QUERY_PARAMETERS:
        raise BadRequest(f"the query may have at most {MAX_QUERY_PARAMETERS} parameters")
    for pair in query.split("&"):
        raw_name, _, raw_value = pair.partition("=")
        name = raw_name if len(raw_name) > _LONGEST_NAME else unquote(raw_name)
        if name in names:
            if not raw_value.isascii():
                raise BadRequest(f"'{name}' in the query must be percent-encoded UTF-8")
            yield name, _decode(raw_value.replace("+", " ").encode(), f"'{name}' in the query")


def _decode(part: bytes, what: str = "the path") -> str:
    """Percent-decode one path segment or parameter value. Raises BadRequest.

    Requirements: API-0011
    """
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
