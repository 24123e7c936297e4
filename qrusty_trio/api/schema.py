"""Decodes the JSON bodies of operations into checked structs, or refuses them and says why.

Rule: what passes is exactly what the contract allows. A body that is not JSON gets 400. JSON of the wrong shape gets
422: a missing field, a wrong type, a number out of range, a field given twice. Unknown fields are ignored. `null` means
the same as leaving the field out where the type here has `| None`, and is wrong anywhere else. The refusal names the
field and what is allowed.

msgspec does most of this in one pass over the bytes, but lets two things through: it takes the last of a repeated
field, and does not validate what it skips. Either needs more quotation marks than the known fields do. So counting them
clears the usual request, and only the others are examined again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, AnyStr, Final, NamedTuple, TypeVar

import msgspec

from qrusty_trio.api.json_faults import malformed
from qrusty_trio.core.model import MAX_BATCH_IDS, MAX_CONSUMER_BYTES, MAX_LOCK_SECONDS, U32_MAX, U64_MAX, Kind, Ordering
from qrusty_trio.errors import LimitReached, QrustyError, WrongShape

DEFAULT_MAX_RETRIES = 3
DEFAULT_LOCK_SECONDS = 30
MAX_DOUBTFUL_BYTES = 16_384
"""Most bytes, without the strings of known fields, of a body that must be parsed in full to find a repeated field. That
costs up to 0.1 µs a byte."""
MAX_KEPT_BODIES = 1024
MAX_KEPT_BODY_BYTES = 256
"""Longer bodies of consumes and of acks are not cached."""

SPARE_STRINGS = 100
"""Strings allowed in a batch besides its ids: field names, and values of unknown fields."""
TOO_MANY_IDS = f"may hold at most {MAX_BATCH_IDS} ids"
"""The end of a sentence that starts with the field's name."""

T = TypeVar("T")


class PublishBody(msgspec.Struct, gc=False):
    queue: str
    priority: int | str
    payload: str
    max_retries: int | None = None


class ConsumeBody(msgspec.Struct, gc=False):
    consumer_id: str
    timeout_seconds: int | None = None
    """Length of the lock in seconds. With 0 it expires at once."""


class SettleBody(msgspec.Struct, gc=False):
    consumer_id: str


class SettleBatchBody(msgspec.Struct):
    consumer_id: str
    message_ids: list[str]


class NewQueue(msgspec.Struct):
    ordering: Ordering
    allow_duplicates: bool = True
    priority_kind: Kind = Kind.NUMERIC


class CreateQueueBody(msgspec.Struct):
    name: str
    config: NewQueue


class QueueChanges(msgspec.Struct):
    name: str | None = None
    allow_duplicates: bool | None = None


class UpdateQueueBody(msgspec.Struct):
    name: str
    config: QueueChanges


_ALLOWED: Final = {
    "queue": "a string",
    "priority": f"an integer from 0 to {U64_MAX} or a string",
    "payload": "a string",
    "max_retries": f"an integer from 0 to {U32_MAX}",
    "consumer_id": "a string",
    "timeout_seconds": f"an integer from 0 to {U64_MAX}",
    "message_ids": "a list of strings",
    "name": "a string",
    "config": "an object",
    "config.name": "a string",
    "config.ordering": "one of " + ", ".join(Ordering),
    "config.allow_duplicates": "true or false",
    "config.priority_kind": "one of " + ", ".join(Kind),
}
"""What each field may be, for the text of a refusal."""

_decode_publish = msgspec.json.Decoder(PublishBody).decode
_decode_consume = msgspec.json.Decoder(ConsumeBody).decode
_decode_settle = msgspec.json.Decoder(SettleBody).decode
_decode_settle_batch = msgspec.json.Decoder(SettleBatchBody).decode
_decode_create_queue = msgspec.json.Decoder(CreateQueueBody).decode
_decode_update_queue = msgspec.json.Decoder(UpdateQueueBody).decode
_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a body it can't decode. ValidationError is a DecodeError."""


class Names(NamedTuple):
    """The fields that an operation knows."""

    top: frozenset[str]
    config: frozenset[str]
    """The fields inside `config`, if the operation has one."""
    quoted: tuple[bytes, ...]
    """All the fields in quotation marks, as they appear in a body."""
    split: Callable[[bytes], msgspec.Struct]
    """Finds the raw JSON values of `top` without parsing them."""


