"""Writes the generated parts of docs/reference/ anew, from the description of the API.

    python -m release.reference            # or: make reference

Rule: what stands between `<!-- generated: NAME -->` and `<!-- end -->` is from here, and all else is written by hand.
A test compares the documents with this, so neither can be forgotten.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qrusty_trio.api.description import codes, frames, shapes
from qrusty_trio.api.description.model import Described, Field, JsonSchema
from qrusty_trio.api.description.report_shapes import QueueStats
from qrusty_trio.api.description.schemas import Schemas
from qrusty_trio.api.description.table import DESCRIBED, FAMILIES
from qrusty_trio.api.ws_requests import TOUCHING
from qrusty_trio.client import errors as client_errors

DOCUMENTS = Path(__file__).resolve().parent.parent / "docs" / "reference"
MARKED = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH = 120
PLURALS = frozenset({"string", "integer", "number", "object"})
SHARED = (shapes.Delivered, shapes.Message, shapes.DeadLetter, shapes.Config, QueueStats)
"""Shapes that have a table of their own."""

_schemas = Schemas(DESCRIBED)
_shared = {type_.__name__ for type_ in SHARED}


def anchor(described: Described) -> str:
    """Where a route stands in the document."""
    heading = f"{described.operation.method} {described.operation.path}"
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


def pretty(value: Any) -> str:
    """JSON on one line if it is short, else indented."""
    line = json.dumps(value)
    return line if len(line) <= 100 else json.dumps(value, indent=2)


def code(text: str) -> str:
    return textwrap.indent(text, "    ")


def fields_table(fields: Mapping[str, Field], schema: JsonSchema | None) -> str:
    required = set(schema["required"]) if schema is not None else set()
    rows = []
    for name, field in fields.items():
        if schema is not None and name not in required and "." not in name:
            default = field.default or "none"
        else:
            default = field.default or "required"
        rows.append((f"`{name}`", field.takes, default, field.meaning))
    return table(("field", "takes", "if left out", "meaning"), rows)


def words(schema: JsonSchema) -> str:
    """A JSON Schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        target = _schemas.resolve(schema)
        if name in _shared:
            return f"[{name}](#{name.lower()})"
        return words(target)
    if "anyOf" in schema:
        return " or ".join(words(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        inner = schema.get("items") or {}
        plural = words(inner) if inner else ""
        return f"list of {plural}s" if plural in PLURALS else f"list of {plural}" if plural else "list"
    names = {"object": "object", "null": "null", "integer": "integer", "number": "number", "boolean": "true or false"}
    return names.get(str(kind), "string")


def response_rows(schema: JsonSchema, prefix: str = "") -> Iterator[tuple[str, ...]]:
    """The rows of a response's table; what is inside of an object or list follows it."""
    required = set(schema.get("required", ()))
    for name, value in schema.get("properties", {}).items():
        meaning = value.get("description", "")
        said = words(value) + ("" if name in required else ", if there is one")
        yield f"`{prefix}{name}`", said, meaning
        inner, suffix = value, "."
        if value.get("type") == "array" and isinstance(value.get("items"), dict):
            inner, suffix = value["items"], "[]."
        elif "additionalProperties" in value and isinstance(value["additionalProperties"], dict):
            inner, suffix = value["additionalProperties"], ".*."
        for each in inner.get("anyOf", [inner]):
            if "$ref" in each and each["$ref"].rpartition("/")[2] not in _shared:
                yield from response_rows(_schemas.resolve(each), f"{prefix}{name}{suffix}")


def response(described: Described) -> str:
    schema = _schemas.response(described) if described.response is not None else None
    if schema is None:
        return "**Response:** 200 with an empty body."
    alternatives = schema.get("anyOf", [schema])
    if len(alternatives) > 1 and not any(each.get("type") == "null" for each in alternatives):
        by_name = {row[0]: row for each in alternatives for row in response_rows(_schemas.resolve(each))}
        return "**Response:** 200 with an object.\n\n" + table(("field", "is", "meaning"), by_name.values())
    first = alternatives[0]
    if "$ref" not in first:
        inner: JsonSchema = next((each for each in (first.get("items"), first.get("additionalProperties")) if each), {})
        rows_of_inner = []
        if first.get("type") == "object":
            series = inner.get("items", {})
            rows_of_inner = list(response_rows(_schemas.resolve(series), "*[]."))
        said = f"**Response:** 200 with {'an object of lists' if rows_of_inner else 'a ' + words(first)}."
        return said + ("\n\n" + table(("field", "is", "meaning"), rows_of_inner) if rows_of_inner else "")
    what = "an object, or `null`" if len(alternatives) > 1 else "an object"
    if first["$ref"].rpartition("/")[2] in _shared:
        return f"**Response:** 200 with {what}: {words(first)}."
    rows = list(response_rows(_schemas.resolve(first)))
    return f"**Response:** 200 with {what}.\n\n" + table(("field", "is", "meaning"), rows)


def route(described: Described) -> str:
    operation, example = described.operation, described.example
    parts = [f"### {operation.method} {operation.path}", paragraph(described.summary)]
    if described.notes:
        parts.append(paragraph(described.notes))
    if described.query:
        rows = [
            (f"`{each.name}`", each.takes, "required" if each.required else each.default, each.meaning)
            for each in described.query
        ]
        parts.append(table(("in the query", "takes", "if left out", "meaning"), rows))
    if described.fields:
        schema = _schemas.resolve(_schemas.request(described))
        parts.append(fields_table(described.fields, schema))
    parts.append(response(described))
    parts.append(paragraph(f"**Errors:** {errors_of(described)}."))
    body = f"\n{json.dumps(example.body)}" if example.body is not None else ""
    status = "200" + (f"\n{pretty(example.response)}" if example.response is not None else "")
    parts += [code(f"{operation.method} {example.target}{body}"), code(status)]
    return "\n\n".join(parts)


def errors_of(described: Described) -> str:
    """The codes of its own, and where the others stand."""
    operation = described.operation
    own = [f"{codes.CODES[each].status} `{each}`" for each in described.errors]
    groups = ["[of every route](#of-every-route)"]
    if operation.needs.token:
        groups.append("[of a token](#of-a-token)")
    if "{" in operation.path:
        groups.append("[of a name in the path](#of-a-name-in-the-path)")
    if operation.request is not None:
        groups.append("[of a body](#of-a-body)")
    if operation.mutating:
        groups.append("[of a change](#of-a-change)")
    elif operation.reads_store:
        groups.append("[of reading the store](#of-reading-the-store)")
    return "; ".join([", ".join(own), ", ".join(groups)] if own else [", ".join(groups)])


def family(name: str) -> str:
    (found,) = (each for each in FAMILIES if each.name == name)
    return "\n\n".join(route(each) for each in found.described)


def routes() -> str:
    rows = []
    for found in FAMILIES:
        for each in found.described:
            name = f"{each.operation.method} {each.operation.path}"
            rows.append((f"[`{name}`](#{anchor(each)})", each.summary))
    return table(("route", "what it does"), rows)


def grants() -> str:
    rows = []
    for each in DESCRIBED:
        needs = each.operation.needs
        grant = f"`{needs.grant}`" if needs.grant is not None else "any token" if needs.token else "nothing"
        on = needs.named.value if needs.grant is not None else ""
        rows.append((f"`{each.operation.method} {each.operation.path}`", grant, on))
    return table(("route", "needs", "on"), rows)


def shared_shapes() -> str:
    parts = []
    for type_ in SHARED:
        rows = list(response_rows(_schemas.components[type_.__name__]))
        parts.append(f"### {type_.__name__}\n\n" + table(("field", "is", "meaning"), rows))
    return "\n\n".join(parts)


def error_codes() -> str:
    rows = [(f"`{name}`", f"{each.status}", each.meaning, each.advice) for name, each in codes.CODES.items()]
    return table(("code", "status", "meaning", "what to do"), rows)


def error_groups() -> str:
    groups = {
        "of every route": codes.EVERYWHERE,
        "of a token": (*codes.OF_TOKENS, "forbidden"),
        "of a name in the path": codes.OF_NAMES,
        "of a body": codes.OF_BODIES,
        "of a change": codes.OF_CHANGES,
        "of reading the store": codes.OF_READING,
    }
    return "\n\n".join(
        f"#### {title.capitalize()}\n\n"
        + paragraph(", ".join(f"{codes.CODES[each].status} `{each}`" for each in group))
        for title, group in groups.items()
    )


MANY = 10
"""Routes that are no longer named one by one."""
KINDS: Mapping[str, Callable[[Described], bool]] = {
    "every route": lambda each: True,
    "every change": lambda each: each.operation.mutating,
    "every route with a body": lambda each: each.operation.request is not None,
    "every route with a queue in its path": lambda each: "{" in each.operation.path,
    "every route that changes or reads the store": lambda each: each.operation.mutating or each.operation.reads_store,
    "every route that needs a token": lambda each: each.operation.needs.token,
    "every route that needs a grant": lambda each: "forbidden" in codes.codes_of(each),
}


def given_by(name: str) -> str:
    """Which routes give a code: the kind of route if all of a kind do, and else each of them."""
    giving = [each for each in DESCRIBED if name in codes.codes_of(each)]
    if not giving:
        return ""
    kinds = [kind for kind, belongs in KINDS.items() if giving == [each for each in DESCRIBED if belongs(each)]]
    if kinds:
        return kinds[0]
    named = [f"[`{each.operation.method} {each.operation.path}`](http.md#{anchor(each)})" for each in giving]
    return ", ".join(named) if len(named) <= MANY else f"{len(named)} routes: see [HTTP](http.md)"


def codes_by_name() -> str:
    parts = []
    for name, each in sorted(codes.CODES.items()):
        raised = type(client_errors.request_error(name, "")).__name__
        routes = given_by(name)
        parts += [
            f"### {name}",
            f"**{each.status}.** {each.meaning}",
            f"**What to do:** {each.advice}",
            paragraph((f"**Given by:** {routes}. " if routes else "") + f"**In Python:** `{raised}`."),
        ]
    return "\n\n".join(parts)


def codes_of_frames() -> str:
    rows = []
    for name, meaning in sorted(frames.ERRORS.items()):
        giving = ", ".join(f"`{each.type}`" for each in frames.FRAMES if name in each.errors)
        raised = type(client_errors.request_error(name, "")).__name__
        every = "every change" if name in codes.OF_CHANGES else "any frame"
        rows.append((f"`{name}`", meaning, giving or every, f"`{raised}`"))
    return table(("code", "meaning", "given by", "in Python"), rows)


def frame_types() -> str:
    return "\n\n".join(map(frame, frames.FRAMES))


def frame(described: frames.DescribedFrame) -> str:
    parts = [f"### {described.type}", paragraph(described.summary)]
    if described.notes:
        parts.append(paragraph(described.notes))
    if described.fields:
        parts.append(fields_table(described.fields, None))
    if described.response:
        parts.append(
            table(("field of the response", "meaning"), [(f"`{k}`", v) for k, v in described.response.items()])
        )
    own = ", ".join(f"`{each}`" for each in described.errors)
    every = ["those of every frame"] + (["those of a change"] if described.type in TOUCHING else [])
    parts.append("**Errors:** " + "; ".join(filter(None, [own, ", ".join(every)])) + ".")
    parts += [code(json.dumps(described.example)), code(json.dumps(described.example_response))]
    return "\n\n".join(parts)


def pushes() -> str:
    parts = []
    for each in frames.PUSHES:
        rows = [(f"`{name}`", meaning) for name, meaning in each.fields.items()]
        parts += [f"### {each.type}", paragraph(each.summary), table(("field", "meaning"), rows)]
        parts.append(code(json.dumps(each.example)))
    return "\n\n".join(parts)


def frame_errors() -> str:
    return table(("code", "meaning"), [(f"`{name}`", meaning) for name, meaning in frames.ERRORS.items()])


def closes() -> str:
    rows = [(f"{number}", meaning) for number, meaning in frames.CLOSES.items()]
    return table(("code", "when"), rows)


def every_frame() -> str:
    return fields_table(frames.EVERY_FRAME, {"required": ["type"]})


PARTS: dict[str, Callable[[], str]] = {
    "routes": routes,
    **{found.name: lambda name=found.name: family(name) for found in FAMILIES},  # type: ignore[misc]  # bound here
    "shapes": shared_shapes,
    "grants": grants,
    "error-codes": error_codes,
    "error-groups": error_groups,
    "every-frame": every_frame,
    "frames": frame_types,
    "pushes": pushes,
    "frame-errors": frame_errors,
    "codes-by-name": codes_by_name,
    "codes-of-frames": codes_of_frames,
    "closes": closes,
}


def renewed(text: str) -> str:
    """A document with its generated parts made anew. Raises KeyError for a part that nothing makes."""
    return MARKED.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", text)


def main() -> None:
    for document in sorted(DOCUMENTS.glob("*.md")):
        document.write_text(renewed(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
