"""A connection that the server closes first: the peer reads the response, whatever it still sends, within bounds."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from qrusty_trio.http.batching import Batching
from qrusty_trio.http.connection import FastConnection
from qrusty_trio.http.fallback.hypercorn import Fallback
from qrusty_trio.http.fast_path import FastPath
from qrusty_trio.http.lingering import LINGER_BYTES, LINGER_SECONDS, LINGER_WHOLE_SECONDS, linger
from qrusty_trio.http.shared import WORKING
from tests.http.web import PATHS, context_for, make_engine, request, running

MIB = 1024 * 1024
BOTH_PATHS = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])


def post(port: int, body: bytes | Iterator[bytes], path: str = "/publish") -> tuple[int, str | None, str]:
    """With Python's own client, which reads nothing before it has sent everything."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.getheader("connection"), json.loads(response.read())["code"]
    finally:
        connection.close()


# Verifies: API-0010
@BOTH_PATHS
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_far_over_the_limit_gets_its_413_read(fast_path: bool, chunked: bool) -> None:
    body = bytes(30 * MIB) if not chunked else iter([bytes(MIB)] * 30)
    async with running(fast_path) as web:
        response = await trio.to_thread.run_sync(post, web.port, body)
    assert response == (413, "close", "body_too_large")


# Verifies: API-0037
@BOTH_PATHS
async def test_a_connection_too_many_gets_its_503_read(fast_path: bool) -> None:
    async with running(fast_path, max_connections=0) as web:
        response = await trio.to_thread.run_sync(post, web.port, bytes(30 * MIB))
    assert response == (503, "close", "unavailable")


class Endless(trio.abc.HalfCloseableStream):
    """A peer that sends `size` bytes every `pause` seconds, and never stops."""

    def __init__(self, size: int, pause: float) -> None:
        self.size, self.pause = size, pause
        self.sent = 0
        self.closed_half = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep(self.pause)
        self.sent += self.size
        return bytes(self.size)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError

    async def send_eof(self) -> None:
        self.closed_half = True

    async def aclose(self) -> None:
        raise AssertionError


# Verifies: API-0010
@pytest.mark.parametrize(
    ("size", "pause", "seconds"),
    [
        (0x10000, 1000, LINGER_SECONDS),
        (1, LINGER_SECONDS / 2 + 0.1, LINGER_WHOLE_SECONDS),
        (LINGER_BYTES // 10, 1, 10),
    ],
    ids=["silent", "slow", "fast"],
)
async def test_its_bounds(autojump_clock: MockClock, size: int, pause: float, seconds: float) -> None:
    peer = Endless(size, pause)
    began = trio.current_time()
    await linger(peer)
    assert trio.current_time() - began == pytest.approx(seconds)
    assert peer.closed_half
    assert peer.sent <= LINGER_BYTES


async def test_it_has_bounds_of_its_own_and_not_those_of_a_send() -> None:
    context = context_for(make_engine(), True)
    shared = FastPath(context, Fallback(context).serve).shared
    ours, peer = memory_stream_pair()
    connection = FastConnection(shared, Batching(shared), ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await peer.send_all(request("GET", "/health", headers=b"Connection: close\r\n"))
        await wait_all_tasks_blocked()
        assert (await peer.receive_some()).startswith(b"HTTP/1.1 200 ")
        assert connection.phase == WORKING
        await peer.aclose()


# Verifies: API-0010
async def test_it_ends_when_the_peer_closes(autojump_clock: MockClock) -> None:
    ours, peer = memory_stream_pair()
    await peer.send_all(b"x")
    await peer.aclose()
    began = trio.current_time()
    await linger(ours)
    assert trio.current_time() == began
