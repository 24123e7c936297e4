"""The description of the API, held to the table of operations, the frame table and the errors: all, and no more."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import pytest

from qrusty_trio.api import (
    auditing,
    browsing,
    dead_letters,
    finding,
    locking,
    overview,
    reports,
    ws_burst,
    ws_frames,
    ws_requests,
)
from qrusty_trio.api import trash as api_trash
from qrusty_trio.api.description import frames
from qrusty_trio.api.description.codes import CODES, codes_of
from qrusty_trio.api.description.model import GIVEN, ID, KEPT, Described, Example
from qrusty_trio.api.description.schemas import Schemas, responses_of
from qrusty_trio.api.description.table import DESCRIBED
from qrusty_trio.api.operations import OPERATIONS
from qrusty_trio.api.routes import read_query
from qrusty_trio.api.ws_frames import Request
from qrusty_trio.core import catalog, trash
from qrusty_trio.errors import QrustyError, StartupRefused
from qrusty_trio.http.fallback import app  # noqa: F401  # its errors are among those to describe
from qrusty_trio.storage.memory import MemoryStorage
from tests.api.ws_peer import Peer, World
from tests.core.brokers import Keeping
from tests.wire.table import Table

LATER = {"unavailable"}
"""Codes that only the engine gives: tests/server shows them."""


def name_of(described: Described) -> str:
    return described.operation.name


def fields_of(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """The fields of a body, those inside of it with dots."""
    for field in msgspec.structs.fields(struct):
        yield prefix + field.name
        for type_ in (field.type, *getattr(field.type, "__args__", ())):
            if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
                inner = f"{field.name}[]." if getattr(field.type, "__origin__", None) is list else f"{field.name}."
                yield from fields_of(type_, prefix + inner)


# Verifies: API-0111
def test_every_operation_is_described_once() -> None:
    assert sorted(name_of(each) for each in DESCRIBED) == sorted(each.name for each in OPERATIONS)
    assert {each.operation for each in DESCRIBED} == set(OPERATIONS)


# Verifies: API-0111
@pytest.mark.parametrize("described", DESCRIBED, ids=name_of)
def test_every_field_of_a_body_is_described_and_no_other(described: Described) -> None:
    struct = described.operation.request
    assert set(described.fields) == (set(fields_of(struct)) if struct is not None else set())
    example = described.example.body
    if struct is not None:
        assert set(struct.__struct_fields__) >= set(example)
    else:
        assert example is None


def carried_out(
    table: Table, described: Described, example: Example, state: str = "", asked: set[str] | None = None
) -> None:
    """Run what an example needs, and then the example. `asked`: is cleared in between."""
    id = ID
    for method, target, body in (*GIVEN[example.given], (described.operation.method, example.target, example.body)):
        if asked is not None:
            asked.clear()
        text = json.dumps(body).replace(ID, id).encode() if body is not None else b""
        reply = table.run(method, target.replace(ID, id).replace(f"/trash/{KEPT}", "/trash/1") + state, text)
        assert reply.status == 200, reply.body
        if target == "/publish":
            id = json.loads(reply.body)["id"]


# Verifies: API-0111
@pytest.mark.parametrize("described", [each for each in DESCRIBED if each.operation.request is None], ids=name_of)
def test_every_parameter_that_is_read_is_described_and_no_other(
    described: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()

    def recorded(query: str, names: Collection[str]) -> dict[str, str]:
        asked.update(names)
        return read_query(query, names)

    for module in (auditing, browsing, dead_letters, finding, locking, overview, reports, api_trash):
        monkeypatch.setattr(module, "read_query", recorded)
    table = Table(Keeping())
    carried_out(table, described, described.example, asked=asked)
    if name_of(described) == "messages":
        table.run("GET", "/queues/jobs/messages?state=dead")
    assert asked == {each.name for each in described.query}


def test_only_routes_without_a_body_have_parameters() -> None:
    assert not [name_of(each) for each in DESCRIBED if each.query and each.operation.request is not None]


def every_error() -> Iterator[type[QrustyError]]:
    """The classes of all refusals that a client can get."""
    waiting: list[type[QrustyError]] = [QrustyError]
    while waiting:
        found = waiting.pop()
        waiting += found.__subclasses__()
        if (
            found is not StartupRefused
            and found.__module__.startswith("qrusty_trio.")
            and "client" not in found.__module__
        ):
            yield found


# Verifies: API-0111
def test_every_code_is_described_with_its_status_and_no_other() -> None:
    statuses = {each.code: each.status for each in every_error()}
    described = {name: each.status for name, each in CODES.items()}
    # This one has no class: a library finds the fault of a handshake.
    assert described.pop("handshake_failed") == 400
    assert described == statuses


def provocations() -> dict[str, list[tuple[str, str, str, Any]]]:
    """Operation -> the code, what is there before, the target and the body that get it."""
    me, long = {"consumer_id": "worker-1"}, {"consumer_id": "x" * 1025}
    publish = {"queue": "jobs", "priority": 5, "payload": "hello"}
    one = {"ids": ["x"]}
    ids = {"message_ids": ["x"]}
    name = "n" * 256
    create = {"name": "jobs", "config": {"ordering": "MaxFirst"}}
    letters = "/queues/jobs/dead-letters"
    undo = "?undo_seconds=600"
    return {
        "publish": [
            ("invalid_queue_name", "", "/publish", publish | {"queue": name}),
            ("priority_kind_mismatch", "queue", "/publish", publish | {"priority": "high"}),
            ("invalid_priority", "text", "/publish", publish | {"priority": ""}),
            ("duplicate_payload", "unique", "/publish", publish),
            ("limit_reached", "full", "/publish", publish | {"queue": "new"}),
            ("queue_not_found", "refuse", "/publish", publish),
            ("memory_pressure", "critical", "/publish", publish),
        ],
        "publish_batch": [
            ("invalid_queue_name", "", "/publish-batch", {"queue": name, "messages": [{"priority": 1, "payload": ""}]}),
            (
                "limit_reached",
                "",
                "/publish-batch",
                {"queue": "q", "messages": [{"priority": 1, "payload": ""}] * 5001},
            ),
            (
                "queue_not_found",
                "refuse",
                "/publish-batch",
                {"queue": "q", "messages": [{"priority": 1, "payload": ""}]},
            ),
            ("memory_pressure", "critical", "/publish-batch", {"queue": "q", "messages": []}),
        ],
        "consume": [
            ("limit_reached", "", "/consume/jobs", long),
            ("queue_not_found", "refuse", "/consume/jobs", me),
        ],
        "consume_from": [
            ("limit_reached", "", "/consume", {"queues": ["jobs"], **long}),
            ("invalid_queue_name", "", "/consume", {"queues": [name], **me}),
            ("queue_not_found", "refuse", "/consume", {"queues": ["jobs"], **me}),
        ],
        "consume_batch": [
            ("limit_reached", "", "/consume-batch/jobs", {"max_messages": 1, **long}),
            ("queue_not_found", "refuse", "/consume-batch/jobs", {"max_messages": 1, **me}),
        ],
        "ack": [("message_not_locked", "", "/ack/jobs/x", me), ("limit_reached", "", "/ack/jobs/x", long)],
        "nack": [
            ("message_not_locked", "", "/nack/jobs/x", me),
            ("limit_reached", "", "/nack/jobs/x", {**me, "error": "x" * 1025}),
        ],
        "ack_batch": [("limit_reached", "", "/ack-batch/jobs", {**long, **ids})],
        "nack_batch": [("limit_reached", "", "/nack-batch/jobs", {**long, **ids})],
        "renew": [("message_not_locked", "", "/renew/jobs/x", me), ("limit_reached", "", "/renew/jobs/x", long)],
        "renew_batch": [("limit_reached", "", "/renew-batch/jobs", {**long, **ids})],
        "force_unlock": [
            ("queue_not_found", "", "/force-unlock/jobs", one),
            ("limit_reached", "queue", "/force-unlock/jobs", long),
        ],
        "locks": [("queue_not_found", "", "/queues/jobs/locks", None)],
        "create_queue": [
            ("queue_exists", "queue", "/create-queue", create),
            ("invalid_queue_name", "", "/create-queue", create | {"name": ""}),
            ("limit_reached", "full", "/create-queue", create | {"name": "new"}),
        ],
        "update_queue": [
            ("queue_not_found", "", "/update-queue", {"name": "jobs", "config": {}}),
            ("queue_exists", "other", "/update-queue", {"name": "jobs", "config": {"name": "other"}}),
            ("invalid_queue_name", "", "/update-queue", {"name": " ", "config": {}}),
            ("queue_protected", "protected", "/update-queue", {"name": "jobs", "config": {"name": "other"}}),
        ],
        "purge_queue": [
            ("queue_protected", "protected", "/purge-queue/jobs", None),
            ("undo_not_possible", "queue", f"/purge-queue/jobs{undo}", None),
            ("limit_reached", "full trash", f"/purge-queue/jobs{undo}", None),
        ],
        "delete_queue": [
            ("queue_protected", "protected", "/delete-queue/jobs", None),
            ("undo_not_possible", "queue", f"/delete-queue/jobs{undo}", None),
            ("limit_reached", "full trash", f"/delete-queue/jobs{undo}", None),
        ],
        "restore": [
            ("not_found", "", "/trash/1/restore", None),
            ("queue_exists", "kept", "/trash/1/restore?to=other", None),
            ("undo_not_possible", "kept purge", "/trash/1/restore", None),
            ("invalid_queue_name", "kept", "/trash/1/restore?to=", None),
            ("limit_reached", "kept at the limit", "/trash/1/restore", None),
        ],
        "erase": [("not_found", "", "/trash/1/erase", None)],
        "messages": [("queue_not_found", "", "/queues/jobs/messages", None)],
        "message": [
            ("queue_not_found", "", "/queues/jobs/messages/x", None),
            ("message_not_found", "queue", "/queues/jobs/messages/x", None),
        ],
        "find": [("message_not_found", "queue", f"/find?id={'x' * 36}", None)],
        "priorities": [("queue_not_found", "", "/queues/jobs/priorities", None)],
        "dead_letters": [("queue_not_found", "", letters, None)],
        "dead_letter": [("queue_not_found", "", f"{letters}/x", None)],
        "requeue_dead_letters": [
            ("queue_not_found", "", f"{letters}/requeue", one),
            ("limit_reached", "queue", f"{letters}/requeue", {"ids": ["x"] * 50_001}),
            ("priority_kind_mismatch", "queue", f"{letters}/requeue", {"all": True, "priority": "high"}),
            ("invalid_priority", "text", f"{letters}/requeue", {"all": True, "priority": ""}),
        ],
        "purge_dead_letters": [
            ("queue_not_found", "", f"{letters}/purge", one),
            ("limit_reached", "queue", f"{letters}/purge", {"ids": ["x"] * 50_001}),
            ("queue_protected", "protected", f"{letters}/purge", {"all": True}),
        ],
        "queue_stats": [("queue_not_found", "refuse", "/queue-stats/jobs", None)],
    }


def prepare(table: Table, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config: dict[str, Any] = {"ordering": "MaxFirst"}
    if given == "refuse":
        table.broker.catalog.refuses_unknown = True
        return
    if given == "critical":
        table.gate.memory_critical = True
        return
    if given == "full":
        monkeypatch.setattr(catalog, "MAX_QUEUES", 0)
        return
    if "trash" in given or "kept" in given:
        monkeypatch.setattr(MemoryStorage, "persistent", True)
        assert table.post("/publish", {"queue": "jobs", "priority": 5, "payload": "hello"}).status == 200
    if given == "full trash":
        monkeypatch.setattr(trash, "MAX_KEPT", 0)
        return
    if given.startswith("kept"):
        if given == "kept purge":
            assert table.post("/purge-queue/jobs?undo_seconds=600").status == 200
        assert table.run("DELETE", "/delete-queue/jobs?undo_seconds=600").status == 200
        assert table.post("/create-queue", {"name": "other", "config": config}).status == 200
        if given == "kept at the limit":
            monkeypatch.setattr(trash, "MAX_QUEUES", 1)
        return
    if not given:
        return
    of_kind: dict[str, dict[str, Any]] = {"text": {"priority_kind": "Text"}, "unique": {"allow_duplicates": False}}
    config |= of_kind.get(given, {})
    config |= {"protected": True} if given == "protected" else {}
    assert table.post("/create-queue", {"name": "jobs", "config": config}).status == 200
    if given == "unique":
        assert table.post("/publish", {"queue": "jobs", "priority": 5, "payload": "hello"}).status == 200
    if given == "other":
        assert table.post("/create-queue", {"name": "other", "config": config}).status == 200


# Verifies: API-0111
@pytest.mark.parametrize("described", [each for each in DESCRIBED if each.errors], ids=name_of)
def test_every_error_of_a_route_is_real(described: Described, monkeypatch: pytest.MonkeyPatch) -> None:
    provoked = provocations()[name_of(described)]
    assert {code for code, *_ in provoked} == set(described.errors) - LATER
    for code, given, target, body in provoked:
        with monkeypatch.context() as patch:
            table = Table()
            prepare(table, given, patch)
            text = json.dumps(body).encode() if body is not None else b""
            reply = table.run(described.operation.method, target, text)
        assert (json.loads(reply.body).get("code"), reply.status) == (code, CODES[code].status)
        assert code in codes_of(described)


def test_meanings_and_limits_are_in_the_schemas() -> None:
    """Building them fails for a field that is described but not there."""
    schemas = Schemas(DESCRIBED)
    for described in DESCRIBED:
        for type_ in responses_of(described):
            assert type_ is not None
        if described.operation.request is not None:
            body = schemas.resolve(schemas.request(described))
            assert all("description" in each or "$ref" in each for each in body["properties"].values())


# The WebSocket


def names_read(type_: str, fields: set[str], world: World) -> None:
    """Run the function of a frame type, and note which fields it reads."""
    described = next(each for each in frames.FRAMES if each.type == type_)
    values = {name: value for name, value in described.example.items() if name != "messages"}
    request = Request(**values)
    if "messages" in described.example:
        request.messages = []

    class Recording:
        def __getattr__(self, name: str) -> Any:
            fields.add(name)
            return getattr(request, name)

    world.queue("jobs")
    peer = Peer(world)
    peer.ask(*[each for each in described.given if each["type"] != "publish"])
    burst = ws_burst.Burst([request], [""])
    function, _ = ws_requests._FUNCTIONS[type_]
    try:
        function(peer.session, burst, Recording(), world.broker, world.now)  # type: ignore[arg-type]  # stands in for one
    except ws_frames.Refusal as refusal:
        assert refusal.code == "not_locked"  # noqa: PT017  # only where a message is needed


# Verifies: API-0112
@pytest.mark.parametrize("type_", ws_requests._FUNCTIONS)
def test_every_field_of_a_frame_is_described_and_no_other(type_: str) -> None:
    (described,) = (each for each in frames.FRAMES if each.type == type_)
    fields: set[str] = set()
    names_read(type_, fields, World())
    assert fields - {"req_id"} == {name for name in described.fields if "." not in name}
    assert set(described.example) <= fields | {"type", "req_id"}


# Verifies: API-0112
def test_every_frame_type_is_described_once() -> None:
    assert sorted(each.type for each in frames.FRAMES) == sorted(ws_requests._FUNCTIONS)
    described = {name for each in frames.FRAMES for name in each.fields if "." not in name}
    assert described | set(frames.EVERY_FRAME) == set(Request.__struct_fields__)


# Verifies: API-0112
def test_every_code_of_a_frame_is_described_and_no_other() -> None:
    tree = ast.parse(inspect.getsource(ws_requests))
    refused = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "Refusal"
        and isinstance(node.args[0], ast.Constant)
    }
    # Those of the gate are in a variable, and the session's is for a burst that was not stored.
    assert refused | {"starting", "read_only", "storage_error", *frames.OF_TOKENS} == set(frames.ERRORS)
    for each in frames.FRAMES:
        assert set(each.errors) <= set(frames.ERRORS)
        assert ("storage_error" in each.errors) == (each.type in ws_burst.STORING)
