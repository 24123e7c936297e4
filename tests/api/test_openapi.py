"""The OpenAPI and AsyncAPI documents: right by their own schemas, whole, and with examples that fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from qrusty_trio.api.description import asyncapi, openapi
from qrusty_trio.api.description.codes import codes_of
from qrusty_trio.api.description.frames import FRAMES, PUSHES
from qrusty_trio.api.description.table import DESCRIBED
from qrusty_trio.api.operations import OPERATIONS

VENDOR = Path(__file__).parent / "vendor"
HTTP = json.loads(openapi.encoded())
WEBSOCKET = json.loads(asyncapi.encoded())


def schema(name: str) -> Any:
    return json.loads((VENDOR / name).read_text(encoding="utf-8"))


# Verifies: API-0110
def test_the_openapi_document_is_one() -> None:
    jsonschema.Draft202012Validator(schema("openapi-3.1.json")).validate(HTTP)


# Verifies: API-0113
def test_the_asyncapi_document_is_one() -> None:
    jsonschema.Draft7Validator(schema("asyncapi-3.0.json")).validate(WEBSOCKET)


def references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(references, value))
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()))
    return set()


@pytest.mark.parametrize("document", [HTTP, WEBSOCKET], ids=["openapi", "asyncapi"])
def test_every_reference_leads_somewhere(document: Any) -> None:
    for reference in references(document):
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


# Verifies: API-0110
def test_every_operation_is_in_it_with_what_it_takes_and_refuses() -> None:
    made = {
        (method.upper(), path): operation
        for path, methods in HTTP["paths"].items()
        for method, operation in methods.items()
    }
    assert set(made) == {(each.method, each.path) for each in OPERATIONS}
    for described in DESCRIBED:
        operation = made[described.operation.method, described.operation.path]
        assert operation["operationId"] == described.operation.name
        assert ("requestBody" in operation) == (described.operation.request is not None)
        assert [
            (each["name"], each.get("required", False)) for each in operation["parameters"] if each["in"] == "query"
        ] == [(each.name, each.required) for each in described.query]
        for code, about in codes_of(described).items():
            reference = operation["responses"][str(about.status)]["$ref"]
            refusal = HTTP["components"]["responses"][reference.rpartition("/")[2]]
            assert f"`{code}`" in refusal["description"]
            assert ("Retry-After" in refusal.get("headers", {})) == (about.status in (429, 503))


def validator(part: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**part, "components": HTTP["components"]})


# Verifies: API-0110
@pytest.mark.parametrize("described", DESCRIBED, ids=lambda each: each.operation.name)
def test_examples_fit_their_schemas(described: Any) -> None:
    operation = HTTP["paths"][described.operation.path][described.operation.method.lower()]
    parts = [operation["requestBody"]] if "requestBody" in operation else []
    for response in operation["responses"].values():
        name = response.get("$ref", "").rpartition("/")[2]
        parts.append(HTTP["components"]["responses"][name] if name else response)
    for part in parts:
        for content in part.get("content", {}).values():
            validator(content["schema"]).validate(content["example"])


# Verifies: API-0110
@pytest.mark.parametrize(
    ("name", "body", "fits"),
    [
        ("publish", {"queue": "q", "priority": 2**64 - 1, "payload": ""}, True),
        ("publish", {"queue": "q", "priority": 2**64, "payload": ""}, False),
        ("publish", {"queue": "q", "priority": 1.5, "payload": ""}, False),
        ("publish", {"queue": "q", "priority": 1, "payload": "", "max_retries": None}, True),
        ("publish", {"queue": "", "priority": 1, "payload": ""}, False),
        ("consume", {"consumer_id": "c", "wait_seconds": 61}, False),
        ("consume_from", {"consumer_id": "c", "queues": []}, False),
        ("consume_from", {"consumer_id": "c", "queues": ["a", "a"]}, False),
        ("create_queue", {"name": "q", "config": {"ordering": "Random"}}, False),
        ("create_queue", {"name": "q", "config": {"ordering": "Fifo", "protected": None}}, False),
        ("update_queue", {"name": "q", "config": {"dead_letter_max": 0}}, False),
        ("update_queue", {"name": "q", "config": {"dead_letter_max": None}}, True),
        ("purge_dead_letters", {"all": True}, True),
        ("purge_dead_letters", {"all": False}, False),
        ("purge_dead_letters", {"all": True, "ids": None}, True),
        ("purge_dead_letters", {"all": True, "ids": []}, False),
        ("purge_dead_letters", {"filter": {"reason": None}}, False),
        ("purge_dead_letters", {"filter": {"reason": "nacked"}}, True),
        ("purge_dead_letters", {"all": True, "lmit": 1}, False),
        ("publish_batch", {"queue": "q", "messages": [{"priority": -1, "payload": ""}]}, False),
    ],
)
def test_the_schemas_know_the_limits(name: str, body: Any, fits: bool) -> None:
    (described,) = (each for each in DESCRIBED if each.operation.name == name)
    content = HTTP["paths"][described.operation.path][described.operation.method.lower()]["requestBody"]["content"]
    assert validator(content["application/json"]["schema"]).is_valid(body) is fits


# Verifies: API-0113
def test_every_frame_is_in_it_and_its_examples_fit() -> None:
    messages = WEBSOCKET["channels"]["ws"]["messages"]
    assert {name for name in messages if "." not in name} == {each.type for each in (*FRAMES, *PUSHES)} | {"error"}
    for name, message in messages.items():
        for example in message["examples"]:
            jsonschema.Draft7Validator(message["payload"]).validate(example["payload"])
        assert name == message["name"]
    received = [each for each in WEBSOCKET["operations"].values() if each["action"] == "receive"]
    assert len(received) == len(FRAMES)
    assert all(len(each["reply"]["messages"]) == 2 for each in received)
