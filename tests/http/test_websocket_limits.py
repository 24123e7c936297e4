"""What /ws refuses and when it gives up: origins, connections, gates, silence."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from qrusty_trio.core.model import QueueConfig
from qrusty_trio.http.fallback import connection_end
from qrusty_trio.http.fast_websocket import serve_fast_websocket
from qrusty_trio.http.websocket import WebSocketServices
from qrusty_trio.logs import LogRing
from qrusty_trio.server.engine import Engine
from tests.http.web import make_engine
from tests.http.web import running as web_running
from tests.http.ws_raw import CLOSE, PING, PONG, TEXT, Raw, frame, head, raw, request, upgrade
from tests.http.ws_server import PATIENCE, both_paths, running

INTERVAL, TIMEOUT = 30.0, 10.0


# origins


@both_paths
@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        (None, True),
        (b"http://test", True),
        (b"http://test:80", True),
        (b"https://ops.example", True),
        (b"http://evil.example", False),
        (b"https://test", False),
        (b"http://test:8080", False),
        (b"http://test.evil.example", False),
        (b"https://ops.example.evil.example", False),
        (b"null", False),
        (b"", False),
        (b"http://test http://evil.example", False),
    ],
)
async def test_origins(fast_path: bool, origin: bytes | None, welcome: bool) -> None:
    allowed = frozenset({"https://ops.example"})
    async with (
        running(fast_path, allowed_origins=allowed, allowed_hosts=frozenset({"test"})) as server,
        raw(server.port, upgrade(Origin=origin)) as peer,
    ):
        response = await peer.head()
        if welcome:
            assert response.startswith(b"HTTP/1.1 101 ")
            return
        assert response.startswith(b"HTTP/1.1 403 ")
        assert b"\r\ncontent-type: application/json\r\n" in response.lower()
        length = int(response.lower().partition(b"content-length:")[2].split()[0])
        assert json.loads(await peer.body(length))["code"] == "origin_not_allowed"


# Verifies: API-0031
@both_paths
@pytest.mark.parametrize("most", [1, 0])
@pytest.mark.parametrize("twice", [b"Host: test", b"Origin: http://test"])
async def test_one_host_and_one_origin_at_most(fast_path: bool, most: int, twice: bytes) -> None:
    """A server that has too many connections tells nothing else."""
    handshake = upgrade(Host=None).replace(b"\r\n\r\n", b"\r\n" + b"\r\n".join([b"Host: test", twice, twice, b"\r\n"]))
    async with web_running(fast_path, max_connections=most) as web, raw(web.port, handshake) as peer:
        assert (await peer.head()).startswith(b"HTTP/1.1 400 " if most else b"HTTP/1.1 503 ")


# Verifies: WS-0022
@both_paths
async def test_who_is_cut_off_in_the_middle_of_a_send_is_let_go(
    fast_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_end, "SEND_SECONDS", math.inf)
    async with web_running(fast_path, send_buffer=4096) as web, raw(web.port, upgrade()) as peer:
        services = web.context.websocket
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await peer.head()
        assert (
            await web.ask("POST", "/publish", {"queue": "q", "priority": 1, "payload": "x" * 1_900_000})
        ).status == 200
        await peer.send(request(type="subscribe", queue="q"))
        await trio.testing.wait_all_tasks_blocked(0.1)
        (connection,) = services.connections
        connection.cut_off()
        with trio.fail_after(PATIENCE):
            while web.context.connections.value:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert services.budget.held == 0


# the number of connections


# Verifies: WS-0028
@both_paths
async def test_one_connection_too_many(fast_path: bool) -> None:
    async with running(fast_path, max_connections=2) as server, server.socket() as first, raw(server.port) as second:
        async with server.socket() as third:
            with pytest.raises(ConnectionClosed) as closed:
                await third.ask(type="unsubscribe", queue="x")
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1013
        assert (await first.ask(type="unsubscribe", queue="x")) == {"type": "ok"}
        await second.send(frame(CLOSE, b"\x03\xe8"))
        assert (await second.read()).close_code == 1000
        assert await second.ended()
        await trio.aclose_forcefully(second.stream)
        with trio.fail_after(PATIENCE):
            while True:  # The place is free again, once the server has seen the end of the second one.
                try:
                    async with server.socket() as fourth:
                        response = await fourth.ask(type="unsubscribe", queue="x")
                        assert response == {"type": "ok"}
                        return
                except ConnectionClosed:
                    await trio.sleep(0.01)


# gates


# Verifies: WS-0010
@both_paths
async def test_gates(fast_path: bool) -> None:
    async with running(fast_path) as server, server.socket() as one:
        await server.create()
        gate = server.engine.services.gate
        gate.starting = True
        assert (await one.ask(type="publish", queue="jobs", payload="p"))["code"] == "starting"
        assert (await one.ask(type="subscribe", queue="jobs"))["code"] == "starting"
        assert (await one.ask(type="subscribe-logs"))["type"] == "ok"
        gate.starting = False
        await one.subscribe()
        await one.publish()
        gate.memory_critical = True
        refused = await one.ask(type="publish", queue="jobs", payload="p", req_id="r")
        assert (refused["code"], refused["req_id"]) == ("memory_pressure", "r")
        while (push := await one.push())["type"] != "deliver":
            pass
        await one.ack(push)  # What makes room goes on.
        gate.memory_critical = False
        await one.publish()


# silence


@pytest.fixture
async def engine() -> Engine:
    engine = make_engine()
    engine.broker.catalog.create("jobs", QueueConfig())
    return engine


@asynccontextmanager
async def served(engine: Engine) -> AsyncIterator[Raw]:
    """The fast transport over a memory stream, so that a test clock can jump."""
    services = WebSocketServices(
        engine, engine.dispatcher, engine.services.gate, LogRing(), ping_interval=INTERVAL, ping_timeout=TIMEOUT
    )
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.dispatch)
        nursery.start_soon(serve_fast_websocket, ours, upgrade(), services)
        peer = Raw(theirs, 10 * INTERVAL)
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        yield peer
        await theirs.aclose()
        nursery.cancel_scope.cancel()


# Verifies: WS-0023
async def test_a_peer_that_answers_no_ping(engine: Engine, autojump_clock: trio.testing.MockClock) -> None:
    async with served(engine) as peer:
        await peer.send(request(type="subscribe", queue="jobs", lock_timeout_secs=3600))
        await peer.read()
        await engine.transact(lambda broker, now: broker.publish("jobs", 0, "p", 3, now), sync=True)
        assert (await peer.read()).json()["type"] == "deliver"
        stats = engine.broker.catalog.stats("jobs")
        assert stats is not None
        assert stats.locked == 1
        start = trio.current_time()
        assert (await peer.any_frame()).opcode == PING
        assert trio.current_time() - start == pytest.approx(INTERVAL, abs=1)
        assert (await peer.any_frame()).close_code == 1001
        assert trio.current_time() - start == pytest.approx(INTERVAL + TIMEOUT, abs=1)
        stats = engine.broker.catalog.stats("jobs")
        assert stats is not None
        assert (stats.available, stats.locked) == (1, 0)


# Verifies: WS-0023
async def test_a_peer_that_answers_pings_stays(engine: Engine, autojump_clock: trio.testing.MockClock) -> None:
    async with served(engine) as peer:
        start = trio.current_time()
        for _ in range(100):
            ping = await peer.any_frame()
            assert ping.opcode == PING
            await peer.send(frame(PONG, ping.data))
        assert trio.current_time() - start == pytest.approx(100 * INTERVAL, abs=100)
        await peer.send(request(type="unsubscribe", queue="jobs"))
        assert (await peer.read()).json() == {"type": "ok"}


# Verifies: WS-0024
async def test_any_byte_is_a_sign_of_life(engine: Engine, autojump_clock: trio.testing.MockClock) -> None:
    """A large frame that comes slowly: no ping is answered within it."""
    async with served(engine) as peer:
        text = json.dumps({"type": "publish", "queue": "jobs", "payload": "x" * 1000}).encode()
        data = frame(TEXT, text)
        for start in range(0, len(data), 10):
            await peer.send(data[start : start + 10])
            await trio.sleep(TIMEOUT - 1)
        while (received := await peer.any_frame()).opcode == PING:
            pass
        assert received.json()["type"] == "ok"


async def test_who_sends_requests_is_not_asked(engine: Engine, autojump_clock: trio.testing.MockClock) -> None:
    async with served(engine) as peer:
        for _ in range(20):
            await trio.sleep(INTERVAL - 1)
            await peer.send(request(type="unsubscribe", queue="jobs"))
            assert (await peer.any_frame()).json() == {"type": "ok"}


# Verifies: WS-0025
async def test_half_a_frame_and_then_silence(engine: Engine, autojump_clock: trio.testing.MockClock) -> None:
    async with served(engine) as peer:
        await peer.send(head(TEXT, 1000) + b"x" * 10)
        assert (await peer.any_frame()).opcode == PING
        assert (await peer.any_frame()).close_code == 1001


# Verifies: WS-0023
@both_paths
async def test_silence_over_sockets(fast_path: bool) -> None:
    """The transports agree; on the clock on the wall, with short intervals."""
    async with (
        running(fast_path, ws_ping_interval_secs=0.3, ws_ping_timeout_secs=2) as server,
        raw(server.port) as silent,
        raw(server.port) as alive,
    ):
        await server.create()
        await server.publish()
        await silent.send(request(type="subscribe", queue="jobs", lock_timeout_secs=600))
        async with trio.open_nursery() as nursery:

            async def answer_pings() -> None:
                while True:
                    received = await alive.any_frame()
                    assert received.opcode == PING
                    await alive.send(frame(PONG, received.data))

            nursery.start_soon(answer_pings)
            while (received := await silent.any_frame()).opcode != CLOSE:
                assert received.opcode in (TEXT, PING)
            assert received.close_code == 1001
            nursery.cancel_scope.cancel()
        await server.settle_down(1, 0, 0)
        await alive.send(request(type="unsubscribe", queue="jobs"))
        assert (await alive.read()).json() == {"type": "ok"}
