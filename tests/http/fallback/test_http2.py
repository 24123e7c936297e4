"""HTTP/2: what is wrong with one request is answered, and those beside it are served."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import h2.config
import h2.connection
import h2.events
import h2.settings
import hypercorn.protocol
import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes

from qrusty_trio.http.fallback.guard import GuardedStream
from qrusty_trio.http.fallback.http2 import Http2
from qrusty_trio.http.request_parser import OPAQUE_BYTES_PER_STEP
from tests.http.web import PATHS, Web, request, running
from tests.http.ws_raw import CLOSE, CONT, TEXT, frame, upgrade
from tests.tasks import all_tasks

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])

PATIENCE = 60
GOOD = {b":method": b"GET", b":path": b"/health", b":scheme": b"http", b":authority": b"test"}
WEBSOCKET = {**GOOD, b":method": b"CONNECT", b":path": b"/ws", b":protocol": b"websocket"}
WEBSOCKET[b"sec-websocket-version"] = b"13"
LARGE = {**GOOD, b":method": b"POST", b":path": b"/publish", b"content-type": b"application/json"}


class Peer:
    """A client that checks nothing of what it sends."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.initiate_connection()
        self.status: dict[int, int] = {}
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.body: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: dict[int, int] = {}

    def ask(self, headers: dict[bytes, bytes], *, whole: bool = True) -> int:
        """Begin a request; the number of its stream. Nothing is sent before the next `flush`."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, list(headers.items()), end_stream=whole)
        return stream

    async def flush(self) -> None:
        await self._stream.send_all(self.h2.data_to_send())

    async def until(self, done: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            await self.flush()
            while not done():
                data = await self._stream.receive_some(65536)
                assert data, "the connection has ended"
                for event in self.h2.receive_data(data):
                    self._note(event)
                await self.flush()

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.headers[event.stream_id] = dict(event.headers)
            self.status[event.stream_id] = int(self.headers[event.stream_id][b":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.body[event.stream_id] = self.body.get(event.stream_id, b"") + event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.reset[event.stream_id] = event.error_code

    async def is_served(self) -> None:
        """Ask for something good."""
        stream = self.ask(GOOD)
        await self.until(lambda: stream in self.ended)
        assert self.status[stream] == 200


@asynccontextmanager
async def peer_of(web: Web) -> AsyncIterator[Peer]:
    async with await trio.open_tcp_stream("127.0.0.1", web.port) as stream:
        peer = Peer(stream)
        await peer.is_served()
        yield peer
        await peer.is_served()
    assert web.context.bulkheads.failures == 0


# What h2 itself refuses (an empty path, a NUL) ends the connection, with a GOAWAY.
BAD = {
    "path over 127": {b":path": "/queue-stats/ü".encode()},
    "no slash": {b":path": b"health"},
    "space in the path": {b":path": b"/a b"},
    "method over 127": {b":method": "GÉT".encode()},
    "method in small letters": {b":method": b"get"},
    "empty method": {b":method": b""},
    "host over 127": {b":authority": b"\xff"},
    "host with a user": {b":authority": b"a@b"},
}


# Verifies: API-0046
@pytest.mark.parametrize("name", BAD)
async def test_a_bad_request_is_answered_and_the_others_are_served(fast_path: bool, name: str) -> None:
    async with running(fast_path) as web, peer_of(web) as peer:
        before, bad, after = peer.ask(GOOD), peer.ask({**GOOD, **BAD[name]}), peer.ask(GOOD)
        await peer.until(lambda: {before, after} <= peer.ended and (bad in peer.ended or bad in peer.reset))
        assert (peer.status[before], peer.status[after]) == (200, 200)
        if bad in peer.ended:
            assert peer.status[bad] == 400
            assert json.loads(peer.body[bad])["code"] == "bad_request"
            assert peer.headers[bad][b"content-type"] == b"application/json"
            assert peer.headers[bad][b"content-length"] == b"%d" % len(peer.body[bad])


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""With settings that say nothing."""
TO_H2C = request(
    "GET", "/health", None, b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
)
FLOODS = {
    "settings": PREFACE + bytes([0, 0, 0, 4, 1, 0, 0, 0, 0]) * 20_000,
    "windows": PREFACE + bytes([0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]) * 20_000,
    "unknown, after an upgrade": TO_H2C + PREFACE + bytes([0, 0, 0, 99, 0, 0, 0, 0, 0]) * 20_000,
    "WebSocket": upgrade() + frame(TEXT, b"x", fin=False) + frame(CONT, b"x", fin=False) * 20_000,
}


