"""The trace that a request belongs to, if the program uses OpenTelemetry.

Rule: nothing is imported for it. A program that uses OpenTelemetry has loaded it.

Source: https://www.w3.org/TR/trace-context/

Requirements: API-0096, API-0196
"""

from __future__ import annotations

import sys


def traceparent() -> str | None:
    """The `traceparent` of the current span; None without OpenTelemetry or outside of a span."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
