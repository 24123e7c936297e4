"""The frames of the WebSocket contract: decodes text to `Request`, encodes responses and pushes to bytes.

Rule: nothing here knows what a frame means. `decode` distinguishes three cases: not JSON (raises `BadFrame`, which
closes the connection), JSON of the wrong shape (`Misshapen`, an error response), and a `Request`. A repeated field is
the wrong shape. So is what a common encoder makes of text that JSON can't hold: half of a surrogate pair, or a byte
order mark. All output is UTF-8 JSON, ready to be framed.

Requirements: WS-0002
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from qrusty_trio.api.batch_bodies import NewMessage, look_closer_at_messages, quotes_of
from qrusty_trio.api.json_bodies import TOO_MANY_IDS, look_closer, names_of, surely_too_many_ids
from qrusty_trio.core.model import MAX_BATCH_IDS, Delivery, Priority
from qrusty_trio.errors import QrustyError, WrongShape

MAX_REQ_ID_CHARACTERS = 1024
"""Limit on a request id. It is sent back in the response, so without a limit clients could fill our buffers with it."""
SHORT_CHARACTERS = 3 * MAX_BATCH_IDS
"""A frame of at most this length can't hold too many ids."""
MAX_MENDED_CHARACTERS = 64 * 1024
"""A longer frame with half of a surrogate pair is not repaired to find the `req_id` for its error response."""
MAX_ERROR_CHARACTERS = 1000
"""Limit on the sentence of an error, which may quote client input of any length."""


class BadFrame(Exception):
    """The text is not JSON.

    Requirements: WS-0009
    """


class Refusal(Exception):
    """The request gets an error response. `str()` is its sentence.

    Requirements: WS-0006
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Request(msgspec.Struct):
    """A decoded frame of any type. None means that a field was not sent, or was sent as null.

    Requirements: WS-0003
    """

    type: str | None = None
    req_id: str | None = None
    no_reply: bool | None = None
    queue: str | None = None
    payload: str | None = None
    priority: int | str | None = None
    max_retries: int | None = None
    credits: int | None = None
    lock_timeout_secs: int | None = None
    deadline_soon_secs: int | None = None
    messages: list[NewMessage] | None = None
    batch: int | None = None
    id: str | None = None
    ids: list[str] | None = None
    error: str | None = None
    traceparent: str | None = None
    """As it came: it may be none."""


class Misshapen(msgspec.Struct):
    """JSON that is not a valid request, with the fields that the error response needs.

    Requirements: WS-0006
    """

    problem: str
    """A sentence naming the field and what is allowed."""
    req_id: str | None = None
    no_reply: bool = False


class _Sender(msgspec.Struct):
    """The fields of a frame that its response needs."""

    req_id: str | None = None
    no_reply: bool | None = None


_decode = msgspec.json.Decoder(Request).decode
_decode_sender = msgspec.json.Decoder(_Sender).decode
_encode = msgspec.json.encode


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_messages(value: Any) -> bool:
    try:
        msgspec.convert(value, list[NewMessage], strict=True)
    except msgspec.ValidationError:
        return False
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_text, "a string"),
    "req_id": (_is_text, "a string"),
    "no_reply": (lambda value: isinstance(value, bool), "true or false"),
    "queue": (_is_text, "a string"),
    "payload": (_is_text, "a string"),
    "priority": (lambda value: _is_integer(value) or _is_text(value), "an unsigned integer or a string"),
    "max_retries": (_is_integer, "an unsigned integer"),
    "credits": (_is_integer, "a positive integer"),
    "lock_timeout_secs": (_is_integer, "a positive integer"),
    "deadline_soon_secs": (_is_integer, "a positive integer"),
    "messages": (_are_messages, "a list of objects, each with a 'priority', a 'payload' and perhaps 'max_retries'"),
    "batch": (_is_integer, "a positive integer"),
    "id": (_is_text, "a string"),
    "ids": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of strings"),
    "error": (_is_text, "a string"),
    "traceparent": (_is_text, "a string"),
}
"""What each field of `Request` may be: a check, and the words for a refusal."""
_PAST_ALL_FLOATS = object()


def decode(text: str) -> Request | Misshapen:
    """Parse one text frame. Raises BadFrame if it is not JSON."""
    if len(text) > SHORT_CHARACTERS and surely_too_many_ids(text, '"', "\\"):
        return _refuse_ids(text)
    try:
        request = _decode(text)
    except msgspec.ValidationError:
        return _explain(text)
    except RecursionError:
        return _too_deep(text)
    except msgspec.DecodeError as error:
        return _nearly_json(text, error)
    # Counting quotation marks is cheap, and a usual frame has exactly those of its fields. If one of the assumed fields
    # is missing, the frame is refused anyway.
    kind = request.type
    known = 12
    if request.req_id is not None:
        if len(request.req_id) > MAX_REQ_ID_CHARACTERS:
            return _explain(text)
        known = 16
    if kind == "publish":
        if request.priority is not None:
            known += 2 if type(request.priority) is int else 4
        if request.max_retries is not None:
            known += 2
    elif kind == "credit":
        known -= 2
    elif kind != "ack" and (kind != "nack" or request.error is not None):
        try:
            known = _known_quotes(request)
        except WrongShape as wrong:
            return Misshapen(str(wrong), request.req_id, request.no_reply is True)
    surplus = text.count('"') - known
    if surplus and (surplus != text.count('\\"') or "\\\\" in text):
        return _look_closer(text, request)
    return request


_NAMES = names_of(Request)


def _known_quotes(request: Request) -> int:
    """The number of quotation marks around the names of a request's fields and around its string values."""
    marks = 0
    for name in Request.__struct_fields__:
        value = getattr(request, name)
        if value is not None:
            marks += 2
            if isinstance(value, str):
                marks += 2
            elif name == "messages":
                marks += quotes_of(value)
            elif isinstance(value, list):
                marks += 2 * len(value)
    return marks


