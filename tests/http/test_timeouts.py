"""How long a connection may take for what, on a clock that jumps: over memory streams, so that nothing else waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from hpack import Encoder
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair

from qrusty_trio.api.description import openapi
from qrusty_trio.http.byte_budget import SMALL_BYTES, Holding
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.fallback.hypercorn import Fallback
from qrusty_trio.http.fast_path import TICK_SECONDS, FastPath
from qrusty_trio.http.header_block import BODY_SECONDS, HEADER_SECONDS, IDLE_SECONDS, SEND_SECONDS
from tests.http.fallback.test_http2_progress import DATA, END_HEADERS, HEADERS, PREFACE, SETTINGS, frame
from tests.http.web import PATHS, context_for, make_engine, request

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])

Peer = trio.StapledStream[MemorySendStream, MemoryReceiveStream]
HEALTH = request("GET", "/health")
PUBLISH = request("POST", "/publish", {"queue": "q", "priority": 1, "payload": "p"})
LARGE = request("POST", "/publish", {"queue": "q", "priority": 1, "payload": "x" * 1_000_000})
SLACK = 3 * TICK_SECONDS


class Served:
    """One connection under one of the paths."""

    def __init__(self, peer: Peer, ours: Peer, context: HttpContext) -> None:
        self.peer = peer
        self.context = context
        self._ours = ours
        self.began = trio.current_time()
        self.ended = trio.Event()
        self.received = b""

    async def read_to_end(self) -> bytes:
        """All that is received until the server closes."""
        try:
            while data := await self.peer.receive_some(65536):
                self.received += data
        except trio.BrokenResourceError:
            pass
        return self.received

    def take_nothing(self) -> None:
        """Let what the server sends wait for ever; a memory stream takes everything by itself."""
        self._ours.send_stream.send_all_hook = trio.sleep_forever

    def take_slowly(self, seconds: float) -> None:
        """Let each piece that the server sends wait for so long."""
        stream = self._ours.send_stream
        pump = stream.send_all_hook
        assert pump is not None

        async def slowly() -> None:
            await trio.sleep(seconds)
            await pump()

        stream.send_all_hook = slowly

    def took(self) -> float:
        return trio.current_time() - self.began


@asynccontextmanager
async def served(fast_path: bool) -> AsyncIterator[Served]:
    context = context_for(make_engine(), fast_path)
    fallback = Fallback(context)
    fast = FastPath(context, fallback.serve)
    ours, theirs = memory_stream_pair()
    connection = Served(theirs, ours, context)

    async def serve() -> None:
        await (fast.serve(ours) if fast_path else fallback.serve(ours))
        connection.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fast.watch)
        nursery.start_soon(serve)
        yield connection
        await connection.ended.wait()
        nursery.cancel_scope.cancel()


def statuses(data: bytes) -> list[int]:
    return [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]]


# Verifies: API-0035
async def test_a_connection_that_asks_nothing(fast_path: bool, autojump_clock: MockClock) -> None:
    async with served(fast_path) as connection:
        assert await connection.read_to_end() == b""
        assert IDLE_SECONDS - SLACK <= connection.took() <= IDLE_SECONDS + SLACK


# Verifies: API-0035
async def test_a_connection_that_has_asked_enough(fast_path: bool, autojump_clock: MockClock) -> None:
    async with served(fast_path) as connection:
        for _ in range(3):
            await connection.peer.send_all(HEALTH)
            await trio.sleep(IDLE_SECONDS - SLACK)
        assert statuses(await connection.read_to_end()) == [200] * 3
        assert connection.took() >= 3 * (IDLE_SECONDS - SLACK)


# Verifies: API-0035
async def test_an_empty_line_begins_no_request(fast_path: bool, autojump_clock: MockClock) -> None:
    """One that follows a body, as some clients send it, is no reason for a 408; nor does it keep a connection."""
    async with served(fast_path) as connection:
        await connection.peer.send_all(PUBLISH + b"\r\n")
        for _ in range(4):
            await trio.sleep(HEADER_SECONDS + SLACK)
            await connection.peer.send_all(b"\r\n")
        assert statuses(await connection.read_to_end()) == [200]
        assert IDLE_SECONDS - SLACK <= connection.took() <= IDLE_SECONDS + SLACK


# Verifies: API-0034
async def test_a_head_that_comes_a_byte_at_a_time(fast_path: bool, autojump_clock: MockClock) -> None:
    async with served(fast_path) as connection, trio.open_nursery() as nursery:

        async def drip() -> None:
            with pytest.raises(trio.BrokenResourceError):
                for byte in b"GET /health HTTP/1.1\r\nX-A: " + b"b" * 1000:
                    await connection.peer.send_all(bytes([byte]))
                    await trio.sleep(0.5)

        nursery.start_soon(drip)
        assert statuses(await connection.read_to_end()) == [408]
        assert HEADER_SECONDS - SLACK <= connection.took() <= HEADER_SECONDS + SLACK


async def test_the_next_head_has_time_of_its_own(fast_path: bool, autojump_clock: MockClock) -> None:
    async with served(fast_path) as connection:
        for _ in range(4):
            await connection.peer.send_all(HEALTH[:10])
            await trio.sleep(HEADER_SECONDS - SLACK)
            await connection.peer.send_all(HEALTH[10:])
        await connection.peer.send_all(HEALTH[:10])
        assert statuses(await connection.read_to_end()) == [200] * 4 + [408]


# Verifies: API-0034
async def test_a_body_that_never_ends(fast_path: bool, autojump_clock: MockClock) -> None:
    async with served(fast_path) as connection:
        await connection.peer.send_all(HEALTH + PUBLISH[:-1])
        data = await connection.read_to_end()
        assert statuses(data) == [200, 408]
        assert b'"code":"request_timeout"' in data
        assert BODY_SECONDS - SLACK <= connection.took() <= BODY_SECONDS + SLACK


# Verifies: API-0034
async def test_chunks_that_never_end(fast_path: bool, autojump_clock: MockClock) -> None:
    head = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with served(fast_path) as connection, trio.open_nursery() as nursery:

        async def drip() -> None:
            await connection.peer.send_all(head)
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await connection.peer.send_all(b"1\r\n \r\n")
                    await trio.sleep(1)

        nursery.start_soon(drip)
        assert statuses(await connection.read_to_end()) == [408]
        assert BODY_SECONDS - SLACK <= connection.took() <= BODY_SECONDS + SLACK


# Verifies: API-0034
async def test_the_size_of_a_chunk_has_the_time_of_a_body(fast_path: bool, autojump_clock: MockClock) -> None:
    head = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with served(fast_path) as connection:
        await connection.peer.send_all(head + b"2")
        await trio.sleep(HEADER_SECONDS + SLACK)
        await connection.peer.send_all(b"\r\n{}\r\n0\r\n\r\n")
        await trio.sleep(1)
        await connection.peer.send_eof()
        assert statuses(await connection.read_to_end()) == [422]


# Verifies: API-0040
@pytest.mark.parametrize("others_wait", [False, True])
@pytest.mark.parametrize("behind", [b"", LARGE[: 2 * SMALL_BYTES]], ids=["alone", "with a request behind it"])
async def test_who_waits_gives_up_when_others_need_the_room_behind_it(
    fast_path: bool, autojump_clock: MockClock, others_wait: bool, behind: bytes
) -> None:
    """Hypercorn's connections hold nothing there: each request is received when its turn has come."""
    async with served(fast_path) as connection, trio.open_nursery() as others:
        budget = connection.context.received
        await connection.peer.send_all(request("POST", "/consume/q", {"consumer_id": "w", "wait_seconds": 60}) + behind)
        await trio.testing.wait_all_tasks_blocked()
        first, second = Holding(budget), Holding(budget)
        if others_wait:
            first.set(budget.limit)
            others.start_soon(second.reserve, budget.limit)
        assert (await connection.peer.receive_some()).startswith(b"HTTP/1.1 200")
        assert (connection.took() < 30) == bool(fast_path and others_wait and behind)
        first.set(0)
        await trio.testing.wait_all_tasks_blocked()
        second.set(0)
        await connection.peer.aclose()


