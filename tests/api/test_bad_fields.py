"""Each field of each request, over HTTP and WebSocket, with whatever it must not be: refused by name, nothing changed.

Rule: fields and their types are read from the structs. A field that no body of `BODIES` or `FRAMES` has fails the test,
so none that is new is forgotten.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec import inspect

from qrusty_trio.api.call import Operation
from qrusty_trio.api.operations import OPERATIONS
from qrusty_trio.api.ws_frames import Request
from qrusty_trio.core.model import U64_MAX, Ordering, QueueConfig
from qrusty_trio.storage.memory import MemoryStorage
from tests.api.ws_peer import Peer, World
from tests.core import stored
from tests.wire.table import Table

LOCKED, DEAD = "the id of a locked message", "the id of a dead letter"
QUEUE = {
    "ordering": "Fifo",
    "allow_duplicates": True,
    "priority_kind": "Numeric",
    "dead_letter_ttl_seconds": 60,
    "dead_letter_max": 10,
    "protected": False,
}
CHANGES = {
    "name": "s",
    "allow_duplicates": True,
    "dead_letter_ttl_seconds": 60,
    "dead_letter_max": 10,
    "protected": False,
}
FILTER = {"reason": "nacked", "consumer": "c", "older_than_secs": 0, "text": "p"}
SETTLE = {"consumer_id": "c"}
SETTLE_BATCH = {"consumer_id": "c", "message_ids": [LOCKED, "x"]}
CONSUME = {"consumer_id": "c", "timeout_seconds": 30, "wait_seconds": 0.5, "details": True}
PURGE: list[dict[str, Any]] = [
    {"ids": [DEAD], "up_to": 100, "dry_run": False},
    {"filter": FILTER},
    {"all": True},
]
BODIES: dict[str, list[dict[str, Any]]] = {
    "publish": [{"queue": "q", "priority": 1, "payload": "p", "max_retries": 3}],
    "publish_batch": [{"queue": "q", "messages": [{"priority": 1, "payload": "p", "max_retries": 3}]}],
    "consume": [CONSUME],
    "consume_from": [{**CONSUME, "queues": ["q", "r"]}],
    "consume_batch": [{**CONSUME, "max_messages": 2}],
    "ack": [SETTLE],
    "nack": [{**SETTLE, "error": "e"}],
    "ack_batch": [SETTLE_BATCH],
    "nack_batch": [{**SETTLE_BATCH, "error": "e"}],
    "renew": [{**SETTLE, "timeout_seconds": 30}],
    "renew_batch": [{**SETTLE_BATCH, "timeout_seconds": 30}],
    "force_unlock": [{"ids": [LOCKED]}, {"consumer_id": "c"}, {"all": True}],
    "create_queue": [{"name": "new", "config": QUEUE}],
    "update_queue": [{"name": "q", "config": CHANGES}],
    "requeue_dead_letters": [PURGE[0] | {"to": "r", "priority": 1}, *PURGE[1:]],
    "purge_dead_letters": PURGE,
}
"""Operation -> bodies that are accepted. Together they have all its fields."""
REFUSED_WHEN_GIVEN = {("consume", ("queues",))}
EITHER = {"force_unlock", "requeue_dead_letters", "purge_dead_letters"}
"""Operations that take the first field of one of their bodies, and no second one."""

JSON: dict[str, Any] = {"null": None, "bool": True, "int": 7, "float": 1.5, "text": "x", "list": [], "object": {}}
"""A value of each kind."""
NO_INTEGERS = (-1, -(2**63) - 1, U64_MAX + 1, 10**400)
NO_NUMBERS = (-1, -0.001, 10**9, 10**400)
RAW = "what is replaced by text that no encoder makes"
NO_JSON = ("NaN", "-Infinity", "Infinity", "01", "1.", '"\\ud800"', "'x'", "undefined", "")

Path = tuple[str | int, ...]


class Field(NamedTuple):
    path: Path
    kinds: frozenset[str]
    """Which of `JSON` it may be, by its type."""
    type: Any

    @property
    def name(self) -> str:
        """As a refusal names it."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")


def fields_of(struct: Any, parent: Path = ()) -> Iterator[Field]:
    """All fields of a struct, with those of the objects in it."""
    for each in inspect.type_info(struct).fields:  # type: ignore[attr-defined]  # a struct has them
        types = each.type.types if isinstance(each.type, inspect.UnionType) else (each.type,)
        path = (*parent, each.encode_name)
        yield Field(path, frozenset(kind for one in types for kind in kinds_of(one)), types)
        for one in types:
            if isinstance(one, inspect.StructType):
                yield from fields_of(one.cls, path)
            elif isinstance(one, inspect.ListType) and isinstance(one.item_type, inspect.StructType):
                yield from fields_of(one.item_type.cls, (*path, 0))


