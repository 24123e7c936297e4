"""The thread that makes spans, and the SDK that exports them over OTLP/HTTP.

Rule: everything about the export (where to, how often, which traces) is decided by the variables of OpenTelemetry
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, ...), which its SDK reads. A collector that does not answer is
reported in the log, and nothing waits for it, but for the end: at most CLOSE_SECONDS.

Requirements: API-0095
"""

from __future__ import annotations

import logging
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from qrusty_trio.errors import StartupRefused
from qrusty_trio.telemetry.served import Inbox
from qrusty_trio.wording import counted

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

CLOSE_SECONDS = 3.0
"""How long spans are exported for when the server stops."""
TELL_SECONDS = 60.0
"""Least time between two log lines about a collector that takes nothing, or about spans that could not be made."""
EXPORTER_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
SERVICE_NAME = "qrusty-trio"
"""The service's name in traces, unless OTEL_SERVICE_NAME gives another."""

log = logging.getLogger(__name__)


class OncePerMinute(logging.Filter):
    """Lets a record pass if none did for TELL_SECONDS: the exporter repeats itself while its collector is gone."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + TELL_SECONDS
        return True


class Tracing:
    """Makes spans of what is put into `inbox`, in a thread, until it is closed."""

    def __init__(self, provider: TracerProvider, version: str) -> None:
        # Not at the top: the extra may be missing.
        from qrusty_trio.telemetry.spans import Spans

        self.inbox = Inbox()
        self._provider = provider
        self._spans = Spans(provider.get_tracer("qrusty_trio", version))
        self._quiet_until = 0.0
        self._untold = 0
        """Spans that could not be made since the last line about one."""
        # A daemon, because a collector that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._make_all, name="tracing", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Export what is left. Blocks for as long as that takes; see CLOSE_SECONDS."""
        self.inbox.close()
        self._thread.join(CLOSE_SECONDS)
        self._provider.shutdown()
        if self.inbox.dropped:
            log.warning(
                "%s without a span, as there were too many at a time",
                counted(self.inbox.dropped, "request was", "requests were"),
            )

    def _make_all(self) -> None:
        while (served := self.inbox.take()) is not None:
            try:
                self._spans.make(served)
            except Exception:  # one span is lost, not all that follow
                if (more := self._more()) is not None:
                    log.exception("a span of %s could not be made%s", served.operation, more)

    def _more(self) -> str | None:
        """What a line about a failure ends with: how many were not told before it. None if it is too soon for one."""
        now = time.monotonic()
        if now < self._quiet_until:
            self._untold += 1
            return None
        self._quiet_until = now + TELL_SECONDS
        untold, self._untold = self._untold, 0
        return f"; {counted(untold, 'other was', 'others were')} not logged" if untold else ""


def check_installed() -> None:
    """Raise StartupRefused unless the extra is installed."""
    try:
        missing = [
            name for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http") if not find_spec(name)
        ]
    except ModuleNotFoundError:
        missing = ["opentelemetry"]
    if missing:
        raise StartupRefused(
            "QRUSTY_TRACING='enabled' is not allowed: it takes the extra otel, pip install 'qrusty-trio[otel]'."
        )


def start_tracing(version: str) -> Tracing:
    """Start to export spans. Raises StartupRefused if the extra is not installed. Blocks for about a second."""
    check_installed()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SERVICE_NAME}))
    provider = TracerProvider(resource=resource.merge(Resource({"service.version": version})), shutdown_on_exit=False)
    logging.getLogger(EXPORTER_LOGGER).addFilter(OncePerMinute())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider, version)
