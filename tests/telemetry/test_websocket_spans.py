"""Traces of what is done over a WebSocket: by the real server on both paths, and by our own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from trio_websocket import WebSocketConnection

from qrusty_trio.client import connect
from qrusty_trio.config import Fsync
from qrusty_trio.server.supervisor import Server
from tests.server.running import client_of, running, settings_for, until_ready, websocket_of

CLIENT, OTHER = (7, 8), (9, 10)
NOTHING = {"type": "unsubscribe", "queue": "none"}
"""When this is answered, whatever came before it was noted."""
both_paths = pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "hypercorn"])


def traceparent(place: tuple[int, int]) -> str:
    return f"00-{place[0]:032x}-{place[1]:016x}-01"


HANDSHAKE = [(b"traceparent", traceparent(OTHER).encode())]


def place(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return (span.parent.trace_id, span.parent.span_id) if span.parent is not None else None


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@asynccontextmanager
async def server_with(tmp_path: Path, **changes: Any) -> AsyncIterator[Server]:
    """A server with the queue `q`."""
    async with running(settings_for(tmp_path, tracing=True, **changes)) as server, client_of(server) as client:
        await until_ready(server)
        body = json.dumps({"name": "q", "config": {"ordering": "Fifo"}}).encode()
        assert (await client.request("POST", "/create-queue", body)).status == 200
        yield server


async def ask(websocket: WebSocketConnection, *frames: dict[str, Any], answers: int = 1) -> list[dict[str, Any]]:
    """Send frames; the next ones that come, in pushes and responses."""
    for frame in frames:
        await websocket.send_message(json.dumps(frame))
    return [json.loads(await websocket.get_message()) for _ in range(answers)]


def publish(**fields: Any) -> dict[str, Any]:
    return {"type": "publish", "queue": "q", "payload": "p", **fields}


# Verifies: API-0195
@both_paths
@pytest.mark.parametrize("fsync", [Fsync.ALWAYS, Fsync.NEVER])
async def test_a_message_is_followed_over_a_websocket(
    exporter: InMemorySpanExporter, tmp_path: Path, fast_path: bool, fsync: Fsync
) -> None:
    async with server_with(tmp_path, fast_path=fast_path, fsync=fsync) as server, websocket_of(server) as websocket:
        (response,) = await ask(websocket, publish(traceparent=traceparent(CLIENT)))
        id = response["id"]
        await ask(websocket, {"type": "subscribe", "queue": "q"}, answers=2)
        await ask(websocket, {"type": "nack", "queue": "q", "id": id}, answers=2)
        # Its publish is linked although the client was not told the id.
        (delivery,) = await ask(websocket, publish(queue="none", no_reply=True), publish(no_reply=True))
        assert delivery["type"] == "deliver"
        await ask(websocket, {"type": "ack", "queue": "q", "id": id, "traceparent": traceparent(OTHER)})
    spans = exporter.get_finished_spans()
    names = ["publish q", "deliver q", "nack q", "deliver q", "publish none", "publish q", "deliver q", "ack q"]
    assert sorted(span.name for span in spans) == sorted(names)
    of_message = [span for span in spans if told(span).get("messaging.message.id") == id]
    of_message.sort(key=lambda span: span.start_time or 0)
    published, *others = of_message
    assert [span.name for span in of_message] == ["publish q", "deliver q", "nack q", "deliver q", "ack q"]
    assert parent(published) == CLIENT
    assert told(published) == {
        "messaging.system": "qrusty",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "q",
        "messaging.message.id": id,
        "network.protocol.name": "websocket",
    }
    assert [linked(span) for span in others] == [[place(published)]] * 4
    assert [parent(span) for span in others] == [place(published)] * 3 + [OTHER]
    (second, delivered) = (span for span in spans if told(span).get("messaging.message.id") not in (id, None))
    assert (parent(second), linked(delivered)) == (None, [place(second)])
    assert all((span.end_time or 0) >= (span.start_time or 0) > 0 for span in spans)


# Verifies: API-0195
@both_paths
async def test_batches_over_a_websocket_have_a_link_to_each_publish(
    exporter: InMemorySpanExporter, tmp_path: Path, fast_path: bool
) -> None:
    messages = [{"payload": f"{number}", "priority": 0} for number in range(150)]
    async with server_with(tmp_path, fast_path=fast_path) as server, websocket_of(server) as websocket:
        (response,) = await ask(websocket, {"type": "batch-publish", "queue": "q", "messages": messages})
        ids = response["ids"]
        await ask(websocket, {"type": "subscribe", "queue": "q", "batch": 1000, "credits": 150})
        frames: list[int] = []
        while sum(frames) < len(ids):
            frames.append(len((await ask(websocket))[0]["messages"]))
        await ask(websocket, {"type": "batch-nack", "queue": "q", "ids": ids[:2]})
        await ask(websocket, {"type": "batch-ack", "queue": "q", "ids": ids[2:]})
    published, *delivered, nacked, acked = exporter.get_finished_spans()
    origin = place(published)
    assert (published.name, told(published)["messaging.batch.message_count"]) == ("publish q", 150)
    assert [span.name for span in delivered] == ["deliver q"] * len(frames)
    assert sum(told(span)["messaging.batch.message_count"] for span in delivered) == 150
    assert {link for span in delivered for link in linked(span)} == {origin}
    assert (nacked.name, linked(nacked), parent(nacked)) == ("nack q", [origin] * 2, None)
    assert (acked.name, len(linked(acked)), told(acked)["messaging.batch.message_count"]) == ("ack q", 128, 148)


# Verifies: API-0195
@both_paths
async def test_what_names_no_trace_belongs_to_that_of_the_handshake(
    exporter: InMemorySpanExporter, tmp_path: Path, fast_path: bool
) -> None:
    async with server_with(tmp_path, fast_path=fast_path) as server:
        async with websocket_of(server, HANDSHAKE) as websocket:
            await ask(websocket, publish(), publish(traceparent="nonsense"), answers=2)
            await ask(websocket, {"type": "subscribe", "queue": "q"}, answers=3)
            await ask(websocket, NOTHING)
        async with websocket_of(server, HANDSHAKE * 2) as websocket:
            await ask(websocket, publish())
    first, second, *delivered, last = exporter.get_finished_spans()
    assert [parent(span) for span in (first, second, *delivered)] == [OTHER] * 4
    assert [linked(span) for span in delivered] == [[place(first)], [place(second)]]
    assert parent(last) is None


# Verifies: API-0195
async def test_refused_frames_say_why_and_others_have_no_span(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    async with server_with(tmp_path) as server, websocket_of(server) as websocket:
        frames: list[dict[str, Any]] = [
            publish(queue="none"),
            publish(payload=5),
            {"type": "ack", "id": "a message of no queue"},
            {"type": "subscribe", "queue": "q"},
            {"type": "unknown"},
            {},
        ]
        await ask(websocket, *frames, answers=len(frames))
    spans = exporter.get_finished_spans()
    assert [(span.name, told(span)["error.type"]) for span in spans] == [
        ("publish none", "queue_not_found"),
        ("ack", "invalid_request"),
    ]
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}


# Verifies: API-0195
async def test_a_message_goes_from_http_to_a_websocket(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    async with server_with(tmp_path) as server, client_of(server) as client, websocket_of(server) as websocket:
        await ask(websocket, {"type": "subscribe", "queue": "q"})
        body = json.dumps(publish(priority=0)).encode()
        await client.request("POST", "/publish", body, headers=[("traceparent", traceparent(CLIENT))])
        await ask(websocket)
        await ask(websocket, NOTHING)
    # It may be delivered before the response to its publish has been sent.
    delivered, published = sorted(exporter.get_finished_spans(), key=lambda span: span.name)
    assert (published.name, parent(published)) == ("publish q", CLIENT)
    assert (delivered.name, linked(delivered), parent(delivered)) == (
        "deliver q",
        [place(published)],
        place(published),
    )


# Verifies: API-0196
async def test_our_client_hands_on_the_trace_it_is_in_over_a_websocket(
    exporter: InMemorySpanExporter, tmp_path: Path
) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("a program")
    async with server_with(tmp_path) as server, connect(f"ws://127.0.0.1:{server.port}/ws") as client:
        with tracer.start_as_current_span("order") as order:
            await client.publish("q", "traced")
        await client.publish("q", "untraced")
        async with client.subscribe("q") as deliveries:
            with tracer.start_as_current_span("work") as work:
                await (await anext(deliveries)).ack()
    spans = exporter.get_finished_spans()
    assert [parent(span) for span in spans if span.name == "publish q"] == [
        (order.get_span_context().trace_id, order.get_span_context().span_id),
        None,
    ]
    (acked,) = (span for span in spans if span.name == "ack q")
    assert parent(acked) == (work.get_span_context().trace_id, work.get_span_context().span_id)
