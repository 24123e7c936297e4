"""The OpenAPI 3.1 document of the HTTP API, from the table of operations, the structs and the description.

Rule: it is made once, before anything is served. All addresses in it are relative, so it also works behind a proxy that
adds a path prefix.

Requirements: API-0110
"""

from __future__ import annotations

from typing import Any

import msgspec

from qrusty_trio import __version__
from qrusty_trio.api.description.codes import CODES, Code, codes_of
from qrusty_trio.api.description.model import Described, JsonSchema
from qrusty_trio.api.description.schemas import REF, Schemas
from qrusty_trio.api.description.table import DESCRIBED, FAMILIES
from qrusty_trio.core.model import MAX_QUEUE_NAME_BYTES

JSON = "application/json"
_ABOUT = (
    "A persistent priority queue. Errors have a `code` for programs and a sentence for people. Every route with a "
    "queue in its path has a second form that takes `queue` and `id` from the query: `/ack?queue=a%2Fb&id=...`."
)
_STATUSES = {
    400: "A value is not allowed.",
    401: "A token is needed.",
    403: "Not allowed.",
    404: "There is no such thing.",
    405: "Another method.",
    408: "The request did not arrive in time.",
    409: "It does not fit to what is there.",
    413: "The body is over 2 MiB.",
    415: "The body is not declared as JSON.",
    422: "JSON of the wrong shape.",
    429: "Too much.",
    431: "The headers are too large.",
    500: "A fault of the server.",
    503: "Not now.",
    507: "There is no space left.",
}


def document() -> dict[str, Any]:
    """The document."""
    schemas = Schemas(DESCRIBED)
    refusals = _Refusals()
    paths: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        for described in family.described:
            operation = described.operation
            made = _operation(described, family.title, schemas, refusals)
            paths.setdefault(operation.path, {})[operation.method.lower()] = made
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Qrusty on Trio",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "./"}],
        "tags": [{"name": family.title} for family in FAMILIES],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": refusals.made,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "headers": {
                "RetryAfter": {
                    "description": "Seconds after which to ask again.",
                    "schema": {"type": "integer", "minimum": 1},
                },
                "Allow": {"description": "The methods that the path takes.", "schema": {"type": "string"}},
            },
        },
    }


def encoded() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document())


class _Refusals:
    """The responses of refusals. Many routes share them."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}
        """Name -> response."""
        self._names: dict[tuple[int, tuple[str, ...], bool], str] = {}

    def of(self, described: Described) -> dict[str, Any]:
        """Those of a route, by status."""
        by_status: dict[int, dict[str, Code]] = {}
        for name, code in codes_of(described).items():
            by_status.setdefault(code.status, {})[name] = code
        return {str(status): self._refer(described, status, by_status[status]) for status in sorted(by_status)}

    def _refer(self, described: Described, status: int, codes: dict[str, Code]) -> dict[str, str]:
        tells_state = status == 503 and described.operation.name == "ready"
        key = (status, tuple(codes), tells_state)
        if key not in self._names:
            name = self._names[key] = f"E{status}.{sum(each == status for each, *_ in self._names) + 1}"
            self.made[name] = _refusal(status, codes, tells_state)
        return {"$ref": f"#/components/responses/{self._names[key]}"}


def _operation(described: Described, tag: str, schemas: Schemas, refusals: _Refusals) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": described.operation.name,
        "tags": [tag],
        "summary": described.summary,
        "parameters": [*_path_parameters(described), *_query_parameters(described)],
        "responses": {"200": _success(described, schemas), **refusals.of(described)},
    }
    if described.operation.needs.token:
        made["security"] = [{}, {"token": []}]
    if described.notes:
        made["description"] = described.notes
    if described.operation.request is not None:
        content: JsonSchema = {"schema": schemas.request(described)}
        content["example"] = described.example.body
        made["requestBody"] = {"required": True, "content": {JSON: content}}
    return made


def _path_parameters(described: Described) -> list[dict[str, Any]]:
    made = []
    for segment in described.operation.path.split("/"):
        if segment.startswith("{"):
            name = segment[1:-1]
            schema: JsonSchema = {"type": "string", "minLength": 1}
            if name == "queue":
                schema["maxLength"] = MAX_QUEUE_NAME_BYTES
            meaning = "The queue." if name == "queue" else "The message."
            made.append({"name": name, "in": "path", "required": True, "description": meaning, "schema": schema})
    return made


def _query_parameters(described: Described) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "in": "query",
            **({"required": True} if each.required else {}),
            "description": f"{each.meaning} It takes {each.takes}."
            + (f" Default: {each.default}." if each.default else ""),
            "schema": each.schema,
        }
        for each in described.query
    ]


def _success(described: Described, schemas: Schemas) -> dict[str, Any]:
    if described.response is None:
        return {"description": "Done. The body is empty."}
    content = {"schema": schemas.response(described), "example": described.example.response}
    return {"description": "Done.", "content": {JSON: content}}


def _refusal(status: int, codes: dict[str, Code], tells_state: bool) -> dict[str, Any]:
    named = [name for name in codes if name != "starting"]
    of_error: JsonSchema = {
        "allOf": [{"$ref": REF + "Error"}, {"type": "object", "properties": {"code": {"enum": named}}}],
    }
    alternatives = [of_error]
    if "starting" in codes:
        alternatives.append({"$ref": REF + "Starting"})
    if tells_state:
        alternatives.append({"$ref": REF + "Ready"})
    schema = alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
    meanings = "\n".join(f"- `{name}`: {code.meaning}" for name, code in codes.items())
    made: dict[str, Any] = {
        "description": f"{_STATUSES[status]}\n\n{meanings}",
        "content": {JSON: {"schema": schema, "example": _example(named[0])}},
    }
    if status in (429, 503):
        made["headers"] = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
    if status == 405:
        made["headers"] = {"Allow": {"$ref": "#/components/headers/Allow"}}
    return made


def _example(code: str) -> dict[str, str]:
    return {"error": CODES[code].meaning, "code": code}
