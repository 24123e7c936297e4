"""The AsyncAPI 3 document of the WebSocket, from the described frames.

Rule: as of `openapi`. Each type of frame is a message of the one channel; requests are what the server receives, and
replies and pushes what it sends.

Requirements: API-0113
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from qrusty_trio import __version__
from qrusty_trio.api.description.frames import ERRORS, EVERY_FRAME, FRAMES, PUSHES, DescribedFrame, DescribedPush
from qrusty_trio.api.description.model import Field, JsonSchema

_CHANNEL: Final = "#/channels/ws"
_TYPES: Final[dict[str, JsonSchema]] = {
    "a string": {"type": "string"},
    "a list of": {"type": "array"},
    "true or": {"type": "boolean"},
}
"""How the words of a field begin -> its JSON type; anything else is an integer."""
_PRIORITY: Final[JsonSchema] = {"anyOf": [{"type": "integer"}, {"type": "string"}]}


def document() -> dict[str, Any]:
    """The document."""
    messages = {each.type: _request(each) for each in FRAMES} | {each.type: _push(each) for each in PUSHES}
    messages |= {f"{each.type}.ok": _response(each) for each in FRAMES}
    messages["error"] = _error()
    operations: dict[str, Any] = {}
    for each in FRAMES:
        operations[each.type] = {
            "action": "receive",
            "channel": {"$ref": _CHANNEL},
            "summary": each.summary,
            "messages": [{"$ref": f"{_CHANNEL}/messages/{each.type}"}],
            "reply": {
                "channel": {"$ref": _CHANNEL},
                "messages": [{"$ref": f"{_CHANNEL}/messages/{name}"} for name in (f"{each.type}.ok", "error")],
            },
        }
    for push in PUSHES:
        operations[f"push.{push.type}"] = {
            "action": "send",
            "channel": {"$ref": _CHANNEL},
            "summary": push.summary,
            "messages": [{"$ref": f"{_CHANNEL}/messages/{push.type}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Qrusty on Trio: WebSocket",
            "version": __version__,
            "description": "Text frames, each with one JSON object that has a `type`. Responses come in the order of "
            "the requests, with their `req_id`; deliveries come in between.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {"ws": {"address": "/ws", "messages": messages, "bindings": {"ws": {"method": "GET"}}}},
        "operations": operations,
    }


def encoded() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document())


def _request(described: DescribedFrame) -> dict[str, Any]:
    fields = {name: field for name, field in EVERY_FRAME.items() if name != "type"} | described.fields
    properties: JsonSchema = {"type": {"const": described.type}}
    for name, field in fields.items():
        if "." not in name:
            properties[name] = _schema(name, field)
    if "messages" in described.fields:
        inner = {name.partition(".")[2]: field for name, field in described.fields.items() if "." in name}
        properties["messages"]["items"] = {
            "type": "object",
            "properties": {name: _schema(name, field) for name, field in inner.items()},
            "required": [name for name, field in inner.items() if not field.default],
        }
    required = ["type", *(name for name, field in described.fields.items() if "." not in name and not field.default)]
    payload = {"type": "object", "properties": properties, "required": required}
    return _message(described.type, described.summary + " " + described.notes, payload, described.example)


def _schema(name: str, field: Field) -> JsonSchema:
    """The JSON Schema of a field."""
    meaning = field.meaning + (f" Default: {field.default}." if field.default else "")
    if name == "priority":
        return {
            "anyOf": [{"type": kind, **field.limits[kind]} for kind in ("integer", "string")],
            "description": meaning,
        }
    schema: JsonSchema = next(
        (made for words, made in _TYPES.items() if field.takes.startswith(words)), {"type": "integer"}
    )
    schema = schema | field.limits.get(schema["type"], {})
    if name == "ids":
        schema["items"] = {"type": "string"}
    return {**schema, "description": meaning}


def _response(described: DescribedFrame) -> dict[str, Any]:
    properties: JsonSchema = {"type": {"const": "ok"}, "req_id": {"type": "string"}}
    properties |= {name: {"description": meaning} for name, meaning in described.response.items()}
    payload = {"type": "object", "properties": properties, "required": ["type"]}
    return _message(f"{described.type}.ok", f"The response to `{described.type}`.", payload, described.example_response)


def _push(described: DescribedPush) -> dict[str, Any]:
    properties: JsonSchema = {"type": {"const": described.type}}
    for name, meaning in described.fields.items():
        shown = described.example[name]
        kind = {str: "string", int: "integer", list: "array"}[type(shown)]
        properties[name] = {**(_PRIORITY if name == "priority" else {"type": kind}), "description": meaning}
    payload = {"type": "object", "properties": properties, "required": list(properties)}
    return _message(described.type, described.summary, payload, described.example)


def _error() -> dict[str, Any]:
    meanings = "\n".join(f"- `{name}`: {meaning}" for name, meaning in ERRORS.items())
    properties = {
        "type": {"const": "error"},
        "code": {"enum": list(ERRORS), "description": meanings},
        "message": {"type": "string", "description": "A sentence for people."},
        "req_id": {"type": "string"},
    }
    payload = {"type": "object", "properties": properties, "required": ["type", "code", "message"]}
    shown = {"type": "error", "code": "not_subscribed", "message": "Not subscribed to 'jobs'", "req_id": "5"}
    return _message("error", "A refusal: everything is as before.", payload, shown)


def _message(name: str, summary: str, payload: JsonSchema, example: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "summary": summary.strip(), "payload": payload, "examples": [{"payload": example}]}
