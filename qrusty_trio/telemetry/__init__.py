"""Traces of what clients do with messages, for OpenTelemetry: the extra `otel` and `QRUSTY_TRACING`.

Rule: without them nothing of this runs, and nothing is imported. With them the event loop only notes what was served
(`engine.py`, `frames.py`, `served.py`). A thread of its own makes spans of that (`spans.py`), and the SDK exports them
(`tracing.py`). The event loop waits for no collector: what one that is slow or gone does not take is dropped
and counted. But the threads hold the interpreter's lock while they work, and so delay the loop by milliseconds.
"""
