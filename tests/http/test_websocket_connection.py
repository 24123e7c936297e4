"""One connection over the fast transport, from its handshake to its end, over a stream in memory."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from websockets.server import ServerProtocol

from qrusty_trio.access.access import Access
from qrusty_trio.access.failures import FREE_FAILURES
from qrusty_trio.access.tokens_file import read_tokens
from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.http import fast_websocket
from qrusty_trio.http.access_log import AccessLog
from qrusty_trio.http.fast_websocket import HANDSHAKE_SECONDS, serve_fast_websocket
from qrusty_trio.http.websocket import WebSocketServices
from qrusty_trio.http.websocket_auth import AUTH_SECONDS
from qrusty_trio.logs import AccessFormat, LogRing
from qrusty_trio.server.engine import Engine
from tests.access.guarded import TokenBook
from tests.http.web import make_engine
from tests.http.ws_raw import BINARY, CLOSE, TEXT, Raw, frame, head, request, upgrade


@pytest.fixture
async def engine() -> Engine:
    engine = make_engine()
    engine.broker.catalog.create("jobs", QueueConfig())
    return engine


def services_of(engine: Engine, **changes: Any) -> WebSocketServices:
    services = WebSocketServices(
        engine, engine.dispatcher, engine.services.gate, LogRing(), ping_interval=3600, ping_timeout=10
    )
    return replace(services, **changes)


@asynccontextmanager
async def served(engine: Engine, services: WebSocketServices, handshake: bytes | None = None) -> AsyncIterator[Raw]:
    """A peer after its handshake; with `handshake`, after it was sent. The end of the server's side is waited for."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as background:
        background.start_soon(engine.dispatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_fast_websocket, ours, handshake or upgrade(), services)
            peer = Raw(theirs)
            if handshake is None:
                assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
            yield peer
            await theirs.aclose()
        background.cancel_scope.cancel()


# Verifies: API-0164
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(CLOSE, b"\x03\xe8"), 1000),
        (frame(CLOSE), 1000),
        (frame(BINARY, b"x"), 1003),
        (b"", 1006),
    ],
    ids=["close", "close without a code", "binary", "broken"],
)
async def test_how_it_ended_is_in_the_access_log(engine: Engine, tmp_path: Path, sent: bytes, code: int) -> None:
    path = tmp_path / "access"
    with path.open("w", encoding="utf-8") as stream:
        log = AccessLog(AccessFormat.JSON, stream)
        async with served(engine, services_of(engine, access=log)) as peer:
            if sent:
                await peer.send(sent)
                assert (await peer.read()).opcode == CLOSE
                await peer.send(frame(CLOSE))
        await trio.to_thread.run_sync(log.close)
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [(line["method"], line["path"], line["status"], line["bytes"]) for line in found] == [
        ("WEBSOCKET", "/ws", 101, 0),
        ("WEBSOCKET", "/ws", code, 0),
    ]
    assert {(line["peer"], line["token"]) for line in found} == {("-", "-")}


# Verifies: WS-0021, DLV-0013
async def test_who_is_cut_off_is_told_and_what_it_held_does_not_count(engine: Engine) -> None:
    services = services_of(engine)
    async with served(engine, services) as peer:
        await peer.send(request(type="subscribe", queue="jobs"))
        await peer.read()
        await engine.transact(lambda broker, now: broker.publish("jobs", 0, "p", 3, now), sync=True)
        assert (await peer.read()).json()["type"] == "deliver"
        (connection,) = services.connections
        connection.cut_off()
        closed = await peer.read()
        assert (closed.close_code, closed.data[2:]) == (1013, b"nothing was taken for too long")
        await peer.send(frame(CLOSE))
        assert await peer.ended()
    assert not services.connections
    again = await engine.transact(lambda broker, now: broker.consume("jobs", "w", 30, now), sync=True)
    assert again is not None
    assert again.retry_count == 1


# Verifies: WS-0021
async def test_progress_grows_with_each_burst_and_with_each_piece_that_is_taken(engine: Engine) -> None:
    services = services_of(engine)
    async with served(engine, services) as peer:
        (connection,) = services.connections
        before = connection.progress
        await peer.send(request(type="unsubscribe", queue="jobs"))
        await peer.read()
        await wait_all_tasks_blocked()
        assert connection.progress >= before + 2


# Verifies: WS-0050
async def test_a_token_that_does_not_come_in_time(engine: Engine, tmp_path: Path, autojump_clock: MockClock) -> None:
    book = TokenBook(tmp_path / "tokens")
    book.add("boss", "admin:*")
    services = services_of(engine, tokens=Access(read_tokens(book.path.read_bytes()), lambda: 0))
    begun = trio.current_time()
    async with served(engine, services) as peer:
        closed = await peer.read()
        assert (closed.close_code, closed.data[2:]) == (1008, b"no token came in time")
        assert trio.current_time() - begun == AUTH_SECONDS
        await peer.send(frame(CLOSE))
        assert await peer.ended()