def _look_closer(text: str, request: Request) -> Request | Misshapen:
    """The frame has more quotation marks than usual: look for a repeated field.

    Requirements: WS-0007
    """
    try:
        surplus = text.count('"') - _known_quotes(request)
        if surplus == text.count('\\"') and "\\\\" not in text:
            return request
        if surplus and request.messages is not None:
            for _ in look_closer_at_messages(text.encode(), _NAMES, request.messages):
                pass
        elif surplus:
            look_closer(text.encode(), _NAMES, surplus)
    except QrustyError as refusal:
        return Misshapen(str(refusal).replace("body", "frame"), request.req_id, request.no_reply is True)
    return request


_PAIR_OR_HALF = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
"""A surrogate pair, or half of one. An escaped backslash before it does not matter: the stand-in has the same length as
the half, and is valid or invalid just as that is."""
_STAND_IN = r"\ufffd"


def _too_deep(text: str) -> Misshapen:
    """The frame has too many levels to parse. It may still be JSON; raises BadFrame if its brackets do not close."""
    problem = "the frame is nested too deeply"
    if text.count("[") > text.count("]") or text.count("{") > text.count("}"):
        raise BadFrame(problem)
    return Misshapen(problem)


def _nearly_json(text: str, error: msgspec.DecodeError) -> Misshapen:
    """A frame that is JSON except for a fault that encoders let pass. Raises BadFrame if more is wrong with it.

    Requirements: WS-0007
    """
    if text.startswith("\ufeff"):
        problem = "a frame must not begin with a byte order mark"
    elif _PAIR_OR_HALF.search(text):
        problem = "a string holds half of a surrogate pair: it is no text, and can't be stored"
    else:
        raise BadFrame(str(error)) from error
    whole = text.removeprefix("\ufeff")
    if len(whole) <= MAX_MENDED_CHARACTERS:
        whole = _PAIR_OR_HALF.sub(lambda found: found[1] or _STAND_IN, whole)
    elif _PAIR_OR_HALF.search(whole):
        # Repairing it would take milliseconds. Up to the half it was JSON.
        return Misshapen(problem)
    try:
        sender: Request | _Sender = _decode(whole)
    except msgspec.ValidationError:
        try:
            sender = _decode_sender(whole)
        except msgspec.ValidationError:
            sender = _Sender()
        except (msgspec.DecodeError, RecursionError):
            raise BadFrame(str(error)) from error
    except RecursionError:
        return _too_deep(text)
    except msgspec.DecodeError as other:
        raise BadFrame(str(other)) from other
    req_id = sender.req_id
    if req_id is not None and ("\ufffd" in req_id or len(req_id) > MAX_REQ_ID_CHARACTERS):
        req_id = None
    return Misshapen(problem, req_id, sender.no_reply is True)


def _refuse_ids(text: str) -> Misshapen:
    try:
        sender = _decode_sender(text)
    except msgspec.ValidationError:
        sender = _Sender()
    except RecursionError:
        return _too_deep(text)
    except msgspec.DecodeError as error:
        return _nearly_json(text, error)
    req_id = sender.req_id
    if req_id is not None and len(req_id) > MAX_REQ_ID_CHARACTERS:
        req_id = None
    return Misshapen(f"'ids' {TOO_MANY_IDS}", req_id, sender.no_reply is True)


