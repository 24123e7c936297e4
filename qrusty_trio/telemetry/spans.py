"""Makes spans of what was served, and ties those of one message together.

Rule: the publish of a message is a span in the trace that its client was in, or in a new one. What happens to the
message later, its delivery, ack or nack, is a span with a link to that publish. It is part of the trace of the request
that asked for it; if that is in none and is about one message, it is part of the message's own trace. What a frame does
is part of the trace that it names, or else of that of its handshake.

Which publish a message came from is kept in memory, for the last MAX_MESSAGES messages, until it is acked. The store
has nothing of it: after a restart, spans of older messages have no links. A consume that found nothing has no span.

Source of the names: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/

Requirements: API-0095
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from qrusty_trio.api.identity import Identity, read_traceparent
from qrusty_trio.telemetry.served import WEBSOCKET, Served

MAX_MESSAGES = 100_000
"""Messages whose publish is remembered, in about 250 bytes each. The oldest are forgotten first."""
MAX_LINKS = 128
"""Links of a span: what the SDK keeps by default."""

PUBLISH, CONSUME, SETTLE = "send", "receive", "settle"
KINDS: Final = {
    "publish": ("publish", PUBLISH),
    "publish_batch": ("publish", PUBLISH),
    "consume": ("consume", CONSUME),
    "consume_from": ("consume", CONSUME),
    "consume_batch": ("consume", CONSUME),
    "deliver": ("deliver", CONSUME),
    "ack": ("ack", SETTLE),
    "ack_batch": ("ack", SETTLE),
    "nack": ("nack", SETTLE),
    "nack_batch": ("nack", SETTLE),
}
"""Operation -> what its span is called, and the type of operation in the conventions."""

FAULTS = frozenset({"memory_pressure", "starting", "storage_error"})
"""Codes that are a failure of the server, not of its client. Over HTTP the status says so, too."""

_Origin = bytes
"""A span context in 25 bytes: trace id, span id, flags. It takes a quarter of the memory of the object."""


class _Names(msgspec.Struct):
    """What a request or a reply says of queues and messages. Everything else in it is skipped."""

    queue: str = ""
    id: str = ""
    ids: list[str] = []
    message_ids: list[str] = []
    code: str = ""


_read_names = msgspec.json.Decoder(_Names).decode


class Spans:
    """Makes spans with a tracer. For one thread."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._origins: dict[str, _Origin] = {}
        """Message id -> the span of its publish."""

    def make(self, served: Served) -> None:
        """Make the span of a call, if it has one."""
        verb, kind = KINDS[served.operation]
        request, reply = _names(served.request), _names(served.reply)
        failed = bool(reply.code) if served.status == WEBSOCKET else served.status >= 400
        queue = served.params[0] if served.params else request.queue or reply.queue
        ids: Sequence[str]
        if kind == PUBLISH:
            ids = reply.ids or ([reply.id] if reply.id else [])
        elif kind == CONSUME:
            ids = served.messages
            if not ids and not failed:
                return
        else:
            ids = request.message_ids or served.messages or list(served.params[1:])
        origins = [] if kind == PUBLISH else [origin for id in ids if (origin := self._origins.get(id)) is not None]
        span = self._tracer.start_span(
            f"{verb} {queue}" if queue else verb,
            self._parent(served.identity, origins[0] if len(ids) == 1 and origins else None),
            SpanKind.SERVER,
            _attributes(verb, kind, queue, ids, served.status),
            [Link(_unpacked(origin)) for origin in origins[:MAX_LINKS]],
            served.begun_ns,
            record_exception=False,
        )
        if failed:
            span.set_attribute("error.type", reply.code or str(served.status))
            if served.status >= 500 or reply.code in FAULTS:
                span.set_status(Status(StatusCode.ERROR))
        span.end(served.ended_ns)
        if failed:
            return
        if kind == PUBLISH:
            self._remember(ids, _packed(span.get_span_context()))
        elif verb == "ack":
            for id in ids:
                self._origins.pop(id, None)

    def _parent(self, identity: Identity | None, origin: _Origin | None) -> Context:
        """The context of the client; else that of the message; else none, for a trace of its own."""
        found = read_traceparent(identity.traceparent) if identity is not None else None
        if found is not None:
            trace_id, span_id, flags = found
            parent = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(flags))
        elif origin is not None:
            parent = _unpacked(origin)
        else:
            return Context()
        return set_span_in_context(NonRecordingSpan(parent), Context())

    def _remember(self, ids: Sequence[str], origin: _Origin) -> None:
        origins = self._origins
        for id in ids:
            origins[id] = origin
        while len(origins) > MAX_MESSAGES:
            del origins[next(iter(origins))]


def _names(body: bytes) -> _Names:
    if not body:
        return _Names()
    try:
        return _read_names(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Names()  # a request that was refused: no JSON, no UTF-8, or nested too deep


def _attributes(verb: str, kind: str, queue: str, ids: Sequence[str], status: int) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "messaging.system": "qrusty",
        "messaging.operation.name": verb,
        "messaging.operation.type": kind,
    }
    if status == WEBSOCKET:
        attributes["network.protocol.name"] = "websocket"
    else:
        attributes["http.response.status_code"] = status
    if queue:
        attributes["messaging.destination.name"] = queue
    if len(ids) == 1:
        attributes["messaging.message.id"] = ids[0]
    elif ids:
        attributes["messaging.batch.message_count"] = len(ids)
    return attributes


def _packed(context: SpanContext) -> _Origin:
    return context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big") + bytes([context.trace_flags])


def _unpacked(origin: _Origin) -> SpanContext:
    trace_id, span_id = int.from_bytes(origin[:16], "big"), int.from_bytes(origin[16:24], "big")
    return SpanContext(trace_id, span_id, False, TraceFlags(origin[24]))
