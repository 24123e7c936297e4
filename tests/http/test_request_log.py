"""The ids of requests in responses and in the log, on both paths, and which requests the log tells of."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest

from qrusty_trio.api.call import Reply
from qrusty_trio.api.identity import Identity
from qrusty_trio.http import batching, connection, request_log
from qrusty_trio.http.request_log import MAX_WARNINGS, RequestLog
from tests.http.web import PATHS, request, running
from tests.server.running import client_of, settings_for, until_ready
from tests.server.running import running as server_running

PUBLISH = {"queue": "q", "priority": 1, "payload": "p"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n".encode()
pytestmark = pytest.mark.parametrize("fast_path", PATHS)


def with_id(id: str) -> bytes:
    return f"X-Request-ID: {id}\r\n".encode()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "qrusty_trio.http.request_log")
    return caplog


def told(lines: pytest.LogCaptureFixture) -> list[tuple[str, str, Any]]:
    """Level, sentence and request id of what was logged of requests."""
    return [
        (record.levelname, record.getMessage(), getattr(record, "request_id", None))
        for record in lines.records
        if record.name == request_log.__name__
    ]


# Verifies: API-0078
async def test_a_response_has_the_id_of_its_request(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for id in ("a", "b", "b"):
            for method, path, body in [
                ("POST", "/publish", PUBLISH),
                ("POST", "/consume/q", {"consumer_id": "c"}),
                ("GET", "/stats", None),
                ("POST", "/ack/q/none", {"consumer_id": "c"}),
                ("GET", "/nothing", None),
            ]:
                response = await client.ask(method, path, body, with_id(id))
                assert response.headers["x-request-id"] == id, path
        response = await client.ask("GET", "/health", None, b"Connection: close\r\n" + with_id("c"))
        assert (response.headers["x-request-id"], response.headers["connection"]) == ("c", "close")
    async with running(fast_path) as web, web.client() as client:
        for path in ("/ui/", "/metrics", "/"):
            assert (await client.ask("GET", path, None, with_id("d"))).headers["x-request-id"] == "d"


# Verifies: API-0078
async def test_requests_that_came_together_keep_their_ids(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        ids = ["a", "", "c", "d"]
        await client.send(
            b"".join(
                request("POST", path, PUBLISH, with_id(id) if id else b"")
                for id, path in zip(ids, ("/publish", "/publish", "/nothing", "/publish"), strict=True)
            )
        )
        responses = [await client.response() for _ in ids]
    assert [response.headers.get("x-request-id", "") for response in responses] == ids


# Verifies: API-0078
async def test_who_sends_no_id_gets_none(fast_path: bool, lines: pytest.LogCaptureFixture) -> None:
    async with running(fast_path) as web, web.client() as client:
        bad = [b"", TRACEPARENT, with_id("x" * 129), with_id("a") + with_id("b")]
        for headers in bad:
            for path in ("/publish", "/nothing"):
                assert "x-request-id" not in (await client.ask("POST", path, PUBLISH, headers)).headers
    refusals = told(lines)
    assert [record[2] for record in refusals] == [None, TRACE, None, None]


# Verifies: API-0079
async def test_a_refusal_is_told_at_level_debug(fast_path: bool, lines: pytest.LogCaptureFixture) -> None:
    async with running(fast_path) as web, web.client() as client:
        await client.ask("POST", "/publish", PUBLISH, with_id("fine"))
        await client.ask("POST", "/ack/q/none", {"consumer_id": "c"}, with_id("late"))
        await client.ask("GET", "/nothing", None, with_id("lost"))
    (ack, lost) = told(lines)
    assert ack[0] == lost[0] == "DEBUG"
    assert ack[1].startswith('ack was refused: 404 {"error":"Message \'none\' is not locked')
    assert ack[1].endswith('"code":"message_not_locked"} (request late)')
    assert lost[1].startswith("a request was refused: 404 ")
    assert (ack[2], lost[2]) == ("late", "lost")


# Verifies: API-0079
async def test_a_failure_is_a_warning(fast_path: bool, lines: pytest.LogCaptureFixture) -> None:
    async with running(fast_path) as web, web.client() as client:
        web.engine.services.gate.memory_critical = True
        assert (await client.ask("POST", "/publish", PUBLISH, TRACEPARENT)).status == 503
        response = await client.ask("POST", "/publish", PUBLISH)
        assert (response.status, "x-request-id" in response.headers) == (503, False)
    traced, nameless = told(lines)
    assert traced[0] == nameless[0] == "WARNING"
    assert traced[1].startswith("publish failed: 503 ")
    assert traced[1].endswith(f" (request {TRACE})")
    assert nameless[1].endswith("}")


# Verifies: API-0078
@pytest.mark.parametrize(("headers", "id"), [(with_id("mine"), "mine"), (TRACEPARENT, TRACE), (b"", None)])
async def test_an_error_of_the_server_has_an_id_that_leads_to_its_traceback(
    fast_path: bool, lines: pytest.LogCaptureFixture, headers: bytes, id: str | None
) -> None:
    async with running(fast_path) as web, web.client() as client:
        web.engine.services.memory = None  # type: ignore[assignment]  # so that an operation fails
        response = await client.ask("GET", "/health", None, headers)
    assert response.status == 500
    given = response.headers["x-request-id"]
    assert given == id or (id is None and len(given) == 16)
    (traceback,) = [record for record in lines.records if record.exc_info]
    assert traceback.getMessage() == f"health failed in a way that should not be possible (request {given})"
    assert [(level, name) for level, _, name in told(lines)] == [("WARNING", given)]


# Verifies: API-0079
async def test_a_slow_request_is_logged(
    fast_path: bool, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (batching, connection, request_log):
        monkeypatch.setattr(module, "SLOW_SECONDS", 0.0)
    async with server_running(settings_for(tmp_path, fast_path=fast_path)) as server, client_of(server) as client:
        await until_ready(server)
        for method, path, body, id in (
            ("POST", "/publish", PUBLISH, "slow"),
            ("GET", "/queues", None, "list"),
            # What a consume waits for its message is not the server's time.
            ("POST", "/consume/empty", {"consumer_id": "c", "wait_seconds": 0.01}, "wait"),
        ):
            data = json.dumps(body).encode() if body is not None else None
            response = await client.request(method, path, data, headers=[("X-Request-Id", id)])
            assert response.status == 200
    publish, queues = told(lines)
    assert (publish[0], publish[2], queues[0], queues[2]) == ("WARNING", "slow", "WARNING", "list")
    assert re.fullmatch(r"publish took \d+\.\d s \(request slow\)", publish[1])
    assert re.fullmatch(r"queues took \d+\.\d s \(request list\)", queues[1])


# Verifies: API-0079
def test_many_failures_are_counted(
    fast_path: bool, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    requests = RequestLog()
    for number in range(MAX_WARNINGS + 7):
        requests.note("publish", Identity(b"%d" % number), Reply(503, b"no"))
    assert len(told(lines)) == MAX_WARNINGS
    lines.clear()
    now += request_log.PERIOD_SECONDS
    for _ in range(2):
        requests.note("publish", None, Reply(503, b"no"))
    assert [sentence for _, sentence, _ in told(lines)] == [
        "publish failed: 503 no; 7 failed or slow requests were not logged",
        "publish failed: 503 no",
    ]
