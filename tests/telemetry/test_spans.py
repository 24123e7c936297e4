"""Which spans a message leaves, and how they hang together, as the SDK's exporter in memory gets them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from qrusty_trio.api.identity import Identity
from qrusty_trio.telemetry import spans as module
from qrusty_trio.telemetry.served import Served
from qrusty_trio.telemetry.spans import Spans

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
CLIENT = Identity(b"", b"00-%032x-%016x-01" % (TRACE, PARENT))
OTHER = Identity(b"", b"00-%032x-%016x-01" % (7, 8))


class Made:
    """Spans made of calls."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._spans = Spans(provider.get_tracer("test"))

    def of(
        self,
        operation: str,
        params: tuple[str, ...] = (),
        *,
        identity: Identity | None = None,
        request: object = b"",
        reply: object = b"",
        status: int = 200,
        messages: Sequence[str] = (),
    ) -> ReadableSpan | None:
        """The span of a call; None if it has none."""
        self._exporter.clear()
        told = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in (request, reply)]
        self._spans.make(Served(operation, params, identity, told[0], status, told[1], messages, 1000, 3000))
        finished = self._exporter.get_finished_spans()
        return finished[0] if finished else None

    def publish(self, id: str, identity: Identity | None = None) -> ReadableSpan:
        span = self.of("publish", identity=identity, request={"queue": "q", "payload": "p"}, reply={"id": id})
        assert span is not None
        return span


def linked(span: ReadableSpan | None) -> list[tuple[int, int]]:
    assert span is not None
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def place(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


# Verifies: API-0095
def test_publish_deliver_and_ack_are_one_trace() -> None:
    made = Made()
    published = made.publish("m", CLIENT)
    assert (published.name, published.kind) == ("publish q", SpanKind.SERVER)
    assert published.parent is not None
    assert (published.parent.trace_id, published.parent.span_id, published.parent.is_remote) == (TRACE, PARENT, True)
    assert (published.start_time, published.end_time) == (1000, 3000)
    assert dict(published.attributes or {}) == {
        "messaging.system": "qrusty",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "q",
        "messaging.message.id": "m",
        "http.response.status_code": 200,
    }
    for span in (made.of("consume", ("q",), messages=["m"]), made.of("nack", ("q", "m")), made.of("ack", ("q", "m"))):
        assert span is not None
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == place(published)
        assert linked(span) == [place(published)]
    # It is settled, so it is forgotten.
    assert linked(made.of("ack", ("q", "m"))) == []


# Verifies: API-0095
def test_a_consumer_with_a_trace_of_its_own_stays_in_it() -> None:
    made = Made()
    published = made.publish("m", CLIENT)
    span = made.of("consume", ("q",), identity=OTHER, messages=["m"])
    assert span is not None
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (7, 8)
    assert linked(span) == [place(published)]


# Verifies: API-0095
def test_a_message_from_nowhere_begins_a_trace() -> None:
    made = Made()
    published = made.publish("m", Identity(b"id", b"nonsense"))
    assert published.parent is None
    assert linked(made.of("consume", ("q",), messages=["m"])) == [place(published)]
    unknown = made.of("consume", ("q",), messages=["of a time before"])
    assert unknown is not None
    assert (unknown.parent, linked(unknown)) == (None, [])


# Verifies: API-0095
def test_batches_have_a_link_to_each_publish() -> None:
    made = Made()
    batch = made.of("publish_batch", request={"queue": "q", "messages": []}, reply={"ids": ["a", "b"], "rejected": []})
    single = made.publish("c", CLIENT)
    assert batch is not None
    assert (batch.name, (batch.attributes or {})["messaging.batch.message_count"]) == ("publish q", 2)
    expected = [place(batch), place(batch), place(single)]
    consumed = made.of("consume_batch", ("q",), messages=["a", "b", "c"])
    assert consumed is not None
    assert consumed.parent is None
    assert linked(consumed) == expected
    assert linked(made.of("nack_batch", ("q",), request={"message_ids": ["c"]})) == [place(single)]
    assert linked(made.of("ack_batch", ("q",), request={"message_ids": ["a", "b", "c", "d"]})) == expected


# Verifies: API-0095
def test_the_queue_of_a_consume_from_several_is_told_by_the_reply() -> None:
    made = Made()
    span = made.of("consume_from", reply={"id": "m", "queue": "second"}, messages=["m"])
    assert span is not None
    assert span.name == "consume second"
    assert made.of("consume_from", reply=None) is None
    assert made.of("consume", ("q",)) is None


# Verifies: API-0095
def test_refusals_and_failures_are_told_apart() -> None:
    made = Made()
    refused = made.of("publish", request=7, status=422, reply={"error": "no", "code": "wrong_shape"})
    failed = made.of("consume", ("q",), status=503, reply={"error": "no", "code": "storage_error"})
    for span, code, status in ((refused, "wrong_shape", StatusCode.UNSET), (failed, "storage_error", StatusCode.ERROR)):
        assert span is not None
        assert (span.attributes or {})["error.type"] == code
        assert span.status.status_code is status


# Verifies: API-0095
@pytest.mark.parametrize("body", [b'{"queue":"\xff"}', b'{"x":' + b"[" * 100_000, b"{"])
def test_a_body_that_can_not_be_read_names_nothing(body: bytes) -> None:
    span = Made().of("publish", request=body, status=400, reply={"error": "no", "code": "bad_request"})
    assert span is not None
    assert (span.name, (span.attributes or {})["error.type"]) == ("publish", "bad_request")


# Verifies: API-0095
def test_what_is_not_sampled_is_not_exported_at_any_later_step() -> None:
    made = Made(ParentBased(TraceIdRatioBased(0.0)))
    assert made.of("publish", request={"queue": "q"}, reply={"id": "m"}) is None
    assert made.of("consume", ("q",), messages=["m"]) is None


# Verifies: API-0095
def test_the_oldest_messages_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES", 2)
    made = Made()
    for id in "abc":
        made.publish(id)
    assert [len(linked(made.of("consume", ("q",), messages=[id]))) for id in "abc"] == [0, 1, 1]
