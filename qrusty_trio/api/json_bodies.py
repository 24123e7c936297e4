"""Reading a JSON body into a checked struct, or saying what is wrong with it.

Rule: a body that is not JSON gets 400. JSON of the wrong shape gets 422: a missing field, a wrong type, a field given
twice. The refusal names the field and what is allowed.

msgspec does most of this in one pass over the bytes, but lets two things through: it takes the last of a repeated
field, and does not validate what it skips. Either needs more quotation marks than the known fields do. So counting them
clears the usual request, and only the others are examined again.

Requirements: API-0004
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, AnyStr, Final, Generic, NamedTuple, TypeVar

import msgspec

from qrusty_trio.api.json_faults import malformed
from qrusty_trio.core.model import MAX_BATCH_IDS, MAX_CONSUMER_BYTES, MAX_ERROR_BYTES, U32_MAX, U64_MAX, Kind, Ordering
from qrusty_trio.errors import LimitReached, QrustyError, WrongShape

MAX_DOUBTFUL_BYTES = 16_384
"""Most bytes, without the strings of known fields, of a body that must be parsed in full to find a repeated field. That
costs up to 0.1 µs a byte."""
SPARE_STRINGS = 100
"""Strings allowed in a batch besides its ids: field names, and values of unknown fields."""
TOO_MANY_IDS = f"may hold at most {MAX_BATCH_IDS} ids"
"""The end of a sentence that starts with the field's name."""

Body = TypeVar("Body", bound=msgspec.Struct)

ALLOWED: Final = {
    "queue": "a string",
    "priority": f"an integer from 0 to {U64_MAX} or a string",
    "payload": "a string",
    "max_retries": f"an integer from 0 to {U32_MAX}",
    "consumer_id": "a string",
    "timeout_seconds": f"an integer from 0 to {U64_MAX}",
    "message_ids": "a list of strings",
    "error": "a string",
    "name": "a string",
    "config": "an object",
    "config.name": "a string",
    "config.ordering": "one of " + ", ".join(Ordering),
    "config.allow_duplicates": "true or false",
    "config.protected": "true or false",
    "config.priority_kind": "one of " + ", ".join(Kind),
}
"""What each field may be, for the text of a refusal."""

_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a body it can't decode. ValidationError is a DecodeError."""


class Shape(Generic[Body]):
    """A JSON body: its fields, and what may be in them."""

    def __init__(
        self,
        struct: type[Body],
        allowed: Mapping[str, str] = MappingProxyType({}),
        *,
        ids: str | None = None,
        inner: tuple[str, type[msgspec.Struct]] | None = None,
    ) -> None:
        """`allowed`: what each field may be, for those that `ALLOWED` lacks. `ids`: the field that holds message ids,
        at most MAX_BATCH_IDS. `inner`: a field that holds an object, and the struct of that."""
        self._decode = msgspec.json.Decoder(struct).decode
        self._names = names_of(struct, inner)
        self._allowed = {**ALLOWED, **allowed}
        self._ids = ids

    def read(self, body: bytes) -> Body:
        """Raises MalformedJson, WrongShape, LimitReached. Ranges are up to the caller; see `wrong`."""
        if self._ids is not None and surely_too_many_ids(body, b'"', b"\\"):
            check_syntax(body)
            raise LimitReached(f"'{self._ids}' {TOO_MANY_IDS}")
        try:
            request = self._decode(body)
        except UNREADABLE as error:
            raise refusal(error, body, self._allowed) from None
        if self._ids is not None and len(getattr(request, self._ids) or ()) > MAX_BATCH_IDS:
            raise LimitReached(f"'{self._ids}' {TOO_MANY_IDS}")
        look_closer(body, self._names)
        return request

    def wrong(self, field: str) -> WrongShape:
        """The refusal of a field that is out of its range."""
        return WrongShape(f"'{field}' must be {self._allowed[field]}")


class Names(NamedTuple):
    """The fields that an operation knows.

    Requirements: API-0007
    """

    top: frozenset[str]
    holder: str
    """The field that holds an object, if the operation has one."""
    inner: frozenset[str]
    """The fields inside that object."""
    quoted: tuple[bytes, ...]
    """All the fields in quotation marks, as they appear in a body."""
    split: Callable[[bytes], msgspec.Struct]
    """Finds the raw JSON values of `top` without parsing them."""


def names_of(struct: type[msgspec.Struct], inner: tuple[str, type[msgspec.Struct]] | None = None) -> Names:
    holder, fields = (inner[0], inner[1].__struct_fields__) if inner is not None else ("", ())
    every = {*struct.__struct_fields__, *fields}
    values = msgspec.defstruct("Values", [(name, msgspec.Raw, msgspec.Raw()) for name in struct.__struct_fields__])
    return Names(
        frozenset(struct.__struct_fields__),
        holder,
        frozenset(fields),
        tuple(b'"%b"' % name.encode() for name in every),
        msgspec.json.Decoder(values).decode,
    )


def surely_too_many_ids(text: AnyStr, quote: AnyStr, backslash: AnyStr) -> bool:
    """Whether JSON has more strings than a batch may have, judged by its quotation marks.

    All arguments are str, or all bytes. Decoding 500,000 ids takes 57 ms, counting marks 1 ms. A mark after a backslash
    can't start a string but may end one, so up to twice as many strings pass.

    Requirements: API-0022
    """
    most = 2 * (MAX_BATCH_IDS + SPARE_STRINGS)
    quotes = text.count(quote)
    return quotes > most and (backslash not in text or quotes - text.count(backslash + quote) > most)


