"""The JSON of the clients: fields to bytes, and bytes that came to values. No I/O.

Rule: whatever goes wrong here is a ClientError. Nothing is sent that would mean something else than the program said:
bytes are no JSON, and msgspec would write them as base64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from qrusty_trio.client.errors import InvalidRequest, ProtocolError

T = TypeVar("T")
BINARY = (bytes, bytearray, memoryview)


def json_of(fields: Mapping[str, object]) -> bytes:
    """A JSON object. Raises InvalidRequest for bytes, wherever they are, and for what else JSON can't carry."""
    try:
        plain = msgspec.to_builtins(fields, builtin_types=BINARY)
        refuse_bytes(plain)
        return msgspec.json.encode(plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"a field can't be sent as JSON: {error}") from error


def refuse_bytes(value: object, name: str = "a field") -> None:
    """Raises InvalidRequest if `value`, or anything in it, is binary. `name` is the field that it is in."""
    if isinstance(value, BINARY):
        raise InvalidRequest(f"{name} must be text, not {type(value).__name__}: decode it first")
    if isinstance(value, dict):
        for key, each in value.items():
            refuse_bytes(key, "the name of a field")
            refuse_bytes(each, f"'{key}'")
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            refuse_bytes(each, name)


def decoded(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """What JSON means. Raises ProtocolError for what is no JSON, of another shape, or nested too deeply."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"JSON that can't be read: {error}") from error
