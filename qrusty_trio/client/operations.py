"""The operations of the HTTP API as a client sees them: how each is asked for, and what its response means.

Rule: no I/O, and no knowledge of the event loop. Whoever carries requests gets bytes from here, and brings
status and body back. A test compares the table with the server's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from qrusty_trio.client.encoding import decoded, json_of, refuse_bytes
from qrusty_trio.client.errors import (
    ClientError,
    InvalidRequest,
    ProtocolError,
    Starting,
    Unavailable,
    request_error,
)

MAX_QUOTED = 200
"""Most characters of a response that was not understood that are shown."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of the table."""

    name: str
    method: str
    path: str
    """A template such as `/ack/{queue}/{id}`."""
    fields: tuple[str, ...] = ()
    """The fields of the JSON body, if it takes one."""
    query: tuple[str, ...] = ()
    """The parameters of the query, besides those of the path."""
    repeatable: bool = False
    """Whether it may be sent again when nobody knows whether it was carried out: once or twice makes no difference."""


_DEAD = "/queues/{queue}/dead-letters"
_CONSUME = ("consumer_id", "timeout_seconds", "wait_seconds", "details")
_PAGE = ("limit", "cursor")
_CHOICE = ("ids", "filter", "all", "up_to", "dry_run")

TABLE = {
    each.name: each
    for each in (
        Operation("publish", "POST", "/publish", ("queue", "priority", "payload", "max_retries")),
        Operation("publish_batch", "POST", "/publish-batch", ("queue", "messages")),
        Operation("consume", "POST", "/consume/{queue}", _CONSUME),
        Operation("consume_from", "POST", "/consume", ("queues", *_CONSUME)),
        Operation("consume_batch", "POST", "/consume-batch/{queue}", (*_CONSUME, "max_messages")),
        Operation("ack", "POST", "/ack/{queue}/{id}", ("consumer_id",)),
        Operation("nack", "POST", "/nack/{queue}/{id}", ("consumer_id", "error")),
        Operation("ack_batch", "POST", "/ack-batch/{queue}", ("consumer_id", "message_ids")),
        Operation("nack_batch", "POST", "/nack-batch/{queue}", ("consumer_id", "message_ids", "error")),
        Operation("renew", "POST", "/renew/{queue}/{id}", ("consumer_id", "timeout_seconds"), repeatable=True),
        Operation(
            "renew_batch",
            "POST",
            "/renew-batch/{queue}",
            ("consumer_id", "message_ids", "timeout_seconds"),
            repeatable=True,
        ),
        Operation("force_unlock", "POST", "/force-unlock/{queue}", ("ids", "consumer_id", "all")),
        Operation("locks", "GET", "/queues/{queue}/locks", query=(*_PAGE, "consumer"), repeatable=True),
        Operation("messages", "GET", "/queues/{queue}/messages", query=(*_PAGE, "state"), repeatable=True),
        Operation("message", "GET", "/queues/{queue}/messages/{id}", query=("cursor",), repeatable=True),
        Operation("find", "GET", "/find", query=("id", "cursor"), repeatable=True),
        Operation("priorities", "GET", "/queues/{queue}/priorities", repeatable=True),
        Operation(
            "dead_letters",
            "GET",
            _DEAD,
            query=(*_PAGE, "reason", "consumer", "older_than_secs", "text"),
            repeatable=True,
        ),
        Operation("dead_letter", "GET", f"{_DEAD}/{{id}}", repeatable=True),
        Operation("requeue_dead_letters", "POST", f"{_DEAD}/requeue", (*_CHOICE, "to", "priority")),
        Operation("purge_dead_letters", "POST", f"{_DEAD}/purge", _CHOICE),
        Operation("create_queue", "POST", "/create-queue", ("name", "config")),
        Operation("update_queue", "POST", "/update-queue", ("name", "config")),
        Operation("purge_queue", "POST", "/purge-queue/{queue}", query=("undo_seconds",)),
        Operation("delete_queue", "DELETE", "/delete-queue/{queue}", query=("undo_seconds",)),
        Operation("trash", "GET", "/trash", repeatable=True),
        Operation("restore", "POST", "/trash/{id}/restore", query=("to",)),
        Operation("erase", "POST", "/trash/{id}/erase"),
        Operation("purge_all", "POST", "/purge-all"),
        Operation("delete_all", "POST", "/delete-all"),
        Operation("queues", "GET", "/queues", repeatable=True),
        Operation(
            "queue_list",
            "GET",
            "/queue-list",
            query=("name", "search", "sort", "order", "limit", "offset"),
            repeatable=True,
        ),
        Operation("queue_stats", "GET", "/queue-stats/{queue}", repeatable=True),
        Operation("stats", "GET", "/stats", repeatable=True),
        Operation("metrics", "GET", "/queues/{queue}/metrics", repeatable=True),
        Operation("operation_timings", "GET", "/operation-timings", query=("seconds",), repeatable=True),
        Operation("operation_histograms", "GET", "/operation-histograms", repeatable=True),
        Operation("health", "GET", "/health", repeatable=True),
        Operation("live", "GET", "/livez", repeatable=True),
        Operation("ready", "GET", "/readyz", repeatable=True),
        Operation("server", "GET", "/server", repeatable=True),
        Operation("audit", "GET", "/audit", query=("limit", "cursor"), repeatable=True),
    )
}


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent."""

    method: str
    target: str
    """Path and query, percent-encoded."""
    body: bytes | None = None


class Watch(Protocol):
    """Sees what an `HttpClient` sends and gets, such as to log it. `operation` is the name of the client's method."""

    def asked(self, operation: str, request: Request) -> None:
        """A request is about to be sent, for the first time."""

    def answered(self, operation: str, content: Any) -> None:
        """The server did it; `content` is the JSON of its response, None if there is none. Raise to refuse it."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back, whole."""

    status: int
    body: bytes