# Verifies: API-0048
@pytest.mark.parametrize("name", FLOODS)
async def test_what_may_be_small_frames_reaches_hypercorn_in_short_steps(
    fast_path: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in bytes, not in time."""
    passed: list[int] = []
    original = GuardedStream.receive_some

    async def receive_some(self: GuardedStream, max_bytes: int | None = None) -> bytes:
        data = await original(self, max_bytes)
        passed.append(len(data))
        return data

    monkeypatch.setattr(GuardedStream, "receive_some", receive_some)
    async with running(fast_path) as web:
        async with await trio.open_tcp_stream("127.0.0.1", web.port) as stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(FLOODS[name])
                await stream.send_eof()
                while await stream.receive_some():
                    pass
        async with peer_of(web):
            pass
    assert max(passed) <= OPAQUE_BYTES_PER_STEP
    assert sum(passed) > 2 * OPAQUE_BYTES_PER_STEP or fast_path


OVERLONG = {
    "data": bytes([0, 0x40, 1, 0, 0, 0, 0, 0, 1]),
    "headers": bytes([0, 0x40, 1, 1, 5, 0, 0, 0, 1]),
    "settings": bytes([1, 0, 0, 4, 0, 0, 0, 0, 0]),
    "unknown": bytes([0xFF, 0xFF, 0xFF, 99, 0, 0, 0, 0, 0]),
}
"""The headers of frames longer than the 16 KiB that the server takes."""


# Verifies: API-0198
@pytest.mark.parametrize("before", [b"", TO_H2C], ids=["at once", "after an upgrade"])
@pytest.mark.parametrize("kind", OVERLONG)
async def test_a_frame_too_long_is_refused_by_its_header(fast_path: bool, kind: str, before: bytes) -> None:
    """Nothing of its payload is sent: who waits for that would keep up to 16 MiB for each connection."""
    async with running(fast_path) as web, await trio.open_tcp_stream("127.0.0.1", web.port) as stream:
        received = b""
        with trio.fail_after(PATIENCE):
            await stream.send_all(before + PREFACE + OVERLONG[kind])
            while data := await stream.receive_some():
                received += data
        # A GOAWAY with the error FRAME_SIZE_ERROR, as the last frame.
        assert received[-17:-13] == bytes([0, 0, 8, 7])
        assert int.from_bytes(received[-4:], "big") == ErrorCodes.FRAME_SIZE_ERROR


async def test_a_connect_without_a_path(fast_path: bool) -> None:
    async with running(fast_path) as web, peer_of(web) as peer:
        bad, after = peer.ask({b":method": b"CONNECT", b":authority": b"x"}, whole=False), peer.ask(GOOD)
        await peer.until(lambda: {bad, after} <= peer.ended)
        assert (peer.status[bad], peer.status[after]) == (400, 200)


async def test_a_refusal_waits_for_no_window(fast_path: bool) -> None:
    async with running(fast_path) as web, peer_of(web) as peer:
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        bad = peer.ask({**GOOD, b":path": b"/\xff"})
        await peer.until(lambda: bad in peer.ended)
        assert (peer.status[bad], peer.body.get(bad)) == (400, None)
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65_535})


async def test_a_bad_request_that_is_taken_back(fast_path: bool) -> None:
    async with running(fast_path) as web, peer_of(web) as peer:
        for _ in range(20):
            peer.h2.reset_stream(peer.ask({**GOOD, b":path": b"/\xff"}, whole=False))
            peer.h2.reset_stream(peer.ask(LARGE, whole=False))


# Verifies: API-0046
async def test_a_body_too_large_costs_its_request_and_not_the_connection(fast_path: bool) -> None:
    async with running(fast_path) as web, peer_of(web) as peer:
        large = peer.ask(LARGE, whole=False)
        while large not in peer.ended:
            room = min(peer.h2.local_flow_control_window(large), peer.h2.max_outbound_frame_size)
            if room:
                peer.h2.send_data(large, b" " * room)
                await peer.flush()
            else:
                await peer.until(lambda: large in peer.ended or peer.h2.local_flow_control_window(large) > 0)
        assert peer.status[large] == 413
        # What was under way already.
        await peer.until(lambda: large in peer.reset or peer.h2.local_flow_control_window(large) > 0)
        if large not in peer.reset:
            peer.h2.send_data(large, b" ")
            await peer.until(lambda: large in peer.reset)
        assert peer.reset[large] == ErrorCodes.NO_ERROR


async def leave(peer: Peer, stream: trio.SocketStream) -> None:
    """End the connection in the same breath as what was asked, and wait for the server to end it."""
    peer.h2.close_connection()
    await peer.flush()
    with trio.fail_after(PATIENCE):
        while await stream.receive_some(65536):
            pass


# Verifies: API-0046
async def test_data_for_what_was_refused_and_the_end_of_the_connection_at_once(fast_path: bool) -> None:
    async with running(fast_path) as web, await trio.open_tcp_stream("127.0.0.1", web.port) as stream:
        peer = Peer(stream)
        refused = peer.ask({**LARGE, **BAD["no slash"]}, whole=False)
        await peer.until(lambda: refused in peer.ended)
        peer.h2.send_data(refused, b" ")
        await leave(peer, stream)
    assert web.context.bulkheads.failures == 0


async def test_a_request_and_the_end_of_the_connection_at_once_while_the_server_stops(fast_path: bool) -> None:
    async with running(fast_path) as web, await trio.open_tcp_stream("127.0.0.1", web.port) as stream:
        peer = Peer(stream)
        peer.ask({**LARGE, b":path": b"/consume/q"}, whole=False)
        await peer.is_served()
        web.context.stopping.set()
        await trio.testing.wait_all_tasks_blocked()
        peer.ask(GOOD)
        await leave(peer, stream)
    assert web.context.bulkheads.failures == 0


async def test_a_request_that_is_taken_back_while_the_server_stops(fast_path: bool) -> None:
    async with running(fast_path) as web, await trio.open_tcp_stream("127.0.0.1", web.port) as stream:
        peer = Peer(stream)
        begun = peer.ask({**LARGE, b":path": b"/consume/q"}, whole=False)
        await peer.is_served()
        web.context.stopping.set()
        await trio.testing.wait_all_tasks_blocked()
        peer.h2.reset_stream(peer.ask(GOOD, whole=False))
        peer.h2.send_data(begun, b'{"consumer_id":"c"}', end_stream=True)
        await peer.until(lambda: begun in peer.ended)
        assert (peer.status[begun], peer.body[begun]) == (200, b"null")
        assert web.context.bulkheads.failures == 0


# Verifies: API-0046, API-0047
@pytest.mark.parametrize("how", ["closes and ends", "closes, then ends", "ends", "ends before it is accepted"])
async def test_the_stream_of_a_websocket_ends_with_it(fast_path: bool, how: str) -> None:
    """Otherwise the connection would be cut off, as if its peer did not take a response."""
    async with running(fast_path) as web, peer_of(web) as peer:
        stream = peer.ask(WEBSOCKET, whole=how == "ends before it is accepted")
        if how != "ends before it is accepted":
            await peer.until(lambda: stream in peer.status)
        if how.startswith("closes"):
            peer.h2.send_data(stream, frame(CLOSE, b"\x03\xe8"), end_stream=how == "closes and ends")
            await peer.until(lambda: stream in peer.ended)
            assert peer.body[stream] == frame(CLOSE, b"\x03\xe8", mask=False)
        if how in ("ends", "closes, then ends"):
            peer.h2.end_stream(stream)
        await peer.until(lambda: stream in peer.ended or stream in peer.reset)
        with trio.fail_after(PATIENCE):
            while web.context.websocket.connections:  # noqa: ASYNC110  # no event says so
                await trio.sleep(0.01)


# Verifies: API-0042
@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "at once"])
async def test_nothing_is_left_of_a_websocket_that_is_reset(
    fast_path: bool, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection goes on, and a peer may open and reset as many as it likes."""
    monkeypatch.setattr("qrusty_trio.http.fallback.hypercorn.LINGER_SECONDS", 0.01)
    async with running(fast_path) as web, peer_of(web) as peer:
        before = len(all_tasks())
        for _ in range(5):
            stream = peer.ask(WEBSOCKET, whole=False)
            if accepted:
                await peer.until(lambda stream=stream: stream in peer.status)  # type: ignore[misc]
                assert peer.status[stream] == 200
            peer.h2.reset_stream(stream)
            await peer.is_served()
        with trio.fail_after(PATIENCE):
            while len(all_tasks()) > before:  # noqa: ASYNC110  # no event says so
                await trio.sleep(0.01)


async def test_priorities_are_read_over(fast_path: bool) -> None:
    async with running(fast_path) as web, peer_of(web) as peer:
        for number in range(2000):
            peer.h2.prioritize(2 * number + 5, weight=256, depends_on=2 * number + 3, exclusive=True)


# Verifies: API-0045
async def test_it_is_what_hypercorn_speaks(fast_path: bool) -> None:
    assert hypercorn.protocol.H2Protocol is Http2  # type: ignore[attr-defined]  # as in `install`


# Verifies: API-0078
async def test_an_id_that_is_not_printable_is_not_repeated(fast_path: bool) -> None:
    async with running(fast_path) as web, peer_of(web) as peer:
        ids = [b"a b~", b"a\x1b[31m", b"a\x7f", b"caf\xc3\xa9"]
        streams = [peer.ask({**GOOD, b"x-request-id": id}) for id in ids]
        await peer.until(lambda: peer.ended.issuperset(streams))
        assert [peer.headers[each].get(b"x-request-id") for each in streams] == [b"a b~", None, None, None]