# Verifies: API-0036
async def test_a_reader_that_takes_nothing(fast_path: bool, autojump_clock: MockClock) -> None:
    async with served(fast_path) as connection:
        connection.take_nothing()
        await connection.peer.send_all(HEALTH)
        await connection.ended.wait()
        assert SEND_SECONDS - SLACK <= connection.took() <= SEND_SECONDS + SLACK


# Verifies: API-0036
async def test_a_reader_that_takes_a_long_response_bit_by_bit(fast_path: bool, autojump_clock: MockClock) -> None:
    async with served(fast_path) as connection:
        connection.take_slowly(SEND_SECONDS / 2)
        await connection.peer.send_all(LARGE + request("POST", "/consume/q", {"consumer_id": "c"}) + HEALTH)
        assert statuses(await connection.read_to_end()) == [200, 200, 200]
        assert connection.took() > 5 * SEND_SECONDS


# Verifies: API-0047
async def test_a_window_that_is_opened_bit_by_bit(fast_path: bool, autojump_clock: MockClock) -> None:
    async with served(fast_path) as connection:
        taken = 0
        h2 = H2Connection()
        h2.initiate_connection()
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/openapi.json"), (":authority", "test")]
        h2.send_headers(1, fields, end_stream=True)
        await connection.peer.send_all(h2.data_to_send())
        while True:
            events = h2.receive_data(await connection.peer.receive_some(65536))
            taken += sum(len(each.data) for each in events if isinstance(each, DataReceived))
            if any(isinstance(each, StreamEnded) for each in events):
                break
            if any(isinstance(each, DataReceived) for each in events):
                await trio.sleep(SEND_SECONDS / 2)
                for stream in (None, 1):
                    h2.increment_flow_control_window(8_000, stream)
                await connection.peer.send_all(h2.data_to_send())
        assert taken == len(openapi.encoded())
        await connection.peer.aclose()
        assert connection.took() > 4 * SEND_SECONDS


