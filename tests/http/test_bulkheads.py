"""Packets that no well-meant client sends, and some that one does: the server lives, and others are served."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from hpack import Encoder

from qrusty_trio.api.call import Call
from qrusty_trio.http import batching
from qrusty_trio.http.bulkheads import PERIOD_SECONDS, TRACEBACKS, Bulkheads
from qrusty_trio.http.request_parser import read_batchable_call
from qrusty_trio.server.supervisor import Server
from tests.http.web import request as web_request
from tests.http.web import running as web_running
from tests.server.running import running, settings_for, until_ready

PATIENCE = 60
MASK = b"\x00\x00\x00\x00"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS = 1, 4
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)


def handshake(path: bytes = b"/ws", more: bytes = b"") -> bytes:
    return (
        b"GET %b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n%b" % (path, more)
    )


def text_frame(text: bytes) -> bytes:
    return b"\x81" + bytes([0x80 | len(text)]) + MASK + text


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def h2(*frames: bytes) -> bytes:
    return PREFACE + frame(SETTINGS) + b"".join(frames)


def headers(*pairs: tuple[bytes, bytes], flags: int = END_STREAM | END_HEADERS, stream: int = 1) -> bytes:
    return frame(HEADERS, Encoder().encode(list(pairs), huffman=False), flags, stream)


def request(method: bytes = b"GET", path: bytes = b"/health", *more: tuple[bytes, bytes], stream: int = 1) -> bytes:
    pairs = [(b":method", method), (b":path", path), (b":scheme", b"http"), (b":authority", b"localhost")]
    return headers(*pairs, *more, stream=stream)


def connect(stream: int = 1) -> bytes:
    """RFC 8441: a WebSocket over HTTP/2."""
    return headers(
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":path", b"/ws"),
        (b":scheme", b"http"),
        (b":authority", b"localhost"),
        (b"sec-websocket-version", b"13"),
        flags=END_HEADERS,
        stream=stream,
    )


def h2c(settings: bytes) -> bytes:
    return (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: %b\r\n\r\n" % settings
    )


def packets() -> Iterator[tuple[str, bytes]]:
    for name, path in (("nowhere", b"/nope"), ("ui", b"/ui/"), ("health", b"/health"), ("slash", b"/ws/")):
        yield f"handshake-{name}", handshake(path, text_frame(b"{}"))
    for name, more in (
        ("ping", b"\x89\x80" + MASK),
        ("close", b"\x88\x80" + MASK),
        ("binary", b"\x82\x81" + MASK + b"x"),
        ("unmasked", b"\x81\x02{}"),
        ("reserved", b"\xf1\x80" + MASK),
        ("opcode", b"\x83\x80" + MASK),
        ("continuation", b"\x80\x80" + MASK),
        ("long-control", b"\x89\xfe\x00\xff" + MASK),
        ("huge", b"\x81\xff" + b"\x7f" + b"\xff" * 7 + MASK),
        ("negative", b"\x81\xff" + b"\xff" * 8 + MASK),
        ("close-1", b"\x88\x81" + MASK + b"\x03"),
        ("close-5000", b"\x88\x82" + MASK + b"\x13\x88"),
        ("close-utf8", b"\x88\x83" + MASK + b"\x03\xe8\xff"),
        ("text-utf8", text_frame(b"\xff")),
        ("half", b"\x81"),
        ("json", text_frame(b"{") + text_frame(b"[]") + text_frame(b'{"queue":1}')),
        ("many", b"\x01\x80" + MASK + (b"\x00\x80" + MASK) * 5000),
    ):
        yield f"websocket-{name}", handshake(more=more)
    yield "options-then-websocket", b"OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n" + handshake(more=b"\x89\x80" + MASK)
    yield "get-then-websocket", b"GET /ui/ HTTP/1.1\r\nHost: x\r\n\r\n" + handshake(more=text_frame(b"{}"))
    settings = struct.pack(">HI", 4, 2**31)
    for name, value in (("A", b"A"), ("none", b""), ("pad", b"AAQAAAAA="), ("five", b"AAQAAAA"), ("utf8", b"\xc3\xa9")):
        yield f"h2c-{name}", h2c(value)
    yield "h2c-window", h2c(b"AASAAAAA")
    yield "h2c-twice", h2c(b"AAQAAP__\r\nHTTP2-Settings: AAQAAP__")
    yield "h2c-then-rubbish", h2c(b"AAQAAP__") + b"rubbish" * 100
    yield "h2c-then-http1", h2c(b"AAQAAP__") + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    for name, method, path in (
        ("path-utf8", b"GET", "/queue-stats/ü".encode()),
        ("path-latin", b"GET", b"/\xff"),
        ("path-empty", b"GET", b""),
        ("path-star", b"OPTIONS", b"*"),
        ("path-nul", b"GET", b"/\x00"),
        ("path-space", b"GET", b"/a b"),
        ("path-absolute", b"GET", b"http://localhost/health"),
        ("path-escape", b"GET", b"/queue-stats/%ff"),
        ("path-query-utf8", b"GET", "/operation-timings?seconds=ü".encode()),
        ("path-long", b"GET", b"/" + b"x" * 60_000),
        ("method-utf8", "GÉT".encode(), b"/health"),
        ("method-empty", b"", b"/health"),
        ("method-lower", b"get", b"/health"),
        ("method-odd", b"BREW", b"/health"),
    ):
        yield f"h2-{name}", h2(request(method, path))
    yield "h2-connect", h2(headers((b":method", b"CONNECT"), (b":authority", b"x")))
    yield "h2-connect-bare", h2(headers((b":method", b"CONNECT")))
    for missing in (b":method", b":path", b":scheme", b":authority"):
        pairs = [(b":method", b"GET"), (b":path", b"/health"), (b":scheme", b"http"), (b":authority", b"x")]
        yield f"h2-without-{missing[1:].decode()}", h2(headers(*[each for each in pairs if each[0] != missing]))
        yield f"h2-twice-{missing[1:].decode()}", h2(headers(*pairs, *[each for each in pairs if each[0] == missing]))
    yield "h2-no-headers", h2(headers())
    for name, pair in (
        ("upper", (b"X-Upper", b"1")),
        ("connection", (b"connection", b"close")),
        ("utf8", ("x-ü".encode(), b"1")),
        ("value-utf8", (b"x-a", b"\xff")),
        ("host", (b"host", b"\xff")),
        ("length", (b"content-length", b"x")),
        ("length-minus", (b"content-length", b"-1")),
        ("origin", (b"origin", b"\xff")),
        ("unknown-pseudo", (b":what", b"x")),
        ("upgrade", (b"upgrade", b"h2c")),
        ("te", (b"te", b"chunked")),
        ("expect", (b"expect", b"100-continue")),
    ):
        yield f"h2-header-{name}", h2(request(b"POST", b"/publish", pair))
    yield (
        "h2-priority",
        h2(*[frame(PRIORITY, bytes(4) + b"\x01", 0, 2 * i + 1) for i in range(2000)], request(stream=4003)),
    )
    yield "h2-priority-self", h2(frame(PRIORITY, (1).to_bytes(4, "big") + b"\x01", 0, 1))
    yield "h2-priority-zero", h2(frame(PRIORITY, bytes(5), 0, 0))
    yield "h2-settings-flood", h2(*[frame(SETTINGS) for _ in range(2000)])
    yield "h2-ping-flood", h2(*[frame(PING, bytes(8)) for _ in range(2000)])
    yield "h2-reset-flood", h2(*[request(stream=i) + frame(RST, bytes(4), 0, i) for i in range(1, 601, 2)])
    yield "h2-streams", h2(*[request(stream=i) for i in range(1, 601, 2)])
    yield "h2-settings-window", h2(frame(SETTINGS, settings))
    yield "h2-settings-frame-size", h2(frame(SETTINGS, struct.pack(">HI", 5, 1)))
    yield "h2-settings-odd", h2(frame(SETTINGS, b"x"))
    yield "h2-settings-stream", h2(frame(SETTINGS, b"", 0, 3))
    yield "h2-settings-ack", h2(frame(SETTINGS, b"", 1), frame(SETTINGS, b"", 1))
    yield "h2-table-size", h2(frame(SETTINGS, struct.pack(">HI", 1, 2**32 - 1)), request())
    yield "h2-window-zero", h2(frame(WINDOW, bytes(4)))
    yield "h2-window-overflow", h2(frame(WINDOW, (2**31 - 1).to_bytes(4, "big")), frame(WINDOW, b"\x7f\xff\xff\xff"))
    yield "h2-window-idle", h2(frame(WINDOW, b"\0\0\0\1", 0, 9))
    yield "h2-data-idle", h2(frame(DATA, b"x", 0, 5))
    yield "h2-data-zero", h2(frame(DATA, b"x"))
    yield "h2-data-closed", h2(request(), frame(DATA, b"x", 0, 1))
    yield "h2-rst-idle", h2(frame(RST, bytes(4), 0, 7))
    yield "h2-push", h2(frame(PUSH, bytes(4) + b"\x82", END_HEADERS, 1))
    yield "h2-continuation", h2(frame(CONTINUATION, b"\x82", END_HEADERS, 1))
    yield (
        "h2-continuation-flood",
        h2(headers(flags=0), *[frame(CONTINUATION, b"\x00\x01a\x01b", 0, 1) for _ in range(2000)]),
    )
    yield "h2-hpack", h2(frame(HEADERS, b"\xff\xff\xff\xff\xff\xff", END_STREAM | END_HEADERS, 1))
    yield "h2-even-stream", h2(request(stream=2))
    yield "h2-backwards", h2(request(stream=5), request(stream=3))
    yield "h2-padding", h2(frame(HEADERS, b"\xff\x82", END_HEADERS | 8, 1))
    yield "h2-trailers", h2(request(), headers((b"x", b"y"), stream=1))
    yield "h2-unknown-frame", h2(frame(0x55, b"x" * 100, 0xFF, 1), request())
    yield "h2-large-frame", h2(frame(DATA, b"x" * 20_000, 0, 1))
    yield "h2-goaway", h2(frame(GOAWAY, bytes(8)), request())
    yield "h2-goaway-short", h2(frame(GOAWAY, b"x"))
    yield "h2-half-frame", h2() + b"\x00\x00\x20\x01"
    yield "h2-no-settings", PREFACE + request()
    yield "h2-rubbish", PREFACE + b"\xff" * 200
    yield "h2-preface-only", PREFACE
    yield (
        "h2-bodies",
        h2(headers((b":method", b"POST"), (b":path", b"/publish"), (b":scheme", b"http"), flags=END_HEADERS)),
    )
    for name, data in (
        ("close", b"\x88\x80" + MASK),
        ("broken", b"\xff\xff\xff\xff"),
        ("unmasked", b"\x81\x02{}"),
        ("utf8", text_frame(b"\xff")),
        ("binary", b"\x82\x81" + MASK + b"x"),
        ("json", text_frame(b"{")),
    ):
        yield f"h2-websocket-{name}", h2(connect(), frame(DATA, data, 0, 1))
        yield f"h2-websocket-{name}-end", h2(connect(), frame(DATA, data, END_STREAM, 1))
    yield "h2-websocket-reset", h2(connect(), frame(RST, bytes(4), 0, 1))
    yield "nothing", b""
    yield "rubbish", bytes(range(256))
    yield "tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)


async def served(port: int) -> bool:
    """Whether somebody else gets a response."""
    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b'"status":"ok"' in b"".join([piece async for piece in stream])


async def throw(port: int, packet: bytes, *, half_close: bool) -> bytes:
    """Send it in one piece; what came back before the peer or we had enough."""
    response = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        try:
            await stream.send_all(packet)
            if half_close:
                await stream.send_eof()
            with trio.move_on_after(0.05):
                while piece := await stream.receive_some():
                    response += piece
        except trio.BrokenResourceError:
            pass
    return response


PACKETS = dict(packets())


# Verifies: SYS-0009
@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "hypercorn"])
async def test_no_packet_ends_more_than_its_connection(fast_path: bool, tmp_path: Path) -> None:
    """Each twice: the peer then vanishes, or has said that it sends no more."""
    async with running(settings_for(tmp_path / "data", fast_path=fast_path)) as server:
        await until_ready(server)
        for name, packet in PACKETS.items():
            for half_close in (False, True):
                await throw(server.port, packet, half_close=half_close)
                assert await served(server.port), name
        assert server.engine.fault is None
        assert not server.engine.sessions.everyone() or await gone(server)


async def gone(server: Server) -> bool:
    with trio.fail_after(PATIENCE):
        while server.engine.sessions.everyone():  # noqa: ASYNC110  # no event tells of it
            await trio.sleep(0.01)
    return True


# Verifies: SYS-0009
@pytest.mark.contained
async def test_a_request_that_fails_to_be_read_ends_its_connection_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes, *rest: Any) -> Call | None:
        if b"/nothing" in data:
            raise ValueError("odd")
        return read_batchable_call(data, *rest)

    monkeypatch.setattr(batching, "read_batchable_call", fail)
    async with web_running(True) as web, web.client() as other, web.client() as client:
        for _ in range(2):
            assert (await other.ask("GET", "/health")).status == 200
            await client.send(web_request("GET", "/nothing"))
            assert await client.ended()
        assert web.context.bulkheads.failures == 1


# Verifies: WS-0030
@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "hypercorn"])
async def test_frames_that_come_with_the_handshake_are_served(fast_path: bool, tmp_path: Path) -> None:
    """A habit of well-meant clients: they know that the handshake will be accepted."""
    async with running(settings_for(tmp_path / "data", fast_path=fast_path)) as server:
        await until_ready(server)
        first = text_frame(b'{"type":"unsubscribe","queue":"q"}')
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(handshake(more=first))
            response = b""
            with trio.fail_after(PATIENCE):
                while b'{"type":"ok"}' not in response:
                    piece = await stream.receive_some()
                    assert piece, response
                    response += piece


def fail(bulkheads: Bulkheads, what: str, failure: Exception) -> None:
    with bulkheads.around(what):
        raise failure


# Verifies: API-0043
@pytest.mark.contained
def test_failures_are_logged_within_bounds(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("qrusty_trio.http.bulkheads.time", SimpleNamespace(monotonic=lambda: now))
    bulkheads = Bulkheads()
    for _ in range(TRACEBACKS + 5):
        fail(bulkheads, "this", ValueError("why"))
    assert bulkheads.failures == TRACEBACKS + 5
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == TRACEBACKS
    assert all(record.exc_info for record in records)
    assert not any("more failed" in record.getMessage() for record in records)
    now = PERIOD_SECONDS
    for _ in range(TRACEBACKS + 1):
        fail(bulkheads, "that", ExceptionGroup("several", [ValueError("why"), OSError("how")]))
    lines = [record.getMessage() for record in caplog.records[TRACEBACKS:]]
    assert len(lines) == TRACEBACKS
    assert "that failed and is closed; all others go on (5 more" in lines[0]
    assert not any("more failed" in line for line in lines[1:])
    now = 2 * PERIOD_SECONDS
    fail(bulkheads, "this", ValueError("why"))
    assert "(1 more" in caplog.records[-1].getMessage()


async def test_cancellation_passes_through_a_bulkhead() -> None:
    bulkheads = Bulkheads()
    passed: list[bool] = []

    async def wait() -> None:
        with bulkheads.around("this"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
        passed.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not passed
    assert bulkheads.failures == 0
