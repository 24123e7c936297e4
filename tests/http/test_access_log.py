"""The access log: what a line says, on both paths and of WebSockets, and that nobody waits for it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trio

from qrusty_trio.access.grants import Principal
from qrusty_trio.api.call import Call, Reply
from qrusty_trio.api.identity import Identity
from qrusty_trio.api.operations import OPERATIONS
from qrusty_trio.http import access_log
from qrusty_trio.http.access_log import READ_BYTES, Access, AccessLog, console_line, json_line, path_of
from qrusty_trio.http.admission import Admission
from qrusty_trio.http.peers import Peer, peer_at
from qrusty_trio.logs import AccessFormat
from tests.http.web import PATHS, Client, Web, request
from tests.http.web import running as web_running
from tests.http.ws_raw import CONT, frame, raw
from tests.server.running import Child, child_environment, child_process, client_of, websocket_of

both_paths = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])
BY_NAME = {each.name: each for each in OPERATIONS}
ACCESS = Access(0.0, "192.0.2.1:5", "-", "POST", "/publish", "q", 200, 12, 0.00150049, "-")


class Lines:
    """What an access log has written into a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.log: AccessLog

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]


@asynccontextmanager
async def running(fast_path: bool, path: Path, **options: Any) -> AsyncIterator[tuple[Web, Lines]]:
    """A server with an access log, which is complete when the server has ended."""
    lines = Lines(path / "access")
    with (path / "access").open("w", encoding="utf-8") as stream:
        lines.log = AccessLog(AccessFormat.JSON, stream)
        async with web_running(fast_path, access=lines.log, **options) as web:
            yield web, lines
        await trio.to_thread.run_sync(lines.log.close)


# Verifies: API-0164
def test_a_line_for_programs() -> None:
    assert json.loads(json_line(ACCESS)) == {
        "timestamp": "1970-01-01T00:00:00.000Z",
        "peer": "192.0.2.1:5",
        "token": "-",
        "method": "POST",
        "path": "/publish",
        "queue": "q",
        "status": 200,
        "bytes": 12,
        "milliseconds": 1.5,
        "request_id": "-",
    }


# Verifies: API-0164
@pytest.mark.parametrize(
    ("queue", "shown"),
    [("q", "q"), ("a b", '"a b"'), ("a\nb", '"a\\nb"'), ("ü", '"\\u00fc"'), ('"', '"\\""'), ("", '""')],
)
def test_a_line_for_people(queue: str, shown: str) -> None:
    assert console_line(ACCESS._replace(queue=queue, request_id="r")) == (
        f"1970-01-01T00:00:00.000Z 192.0.2.1:5 - POST /publish {shown} 200 12 1.500ms r"
    )


# Verifies: API-0164
@both_paths
@pytest.mark.parametrize(
    "body", [b'{"queue":"\xff"}', b'{"x":' + b"[" * 1000 + b"]" * 1000 + b"}"], ids=["no UTF-8", "deep"]
)
async def test_a_body_that_can_not_be_read_has_a_line(tmp_path: Path, fast_path: bool, body: bytes) -> None:
    head = b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    async with running(fast_path, tmp_path) as (web, lines), web.client() as client:
        await client.stream.send_all(head % len(body) + body)
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 4")
    (line,) = lines.read()
    assert (line["path"], line["queue"]) == ("/publish", "-")


# Verifies: API-0164
@both_paths
async def test_what_is_logged(tmp_path: Path, fast_path: bool) -> None:
    asked: list[tuple[str, str, Any, bytes]] = [
        ("POST", "/publish", {"queue": "a/b", "priority": 1, "payload": "secret"}, b"X-Request-Id: r1\r\n"),
        ("POST", "/consume/a%2Fb", {"consumer_id": "w"}, b""),
        ("POST", "/consume?queue=a%2Fb", {"consumer_id": "w"}, b""),
        ("GET", "/queues/a%2Fb/messages?limit=5", None, b"X-Request-Id: r 2\r\n"),
        ("HEAD", "/health", None, b""),
        ("GET", "/nothing?token=secret", None, b"X-Request-Id: r3\r\n"),
        ("POST", "/health", None, b""),
        ("POST", "/publish", b"{", b""),
        ("GET", "/metrics", None, b""),
    ]
    replies = []
    async with running(fast_path, tmp_path) as (web, lines), web.client() as client:
        for method, path, body, headers in asked:
            replies.append(await client.ask(method, path, body, headers))
        port = client.stream.socket.getsockname()[1]
    found = lines.read()
    assert [(line["method"], line["path"], line["queue"], line["status"], line["request_id"]) for line in found] == [
        ("POST", "/publish", "a/b", 200, "r1"),
        ("POST", "/consume/a%2Fb", "a/b", 200, "-"),
        ("POST", "/consume/a%2Fb", "a/b", 200, "-"),
        ("GET", "/queues/a%2Fb/messages", "a/b", 200, "r 2"),
        ("HEAD", "/health", "-", 200, "-"),
        ("GET", "/nothing", "-", 404, found[5]["request_id"]),
        ("POST", "/health", "-", 405, "-"),
        ("POST", "/publish", "-", 400, "-"),
        ("GET", "/metrics", "-", 200, "-"),
    ]
    assert {line["peer"] for line in found} == {f"127.0.0.1:{port}"}
    assert {line["token"] for line in found} == {"-"}
    assert [line["bytes"] for line in found if line["method"] != "HEAD"] == [
        len(reply.body) for reply, (method, *_) in zip(replies, asked, strict=True) if method != "HEAD"
    ]
    assert all(0 <= line["milliseconds"] < 60_000 for line in found)
    assert "secret" not in json.dumps(found)