def names_of(struct: type[msgspec.Struct], config: type[msgspec.Struct] | None = None) -> Names:
    inner = config.__struct_fields__ if config is not None else ()
    every = {*struct.__struct_fields__, *inner}
    values = msgspec.defstruct("Values", [(name, msgspec.Raw, msgspec.Raw()) for name in struct.__struct_fields__])
    return Names(
        frozenset(struct.__struct_fields__),
        frozenset(inner),
        tuple(b'"%b"' % name.encode() for name in every),
        msgspec.json.Decoder(values).decode,
    )


_PUBLISH = names_of(PublishBody)
_CONSUME = names_of(ConsumeBody)
_SETTLE = names_of(SettleBody)
_SETTLE_BATCH = names_of(SettleBatchBody)
_CREATE_QUEUE = names_of(CreateQueueBody, NewQueue)
_UPDATE_QUEUE = names_of(UpdateQueueBody, QueueChanges)


def publish_body(body: bytes) -> tuple[str, int | str, str, int]:
    """Queue, priority, payload and max_retries. Like all functions here, it raises MalformedJson or WrongShape."""
    try:
        request = _decode_publish(body)
    except _UNREADABLE as error:
        raise _refusal(error, body) from None
    priority = request.priority
    quotes = 10
    if isinstance(priority, str):
        quotes = 12
    elif not 0 <= priority <= U64_MAX:
        raise _wrong("priority")
    retries = request.max_retries
    if retries is None:
        retries = DEFAULT_MAX_RETRIES
    elif 0 <= retries <= U32_MAX:
        quotes += 2
    else:
        raise _wrong("max_retries")
    surplus = body.count(b'"') - quotes
    if surplus:
        look_closer(body, _PUBLISH, surplus)
    return request.queue, priority, request.payload, retries


_kept_consumes: dict[bytes, tuple[str, int]] = {}
_kept_settles: dict[bytes, str] = {}


def _keep(kept: dict[bytes, T], body: bytes, meaning: T) -> T:
    """Cache what a body means: a consumer often sends the same one again."""
    if len(body) <= MAX_KEPT_BODY_BYTES:
        if len(kept) >= MAX_KEPT_BODIES:
            kept.clear()
        kept[body] = meaning
    return meaning


def consume_body(body: bytes) -> tuple[str, int]:
    """Consumer id and length of the lock in seconds. Also raises LimitReached, like the next two functions."""
    kept = _kept_consumes.get(body)
    if kept is not None:
        return kept
    try:
        request = _decode_consume(body)
    except _UNREADABLE as error:
        raise _refusal(error, body) from None
    quotes = 4
    seconds = request.timeout_seconds
    if seconds is None:
        seconds = DEFAULT_LOCK_SECONDS
    else:
        if not 0 <= seconds <= U64_MAX:
            raise _wrong("timeout_seconds")
        if seconds > MAX_LOCK_SECONDS:
            seconds = MAX_LOCK_SECONDS
        quotes = 6
    surplus = body.count(b'"') - quotes
    if surplus:
        look_closer(body, _CONSUME, surplus)
    consumer = request.consumer_id
    if len(consumer) > MAX_CONSUMER_BYTES // 4:
        _check_consumer(consumer)
    return _keep(_kept_consumes, body, (consumer, seconds))


def settle_body(body: bytes) -> str:
    """The consumer id of an ack or nack."""
    kept = _kept_settles.get(body)
    if kept is not None:
        return kept
    try:
        consumer = _decode_settle(body).consumer_id
    except _UNREADABLE as error:
        raise _refusal(error, body) from None
    surplus = body.count(b'"') - 4
    if surplus:
        look_closer(body, _SETTLE, surplus)
    if len(consumer) > MAX_CONSUMER_BYTES // 4:
        _check_consumer(consumer)
    return _keep(_kept_settles, body, consumer)


