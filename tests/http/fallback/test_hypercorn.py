"""Hypercorn behind the guard. The first tests fail loudly when what is used of Hypercorn's inside moves."""

from __future__ import annotations

import inspect
import logging
import socket
import struct
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol.events import Event, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext
from wsproto.connection import Connection, ConnectionState, ConnectionType

from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.http.fallback.hypercorn import QUEUED_MESSAGES, make_config
from qrusty_trio.http.fallback.websocket_stream import WebSocketStream
from qrusty_trio.http.header_block import HTTP2_PREFACE, IDLE_SECONDS, MAX_HEADER_BYTES
from tests.http.web import PATHS, request, running
from tests.http.ws_raw import TEXT, frame, raw, upgrade


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_what_is_used_of_hypercorn_is_where_it_was() -> None:
    assert parameters(TCPServer) == ["app", "config", "context", "state", "stream"]
    assert parameters(TCPServer.run) == ["self"]
    assert parameters(TCPServer._read_data) == ["self"]
    assert parameters(TCPServer.protocol_send) == ["self", "event"]
    assert parameters(TrioSingleTask.stop) == ["self"]
    assert parameters(WorkerContext) == ["max_requests"]
    assert parameters(WorkerContext.sleep) == ["wait"]
    assert {"terminate", "terminated"} <= vars(WorkerContext(None)).keys()
    assert parameters(ASGIWrapper) == ["app"]
    assert parameters(TaskGroup.spawn_app) == ["self", "app", "config", "scope", "send"]
    assert parameters(WSStream.handle) == parameters(H11Protocol.stream_send) == ["self", "event"]
    assert parameters(WSStream.app_send) == ["self", "message"]
    assert parameters(WSStream._handle_events) == ["self"]
    assert parameters(WSStream._send_wsproto_event) == ["self", "event"]
    stream = vars(WebSocketStream(*[Config()] * 9))
    assert {"app_put", "buffer", "closed", "send", "state", "stream_id"} <= stream.keys()
    assert vars(Connection(ConnectionType.SERVER))["_state"] is ConnectionState.OPEN
    assert H11Protocol._create_stream.__globals__["WSStream"] is WebSocketStream
    source = inspect.getsource(TCPServer)
    # What it asks of the stream; the guard offers no more than that.
    for use in (".receive_some(", ".send_all(", ".send_eof(", ".aclose(", "self.stream.socket", "do_handshake("):
        assert use in source
    assert "self.idle_task = TrioSingleTask()" in source


def test_settings_that_hypercorn_knows() -> None:
    config = make_config()
    for name in vars(config):
        assert hasattr(Config, name), name
    assert config.h11_max_incomplete_size == MAX_HEADER_BYTES
    assert config.keep_alive_timeout == IDLE_SECONDS
    assert config.websocket_ping_interval is None
    assert config.websocket_max_message_size == MAX_FRAME_BYTES
    assert config.max_app_queue_size == QUEUED_MESSAGES
    assert config.keep_alive_max_requests > 10**9
    assert not config.include_server_header
    assert config.log.access_logger is None
    assert config.log.error_logger is logging.getLogger("qrusty_trio.http.hypercorn")


@pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])
async def test_a_connection_that_is_handed_over_stays(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        # What was read before and together with the request that makes it go over is served as well.
        publish = request("POST", "/publish", {"queue": "q", "priority": 1, "payload": "p"})
        await client.send(publish + request("GET", "/ui/") + publish + request("GET", "/queue-stats/q"))
        assert (await client.response()).status == 200
        assert (await client.response()).headers["content-type"] == "text/html; charset=utf-8"
        assert (await client.response()).status == 200
        assert (await client.response()).json()["available"] == 2
        for _ in range(3):
            assert (await client.ask("GET", "/health")).status == 200


class Http2Client:
    """HTTP/2 with prior knowledge."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.connection.initiate_connection()

    async def ask(self, requests: list[tuple[str, str, bytes]]) -> list[tuple[str, bytes]]:
        """All at once; status and body of each."""
        found: dict[int, tuple[str, bytes]] = {}
        for method, path, body in requests:
            stream_id = self.connection.get_next_available_stream_id()
            headers = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "test")]
            headers.append(("content-type", "application/json"))
            self.connection.send_headers(stream_id, headers)
            self.connection.send_data(stream_id, body, end_stream=True)
            found[stream_id] = ("", b"")
        left = len(requests)
        await self.stream.send_all(self.connection.data_to_send())
        while left:
            for event in self.connection.receive_data(await self.stream.receive_some(65536)):
                if isinstance(event, h2.events.ResponseReceived):
                    found[event.stream_id] = (dict(event.headers)[b":status"].decode(), b"")
                elif isinstance(event, h2.events.DataReceived):
                    status, data = found[event.stream_id]
                    found[event.stream_id] = (status, data + event.data)
                elif isinstance(event, h2.events.StreamEnded):
                    left -= 1
            await self.stream.send_all(self.connection.data_to_send())
        return list(found.values())


# Verifies: API-0045
@pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])
@pytest.mark.parametrize("cut", [0, 1, 16, len(HTTP2_PREFACE)])
async def test_http2_goes_to_hypercorn(fast_path: bool, cut: int) -> None:
    async with running(fast_path) as web:
        raw = await web.connect()
        client = Http2Client(raw.stream)
        hello = client.connection.data_to_send()
        assert hello.startswith(HTTP2_PREFACE)
        await raw.send(hello[:cut])
        await trio.testing.wait_all_tasks_blocked()
        await raw.send(hello[cut:])
        publish = ("POST", "/publish", b'{"queue":"q","priority":1,"payload":"p"}')
        responses = await client.ask([publish] * 5 + [("GET", "/nothing", b""), ("GET", "/ui/", b"")])
        assert [status for status, _ in responses] == ["200"] * 5 + ["404", "200"]
        consumed = await client.ask([("POST", "/consume/q", b'{"consumer_id":"w"}')] * 6)
        assert [body for _, body in consumed].count(b"null") == 1
        await trio.aclose_forcefully(raw.stream)


@pytest.mark.parametrize("how", ["idle", "in a request", "after an answer"])
async def test_hypercorn_lets_go_of_a_peer_that_has_gone(how: str) -> None:
    async with running(False, max_connections=1) as web:
        for _ in range(3):
            async with web.client() as client:
                if how == "after an answer":
                    await client.ask("GET", "/health")
                elif how == "in a request":
                    await client.send(request("POST", "/publish", {})[:-1])
                await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(60):
            while (await web.ask("GET", "/health")).status == 503:
                await trio.testing.wait_all_tasks_blocked(0.01)


GONE_SECONDS = IDLE_SECONDS / 2
"""A connection whose peer has gone has ended by then: at once, but on a busy machine."""


# Verifies: API-0042
@pytest.mark.parametrize("how", ["the peer resets", "the server closes"])
async def test_hypercorn_lets_go_of_a_connection_that_ends_as_its_response_does(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Hypercorn has sent the response, and is about to wait for the next request: that wait must not begin."""
    handle, run = HTTPStream.handle, TCPServer.run
    servers: list[TCPServer] = []
    ended = trio.Event()

    async def run_noted(server: TCPServer) -> None:
        servers.append(server)
        await run(server)

    async def handle_late(stream: HTTPStream, event: Event) -> None:
        await handle(stream, event)
        if isinstance(event, StreamClosed) and not ended.is_set():
            ended.set()
            if how == "the peer resets":
                sock = client.stream.socket
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            else:
                await servers[0].stream.aclose()
            await trio.testing.wait_all_tasks_blocked()

    async with running(False) as web:
        with monkeypatch.context() as patched:
            patched.setattr(HTTPStream, "handle", handle_late)
            patched.setattr(TCPServer, "run", run_noted)
            client = await web.connect()
            await client.send(request("GET", "/health"))
            with trio.fail_after(GONE_SECONDS):
                await ended.wait()
                while web.context.connections.value:  # noqa: ASYNC110  # a gauge tells nobody
                    await trio.sleep(0.01)
        await trio.aclose_forcefully(client.stream)


async def test_a_websocket_that_is_cancelled_was_not_closed_in_order() -> None:
    """A close with 1000 would tell its client that all is done."""
    async with running(False) as web, raw(web.port, upgrade()) as peer:
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        await peer.send(frame(TEXT, b'{"type":"unsubscribe","queue":"q"}'))
        assert (await peer.read()).json() == {"type": "ok"}
        web.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert await peer.ended()


# Verifies: API-0042
@pytest.mark.parametrize("then", ["stays", "resets"])
async def test_a_websocket_that_sends_on_when_its_app_has_ended_is_not_held(then: str) -> None:
    """Its queue is full then, and nobody takes what is in it."""
    async with running(fast_path=False, max_connections=1) as web, web.client() as client:
        await client.send(upgrade() + frame(TEXT, b"no JSON") + frame(TEXT, b"{}") * 20)
        with trio.fail_after(60):
            if then == "resets":
                await client.stream.receive_some()
                linger = struct.pack("ii", 1, 0)
                client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                await client.stream.aclose()
            while (await web.ask("GET", "/health")).status == 503:
                await trio.testing.wait_all_tasks_blocked(0.01)