# Verifies: API-0164
@both_paths
async def test_the_bytes_of_a_body_are_counted_not_its_letters(tmp_path: Path, fast_path: bool) -> None:
    (tmp_path / "index.html").write_bytes("drei Brücken".encode())
    async with running(fast_path, tmp_path, webui_dir=tmp_path) as (web, lines), web.client() as client:
        assert len((await client.ask("GET", "/ui/")).body) == 13
    assert [line["bytes"] for line in lines.read()] == [13]


# Verifies: API-0164
@both_paths
async def test_requests_that_came_together_have_a_line_each(tmp_path: Path, fast_path: bool) -> None:
    async with running(fast_path, tmp_path) as (web, lines), web.client() as client:
        await client.send(request("GET", "/health") * 3 + request("GET", "/nothing"))
        for _ in range(4):
            await client.response()
    assert [line["status"] for line in lines.read()] == [200, 200, 200, 404]


# Verifies: API-0164
@both_paths
async def test_what_can_not_be_read_has_a_line(tmp_path: Path, fast_path: bool) -> None:
    async with running(fast_path, tmp_path) as (web, lines), web.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        assert (await client.response()).status == 400
    (line,) = lines.read()
    assert (line["method"], line["path"], line["status"]) == ("-", "-", 400)


# Verifies: API-0164
async def test_the_client_of_a_proxy_and_who_is_turned_away(tmp_path: Path) -> None:
    admission = Admission(trusted=(ip_network("127.0.0.1"),))
    async with running(True, tmp_path, admission=admission) as (web, lines):
        async with web.client() as client:
            await client.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 80\r\n")
            assert (await client.ask("GET", "/health")).status == 200
        async with web.client() as client:
            await client.send(request("GET", "/health"))
            assert (await client.response()).status == 400
    first, second = lines.read()
    assert (first["peer"], first["status"]) == ("192.0.2.7:4000", 200)
    assert (second["peer"][:10], second["status"]) == ("127.0.0.1:", 400)


# Verifies: API-0164
@both_paths
async def test_a_websocket_that_is_turned_away_is_no_request_that_is_refused(tmp_path: Path, fast_path: bool) -> None:
    async with running(fast_path, tmp_path, max_connections=0) as (web, lines), raw(web.port) as peer:
        assert (await peer.read()).close_code == 1013
    assert lines.read() == []


@asynccontextmanager
async def a_whole_server(out: Path, **settings: str) -> AsyncIterator[Child]:
    """A server of its own, ready, whose standard output goes to that file."""
    with out.open("wb") as stdout:
        async with child_process(child_environment(out.parent / "data", **settings), stdout=stdout) as server:
            await server.logged("ready after")
            yield server


# Verifies: API-0164
@pytest.mark.parametrize("fast_lane", ["enabled", "disabled"])
async def test_a_whole_server_with_a_websocket(tmp_path: Path, fast_lane: str) -> None:
    out = tmp_path / "out"
    async with a_whole_server(out, QRUSTY_ACCESS_LOG="json", QRUSTY_FAST_LANE=fast_lane) as server:
        async with client_of(server) as client:
            assert (await client.request("GET", "/health")).status == 200
        async with websocket_of(server):
            pass  # It breaks off.
        with trio.fail_after(60):
            while len(out.read_bytes().splitlines()) < 3:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.005)
        async with websocket_of(server):
            assert await server.stop() == 0
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [(line["method"], line["path"], line["status"]) for line in found] == [
        ("GET", "/health", 200),
        ("WEBSOCKET", "/ws", 101),
        ("WEBSOCKET", "/ws", 1006),
        ("WEBSOCKET", "/ws", 101),
        ("WEBSOCKET", "/ws", 1001),
    ]


