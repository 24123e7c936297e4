"""What passes to Hypercorn, fed with bytes: cut in every way, the same passes, and nothing after a refusal."""

from __future__ import annotations

import pytest

from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.errors import BadRequest, BodyTooLarge, QrustyError
from qrusty_trio.http.fallback.request_filter import Begins, RequestFilter
from qrusty_trio.http.header_block import HTTP2_PREFACE
from qrusty_trio.http.request_parser import OPAQUE_BYTES_PER_STEP
from tests.http.test_request_parser import CHUNKED, HEALTH, HOST, PUBLISH, WEBSOCKET, every_cut

H2C = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"
LAST = HEALTH[:-2] + b"Connection: close\r\n\r\n"
H2C_CHUNKED = H2C[:-2] + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
POSTED = WEBSOCKET.replace(b"GET", b"POST")
STAYING = b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
FRAMES = b"\x00\x00\x00\x04\x00" * 3


class Hypercorn:
    """What stands behind a filter, and what passed to it."""

    def __init__(self, data: bytes = b"") -> None:
        self.filter = RequestFilter(data)
        self.passed = b""
        self.begun: list[Begins] = []
        self.refusal: QrustyError | None = None
        self.largest = 0
        self._take()

    def feed(self, data: bytes) -> None:
        self.filter.feed(data)
        self._take()

    def _take(self) -> None:
        while True:
            try:
                passed = self.filter.next()
            except QrustyError as error:
                self.refusal = error
                passed = self.filter.refuse(error)
            if passed is None:
                return
            assert passed.data
            self.passed += passed.data
            self.largest = max(self.largest, len(passed.data))
            if passed.begins is not None:
                self.begun.append(passed.begins)


REQUEST = Begins.REQUEST
PASS = {
    "requests": (PUBLISH + HEALTH + b"\r\n" + PUBLISH, PUBLISH + HEALTH + PUBLISH, [REQUEST] * 3),
    "chunked": (CHUNKED + HEALTH, CHUNKED + HEALTH, [REQUEST] * 2),
    "extensions": (CHUNKED.replace(b"2\r\n", b"2;a=b\r\n").replace(b"0\r\n", b"0\r\nX: y\r\n"), CHUNKED, [REQUEST]),
    "a websocket": (WEBSOCKET + FRAMES, WEBSOCKET + FRAMES, [Begins.WEBSOCKET]),
    "h2c": (H2C + FRAMES, H2C + FRAMES, [Begins.H2C]),
    "h2c with a body": (
        H2C[:-2] + b"Content-Length: 2\r\n\r\n{}" + HEALTH,
        H2C[:-2] + b"Content-Length: 2\r\n\r\n{}" + HEALTH,
        [REQUEST] * 2,
    ),
    "h2c with chunks": (H2C_CHUNKED + HEALTH, H2C_CHUNKED + HEALTH, [REQUEST] * 2),
    "a POST that asks for a websocket": (POSTED + HEALTH, POSTED + HEALTH, [REQUEST] * 2),
    "HTTP/1.0 that would stay": (STAYING + HEALTH, STAYING, [REQUEST]),
    "HTTP/2": (HTTP2_PREFACE + FRAMES, HTTP2_PREFACE + FRAMES, [Begins.HTTP2]),
    "the last request": (LAST + HEALTH, LAST, [REQUEST]),
    "HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n" + HEALTH, b"GET /health HTTP/1.0\r\n\r\n", [REQUEST]),
}


@pytest.mark.parametrize("name", PASS)
def test_however_it_is_cut(name: str) -> None:
    data, passes, begun = PASS[name]
    for first, *pieces in every_cut(data):
        behind = Hypercorn(first)
        for piece in pieces:
            behind.feed(piece)
        assert (behind.passed, behind.begun) == (passes, begun)
        assert behind.refusal is None