def _explain(text: str) -> Misshapen:
    # The first pass stopped at the first wrong field, so the rest may not even be JSON.
    value: Any
    try:
        try:
            value = msgspec.json.decode(text)
        except msgspec.ValidationError:
            value = _known_fields(text)
    except msgspec.ValidationError:
        return Misshapen("a frame must be a JSON object")
    except RecursionError:
        return _too_deep(text)
    except msgspec.DecodeError as error:
        return _nearly_json(text, error)
    if not isinstance(value, dict):
        return Misshapen("a frame must be a JSON object")
    req_id = value.get("req_id")
    if isinstance(req_id, str) and len(req_id) > MAX_REQ_ID_CHARACTERS:
        return Misshapen(
            f"'req_id' must be at most {MAX_REQ_ID_CHARACTERS} characters", None, bool(value.get("no_reply"))
        )
    wrong = [name for name, (fits, _) in _FIELDS.items() if value.get(name) is not None and not fits(value[name])]
    problem = f"'{wrong[0]}' must be {_FIELDS[wrong[0]][1]}" if wrong else "a field has the wrong type"
    return Misshapen(problem, req_id if isinstance(req_id, str) else None, value.get("no_reply") is True)


def _known_fields(text: str) -> dict[str, Any]:
    """The known fields of an object that holds a number too large for a float. That is replaced by an invalid value.

    Requirements: WS-0008
    """
    fields: dict[str, Any] = {}
    for name, raw in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items():
        if name in _FIELDS:
            try:
                fields[name] = msgspec.json.decode(raw)
            except msgspec.ValidationError:
                fields[name] = _PAST_ALL_FLOATS
    return fields


OK = b'{"type":"ok"}'


def ok(req_id: str | None) -> bytes:
    if req_id is None:
        return OK
    return b'{"type":"ok","req_id":%b}' % _encode(req_id)


def ok_id(message_id: str, req_id: str | None) -> bytes:
    """The response to a publish. The id is a UUID, so nothing in it needs escaping.

    Requirements: WS-0001
    """
    if req_id is None:
        return b'{"type":"ok","id":"%b"}' % message_id.encode()
    return b'{"type":"ok","id":"%b","req_id":%b}' % (message_id.encode(), _encode(req_id))


def ok_unchanged(
    credits: int | None, lock_seconds: int, warn_seconds: int | None, batch: int | None, req_id: str | None
) -> bytes:
    """The response to a repeated subscribe with other parameters: those in force.

    `credits`: the credits left; None if unlimited.

    Requirements: WS-0013
    """
    response: dict[str, Any] = {"type": "ok", "unchanged": True, "credits": credits, "lock_timeout_secs": lock_seconds}
    if warn_seconds is not None:
        response["deadline_soon_secs"] = warn_seconds
    if batch is not None:
        response["batch"] = batch
    if req_id is not None:
        response["req_id"] = req_id
    return _encode(response)


def ok_counts(counts: dict[str, int], req_id: str | None) -> bytes:
    """The response to a batch: how many ids were settled, by outcome."""
    response: dict[str, Any] = {"type": "ok", **counts}
    if req_id is not None:
        response["req_id"] = req_id
    return _encode(response)


def ok_batch(outcome: dict[str, object], req_id: str | None) -> bytes:
    """The response to a batch of publishes: the ids of those accepted, and what was rejected."""
    response: dict[str, Any] = {"type": "ok", **outcome}
    if req_id is not None:
        response["req_id"] = req_id
    return _encode(response)


def error(code: str, message: str, req_id: str | None) -> bytes:
    response = {"type": "error", "code": code, "message": message[:MAX_ERROR_CHARACTERS]}
    if req_id is not None:
        response["req_id"] = req_id
    return _encode(response)


def deliver_prefix(queue: str) -> bytes:
    """The start of a delivery frame, which all deliveries of a subscription share.

    Requirements: WS-0002
    """
    return b'{"type":"deliver","queue":%b,"id":"' % _encode(queue)


def deliver(prefix: bytes, delivery: Delivery) -> bytes:
    return b'%b%b","payload":%b,"priority":%b,"created_at":"%b%03dZ"}' % (
        prefix,
        delivery.id.encode(),
        _encode(delivery.payload),
        _priority(delivery.priority),
        _second(delivery.created_ms // 1000),
        delivery.created_ms % 1000,
    )


def deliver_batch_prefix(queue: str) -> bytes:
    """The start of a frame with several deliveries. The messages, separated by commas, and END_OF_BATCH follow."""
    return b'{"type":"deliver-batch","queue":%b,"messages":[' % _encode(queue)


END_OF_BATCH = b"]}"
IN_BATCH = b'{"id":"'
"""The start of a message of such a frame, for `deliver`."""


def deadline_soon(queue: str, id: str, lock_until_ms: int) -> bytes:
    """The warning that a lock is about to end."""
    return b'{"type":"deadline-soon","queue":%b,"id":"%b","lock_until":%d}' % (
        _encode(queue),
        id.encode(),
        lock_until_ms,
    )


def log(timestamp: str, level: str, message: str) -> bytes:
    return _encode({"type": "log", "timestamp": timestamp, "level": level, "message": message})


def _priority(priority: Priority) -> bytes:
    return b"%d" % priority if isinstance(priority, int) else _encode(priority)


@lru_cache(maxsize=1024)
def _second(seconds: int) -> bytes:
    """RFC 3339 up to the decimal point. Messages of the same second share it, so it is cached."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode()