def kinds_of(type_: Any) -> tuple[str, ...]:
    if isinstance(type_, inspect.FloatType):
        return ("int", "float")
    return {
        inspect.NoneType: ("null",),
        inspect.BoolType: ("bool",),
        inspect.IntType: ("int",),
        inspect.StrType: ("text",),
        inspect.EnumType: ("text",),
        inspect.ListType: ("list",),
        inspect.StructType: ("object",),
    }[type(type_)]


def has(body: Any, path: Path) -> bool:
    try:
        for part in path:
            body = body[part]
    except (KeyError, IndexError):
        return False
    return True


def changed(body: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(body)
    at: Any = copied
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return copied


def without(body: dict[str, Any], path: Path) -> dict[str, Any]:
    copied = changed(body, path, None)
    at: Any = copied
    for part in path[:-1]:
        at = at[part]
    del at[path[-1]]
    return copied


def body_with(bodies: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    return next(body for body in bodies if has(body, path))


def wrong_values(field: Field) -> Iterator[Any]:
    """What is JSON, and not allowed there."""
    yield from (value for kind, value in JSON.items() if kind not in field.kinds)
    for one in field.type:
        if isinstance(one, inspect.IntType):
            yield from NO_INTEGERS
        elif isinstance(one, inspect.FloatType):
            yield from NO_NUMBERS
        elif isinstance(one, inspect.EnumType):
            yield from ("", "x", next(iter(one.cls)).value.swapcase())
        elif isinstance(one, inspect.ListType):
            yield from ([value] for kind, value in JSON.items() if kind not in kinds_of(one.item_type))


class Place:
    """A server with a queue of each kind of message, and what it holds."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.table = Table(self.storage)
        broker, now = self.table.broker, self.table.now
        for name in ("q", "r"):
            broker.catalog.create(name, QueueConfig(Ordering.FIFO))
        for _ in range(2):
            dead = broker.publish("q", 1, "p", 0, now)
            broker.consume("q", "c", 30, now)
            broker.nack("q", dead, "c", now)
        locked = broker.publish("q", 1, "p", 3, now)
        broker.consume("q", "c", 30, now)
        for _ in range(3):
            broker.publish("q", 1, "p", 3, now)
        broker.commit()
        self.ids = {LOCKED: locked, DEAD: dead}
        self.before = self.picture()

    def picture(self) -> object:
        return stored.of_store(self.storage, None)

    def send(self, operation: Operation, body: dict[str, Any], raw: str | None = None) -> tuple[int, Any]:
        text = json.dumps(body)
        for name, id in self.ids.items():
            text = text.replace(name, id)
        if raw is not None:
            text = text.replace(json.dumps(RAW), raw)
        path = operation.path.replace("{queue}", "q").replace("{id}", self.ids[LOCKED])
        reply = self.table.run(operation.method, path, text.encode())
        return reply.status, json.loads(reply.body or b"null")


WITH_BODY = [each for each in OPERATIONS if each.request is not None]


@pytest.fixture
def place() -> Place:
    return Place()


def cases() -> Iterator[Any]:
    for operation in WITH_BODY:
        for field in fields_of(operation.request):
            yield pytest.param(operation, field, id=f"{operation.name}-{field.name}")


def test_each_field_is_in_a_body_that_is_accepted() -> None:
    assert set(BODIES) == {operation.name for operation in WITH_BODY}
    for operation in WITH_BODY:
        for body in BODIES[operation.name]:
            status, response = Place().send(operation, body)
            assert status == 200, (operation.name, body, response)
        for field in fields_of(operation.request):
            if (operation.name, field.path) not in REFUSED_WHEN_GIVEN:
                assert any(has(body, field.path) for body in BODIES[operation.name]), (operation.name, field.name)


# Verifies: API-0004
@pytest.mark.parametrize(("operation", "field"), list(cases()))
def test_a_field_of_the_wrong_kind_or_out_of_its_range(operation: Operation, field: Field, place: Place) -> None:
    bodies = BODIES[operation.name]
    given = (operation.name, field.path) not in REFUSED_WHEN_GIVEN
    body = body_with(bodies, field.path) if given else bodies[0]
    for value in wrong_values(field):
        status, response = place.send(operation, changed(body, field.path, value))
        assert status == 422, (value, response)
        assert response["code"] == "wrong_shape"
        assert response["error"].startswith(f"'{field.name}"), (value, response)
        assert " must " in response["error"]
        assert place.picture() == place.before, value
    for raw in NO_JSON:
        status, response = place.send(operation, changed(body, field.path, RAW), raw)
        assert (status, response["code"]) == (400, "malformed_json"), (raw, response)
    for raw in ("1e400", "-1e400"):
        status, response = place.send(operation, changed(body, field.path, RAW), raw)
        assert status == 422, (raw, response)
    assert place.picture() == place.before


# Verifies: API-0005, API-0006
@pytest.mark.parametrize(("operation", "field"), list(cases()))
def test_a_field_that_is_missing_null_or_given_twice(operation: Operation, field: Field, place: Place) -> None:
    if (operation.name, field.path) in REFUSED_WHEN_GIVEN:
        return
    body = body_with(BODIES[operation.name], field.path)
    missing = place.send(operation, without(body, field.path))
    if missing[0] != 200:
        assert place.picture() == place.before
    if "null" in field.kinds:
        null = Place().send(operation, changed(body, field.path, None))
        assert null[0] == missing[0]
    twice = json.dumps(changed(body, field.path, RAW))
    name = json.dumps(field.path[-1])
    place = Place()
    value = json.dumps(_value(body, field.path))
    status, response = place.send(operation, json.loads(twice), f"{value},{name}:{value}")
    assert (status, response["code"]) == (422, "wrong_shape"), response
    assert f"'{field.name}' must be given only once" in response["error"]
    assert place.picture() == place.before


def _value(body: Any, path: Path) -> Any:
    for part in path:
        body = body[part]
    return body


# Verifies: API-0004
@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda operation: operation.name)
def test_fields_that_exclude_each_other_and_those_that_nobody_knows(operation: Operation, place: Place) -> None:
    bodies = BODIES[operation.name]
    if operation.name in EITHER:
        for one in bodies:
            for other in bodies:
                if one is not other:
                    status, response = place.send(operation, one | other)
                    assert (status, response["code"]) == (422, "wrong_shape")
                    assert "exactly one of" in response["error"]
        status, response = place.send(operation, {})
        assert (status, response["code"]) == (422, "wrong_shape")
        assert place.picture() == place.before
    unknown = place.send(operation, bodies[0] | {"colour": 1})
    config = inspect.type_info(operation.request)
    assert unknown[0] == (422 if config.forbid_unknown_fields else 200)  # type: ignore[attr-defined]  # a struct has it


# Verifies: API-0004
@pytest.mark.parametrize(("operation", "field"), list(cases()))
def test_a_text_of_any_length_is_no_fault(operation: Operation, field: Field) -> None:
    if "text" not in field.kinds or (operation.name, field.path) in REFUSED_WHEN_GIVEN:
        return
    body = body_with(BODIES[operation.name], field.path)
    for text in ("", "\0", "ü" * 128, "\U0001f600" * 256, "x" * 100_000):
        place = Place()
        status, response = place.send(operation, changed(body, field.path, text))
        assert status in (200, 400, 404, 422), (text[:5], response)
        if status != 200:
            assert response["error"], response
            assert place.picture() == place.before


# Frames of a WebSocket

FRAMES: list[dict[str, Any]] = [
    {"type": "publish", "queue": "q", "payload": "p", "priority": 1, "max_retries": 3},
    {"type": "unsubscribe", "queue": "q", "req_id": "r", "no_reply": False},
    {"type": "subscribe", "queue": "q", "credits": 5, "lock_timeout_secs": 30, "deadline_soon_secs": 5, "batch": 2},
    {"type": "ack", "queue": "q", "id": "x", "traceparent": "t"},
    {"type": "nack", "queue": "q", "id": "x", "error": "e"},
    {"type": "batch-nack", "queue": "q", "ids": ["x"], "error": "e"},
    {"type": "batch-publish", "queue": "q", "messages": [{"priority": 1, "payload": "p", "max_retries": 3}]},
    {"type": "credit", "queue": "q", "credits": 1},
    {"type": "renew", "queue": "q", "id": "x", "lock_timeout_secs": 30},
]
"""Together they have all fields. What is acked, nacked or renewed is not held, which is another error."""
NOT_HELD = ("not_locked", "not_subscribed")
REDUCED = ("credits", "lock_timeout_secs")
"""Fields that are reduced to their limit, however high they are."""


# Verifies: WS-0003, WS-0007
@pytest.mark.parametrize("field", list(fields_of(Request)), ids=lambda field: field.name)
def test_a_field_of_a_frame(field: Field) -> None:
    frames = [frame for frame in FRAMES if has(frame, field.path)]
    assert frames, "a new field needs a frame that has it"
    for frame in frames:
        world = World()
        world.queue("q")
        peer = Peer(world)
        assert Peer(world, "other").ask(frame)[0].get("code") in (None, *NOT_HELD)
        before = world.broker.catalog.by_name["q"].available
        for value in wrong_values(field):
            if value is None or (field.name in REDUCED and type(value) is int and value > 0):
                continue  # null means absent, in a frame
            (response,) = peer.ask(changed(frame, field.path, value))
            assert (response["type"], response["code"]) == ("error", "invalid_request"), (value, response)
            assert f"'{field.path[0]}" in response["message"], (value, response)
        assert world.broker.catalog.by_name["q"].available == before
        assert peer.held == []


def test_structs_are_what_is_read_here() -> None:
    """A struct with a tag or with other names would need more than `fields_of`."""
    for operation in WITH_BODY:
        assert operation.request is not None
        assert issubclass(operation.request, msgspec.Struct)
        assert operation.request.__struct_encode_fields__ == operation.request.__struct_fields__
