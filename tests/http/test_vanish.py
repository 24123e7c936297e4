"""Clients that go away: what was handed out in a response nobody took goes back at once, and only that."""

from __future__ import annotations

import socket
import struct

import h2.settings
import pytest
import trio
import trio.testing

from qrusty_trio.api.call import Reply
from qrusty_trio.http import lingering
from qrusty_trio.http.fallback import guard, hypercorn
from qrusty_trio.http.pipe import ConnectionLost, pipe_over
from tests.http.fallback.test_http2 import LARGE, Peer, peer_of
from tests.http.web import PATHS, Web, make_engine, request, running

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])

HEALTH = request("GET", "/health")
CONSUME = request("POST", "/consume/q", {"consumer_id": "w"})


async def publish(web: Web, count: int, payload: str = "p") -> None:
    for _ in range(count):
        assert (await web.ask("POST", "/publish", {"queue": "q", "priority": 1, "payload": payload})).status == 200


def counts(web: Web) -> tuple[int, int]:
    stats = web.engine.broker.catalog.stats("q")
    assert stats is not None
    return stats.available, stats.locked


async def until(web: Web, expected: tuple[int, int]) -> None:
    """Wait for the counts; the test's own time limit is what fails it."""
    with trio.fail_after(60):
        while counts(web) != expected:
            await trio.testing.wait_all_tasks_blocked(0.005)


class SlowEngine:
    """The real engine, with a gate before its answers with messages. Plain requests that come alone are served in
    rounds, without a wait."""

    def __init__(self, engine: object) -> None:
        self._engine = engine
        self.entered = trio.Event()
        self.go = trio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def run(self, calls: list[object], *pause: object) -> list[Reply]:
        replies: list[Reply] = await self._engine.run(calls, *pause)  # type: ignore[attr-defined]  # it is an Engine
        if any(reply.deliveries for reply in replies):
            self.entered.set()
            with trio.CancelScope(shield=True):
                await self.go.wait()
        return replies


# Verifies: DLV-0019
@pytest.mark.parametrize("headers", [b"", b"Connection: close\r\n"], ids=["keep-alive", "close"])
async def test_a_closed_socket_gives_the_message_back(fast_path: bool, headers: bytes) -> None:
    slow = SlowEngine(make_engine())
    async with running(fast_path, engine=slow) as web:  # type: ignore[arg-type]  # it is one but for the gate
        await publish(web, 2)
        async with web.client() as client:
            await client.send(HEALTH + request("POST", "/consume/q", {"consumer_id": "w"}, headers))
            await slow.entered.wait()
            assert counts(web) == (1, 1)
        slow.go.set()
        await until(web, (2, 0))
        again = await web.ask("POST", "/consume/q", {"consumer_id": "w2"})
        assert again.json()["retry_count"] == 1, "the delivery was not counted"


# Verifies: DLV-0019
async def test_a_reset_socket_gives_the_message_back(fast_path: bool) -> None:
    slow = SlowEngine(make_engine())
    async with running(fast_path, engine=slow) as web:  # type: ignore[arg-type]  # it is one but for the gate
        await publish(web, 2)
        async with web.client() as client:
            await client.send(HEALTH + CONSUME)
            await slow.entered.wait()
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        slow.go.set()
        await until(web, (2, 0))


# Verifies: DLV-0020
async def test_a_half_closed_client_gets_its_answer_and_keeps_it(fast_path: bool) -> None:
    async with running(fast_path) as web:
        await publish(web, 2)
        async with web.client() as client:
            await client.send(CONSUME)
            await client.stream.send_eof()
            assert (await client.response()).json()["payload"] == "p"
            assert await client.ended()
        assert counts(web) == (1, 1)


