"""JSON Schemas of what routes take and return, from the structs and the described fields.

Rule: the structs say which fields there are, of which type, and which are required. The description adds meanings and
limits. Where the two differ, building fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from qrusty_trio.api.description import shapes
from qrusty_trio.api.description.model import Described, Field, JsonSchema

REF = "#/components/schemas/"


def responses_of(described: Described) -> tuple[Any, ...]:
    """The types that the JSON value of a 200 may have."""
    if described.response is None:
        return ()
    return described.response if isinstance(described.response, tuple) else (described.response,)


class Schemas:
    """The schemas of some described routes."""

    def __init__(self, described: Iterable[Described]) -> None:
        self._described = tuple(described)
        responses = [each for row in self._described for each in responses_of(row)]
        requests = [row.operation.request for row in self._described if row.operation.request is not None]
        types = list(dict.fromkeys([*requests, *responses, shapes.Error, shapes.Starting]))
        found, self.components = msgspec.json.schema_components(types, ref_template=REF + "{name}")
        self._found = dict(zip(types, found, strict=True))
        for row in self._described:
            self._describe(row)

    def request(self, described: Described) -> JsonSchema:
        """Of the body that a route takes."""
        found: JsonSchema = self._found[described.operation.request]
        return found

    def response(self, described: Described) -> JsonSchema:
        """Of the body of a 200."""
        found = [self._found[each] for each in responses_of(described)]
        return found[0] if len(found) == 1 else {"anyOf": found}

    def resolve(self, schema: JsonSchema) -> JsonSchema:
        """A schema, or what it refers to."""
        reference = schema.get("$ref")
        return self.components[reference.removeprefix(REF)] if reference is not None else schema

    def _describe(self, described: Described) -> None:
        """Put meanings and limits of its fields into the schema of its body."""
        if described.operation.request is None:
            return
        body = self.resolve(self.request(described))
        for name, field in described.fields.items():
            holder, last = self._holder(body, name)
            if field.takes == "nothing":
                del holder["properties"][last]
            else:
                _constrain(holder["properties"], last, field)
        if described.one_of:
            body["oneOf"] = [_given(name) for name in described.one_of]
        if "filter" in described.fields:
            holder, _ = self._holder(body, "filter.reason")
            holder["anyOf"] = [_given(name) for name in holder["properties"]]

    def _holder(self, body: JsonSchema, name: str) -> tuple[JsonSchema, str]:
        """The schema of the object that holds a field, and the field's last name. Raises KeyError."""
        *parents, last = name.split(".")
        for parent in parents:
            found = _with_null(body["properties"][parent.removesuffix("[]")])[0]
            body = self.resolve(found["items"] if parent.endswith("[]") else found)
        return body, last


def _given(name: str) -> JsonSchema:
    """What says that a field is there, and is not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _with_null(schema: JsonSchema) -> list[JsonSchema]:
    """The alternatives of a schema, null left out."""
    return [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]


def _constrain(properties: dict[str, JsonSchema], name: str, field: Field) -> None:
    schema = dict(properties[name])
    if "anyOf" in schema:
        schema["anyOf"] = [each | field.limits.get(each.get("type", ""), {}) for each in schema["anyOf"]]
    else:
        schema |= field.limits.get(schema.get("type", ""), {})
    if schema.get("default", "") is None:
        del schema["default"]  # leaving it out is not always the same as null
    meaning = field.meaning
    if field.default:
        meaning += f" Default: {field.default}."
    if "$ref" not in schema:
        schema["description"] = meaning
    properties[name] = schema
