# ruff: noqa: UP031  # JSON is full of braces.
"""Bad input over real sockets, on both stores and on both paths: the contract's status, a JSON error, nothing lost."""

from __future__ import annotations

import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
import trio

from qrusty_trio.api.call import Call, Pause, Reply
from qrusty_trio.server.supervisor import Server
from tests.server.engines import STEP_SECONDS
from tests.wire.http_client import Connection, HttpClient, Response

U64 = 2**64
MIB = 1024 * 1024
LONG = "n" * 256
ODD_NAMES = [
    "with spaces ",
    "with/slash",
    "/",
    "..",
    "../../etc/passwd",
    "a%2Fb",
    "%",
    "%00",
    "ü",
    "😀 emoji",
    "\0",
    "a\0b",
    "new\nline\r\n",
    "?query#fragment",
    '"quoted\\"',
    "messages",
    "n" * 255,
    "ü" * 127,
    "\u202eright to left",
]
"""Every non-empty name of up to 255 bytes is a name like any other."""

PUBLISH = '"queue":"q","priority":1,"payload":"x"'
BAD_BODIES: list[tuple[str, str | bytes, int]] = [
    ("/publish", "", 400),
    ("/publish", "{", 400),
    ("/publish", "nonsense", 400),
    ("/publish", "{%s" % PUBLISH, 400),
    ("/publish", "{%s}}" % PUBLISH, 400),
    ("/publish", "{%s,}" % PUBLISH, 400),
    ("/publish", "{'queue':'q'}", 400),
    ("/publish", b'{"queue":"q","priority":1,"payload":"\xff"}', 400),
    ("/publish", b"\xef\xbb\xbf{}", 400),
    ("/publish", b'{"queue":"q","priority":1,"payload":"a\x00b"}', 400),
    ("/publish", '{"queue":"q","priority":1,"payload":"\\ud800"}', 400),
    ("/publish", '{"queue":"q","priority":NaN,"payload":"x"}', 400),
    ("/publish", '{"queue":"q","priority":01,"payload":"x"}', 400),
    ("/publish", "[]", 422),
    ("/publish", "null", 422),
    ("/publish", "1", 422),
    ("/publish", '"text"', 422),
    ("/publish", "{}", 422),
    ("/publish", '{"queue":"q","priority":1}', 422),
    ("/publish", '{"queue":1,"priority":1,"payload":"x"}', 422),
    ("/publish", '{"queue":"q","priority":1,"payload":{}}', 422),
    ("/publish", '{"queue":"q","priority":1,"payload":null}', 422),
    ("/publish", '{"queue":"q","priority":-1,"payload":"x"}', 422),
    ("/publish", '{"queue":"q","priority":1.5,"payload":"x"}', 422),
    ("/publish", '{"queue":"q","priority":1e3,"payload":"x"}', 422),
    ("/publish", '{"queue":"q","priority":true,"payload":"x"}', 422),
    ("/publish", '{"queue":"q","priority":[1],"payload":"x"}', 422),
    ("/publish", '{"queue":"q","priority":%d,"payload":"x"}' % U64, 422),
    ("/publish", '{"queue":"q","priority":%d,"payload":"x"}' % 10**400, 422),
    ("/publish", '{%s,"max_retries":%d}' % (PUBLISH, 2**32), 422),
    ("/publish", '{%s,"max_retries":-1}' % PUBLISH, 422),
    ("/publish", '{%s,"queue":"r"}' % PUBLISH, 422),
    ("/publish", '{"queue":"","priority":1,"payload":"x"}', 400),
    ("/publish", '{"queue":"%s","priority":1,"payload":"x"}' % LONG, 400),
    ("/publish", '{"queue":"%s","priority":1,"payload":"x"}' % ("ü" * 128), 400),
    ("/publish", '{"queue":"q","priority":"text","payload":"x"}', 400),
    ("/publish", '{"queue":"q","priority":"","payload":"x"}', 400),
    ("/publish", '{"queue":"text","priority":"","payload":"x"}', 400),
    ("/publish", '{"queue":"text","priority":"%s","payload":"x"}' % ("p" * 1025), 400),
    ("/publish", "[" * 100_000, 400),
    ("/consume/q", "", 400),
    ("/consume/q", "{}", 422),
    ("/consume/q", '{"consumer_id":1}', 422),
    ("/consume/q", '{"consumer_id":"c","timeout_seconds":-1}', 422),
    ("/consume/q", '{"consumer_id":"c","timeout_seconds":%d}' % U64, 422),
    ("/consume/q", '{"consumer_id":"c","timeout_seconds":"30"}', 422),
    ("/ack/q/x", "{}", 422),
    ("/ack/q/x", '{"consumer_id":"c"}', 404),
    ("/ack/q/%00", '{"consumer_id":"c"}', 404),
    ("/nack/q/" + "x" * 5000, '{"consumer_id":"c"}', 404),
    ("/ack-batch/q", '{"consumer_id":"c","message_ids":"x"}', 422),
    ("/ack-batch/q", '{"consumer_id":"c","message_ids":[1]}', 422),
    ("/nack-batch/q", '{"consumer_id":"c"}', 422),
    ("/create-queue", '{"name":"new"}', 422),
    ("/create-queue", '{"name":"new","config":{}}', 422),
    ("/create-queue", '{"name":"new","config":{"ordering":"Random"}}', 422),
    ("/create-queue", '{"name":"q","config":{"ordering":"Fifo"}}', 409),
    ("/create-queue", '{"name":"","config":{"ordering":"Fifo"}}', 400),
    ("/create-queue", '{"name":"%s","config":{"ordering":"Fifo"}}' % LONG, 400),
    ("/update-queue", '{"name":"nowhere","config":{}}', 404),
    ("/update-queue", '{"name":" ","config":{}}', 400),
    ("/update-queue", '{"name":"q","config":{"name":"%s"}}' % LONG, 400),
]


