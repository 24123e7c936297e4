from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from qrusty_trio.telemetry import tracing
from qrusty_trio.telemetry.tracing import Tracing


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Gets the spans of the servers of the test, in place of a collector."""
    exporter = InMemorySpanExporter()

    def start(version: str) -> Tracing:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return Tracing(provider, version)

    monkeypatch.setattr(tracing, "start_tracing", start)
    return exporter
