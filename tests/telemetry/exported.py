"""Spans that were exported: from memory, or over OTLP/HTTP to a collector on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    spans = exporter.get_finished_spans()
    found = {span.name: span for span in spans}
    assert len(found) == len(spans), [span.name for span in spans]
    return found


class Collector:
    """A collector for OTLP/HTTP that takes what comes, on a socket of its own."""

    def __init__(self) -> None:
        self.received: list[ResourceSpans] = []
        self.port = 0
        self._arrived = trio.Event()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, self._talk, 0, host="127.0.0.1"))
            self.port = listener.socket.getsockname()[1]
            task_status.started()

    async def _talk(self, stream: trio.SocketStream) -> None:
        data = b""
        async for piece in stream:
            data += piece
            head, end, rest = data.partition(b"\r\n\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            length = int(headers.get(b"content-length", b"0"))
            if not end or len(rest) < length:
                continue
            assert head.startswith(b"POST /v1/traces HTTP/1.1")
            assert headers[b"content-type"] == b"application/x-protobuf"
            self.received += ExportTraceServiceRequest.FromString(rest[:length]).resource_spans
            reply = ExportTraceServiceResponse().SerializeToString()
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n%b"
                % (len(reply), reply)
            )
            data = rest[length:]


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    async with trio.open_nursery() as nursery:
        await nursery.start(found.serve)
        yield found
        nursery.cancel_scope.cancel()
