"""Traces of what clients do with messages, for OpenTelemetry: the extra `otel` and `QRUSTY_TRACING`.

Rule: without them nothing of this runs, and nothing is imported. With them the event loop only notes what was served
(`engine.py`, `served.py`). A thread of its own makes spans of that (`spans.py`), and the SDK exports them
(`tracing.py`). So a collector that is slow or gone holds nothing up: what it does not take is dropped and counted.
"""