REFUSED = {
    "a line feed": (b"GET / HTTP/1.1\n" + HOST + b"\r\n", BadRequest),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", BadRequest),
    "too large": (HEALTH[:-2] + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), BodyTooLarge),
    "a faulty handshake": (WEBSOCKET.replace(b"13", b"12"), BadRequest),
    "faulty settings": (H2C.replace(b"HTTP2-Settings: ", b"HTTP2-Settings: !"), BadRequest),
    "a late preface": (HTTP2_PREFACE, BadRequest),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_request_is_replaced_by_one_that_tells_the_refusal(name: str) -> None:
    data, error = REFUSED[name]
    for pieces in every_cut(data):
        behind = Hypercorn(HEALTH)
        for piece in [*pieces, HEALTH]:
            behind.feed(piece)
        assert type(behind.refusal) is error
        assert behind.begun == [REQUEST] * 2
        rest = behind.passed.removeprefix(HEALTH)
        method, path, _ = rest.split(b" ", 2)
        assert method == b"GET"
        assert rest.endswith(b"connection: close\r\n\r\n")
        assert behind.filter.refusal_of(path) is behind.refusal
        assert behind.filter.refusal_of(b"/health") is None
        assert behind.filter.refusal_of(None) is None
        assert behind.filter.last
        assert behind.filter.between_requests


def test_the_largest_body_is_not_refused() -> None:
    behind = Hypercorn(HEALTH[:-2] + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES)
    assert behind.begun == [REQUEST]
    assert behind.refusal is None


# Verifies: API-0078
def test_a_refusal_is_that_of_the_request_with_this_id() -> None:
    too_large = HEALTH[:-2] + b"X-Request-Id: of-this\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)
    for before, data, told in [(b"", too_large, True), (HEALTH[:-2] + b"X-Request-Id: of-this\r\n\r\n", b"\n", False)]:
        behind = Hypercorn(before)
        behind.feed(data)
        assert behind.refusal is not None
        assert (b"of-this" in behind.passed[len(before) :]) is told


def test_a_refused_body_is_completed_and_tells_the_refusal() -> None:
    start = CHUNKED[: CHUNKED.index(b"\r\n\r\n") + 4]
    for follows, passes in [(b"zz\r\n", b"0\r\n\r\n"), (b"4\r\n{}", b"4\r\n{}\0\0\r\n0\r\n\r\n")]:
        behind = Hypercorn(start)
        behind.feed(follows)
        if behind.refusal is None:
            behind.feed(b"xxx\r\n")
        behind.feed(HEALTH)
        assert isinstance(behind.refusal, BadRequest)
        assert behind.begun == [REQUEST]
        assert len(behind.passed) == len(start + passes)
        assert behind.passed.endswith(b"\r\n0\r\n\r\n") or behind.passed == start + passes
        assert behind.filter.refusal_of(None) is behind.refusal
        assert behind.filter.refusal_of(b"/publish") is None


def where(passing: RequestFilter) -> tuple[bool, bool, int]:
    return passing.between_requests, passing.opaque, passing.waiting


def test_where_a_connection_is() -> None:
    passing = RequestFilter(PUBLISH[:-1])
    assert where(passing) == (True, False, len(PUBLISH) - 1)
    assert passing.next() is not None
    assert where(passing) == (False, False, 1)
    assert passing.next() is not None
    assert where(passing) == (False, False, 0)
    passing.feed(b"}" + HEALTH[:5])
    assert passing.next() is not None
    assert where(passing) == (True, False, 5)
    assert passing.next() is None
    assert where(passing) == (True, False, 5)


def test_what_is_opaque_passes_a_little_at_a_time() -> None:
    behind = Hypercorn(HTTP2_PREFACE + bytes(10 * OPAQUE_BYTES_PER_STEP))
    assert behind.filter.opaque
    assert behind.largest == OPAQUE_BYTES_PER_STEP
    assert len(behind.passed) == len(HTTP2_PREFACE) + 10 * OPAQUE_BYTES_PER_STEP


def test_nothing_passes_after_a_refused_handshake() -> None:
    behind = Hypercorn(WEBSOCKET)
    behind.filter.end()
    behind.feed(FRAMES + HEALTH)
    assert behind.passed == WEBSOCKET
    assert not behind.filter.opaque


def test_at_the_end_what_waits_is_dropped() -> None:
    passing = RequestFilter(PUBLISH + HEALTH)
    assert passing.next() is not None
    passing.end()
    assert where(passing) == (True, False, 0)
    assert passing.next() is None