def request_for(
    operation: Operation, params: Mapping[str, str], fields: Mapping[str, object], prefix: str = ""
) -> Request:
    """The request for an operation. `fields` go into the body, or into the query; those that are None are left out.

    `prefix` precedes the path.
    A parameter that a path may not carry intact goes into the query: clients and proxies change `.`, `..` and `%2F`.
    Raises InvalidRequest for bytes, and for what else can't be sent.
    """
    for name, value in params.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"'{name}' must be text, not {type(value).__name__}")
    given = {name: value for name, value in fields.items() if value is not None}
    path, query = operation.path, dict[str, str]()
    if any(value in (".", "..") or "/" in value for value in params.values()):
        path = "/".join(part for part in path.split("/") if not part.startswith("{"))
        query.update(params)
    else:
        for name, value in params.items():
            path = path.replace(f"{{{name}}}", _quoted(name, value))
    body = None
    if operation.fields:
        assert given.keys() <= set(operation.fields), given
        body = json_of(given)
    else:
        assert given.keys() <= set(operation.query), given
        refuse_bytes(given)
        query.update((name, str(value)) for name, value in given.items())
    text = "&".join(f"{name}={_quoted(name, value)}" for name, value in query.items())
    return Request(operation.method, prefix + (f"{path}?{text}" if text else path), body)


def _quoted(name: str, value: str) -> str:
    try:
        return quote(value, safe="")
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"'{name}' can't be sent: {error}") from error


class _Refusal(msgspec.Struct):
    error: str = ""
    code: str = ""
    status: str = ""
    message: str = ""


_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_REFUSALS = msgspec.json.Decoder(_Refusal)


def outcome(response: Response) -> ClientError | None:
    """The exception that a response stands for; None for success."""
    status = response.status
    if 200 <= status < 300:
        return None
    try:
        refusal = decoded(response.body, _REFUSALS)
    except ProtocolError:
        refusal = _Refusal()
    if refusal.code:
        return request_error(refusal.code, refusal.error, status)
    if refusal.status == "starting":
        return Starting(refusal.message, "starting", status)
    # Not the server's own words: something stands in between.
    shown = response.body[:MAX_QUOTED].decode(errors="replace") or "an empty response"
    if status in (502, 503, 504):
        return Unavailable(shown, f"http_{status}", status)
    return request_error(f"http_{status}", shown, status)


def nothing_was_done(error: ClientError) -> bool:
    """Whether a refusal says that the server had no time for the request, so that it can be sent again."""
    return isinstance(error, Unavailable) and error.code in ("starting", "unavailable", "memory_pressure")


def content(response: Response) -> Any:
    """The JSON of a response; None if it is empty. Raises ProtocolError."""
    return decoded(response.body, _ANYTHING) if response.body else None