@pytest.mark.parametrize("follows", [b"\x81\x05hello", b"\xff" * 20, b"GET / HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("reset", [False, True], ids=["silent", "gone"])
async def test_a_websocket_over_http2_without_a_window(
    fast_path: bool, autojump_clock: MockClock, follows: bytes, reset: bool
) -> None:
    """It breaks the rules before it is accepted: the refusal waits for a window that nobody would see opened."""
    pairs = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/ws")]
    block = Encoder().encode([*pairs, (":authority", "a"), ("sec-websocket-version", "13")])
    frames = [(SETTINGS, 0, 0, b"\0\4\0\0\0\0"), (HEADERS, END_HEADERS, 1, block), (DATA, 0, 1, follows)]
    async with served(fast_path) as connection:
        await connection.peer.send_all(
            PREFACE + b"".join(frame(kind, data, flags, id) for kind, flags, id, data in frames)
        )
        if reset:
            await connection.peer.aclose()
        await connection.ended.wait()
        assert connection.took() <= (SEND_SECONDS if reset else IDLE_SECONDS) + SLACK


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 2])
async def test_half_a_frame_after_an_upgrade_to_http2(
    fast_path: bool, before: bytes, autojump_clock: MockClock
) -> None:
    upgrade = before + (
        b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABk\r\n\r\n"
    )
    async with served(fast_path) as connection:
        await connection.peer.send_all(upgrade)
        while b"101 Switching Protocols" not in await connection.peer.receive_some():
            pass
        await connection.peer.send_all(PREFACE + frame(SETTINGS, b"", 0, 0) + frame(HEADERS, b"x" * 100, 0, 3)[:20])
        await connection.read_to_end()
        assert connection.took() <= HEADER_SECONDS + SLACK
