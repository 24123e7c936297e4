"""Traces of a running server: over both paths, from our own client, and over OTLP/HTTP to a collector on a socket."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from qrusty_trio.client import HttpClient
from qrusty_trio.client.trace_context import traceparent
from qrusty_trio.config import Fsync
from qrusty_trio.errors import StartupRefused
from qrusty_trio.telemetry import tracing
from qrusty_trio.telemetry.served import Served
from qrusty_trio.telemetry.tracing import Tracing
from tests.server.running import child_server, client_of, running, settings_for, until_ready, url, websocket_of
from tests.telemetry.exported import by_name, collector

TRACE, PARENT = f"{0x4BF9:032x}", f"{0x00F0:016x}"
TRACEPARENT = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
PUBLISH = json.dumps({"queue": "q", "priority": 1, "payload": "p"}).encode()
CONSUMER = b'{"consumer_id":"c"}'


# Verifies: API-0095
@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("fsync", [Fsync.ALWAYS, Fsync.NEVER])
async def test_a_message_is_followed_through_the_server(
    exporter: InMemorySpanExporter, tmp_path: Path, fast_path: bool, fsync: Fsync
) -> None:
    settings = settings_for(tmp_path, fast_path=fast_path, fsync=fsync, tracing=True)
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        answer = await client.request("POST", "/publish", PUBLISH, headers=TRACEPARENT)
        id = answer.json()["id"]
        assert (await client.request("POST", "/consume/q", CONSUMER)).json()["id"] == id
        assert (await client.request("POST", f"/ack/q/{id}", CONSUMER)).status == 200
        assert (await client.request("POST", "/consume/q", CONSUMER)).json() is None
        assert (await client.request("GET", "/stats")).status == 200
        waiting = json.dumps({"consumer_id": "c", "wait_seconds": 60}).encode()
        async with client_of(server) as other, trio.open_nursery() as nursery:
            nursery.start_soon(other.request, "POST", "/consume/late", waiting)
            await trio.testing.wait_all_tasks_blocked()
            await client.request("POST", "/publish", PUBLISH.replace(b'"q"', b'"late"'))
    spans = by_name(exporter)
    assert set(spans) == {"publish q", "consume q", "ack q", "publish late", "consume late"}
    published = spans["publish q"]
    assert published.parent is not None
    assert (f"{published.parent.trace_id:032x}", f"{published.parent.span_id:016x}") == (TRACE, PARENT)
    origin = published.get_span_context()
    assert origin is not None
    for name in ("consume q", "ack q"):
        (link,) = spans[name].links
        assert (link.context.trace_id, link.context.span_id) == (origin.trace_id, origin.span_id)
        assert (spans[name].attributes or {})["messaging.message.id"] == id
    assert len(spans["consume late"].links) == 1
    assert all((span.end_time or 0) >= (span.start_time or 0) > 0 for span in spans.values())


# Verifies: API-0096
async def test_our_client_hands_on_the_trace_it_is_in(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("a program")
    assert traceparent() is None
    async with running(settings_for(tmp_path, tracing=True)) as server:
        await until_ready(server)
        async with HttpClient(url(server.port)) as client:
            with tracer.start_as_current_span("order") as order:
                await client.publish("traced", "p", priority=1)
            await client.publish("untraced", "p", priority=1)
    spans = by_name(exporter)
    parent = spans["publish traced"].parent
    assert parent is not None
    context = order.get_span_context()
    assert (parent.trace_id, parent.span_id) == (context.trace_id, context.span_id)
    assert spans["publish untraced"].parent is None


# Verifies: API-0095
async def test_spans_reach_a_collector_over_otlp(tmp_path: Path) -> None:
    async with collector() as found:
        variables = {
            "QRUSTY_TRACING": "enabled",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{found.port}",
            "OTEL_SERVICE_NAME": "queue of the shop",
        }
        async with child_server(tmp_path, **variables) as child, client_of(child) as client:
            answer = await client.request("POST", "/publish", PUBLISH, headers=TRACEPARENT)
            id = answer.json()["id"]
            await client.request("POST", "/consume/q", CONSUMER)
            await client.request("POST", f"/ack/q/{id}", CONSUMER)
            async with websocket_of(child) as websocket:
                publish = {"type": "publish", "queue": "q", "payload": "p", "traceparent": f"00-{TRACE}-{PARENT}-01"}
                await websocket.send_message(json.dumps(publish))
                await websocket.get_message()
                await websocket.send_message('{"type":"subscribe","queue":"q"}')
                await websocket.get_message()
                assert json.loads(await websocket.get_message())["type"] == "deliver"
                # When this is answered, the delivery was noted.
                await websocket.send_message('{"type":"unsubscribe","queue":"q"}')
                await websocket.get_message()
            # The last spans are exported before the process ends.
            assert await child.stop() == 0
    spans = [span for each in found.received for scope in each.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["publish q", "consume q", "ack q", "publish q", "deliver q"]
    over_http, over_websocket = spans[:3], spans[3:]
    for published, *others in (over_http, over_websocket):
        assert (published.trace_id.hex(), published.parent_span_id.hex()) == (TRACE, PARENT)
        for span in others:
            assert span.trace_id == published.trace_id
            assert [link.span_id for link in span.links] == [published.span_id]
    resource = {pair.key: pair.value.string_value for pair in found.received[0].resource.attributes}
    assert resource["service.name"] == "queue of the shop"


# Verifies: API-0095
async def test_a_collector_that_is_not_there_holds_nothing_up(tmp_path: Path) -> None:
    variables = {"QRUSTY_TRACING": "enabled", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    async with child_server(tmp_path, **variables) as child, client_of(child) as client:
        assert (await client.request("POST", "/publish", PUBLISH)).status == 200
        assert await child.stop() == 0
    assert child.log.count("opentelemetry") == 1


# Verifies: API-0095
def test_what_the_exporter_repeats_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told = tracing.OncePerMinute()
    record = logging.LogRecord("opentelemetry", logging.WARNING, "", 0, "gone", (), None)
    assert [told.filter(record) for _ in range(3)] == [True, False, False]
    now += tracing.TELL_SECONDS
    assert [told.filter(record) for _ in range(2)] == [True, False]


# Verifies: API-0095
def test_spans_that_can_not_be_made_are_logged_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter([1000.0, 1001.0, 1002.0, 1000.0 + tracing.TELL_SECONDS])
    monkeypatch.setattr(tracing, "time", SimpleNamespace(monotonic=lambda: next(times)))
    made = Tracing(TracerProvider(shutdown_on_exit=False), "1")
    for _ in range(4):
        made.inbox.put(Served("no such operation", (), None, b"", 200, b"", [], 0, 0))
    made.close()
    assert [each.getMessage() for each in caplog.records] == [
        "a span of no such operation could not be made",
        "a span of no such operation could not be made; 2 others were not logged",
    ]


# Verifies: API-0095
async def test_without_the_extra_the_server_refuses_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(StartupRefused, match=r"pip install 'qrusty-trio\[otel\]'"):
        tracing.check_installed()
    with pytest.RaisesGroup(StartupRefused, flatten_subgroups=True):
        async with running(settings_for(tmp_path / "store", tracing=True)):
            raise AssertionError("it started")
    assert not (tmp_path / "store").exists()
