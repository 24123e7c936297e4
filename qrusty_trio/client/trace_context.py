"""The trace that a request belongs to, if the program uses OpenTelemetry.

Rule: nothing is imported for it. A program that uses OpenTelemetry has loaded it.

Source: https://www.w3.org/TR/trace-context/

Requirements: API-0096
"""

from __future__ import annotations

import sys


def trace_headers() -> list[tuple[str, str]]:
    """The header `traceparent` of the current span; none without OpenTelemetry or outside of a span."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return []
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return []
    return [("traceparent", f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}")]