def settle_batch_body(body: bytes) -> SettleBatchBody:
    """The consumer id and message ids of an ack-batch or nack-batch.

    There may be at most MAX_BATCH_IDS ids, although 700,000 fit into a body.
    """
    if surely_too_many_ids(body, b'"', b"\\"):
        try:
            _check_syntax(body)
        except _UNREADABLE as error:
            raise malformed(error, body) from None
        raise LimitReached(f"'message_ids' {TOO_MANY_IDS}")
    try:
        request = _decode_settle_batch(body)
    except _UNREADABLE as error:
        raise _refusal(error, body) from None
    if len(request.message_ids) > MAX_BATCH_IDS:
        raise LimitReached(f"'message_ids' {TOO_MANY_IDS}")
    surplus = body.count(b'"') - 6 - 2 * len(request.message_ids)
    if surplus:
        look_closer(body, _SETTLE_BATCH, surplus)
    _check_consumer(request.consumer_id)
    return request


def surely_too_many_ids(text: AnyStr, quote: AnyStr, backslash: AnyStr) -> bool:
    """Whether JSON has more strings than a batch may have, judged by its quotation marks.

    All arguments are str, or all bytes. Decoding 500,000 ids takes 57 ms, counting marks 1 ms. A mark after a backslash
    can't start a string but may end one, so up to twice as many strings pass.
    """
    most = 2 * (MAX_BATCH_IDS + SPARE_STRINGS)
    quotes = text.count(quote)
    return quotes > most and (backslash not in text or quotes - text.count(backslash + quote) > most)


def create_queue_body(body: bytes) -> CreateQueueBody:
    try:
        request = _decode_create_queue(body)
    except _UNREADABLE as error:
        raise _refusal(error, body) from None
    look_closer(body, _CREATE_QUEUE)
    return request


def update_queue_body(body: bytes) -> UpdateQueueBody:
    try:
        request = _decode_update_queue(body)
    except _UNREADABLE as error:
        raise _refusal(error, body) from None
    look_closer(body, _UPDATE_QUEUE)
    return request


def _wrong(field: str) -> WrongShape:
    return WrongShape(f"'{field}' must be {_ALLOWED[field]}")


def _check_consumer(consumer: str) -> None:
    if len(consumer.encode()) > MAX_CONSUMER_BYTES:
        raise LimitReached(f"'consumer_id' must be at most {MAX_CONSUMER_BYTES} bytes of UTF-8")


_MISSING = re.compile(r"missing required field `(\w+)`(?: - at `\$\.([\w.]+)`)?")
_PATH = re.compile(r" - at `\$\.([\w.]+)")


def _refusal(error: Exception, body: bytes) -> QrustyError:
    """The refusal for a body that msgspec could not decode."""
    if isinstance(error, msgspec.ValidationError):
        # msgspec stopped at the first wrong field, so the rest may not even be JSON.
        try:
            _check_syntax(body)
        except _UNREADABLE as found:
            return malformed(found, body)
        return _misshapen(str(error))
    return malformed(error, body)


def _misshapen(problem: str) -> WrongShape:
    missing = _MISSING.search(problem)
    if missing is not None:
        name, parent = missing.groups()
        field = f"{parent}.{name}" if parent else name
        return WrongShape(f"'{field}' is missing: it must be {_ALLOWED[field]}")
    path = _PATH.search(problem)
    if path is not None and path[1] in _ALLOWED:
        return _wrong(path[1])
    return WrongShape("the body must be a JSON object")


# Known names consist of a to z and '_'. No common encoder escapes these, so this is rare in practice.
_BACKSLASH: Final = 0x5C
_ESCAPED_NAME = re.compile(rb"\\u00(?:5[fF]|6[1-9a-fA-F]|7[0-9aA])").search


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object in order, repeated ones included."""


_parse_pairs = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=lambda digits: digits, parse_float=lambda digits: digits
).decode


def look_closer(body: bytes, names: Names, surplus: int | None = None) -> None:
    """Refuse what msgspec overlooks in a body that it decoded. Raises MalformedJson or WrongShape.

    `surplus`: the number of quotation marks besides those of the known names and strings, if known. If all of those
    are escaped, they are inside the known strings, and the body is good. If every name appears in the body at most once
    and without escapes, no field is repeated. Otherwise the body is parsed in full.
    """
    escapes = _BACKSLASH in body
    if escapes and surplus == body.count(b'\\"') and b"\\\\" not in body:
        return
    try:
        if not body.isascii():
            body.decode()
        if not escapes or b"\\u00" not in body or _ESCAPED_NAME(body) is None:
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
    _refuse_repeated(members, names.top, "")
    if names.config:
        _refuse_repeated(dict(members)["config"], names.config, "config.")


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
