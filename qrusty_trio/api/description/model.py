"""The words for a described route: its fields, parameters, responses, errors and an example.

Rule: plain values. What a route takes and returns is in the structs; here is what a struct can't say.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from qrusty_trio.api.call import Operation

JsonSchema = dict[str, Any]
NO_LIMITS: Final[JsonSchema] = {}
TEXT: Final[JsonSchema] = {"type": "string"}

ID = "6fc3ef4c-8d3b-4c1e-9a52-2f1d7b0e9c11"
"""The message of the examples. Whoever carries one out puts that of a real message in its place."""


class Field(NamedTuple):
    """A field of a request."""

    takes: str
    """What is allowed."""
    meaning: str
    default: str = ""
    """What leaving it out means; "" if it is required, or if the meaning says it."""
    limits: JsonSchema = NO_LIMITS
    """By JSON type, what JSON Schema can say of the limits: `{"integer": {"minimum": 0}}`."""


class Parameter(NamedTuple):
    """A parameter of a query."""

    name: str
    takes: str
    meaning: str
    default: str = ""
    schema: JsonSchema = TEXT
    many: bool = False
    """Whether it may be given more than once."""
    required: bool = False


class Example(NamedTuple):
    """A request and the response to it."""

    target: str
    body: Any = None
    response: Any = None
    """The JSON value of the response; None: its body is empty."""
    given: str = ""
    """What is there before: a name of `GIVEN`."""


class Described(NamedTuple):
    """A route, as clients are told of it."""

    operation: Operation
    summary: str
    """One sentence."""
    response: Any
    """The type of the JSON value of a 200, or a tuple of types, one of which it has; None: the body is empty."""
    example: Example
    fields: Mapping[str, Field] = MappingProxyType({})
    """Of the JSON body. A dotted name is inside of another: `config.ordering`, `messages[].payload`."""
    query: tuple[Parameter, ...] = ()
    errors: tuple[str, ...] = ()
    """Codes of its own, besides those that follow from what it takes and does."""
    notes: str = ""
    """Markdown: what else a client has to know."""
    one_of: tuple[str, ...] = ()
    """Exactly one of these fields must be given."""


KEPT = 7
"""What stands for the id of what is kept aside."""
GIVEN: dict[str, tuple[tuple[str, str, Any], ...]] = {
    "": (),
    "queue": (("POST", "/create-queue", {"name": "jobs", "config": {"ordering": "MaxFirst"}}),),
    "message": (
        ("POST", "/create-queue", {"name": "jobs", "config": {"ordering": "MaxFirst"}}),
        ("POST", "/publish", {"queue": "jobs", "priority": 5, "payload": "hello"}),
    ),
    "locked": (
        ("POST", "/create-queue", {"name": "jobs", "config": {"ordering": "MaxFirst"}}),
        ("POST", "/publish", {"queue": "jobs", "priority": 5, "payload": "hello"}),
        ("POST", "/consume/jobs", {"consumer_id": "worker-1"}),
    ),
    "kept": (
        ("POST", "/publish", {"queue": "jobs", "priority": 5, "payload": "hello"}),
        ("DELETE", "/delete-queue/jobs?undo_seconds=600", None),
    ),
    "dead": (
        ("POST", "/create-queue", {"name": "jobs", "config": {"ordering": "MaxFirst"}}),
        ("POST", "/publish", {"queue": "jobs", "priority": 5, "payload": "hello", "max_retries": 1}),
        ("POST", "/consume/jobs", {"consumer_id": "worker-1"}),
        ("POST", f"/nack/jobs/{ID}", {"consumer_id": "worker-1", "error": "no such address"}),
    ),
}
"""What is done on an empty server before an example, by name: method, target, body."""