def check_syntax(body: bytes) -> None:
    """Raise MalformedJson unless the body is JSON."""
    try:
        _check_syntax(body)
    except UNREADABLE as error:
        raise malformed(error, body) from None


def wrong(field: str) -> WrongShape:
    return WrongShape(f"'{field}' must be {ALLOWED[field]}")


def check_error(error: str) -> None:
    """Raises LimitReached if what a nack gives as its reason is too long."""
    if len(error.encode()) > MAX_ERROR_BYTES:
        raise LimitReached(f"'error' must be at most {MAX_ERROR_BYTES} bytes of UTF-8")


def check_consumer(consumer: str) -> None:
    if len(consumer.encode()) > MAX_CONSUMER_BYTES:
        raise LimitReached(f"'consumer_id' must be at most {MAX_CONSUMER_BYTES} bytes of UTF-8")


_MISSING = re.compile(r"missing required field `(\w+)`(?: - at `\$\.([\w.\[\]]+)`)?")
_UNKNOWN = re.compile(r"contains unknown field `(.*?)`(?: - at `\$\.([\w.\[\]]+)`)?$", re.DOTALL)
_PATH = re.compile(r" - at `\$\.([\w.\[\]]+)")
_INDEX = re.compile(r"\[\d+\]")


def refusal(error: Exception, body: bytes, allowed: Mapping[str, str] = ALLOWED) -> QrustyError:
    """The refusal for a body that msgspec could not decode."""
    if isinstance(error, msgspec.ValidationError):
        # msgspec stopped at the first wrong field, so the rest may not even be JSON.
        try:
            _check_syntax(body)
        except UNREADABLE as found:
            return malformed(found, body)
        return _misshapen(str(error), allowed)
    return malformed(error, body)


def _misshapen(problem: str, allowed: Mapping[str, str]) -> WrongShape:
    missing = _MISSING.search(problem)
    if missing is not None:
        name, parent = missing.groups()
        field = f"{parent}.{name}" if parent else name
        return WrongShape(f"'{field}' is missing: it must be {allowed[_INDEX.sub('[]', field)]}")
    unknown = _UNKNOWN.search(problem)
    if unknown is not None:
        name, parent = unknown.groups()
        return WrongShape(f"'{f'{parent}.{name}' if parent else name}' is no field of this request")
    path = _PATH.search(problem)
    if path is not None:
        field = path[1]
        if _INDEX.sub("[]", field) not in allowed:
            field = field.partition("[")[0]  # a list of plain values
        if (values := allowed.get(_INDEX.sub("[]", field))) is not None:
            return WrongShape(f"'{field}' must be {values}")
    return WrongShape("the body must be a JSON object")


# Known names consist of a to z and '_'. No common encoder escapes these, so this is rare in practice.
_BACKSLASH: Final = 0x5C
_ESCAPED_NAME = re.compile(rb"\\u00(?:5[fF]|6[1-9a-fA-F]|7[0-9aA])").search


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object in order, repeated ones included."""


_parse_pairs = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=lambda digits: digits, parse_float=lambda digits: digits
).decode


def look_closer(body: bytes, names: Names, surplus: int | None = None, parent: str = "") -> None:
    """Refuse what msgspec overlooks in a body that it decoded. Raises MalformedJson or WrongShape.

    `surplus`: the number of quotation marks besides those of the known names and strings, if known. If all of those
    are escaped, they are inside the known strings, and the body is good. If every name appears in the body at most once
    and without escapes, no field is repeated. Otherwise the body is parsed in full. `parent`: what precedes a name in
    the text of a refusal.

    Requirements: API-0005
    """
    escapes = _BACKSLASH in body
    if escapes and surplus == body.count(b'\\"') and b"\\\\" not in body:
        return
    try:
        if not body.isascii():
            body.decode()
        if not escapes or not has_escaped_name(body):
            for name in names.quoted:
                if body.count(name) > 1:
                    break
            else:
                return
        if len(body) > MAX_DOUBTFUL_BYTES:
            _check_doubtful_size(body, names)
        members = _parse_pairs(body.decode())
    except (UnicodeDecodeError, RecursionError) as error:
        raise malformed(error, body) from None
    _refuse_repeated(members, names.top, parent)
    if names.holder:
        held = dict(members).get(names.holder)
        if isinstance(held, _Pairs):
            _refuse_repeated(held, names.inner, f"{names.holder}.")


def has_escaped_name(body: bytes) -> bool:
    """Whether a known name may be in the body with an escape in it."""
    return b"\\u00" in body and _ESCAPED_NAME(body) is not None


def _check_doubtful_size(body: bytes, names: Names) -> None:
    values = [memoryview(value) for value in msgspec.structs.astuple(names.split(body))]
    strings = sum(len(value) for value in values if bytes(value[:1]) == b'"')
    if len(body) - strings > MAX_DOUBTFUL_BYTES:
        raise WrongShape(
            "a body that repeats or escapes the name of a field may have "
            f"at most {MAX_DOUBTFUL_BYTES} bytes besides its known strings"
        )


def _refuse_repeated(members: _Pairs, known: frozenset[str], parent: str) -> None:
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            raise WrongShape(f"'{parent}{name}' must be given only once")
        if name in known:
            seen.add(name)