# Verifies: DLV-0020
async def test_a_client_that_closes_after_its_answer_keeps_the_message(fast_path: bool) -> None:
    async with running(fast_path) as web:
        await publish(web, 2)
        async with web.client() as client:
            assert (await client.ask("POST", "/consume/q", {"consumer_id": "w"})).json()["payload"] == "p"
        # The next connection is served after the first was seen to close.
        await web.ask("GET", "/health")
        assert counts(web) == (1, 1)
    assert counts(web) == (1, 1)


# Verifies: DLV-0023
async def test_a_client_that_vanishes_inside_its_request_changes_nothing(fast_path: bool) -> None:
    async with running(fast_path) as web:
        await publish(web, 1)
        for cut in (1, 20, len(CONSUME) - 1):
            async with web.client() as client:
                await client.send(CONSUME[:cut])
            async with web.client() as client:
                await client.send(CONSUME[:cut])
                await client.stream.send_eof()
                assert await client.ended(), "there is nothing to answer"
        assert counts(web) == (1, 0)
    assert counts(web) == (1, 0)


# Verifies: DLV-0021
async def test_what_a_slow_reader_had_not_been_sent_goes_back(fast_path: bool) -> None:
    """The responses are more than the socket takes; the client takes some of them and resets the connection."""
    async with running(fast_path) as web:
        payload = "x" * 1_000_000
        await publish(web, 20, payload)
        async with web.client() as client:
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            await client.send(CONSUME * 20)
            read = (await client.response()).json()["id"]
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with trio.fail_after(60):
            while counts(web)[0] < 10:
                await trio.testing.wait_all_tasks_blocked(0.005)
        # What the client has read is still its own.
        acked = await web.ask("POST", f"/ack/q/{read}", {"consumer_id": "w"})
        assert acked.status == 200


# Verifies: DLV-0021
async def test_a_pipe_says_how_much_has_left(fast_path: bool) -> None:
    left, right = trio.testing.memory_stream_pair()
    pipe = pipe_over(left)
    progress: list[None] = []
    await pipe.send(b"x" * 200_000, lambda: progress.append(None))
    assert (pipe.sent, len(progress)) == (200_000, 4)
    await right.aclose()
    with pytest.raises(ConnectionLost):
        await pipe.send(b"y", lambda: None)
    assert pipe.sent == 0


# Verifies: DLV-0022
@pytest.mark.parametrize("size", [1, 200_000])
@pytest.mark.parametrize("way", ["close", "reset", "take back", "go away"])
async def test_over_http2_what_no_window_let_out_goes_back(
    fast_path: bool, way: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (guard, hypercorn, lingering):
        monkeypatch.setattr(module, "LINGER_SECONDS", 0.02)
    async with running(fast_path) as web, await trio.open_tcp_stream("127.0.0.1", web.port) as stream:
        await publish(web, 3, "x" * size)
        peer = Peer(stream)
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        asked = []
        for _ in range(3):
            asked.append(peer.ask({**LARGE, b":path": b"/consume/q"}, whole=False))
            peer.h2.send_data(asked[-1], b'{"consumer_id":"w"}', end_stream=True)
        await peer.until(lambda: set(asked) <= peer.status.keys())
        await until(web, (0, 3))
        if way == "take back":
            for each in asked:
                peer.h2.reset_stream(each)
        elif way == "go away":
            peer.h2.close_connection()
        await peer.flush()
        if way == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if way in ("reset", "close"):
            await stream.aclose()
        await until(web, (3, 0))


# Verifies: DLV-0022
async def test_over_http2_what_left_stays_with_its_consumer(fast_path: bool) -> None:
    async with running(fast_path) as web:
        await publish(web, 1, "x" * 200_000)
        async with peer_of(web) as peer:
            asked = peer.ask({**LARGE, b":path": b"/consume/q"}, whole=False)
            peer.h2.send_data(asked, b'{"consumer_id":"w"}', end_stream=True)
            await peer.until(lambda: asked in peer.ended)
            await peer.is_served()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert counts(web) == (0, 1)