# Verifies: API-0190
@pytest.mark.parametrize("stopping", [False, True])
async def test_a_handshake_after_many_failures_waits_for_its_turn(
    engine: Engine, tmp_path: Path, stopping: bool, autojump_clock: MockClock
) -> None:
    book = TokenBook(tmp_path / "tokens")
    book.add("boss", "admin:*")
    services = services_of(engine, tokens=Access(read_tokens(book.path.read_bytes()), lambda: 0))

    async def fail() -> None:
        async with served(engine, services, upgrade(Authorization=b"Bearer wrong")) as peer:
            answer = await peer.head()
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"\r\nWWW-Authenticate: Bearer" in answer

    begun = trio.current_time()
    for _ in range(FREE_FAILURES):
        await fail()
    assert trio.current_time() == begun
    if stopping:
        services.stopping.set()
    for _ in range(2):
        await fail()
    assert (trio.current_time() > begun) is not stopping


# Verifies: WS-0030
async def test_what_came_with_the_handshake_is_served(engine: Engine) -> None:
    first = request(type="unsubscribe", queue="jobs")
    async with served(engine, services_of(engine), upgrade() + first + first[:3]) as peer:
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        await peer.send(first[3:])
        assert [(await peer.read()).json() for _ in range(2)] == [{"type": "ok"}] * 2


# Verifies: WS-0032
@pytest.mark.parametrize(
    "sent",
    [b"", frame(CLOSE, b"\x03\xe8"), head(TEXT, MAX_FRAME_BYTES + 1), head(TEXT, 1000) + b"x" * 10, b"\x81\x01\xff"],
    ids=["nothing", "close", "too big", "half a frame", "no mask"],
)
async def test_nothing_is_left_of_it_for_the_garbage_collector(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    made: list[weakref.ref[ServerProtocol]] = []

    class Watched(ServerProtocol):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(weakref.ref(self))

    monkeypatch.setattr(fast_websocket, "ServerProtocol", Watched)
    gc.collect()
    gc.disable()
    try:
        async with served(engine, services_of(engine)) as peer:
            if sent:
                await peer.send(sent)
                await wait_all_tasks_blocked()
        assert [each() for each in made] == [None]
    finally:
        gc.enable()


# Verifies: WS-0031
@pytest.mark.parametrize(
    ("handshake", "code"),
    [
        (upgrade(Connection=b"Upgrade, @"), "handshake_failed"),
        (upgrade(**{f"X-{number}": b"1" for number in range(200)}), "bad_request"),
    ],
    ids=["odd", "many"],
)
async def test_what_the_library_refuses(engine: Engine, handshake: bytes, code: str) -> None:
    log = Unused()
    async with served(engine, services_of(engine, access=log), handshake) as peer:
        answer = await peer.head()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\nConnection: close" in answer
        length = int(answer.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        refusal = json.loads(await peer.body(length))
        assert refusal["code"] == code
        assert refusal["error"] == refusal["error"].strip() != ""
        assert await peer.stream.receive_some() == b""
        await peer.send(b"x")  # It is still read, or closing might discard the response.
    assert not log.used, "there was no WebSocket"


class Unused:
    """An access log that nothing is written to."""

    used = False

    def websocket(self, *args: object) -> None:
        self.used = True


class Full(trio.abc.SendStream):
    """Takes nothing."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        pass


# Verifies: WS-0030
async def test_a_peer_that_does_not_take_the_response_is_let_go(engine: Engine, autojump_clock: MockClock) -> None:
    ours, _ = memory_stream_pair()
    begun = trio.current_time()
    await serve_fast_websocket(trio.StapledStream(Full(), ours.receive_stream), upgrade(), services_of(engine))
    assert trio.current_time() - begun == HANDSHAKE_SECONDS


# Verifies: WS-0028
@pytest.mark.parametrize("answers", [True, False])
async def test_one_too_many_is_told_and_not_waited_for(
    engine: Engine, autojump_clock: MockClock, answers: bool
) -> None:
    log = Unused()
    services = services_of(engine, access=log)
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_fast_websocket, ours, upgrade(), services, overloaded=True))
        peer = Raw(theirs)
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        closed = await peer.read()
        assert (closed.close_code, closed.data[2:]) == (1013, b"too many connections")
        await wait_all_tasks_blocked()
        assert not services.connections
        if answers:
            await peer.send(frame(CLOSE))
        assert await peer.ended()
    assert not log.used, "it was not served"
