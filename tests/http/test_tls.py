"""Connections over TLS: everything that is served without it, on both paths, and how they end."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import wrap_client_stream

from qrusty_trio.http.tls import RECORD_BYTES
from tests.certificates import TlsPeer, client_context, server_context, tls_peer
from tests.http.fallback.test_http2 import Peer
from tests.http.web import PATHS, Client, Web, request, running

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])

PATIENCE = 60
HEALTH = request("GET", "/health")
CONSUME = request("POST", "/consume/q", {"consumer_id": "w"})


@pytest.fixture
async def web(fast_path: bool, tmp_path: Path) -> AsyncIterator[Web]:
    context = server_context(tmp_path)
    async with running(fast_path, tls=lambda: context) as web:
        yield web
        assert web.context.bulkheads.failures == 0


@asynccontextmanager
async def peer_of(web: Web, context: ssl.SSLContext | None = None) -> AsyncIterator[TlsPeer]:
    peer = await tls_peer(web.port, context)
    async with peer.stream:
        with trio.fail_after(PATIENCE):
            yield peer


def counts(web: Web) -> tuple[int, int]:
    stats = web.engine.broker.catalog.stats("q")
    return (0, 0) if stats is None else (stats.available, stats.locked)


async def until(web: Web, expected: tuple[int, int]) -> None:
    with trio.fail_after(PATIENCE):
        while counts(web) != expected:
            await trio.testing.wait_all_tasks_blocked(0.005)


def message(payload: str = "p") -> dict[str, Any]:
    return {"queue": "q", "priority": 1, "payload": payload}


# Verifies: SYS-0040
async def test_the_life_of_a_message(web: Web) -> None:
    async with web.client() as client:
        id = (await client.ask("POST", "/publish", message())).json()["id"]
        taken = (await client.ask("POST", "/consume/q", {"consumer_id": "w"})).json()
        assert (taken["id"], taken["payload"]) == (id, "p")
        assert (await client.ask("POST", f"/ack/q/{id}", {"consumer_id": "w"})).status == 200
        assert counts(web) == (0, 0)


# Verifies: SYS-0040
async def test_requests_that_come_together_are_answered_in_order(web: Web) -> None:
    async with web.client() as client:
        await client.send(b"".join(request("POST", "/publish", message(str(n))) + HEALTH for n in range(100)))
        answers = [(await client.response()).json() for _ in range(200)]
    assert [sorted(each)[0] for each in answers] == ["id", "memory_pressure"] * 100
    assert counts(web) == (100, 0)


# Verifies: SYS-0040
@pytest.mark.parametrize("size", [RECORD_BYTES - 400, RECORD_BYTES, 200_000, 2_000_000])
async def test_bodies_of_every_size(web: Web, size: int) -> None:
    payload = "0123456789abcdef" * (size // 16)
    async with web.client() as client:
        for _ in range(2):
            assert (await client.ask("POST", "/publish", message(payload))).status == 200
            assert (await client.ask("POST", "/consume/q", {"consumer_id": "w"})).json()["payload"] == payload


# Verifies: SYS-0040
@pytest.mark.parametrize("size", [1, 7, 100])
async def test_a_request_in_many_records(web: Web, size: int) -> None:
    """They arrive together, and a read takes only some of them."""
    data = request("POST", "/publish", message("x" * 200))
    async with peer_of(web) as peer:
        for _ in range(2):
            for start in range(0, len(data), size):
                peer.put(data[start : start + size])
            await peer.flush()
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                answer += await peer.read()
            assert answer.startswith(b"HTTP/1.1 200")


# Verifies: SYS-0040
async def test_a_record_that_comes_in_pieces(web: Web) -> None:
    async with peer_of(web) as peer:
        peer.put(HEALTH)
        data = peer.outgoing.read()
        for start in range(0, len(data), 10):
            await peer.stream.send_all(data[start : start + 10])
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert (await peer.read()).startswith(b"HTTP/1.1 200")


# Verifies: SYS-0040
async def test_many_connections_at_once(web: Web) -> None:
    async def ask(client: Client) -> None:
        for _ in range(20):
            assert (await client.ask("POST", "/publish", message())).status == 200
            assert (await client.ask("POST", "/consume/q", {"consumer_id": "w"})).json()["payload"] == "p"

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(_with_client, web, ask)
    assert counts(web) == (0, 200)


async def _with_client(web: Web, ask: Any) -> None:
    async with web.client() as client:
        await ask(client)


# Verifies: SYS-0040
async def test_a_call_that_waits_for_a_message(web: Web) -> None:
    async with web.client() as client, web.client() as other:
        await client.send(request("POST", "/consume/q", {"consumer_id": "w", "wait_seconds": 60}) + HEALTH)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await other.ask("POST", "/publish", message())
        assert (await client.response()).json()["payload"] == "p"
        assert (await client.response()).json()["status"] == "ok"


# Verifies: SYS-0040
async def test_a_peer_that_leaves_while_it_waits_takes_nothing(web: Web) -> None:
    async with peer_of(web) as peer:
        peer.put(request("POST", "/consume/q", {"consumer_id": "w", "wait_seconds": 60}))
        await peer.flush()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await peer.take_leave()
        assert b"null" in await peer.read_all()
    await web.ask("POST", "/publish", message())
    assert counts(web) == (1, 0)


# Verifies: SYS-0040
async def test_a_websocket(web: Web) -> None:
    await web.ask("POST", "/create-queue", {"name": "q", "config": {"ordering": "Fifo"}})
    stream = await trio.open_tcp_stream("127.0.0.1", web.port)
    secured = trio.SSLStream(stream, client_context(), server_hostname="localhost", https_compatible=True)
    async with secured, trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            socket = await wrap_client_stream(nursery, secured, "test", "/ws")
            for payload in ("small", "l" * 900_000):
                await socket.send_message(json.dumps({"type": "publish", "req_id": "1", **message(payload)}))
                assert json.loads(await socket.get_message())["type"] == "ok"
            await socket.send_message(json.dumps({"type": "subscribe", "queue": "q"}))
            received = [json.loads(await socket.get_message()) for _ in range(3)]
            assert sorted(len(each.get("payload", "")) for each in received) == [0, 5, 900_000]
            await socket.aclose(1000, "")
        nursery.cancel_scope.cancel()


# Verifies: API-0184
@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "h2"), (["h2"], "h2"), (["http/1.1"], "http/1.1"), (["spdy/1"], None)],
    ids=["both", "h2", "http", "neither"],
)
async def test_which_protocol_is_chosen(web: Web, offered: list[str], chosen: str | None) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", web.port)
    context = client_context(protocols=offered)
    async with trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True) as secured:
        with trio.fail_after(PATIENCE):
            await secured.do_handshake()
            assert secured.selected_alpn_protocol() == chosen
            if chosen == "h2":
                await Peer(secured).is_served()
            else:
                assert (await Client(secured).ask("GET", "/health")).status == 200


# Verifies: API-0185
async def test_the_server_says_that_it_closes(web: Web) -> None:
    async with peer_of(web) as peer:
        peer.put(request("GET", "/health", headers=b"Connection: close\r\n"))
        await peer.flush()
        assert b"200 OK" in await peer.read_all()


# Verifies: API-0185
async def test_an_idle_connection_is_closed_in_order_when_the_server_stops(web: Web) -> None:
    async with peer_of(web) as peer:
        peer.put(HEALTH)
        await peer.flush()
        answer = b""
        while not answer.endswith(b"}"):
            answer += await peer.read()
        web.context.stopping.set()
        assert await peer.read() == b""


# Verifies: API-0185
async def test_a_peer_that_closes_its_side_gets_its_responses(web: Web) -> None:
    async with peer_of(web) as peer:
        peer.put(HEALTH * 3)
        await peer.take_leave()
        assert (await peer.read_all()).count(b"200 OK") == 3


# Verifies: API-0185
async def test_a_peer_that_closes_without_a_farewell_gets_its_responses(web: Web) -> None:
    async with peer_of(web) as peer:
        peer.put(HEALTH * 3)
        await peer.flush()
        await peer.stream.send_eof()
        assert (await peer.read_all()).count(b"200 OK") == 3


# Verifies: API-0185
@pytest.mark.parametrize("cut", [10, 150])
async def test_a_request_that_is_cut_short_does_nothing(web: Web, cut: int) -> None:
    """10: within a record. 150: between two."""
    data = request("POST", "/publish", message("x" * 200))
    async with peer_of(web) as peer:
        if cut == 10:
            peer.put(data)
            await peer.stream.send_all(peer.outgoing.read()[:-cut])
        else:
            peer.put(data[:cut])
            await peer.flush()
        await peer.stream.send_eof()
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            while await peer.read():
                pass
            raise EOFError
    assert counts(web) == (0, 0)


# Verifies: API-0185
async def test_a_record_that_was_changed_ends_its_connection(web: Web) -> None:
    async with web.client() as other, peer_of(web) as peer:
        peer.put(request("POST", "/publish", message()))
        data = bytearray(peer.outgoing.read())
        data[-1] ^= 1
        await peer.stream.send_all(data)
        with pytest.raises((ssl.SSLError, EOFError, trio.BrokenResourceError)):
            while await peer.read():
                pass
        assert (await other.ask("GET", "/health")).status == 200
    assert counts(web) == (0, 0)


# Verifies: DLV-0019
async def test_what_a_peer_did_not_take_goes_back(fast_path: bool, tmp_path: Path) -> None:
    context = server_context(tmp_path)
    async with running(fast_path, tls=lambda: context, send_buffer=8192) as web:
        for _ in range(3):
            await web.ask("POST", "/publish", message("x" * 1_000_000))
        async with peer_of(web) as peer:
            peer.put(CONSUME * 3)
            await peer.flush()
            await peer.stream.receive_some(100)  # the first response has begun to leave
        await until(web, (3, 0))


# Verifies: API-0066, SYS-0040
async def test_a_connection_too_many_is_told_so(fast_path: bool, tmp_path: Path) -> None:
    context = server_context(tmp_path)
    async with running(fast_path, tls=lambda: context, max_connections=1) as web, web.client() as client:
        assert (await client.ask("GET", "/health")).status == 200
        async with web.client() as other:
            assert (await other.ask("GET", "/health")).status == 503


# Verifies: API-0066
@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x00", b""], ids=["HTTP", "no TLS", "nothing"]
)
async def test_a_connection_too_many_without_tls_ends(fast_path: bool, tmp_path: Path, said: bytes) -> None:
    context = server_context(tmp_path)
    async with (
        running(fast_path, tls=lambda: context, max_connections=0) as web,
        await trio.open_tcp_stream("127.0.0.1", web.port) as stream,
    ):
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            await stream.send_all(said)
            await stream.send_eof()
            while await stream.receive_some():
                pass
    assert web.context.bulkheads.failures == 0