@pytest.fixture(autouse=True)
async def quiet(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Whatever clients do, it is no error of the server."""
    yield
    for record in caplog.get_records("call"):
        assert record.exc_info is None, record.getMessage()
        assert record.levelno < logging.ERROR, record.getMessage()


async def post(client: HttpClient, target: str, **body: Any) -> Any:
    response = await client.request("POST", target, json.dumps(body).encode())
    assert response.status == 200, response
    return response.json() if response.body else None


def check_error(response: Response, status: int, what: object) -> None:
    assert response.status == status, f"{what}: {response}"
    assert response.headers["content-type"] == "application/json", f"{what}: {response}"
    assert response.json().keys() == {"error", "code"}, f"{what}: {response}"
    assert response.json()["error"].strip(), f"{what}: {response}"


# Verifies: SYS-0008
async def test_bad_bodies(client: HttpClient) -> None:
    await post(client, "/publish", queue="q", priority=1, payload="kept")
    await post(client, "/create-queue", name="text", config={"ordering": "MaxFirst", "priority_kind": "Text"})
    for target, body, status in BAD_BODIES:
        data = body if isinstance(body, bytes) else body.encode()
        check_error(await client.request("POST", target, data), status, (target, body[:200]))
    stats = (await client.request("GET", "/stats")).json()
    assert [(queue["name"], queue["total"]) for queue in stats["queues"]] == [("q", 1), ("text", 0)]
    assert (await post(client, "/consume/q", consumer_id="c"))["payload"] == "kept"


# Verifies: SYS-0008, API-0033
async def test_bad_requests(client: HttpClient) -> None:
    await post(client, "/publish", queue="q", priority=1, payload="kept")
    body = b'{"queue":"q","priority":1,"payload":"x"}'
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", None):
        check_error(await client.request("POST", "/publish", body, content_type), 415, content_type)
    for method, target in (("GET", "/publish"), ("PUT", "/stats"), ("DELETE", "/purge-queue/q"), ("PATCH", "/health")):
        check_error(await client.request(method, target), 405, (method, target))
    for target in ("/", "/nowhere", "/publish/", "//publish", "/ack/q", "/ack/q/x/y", "/queue-stats", "/renew"):
        check_error(await client.request("POST", target, b'{"consumer_id":"c"}'), 404, target)
    for target in ("/operation-timings?seconds=x", "/operation-timings?seconds=", "/queue-stats/%FF"):
        check_error(await client.request("GET", target), 400, target)
    assert (await client.request("GET", "/queue-stats/q")).json()["total"] == 1


async def test_what_is_large_but_allowed(client: HttpClient) -> None:
    biggest = {"queue": "q", "priority": U64 - 1, "payload": "", "max_retries": 2**32 - 1, "unknown": [{}]}
    biggest["payload"] = "x" * (2 * MIB - len(json.dumps(biggest)))
    body = json.dumps(biggest).encode()
    assert len(body) == 2 * MIB
    assert (await client.request("POST", "/publish", body)).status == 200
    check_error(await client.request("POST", "/publish", body + b" "), 413, "one byte more")
    got = await post(client, "/consume/q", consumer_id="c" * 100, timeout_seconds=U64 - 1, more=None)
    assert got["payload"] == biggest["payload"]
    await post(client, f"/ack/q/{got['id']}", consumer_id="c" * 100, unknown=1)
    for priority in (2**53, 2**53 + 1, U64 - 1, 0):
        await post(client, "/publish", queue="exact", priority=priority, payload=str(priority))
    order = [(await post(client, "/consume/exact", consumer_id="c"))["payload"] for _ in range(4)]
    assert order == [str(U64 - 1), str(2**53 + 1), str(2**53), "0"]


async def test_any_name_is_a_queue_of_its_own(client: HttpClient) -> None:
    for name in ODD_NAMES:
        await post(client, "/publish", queue=name, priority=1, payload=name)
    assert (await client.request("GET", "/queues")).json() == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        path = quote(name, safe="")
        assert (await client.request("GET", f"/queue-stats/{path}")).json()["name"] == name
        got = await post(client, f"/consume/{path}", consumer_id=name)
        assert got["payload"] == name
        await post(client, f"/ack/{path}/{got['id']}", consumer_id=name)
        assert (await client.request("DELETE", f"/delete-queue/{path}")).status == 200
    assert (await client.request("GET", "/queues")).json() == []


@asynccontextmanager
async def connection_to(server: Server) -> AsyncIterator[Connection]:
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream:
        yield Connection(stream)


def will_reset(connection: Connection) -> None:
    """Closing it will send a reset: it lingers for no time."""
    assert isinstance(connection.stream, trio.SocketStream)
    connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


REQUEST = b"POST /consume/q HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n"
BODY = b'{"consumer_id":"c"}'


# Verifies: DLV-0023
async def test_clients_that_vanish_in_mid_request(server: Server, client: HttpClient) -> None:
    await post(client, "/publish", queue="q", priority=1, payload="kept")
    whole = REQUEST + BODY
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        for reset in (False, True):
            async with connection_to(server) as connection:
                await connection.stream.send_all(whole[:length])
                if reset:
                    will_reset(connection)
    got = await post(client, "/consume/q", consumer_id="d")
    assert (got["payload"], got["retry_count"]) == ("kept", 1)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(STEP_SECONDS):
        while not await condition():  # noqa: ASYNC110  # asked over a socket
            await trio.sleep(0.01)


async def test_a_client_that_vanishes_before_its_answer(server: Server, client: HttpClient) -> None:
    """It had the message locked: it goes back at once, and that was no delivery."""
    await post(client, "/publish", queue="q", priority=1, payload="kept")
    engine = server.engine
    real = engine.run
    locked, gone = trio.Event(), trio.Event()

    async def run(calls: Sequence[Call], pause: Pause | None = None) -> list[Reply]:
        replies = await real(calls, pause)
        if all(not reply.deliveries for reply in replies):
            return replies
        try:
            locked.set()
            await gone.wait()
        except trio.Cancelled:
            for reply in replies:
                engine.give_back(reply)
            raise
        return replies

    engine.run = run  # type: ignore[method-assign]  # holds the response back until the client has gone
    async with connection_to(server) as connection:
        # With another one before it: one that comes alone is served by request batching, at once.
        await connection.stream.send_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n" + REQUEST + BODY)
        await locked.wait()
        will_reset(connection)
    engine.run = real  # type: ignore[method-assign]
    gone.set()
    got: list[Any] = []

    async def available() -> bool:
        got.append(await post(client, "/consume/q", consumer_id="d"))
        return got[-1] is not None

    await until(available)
    assert (got[-1]["payload"], got[-1]["retry_count"]) == ("kept", 1)


# Verifies: API-0036
async def test_a_reader_that_takes_no_answer(server: Server, client: HttpClient) -> None:
    """Responses too large for its socket's buffers, and it leaves with them unread: what it never got goes back."""
    messages = 30
    for number in range(messages):
        await post(client, "/publish", queue="q", priority=1, payload=f"{number:02}" * 500_000)

    async def stats() -> dict[str, int]:
        response: dict[str, int] = (await client.request("GET", "/queue-stats/q")).json()
        return response

    async def some_locked() -> bool:
        return (await stats())["locked"] > 0

    async def most_back() -> bool:
        return (await stats())["available"] > messages / 2

    async with connection_to(server) as connection:
        await connection.stream.send_all((REQUEST + BODY) * messages)
        await until(some_locked)
        will_reset(connection)
    await until(most_back)
    assert (await stats())["total"] == messages