# Verifies: API-0164
@pytest.mark.parametrize("fast_lane", ["enabled", "disabled"])
async def test_the_code_that_ends_a_websocket_that_broke_the_protocol(tmp_path: Path, fast_lane: str) -> None:
    out = tmp_path / "out"
    async with a_whole_server(out, QRUSTY_ACCESS_LOG="json", QRUSTY_FAST_LANE=fast_lane) as server:
        async with raw(server.port) as peer:
            await peer.send(frame(CONT, b"of nothing"))
            assert (await peer.read()).close_code == 1002
        assert await server.stop() == 0
    assert [json.loads(line)["status"] for line in out.read_text("utf-8").splitlines()] == [101, 1002]


# Verifies: API-0164
async def test_without_the_setting_stdout_stays_empty(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with a_whole_server(out) as server:
        async with client_of(server) as client:
            assert (await client.request("GET", "/health")).status == 200
        assert await server.stop() == 0
    assert out.read_bytes() == b""


# Verifies: API-0164
def test_nobody_waits_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "WAITING_LINES", 3)
    read_end, write_end = os.pipe()
    call = Call(BY_NAME["health"])
    with os.fdopen(read_end, encoding="utf-8") as reader:
        with os.fdopen(write_end, "w", encoding="utf-8") as stream:
            log = AccessLog(AccessFormat.CONSOLE, stream)
            # More than a pipe holds: the writer stands still.
            log.note(Peer(name="x" * 1_000_000), "GET", "/", 200, 0, 0.0)
            while not log._lines.waiting.empty():
                time.sleep(0.001)
            for _ in range(10):
                log.served(peer_at("192.0.2.1", 5), call, Reply(), 0.0)
            assert len(reader.readline()) > 1_000_000
            log.close()
        lines = reader.read().splitlines()
    assert lines[0].endswith(" 7 access records were lost: they were not taken fast enough")
    assert len(lines) == 4


def test_the_token_and_a_large_body(tmp_path: Path) -> None:
    path = tmp_path / "access"
    with path.open("w", encoding="utf-8") as stream:
        log = AccessLog(AccessFormat.JSON, stream)
        body = json.dumps({"queue": "q", "payload": "x" * 70_000}).encode()
        identity = Identity(traceparent=b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01")
        call = Call(BY_NAME["publish"], body=body, identity=identity, principal=Principal("orders", ()))
        log.served(Peer(), call, Reply(), time.perf_counter())
        log.close()
    line = json.loads(path.read_text())
    assert (line["token"], line["queue"], line["peer"], line["request_id"]) == ("orders", "-", "-", "1" * 32)


@pytest.mark.parametrize(("size", "queue"), [(READ_BYTES, "q"), (READ_BYTES + 1, "-")])
def test_how_large_a_body_is_read_for_its_queue(tmp_path: Path, size: int, queue: str) -> None:
    path = tmp_path / "access"
    start, end = b'{"queue":"q","payload":"', b'"}'
    with path.open("w", encoding="utf-8") as stream:
        log = AccessLog(AccessFormat.JSON, stream)
        body = start + b"x" * (size - len(start + end)) + end
        log.served(Peer(), Call(BY_NAME["publish"], body=body), Reply(), time.perf_counter())
        log.close()
    assert json.loads(path.read_text())["queue"] == queue


def test_every_path_of_the_table() -> None:
    for operation in OPERATIONS:
        params = ("a b/ü",) * operation.path.count("{")
        shown = path_of(operation.path, params)
        assert re.fullmatch(r"[!-~]+", shown)
        assert shown.count("/") == operation.path.count("/")


# Verifies: API-0164
@both_paths
async def test_the_token_of_requests_and_websockets(tmp_path: Path, fast_path: bool) -> None:
    tokens, out = tmp_path / "tokens.toml", tmp_path / "out"
    tokens.write_text(f'[[token]]\nname = "boss"\nsha256 = "{sha256(b"secret").hexdigest()}"\ngrants = ["admin:*"]\n')
    variables = {
        "QRUSTY_ACCESS_LOG": "json",
        "QRUSTY_TOKENS_FILE": str(tokens),
        "QRUSTY_FAST_LANE": "enabled" if fast_path else "disabled",
    }
    login = b"Authorization: Bearer secret\r\n"
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" + login
    key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    with out.open("wb") as stdout:
        async with child_process(child_environment(tmp_path / "data", **variables), stdout=stdout) as server:
            await server.logged("ready after")
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                client = Client(stream)
                assert (await client.ask("GET", "/queues", None, login)).status == 200
                assert (await client.ask("GET", "/queues")).status == 401
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n" + upgrade + key + b"\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
            with trio.fail_after(60):
                while len(out.read_bytes().splitlines()) < 4:  # noqa: ASYNC110  # nobody tells
                    await trio.sleep(0.005)
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [(line["token"], line["status"]) for line in found] == [
        ("boss", 200),
        ("-", 401),
        ("boss", 101),
        ("boss", 1006),
    ]
    assert "secret" not in out.read_text("utf-8")
