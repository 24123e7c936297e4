"""What pages in browsers may do: one table, over HTTP/1.1 and HTTP/2, WebSocket, and both paths."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest
import trio

from qrusty_trio.api.operations import OPERATIONS
from tests.http.web import PATHS, Client, Web, running

ALLOWED = "https://ops.example"
HOSTS = ("queue.example", "test")
OK, ORIGIN, HOST = "", "origin_not_allowed", "host_not_allowed"

CASES = [
    # host, further headers, what a read is told, what a change and a WebSocket are told
    ("localhost:6784", {}, OK, OK),
    ("evil.example", {}, OK, OK),
    # Pages of this server.
    ("localhost:6784", {"Origin": "http://localhost:6784"}, OK, OK),
    ("localhost:6784", {"Origin": "http://localhost:6784", "Sec-Fetch-Site": "same-origin"}, OK, OK),
    ("LocalHost:6784", {"origin": "http://localhost:6784"}, OK, OK),
    ("localhost", {"Origin": "http://localhost"}, OK, OK),
    ("localhost:80", {"Origin": "http://localhost"}, OK, OK),
    ("queue.example", {"Origin": "https://queue.example", "Sec-Fetch-Site": "same-origin"}, OK, OK),
    ("[::1]:6784", {"Origin": "http://[::1]:6784"}, OK, OK),
    ("127.0.0.1:6784", {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, OK, OK),
    ("127.0.0.1:6784", {"Sec-Fetch-Site": "same-origin"}, OK, OK),
    # An origin that is allowed, from wherever.
    ("127.0.0.1:6784", {"Origin": ALLOWED, "Sec-Fetch-Site": "cross-site"}, OK, OK),
    ("127.0.0.1:6784", {"Origin": ALLOWED}, OK, OK),
    # Pages of others.
    ("127.0.0.1:6784", {"Origin": "https://evil.example"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"ORIGIN": "https://evil.example"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "null"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": ""}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "null", "Sec-Fetch-Site": "same-origin"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "http://127.0.0.1"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "http://localhost:6784"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "http://127.0.0.1:6784.evil.example"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "http://127.0.0.1:6784@evil.example"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "http://127.0.0.1:6784/"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "http://127.0.0.1:6784 https://evil.example"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "chrome-extension://127.0.0.1:6784"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "https://ops.example.evil.example"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "https://ops.example:8443"}, OK, ORIGIN),
    ("127.0.0.1:80", {"Origin": "https://127.0.0.1"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Sec-Fetch-Site": "cross-site"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Sec-Fetch-Site": "same-site"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Sec-Fetch-Site": "Cross-Site"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Sec-Fetch-Site": "something new"}, OK, ORIGIN),
    ("127.0.0.1:6784", {"Origin": "http://127.0.0.1:6784", "Sec-Fetch-Site": "cross-site"}, OK, ORIGIN),
    # Names that somebody lets point here.
    ("evil.example", {"Origin": "http://evil.example"}, HOST, HOST),
    ("evil.example:6784", {"Origin": "http://evil.example:6784", "Sec-Fetch-Site": "same-origin"}, HOST, HOST),
    ("evil.example", {"Sec-Fetch-Site": "same-origin"}, HOST, HOST),
    ("evil.example", {"Sec-Fetch-Mode": "navigate"}, HOST, HOST),
    ("evil.example", {"sec-fetch-dest": "document"}, HOST, HOST),
    ("evil.example", {"Origin": ALLOWED}, HOST, HOST),
    ("localhost.evil.example", {"Sec-Fetch-Site": "none"}, HOST, HOST),
    ("127.0.0.1.evil.example", {"Sec-Fetch-Site": "none"}, HOST, HOST),
    ("notlocalhost", {"Sec-Fetch-Site": "none"}, HOST, HOST),
    ("ops.example", {"Origin": ALLOWED}, HOST, HOST),
    ("256.0.0.1", {"Sec-Fetch-Site": "none"}, HOST, HOST),
    # Names that are known.
    ("queue.example", {"Sec-Fetch-Site": "none"}, OK, OK),
    ("Queue.Example.:6784", {"Sec-Fetch-Site": "none"}, OK, OK),
    ("ui.localhost:6784", {"Origin": "http://ui.localhost:6784"}, OK, OK),
    ("10.1.2.3", {"Sec-Fetch-Site": "none"}, OK, OK),
]
both_paths = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])


def request(method: str, path: str, host: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "Content-Length: 2", "Content-Type: application/json", "", "{}"]).encode()


async def told(client: Client, method: str, path: str, host: str, headers: dict[str, str]) -> str:
    """The code of a refusal of what a browser may not do; '' for any other response."""
    await client.send(request(method, path, host, headers))
    response = await client.response()
    if response.status != 403:
        return OK
    refusal = response.json()
    assert ("QRUSTY_ALLOWED_HOSTS" if refusal["code"] == HOST else "QRUSTY_ALLOWED_ORIGINS") in refusal["error"]
    return str(refusal["code"])


# Verifies: SYS-0018, API-0049
@both_paths
async def test_http(fast_path: bool) -> None:
    async with running(fast_path, allowed_origins=[ALLOWED], allowed_hosts=HOSTS) as web, web.client() as client:
        for host, headers, reads, changes in CASES:
            for path in ("/health", "/stats", "/queues", "/ui/", "/", "/nothing"):
                assert await told(client, "GET", path, host, headers) == reads, (path, host, headers)
            for path in ("/publish", "/delete-all", "/consume/q"):
                assert await told(client, "POST", path, host, headers) == changes, (path, host, headers)


# Verifies: SYS-0018, API-0050
@both_paths
async def test_every_route_that_changes_anything(fast_path: bool) -> None:
    foreign = {"Origin": "https://evil.example"}
    async with running(fast_path) as web, web.client() as client:
        for operation in OPERATIONS:
            path = operation.path.replace("{queue}", "q").replace("{id}", "7")
            by_query = operation.path.replace("/{queue}", "").replace("/{id}", "")
            query = "?queue=q" + ("&id=7" if "{id}" in operation.path else "")
            for form in {path, by_query + query if "{" in operation.path else path}:
                found = await told(client, operation.method, form, "localhost", foreign)
                assert found == (ORIGIN if operation.mutating else OK), form
                assert await told(client, operation.method, form, "evil.example", foreign) == HOST


# Verifies: SYS-0018
@both_paths
async def test_nothing_is_changed(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        publish = {"queue": "q", "priority": 1, "payload": "x"}
        assert (await client.ask("POST", "/publish", publish)).status == 200
        for origin in (b"https://evil.example", b"null"):
            for path in ("/delete-all", "/purge-all", "/purge-queue/q", "/delete-all?x=y"):
                response = await client.ask("POST", path, headers=b"Origin: %b\r\n" % origin)
                assert (response.status, response.json()["code"]) == (403, ORIGIN)
            response = await client.ask("DELETE", "/delete-queue/q", headers=b"Origin: %b\r\n" % origin)
            assert (response.status, response.json()["code"]) == (403, ORIGIN)
        assert (await client.ask("GET", "/queue-stats/q")).json()["available"] == 1


# Verifies: API-0050
@both_paths
async def test_preflights_say_what_the_request_would_be_told(fast_path: bool) -> None:
    async with running(fast_path, allowed_origins=[ALLOWED], allowed_hosts=HOSTS) as web, web.client() as client:
        for host, headers, _, changes in CASES:
            if "Origin" not in headers:
                continue
            asked = {**headers, "Access-Control-Request-Method": "POST"}
            await client.send(request("OPTIONS", "/delete-all", host, asked))
            response = await client.response()
            if headers["Origin"] == ALLOWED and changes == OK:
                assert (response.status, response.headers["access-control-allow-origin"]) == (204, ALLOWED)
                methods = {operation.method for operation in OPERATIONS}
                assert set(response.headers["access-control-allow-methods"].split(", ")) == methods
                assert response.headers["access-control-allow-headers"] == "Content-Type"
                assert response.headers["access-control-max-age"] == "600"
                assert "content-type" not in response.headers
                continue
            assert "access-control-allow-origin" not in response.headers or headers["Origin"] == ALLOWED
            assert response.status == (405 if changes == OK else 403)
            assert changes == OK or response.json()["code"] == changes


def upgrade(host: str, headers: dict[str, str]) -> bytes:
    lines = ["GET /ws HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    return "\r\n".join([*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]).encode()


async def greeted(web: Web, host: str, headers: dict[str, str]) -> str:
    async with web.client() as client:
        await client.send(upgrade(host, headers))
        response = await client.response()
        if response.status == 101:
            return OK
        assert response.status == 403
        return str(response.json()["code"])


# Verifies: API-0049, API-0050
@pytest.mark.parametrize("where", ["fast", "quart", "turned away"])
async def test_websocket(where: str) -> None:
    most = 1 if where == "turned away" else 100
    async with (
        running(where != "quart", max_connections=most, allowed_origins=[ALLOWED], allowed_hosts=HOSTS) as web,
        web.client() as first,
    ):
        await first.ask("GET", "/health")
        for host, headers, _, changes in CASES:
            assert await greeted(web, host, headers) == changes, (host, headers)


async def http2(web: Web, requests: list[tuple[str, str, str, dict[str, str]]]) -> list[tuple[int, bytes]]:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    responses: dict[int, tuple[int, bytes]] = {}
    async with web.client() as client:
        for method, path, authority, headers in requests:
            stream = connection.get_next_available_stream_id()
            fixed = [(":method", method), (":path", path), (":scheme", "http"), (":authority", authority)]
            connection.send_headers(stream, [*fixed, *((name.lower(), value) for name, value in headers.items())], True)
            await client.send(connection.data_to_send())
            ended = False
            while not ended:
                for event in connection.receive_data(await client.stream.receive_some(65536)):
                    if isinstance(event, h2.events.ResponseReceived):
                        responses[stream] = int(dict(event.headers)[b":status"]), b""
                    elif isinstance(event, h2.events.DataReceived):
                        responses[stream] = responses[stream][0], responses[stream][1] + event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    ended = ended or isinstance(event, h2.events.StreamEnded)
                await client.send(connection.data_to_send())
    return list(responses.values())


# Verifies: API-0050
@both_paths
async def test_http2(fast_path: bool) -> None:
    async with running(fast_path, allowed_origins=[ALLOWED], allowed_hosts=HOSTS) as web:
        asked = [case for case in CASES if case[1].get("Origin") != ""]
        with trio.fail_after(60):
            reads = await http2(web, [("GET", "/health", host, headers) for host, headers, _, _ in asked])
            changes = await http2(web, [("POST", "/delete-all", host, headers) for host, headers, _, _ in asked])
        for case, read, change in zip(asked, reads, changes, strict=True):
            assert (read[0] == 403) == (case[2] != OK), case
            assert case[2].encode() in read[1], case
            assert (change[0] == 403) == (case[3] != OK), case
            assert case[3].encode() in change[1], case
