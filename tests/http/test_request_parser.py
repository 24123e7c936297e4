"""The request parser, fed with bytes: cut in every way, the same requests come out, and the same is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.errors import BadRequest, BodyTooLarge, QrustyError
from qrusty_trio.http.header_block import HTTP2_PREFACE, MAX_EMPTY_LINES, MAX_HEADER_BYTES, HeadersTooLarge
from qrusty_trio.http.request_line import RequestLines, Target
from qrusty_trio.http.request_parser import (
    Buffer,
    LengthReader,
    Request,
    RequestParser,
    ServedElsewhere,
    read_batchable_call,
)

LINES = RequestLines()
HOST = b"Host: a\r\n"
JSON = b"Content-Type: application/json\r\n"
PUBLISH = b"POST /publish HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 2\r\n\r\n{}"
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
NOTHING = b"GET /nothing HTTP/1.0\r\n\r\n"
CHUNKED = b"POST /publish HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
UPGRADE = (
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
WEBSOCKET = b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE
NO_LINE = (BadRequest, "The request line can't be read")
STATIC = b"GET /ui/ HTTP/1.1\r\n" + HOST + b"\r\n"


def outcome(pieces: list[bytes], *, ended: bool = False) -> list[object]:
    """What comes out of a parser that is fed with pieces; an error comes last."""
    parser = RequestParser(LINES)
    found: list[object] = []
    try:
        for number, piece in enumerate([*pieces, b""] if ended else pieces):
            parser.feed(piece)
            while (event := parser.next()) is not None:
                if isinstance(event, ServedElsewhere):
                    # Whoever takes over gets what arrives later, too.
                    rest = b"".join(pieces[number + 1 :])
                    return [*found, (event.websocket, event.data + rest)]
                found.append(seen(event))
    except QrustyError as error:
        found.append((type(error), str(error)))
    return found


def seen(request: Request[Target]) -> tuple[str, bytes, bool, bool]:
    target = request.line
    name = target.operation.name if target.operation is not None else type(target.refusal).__name__
    return name, request.body, request.block.keep_alive, target.http11


def every_cut(data: bytes) -> list[list[bytes]]:
    """`data` whole, in two pieces and in three, and a byte at a time."""
    ends = range(1, len(data))
    twice = [[data[:end], data[end:]] for end in ends]
    step = max(1, len(data) // 40)
    thrice = [[data[:a], data[a:b], data[b:]] for a, b in itertools.combinations(ends[::step], 2)]
    return [[data], *twice, *thrice, [data[at : at + 1] for at in range(len(data))]]


READ = {
    "publish": (PUBLISH, [("publish", b"{}", True, True)]),
    "two": (PUBLISH + HEALTH, [("publish", b"{}", True, True), ("health", b"", True, True)]),
    "after empty lines": (b"\r\n\r\n" + HEALTH + b"\r\n" + HEALTH, [("health", b"", True, True)] * 2),
    "after the most empty lines": ((b"\r\n" * MAX_EMPTY_LINES + HEALTH) * 2, [("health", b"", True, True)] * 2),
    "an unknown path": (NOTHING + HEALTH, [("NotFound", b"", False, False), ("health", b"", True, True)]),
    "chunked": (HEALTH + CHUNKED + HEALTH, [("health", b"", True, True), (False, CHUNKED + HEALTH)]),
    "a file": (b"\r\n" + STATIC + HEALTH, [(False, STATIC + HEALTH)]),
    "options": (b"OPTIONS /publish HTTP/1.1\r\n" + HOST + b"\r\n", None),
    "expect": (b"POST /publish HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", None),
    "a websocket": (
        HEALTH + WEBSOCKET + b"\x81\x80abcd",
        [("health", b"", True, True), (True, WEBSOCKET + b"\x81\x80abcd")],
    ),
    "a faulty websocket": (WEBSOCKET.replace(b"13", b"12"), [(False, WEBSOCKET.replace(b"13", b"12"))]),
    "a websocket elsewhere": (WEBSOCKET.replace(b"/ws", b"/wx"), [(False, WEBSOCKET.replace(b"/ws", b"/wx"))]),
    "HTTP/2": (HTTP2_PREFACE + b"\0\0\0\4\0\0\0\0\0", None),
    "HTTP/2 too late": (
        HEALTH + HTTP2_PREFACE,
        [("health", b"", True, True), (BadRequest, "The request line can't be read")],
    ),
    "HTTP/2 behind a line": (b"\r\n" + HTTP2_PREFACE, [NO_LINE]),
}


@pytest.mark.parametrize("name", READ)
def test_however_it_is_cut(name: str) -> None:
    data, expected = READ[name]
    if expected is None:
        expected = [(False, data)]
    for pieces in every_cut(data):
        assert outcome(pieces) == expected, pieces


REFUSED = {
    "no method": (b"/health HTTP/1.1\r\n\r\n", BadRequest),
    "small letters": (b"get /health HTTP/1.1\r\n" + HOST + b"\r\n", BadRequest),
    "a line feed": (b"GET /health HTTP/1.1\n" + HOST + b"\r\n", BadRequest),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", BadRequest),
    "a fold": (b"GET /health HTTP/1.1\r\n" + HOST + b" more\r\n\r\n", BadRequest),
    "a space before the colon": (b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n", BadRequest),
    "two lengths": (HEALTH[:-2] + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n", BadRequest),
    "a length and a coding": (HEALTH[:-2] + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", BadRequest),
    "too many empty lines": (b"\r\n" * (MAX_EMPTY_LINES + 1) + HEALTH, BadRequest),
    "too large": (HEALTH[:-2] + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), BodyTooLarge),
    "garbage": (b"\x16\x03\x01\x02\x00", BadRequest),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_however_it_is_cut(name: str) -> None:
    data, error = REFUSED[name]
    for pieces in every_cut(data):
        *before, last = outcome([HEALTH, *pieces])
        assert before == [("health", b"", True, True)]
        assert isinstance(last, tuple)
        assert last[0] is error, pieces


def test_a_header_block_without_end() -> None:
    parser = RequestParser(LINES)
    parser.feed(b"GET /health HTTP/1.1\r\nX: " + b"x" * (MAX_HEADER_BYTES - 25))
    assert parser.next() is None
    parser.feed(b"x")
    with pytest.raises(HeadersTooLarge):
        parser.next()


def test_the_longest_header_block() -> None:
    start, end = b"GET /health HTTP/1.1\r\n" + HOST + b"X: ", b"\r\n\r\n"
    whole = start + b"x" * (MAX_HEADER_BYTES - len(start + end)) + end
    assert outcome([whole]) == [("health", b"", True, True)]
    assert outcome([HEALTH + whole]) == [("health", b"", True, True)] * 2
    (refused,) = outcome([whole.replace(b"X: ", b"X: x")])
    assert isinstance(refused, tuple)
    assert refused[0] is HeadersTooLarge


@pytest.mark.parametrize("length", range(1, len(HTTP2_PREFACE)))
def test_a_preface_that_is_broken_off_is_no_request(length: int) -> None:
    assert outcome([HTTP2_PREFACE[:length]]) == []
    expected = [] if length < 18 else [NO_LINE]
    assert outcome([HTTP2_PREFACE[:length]], ended=True) == expected


def test_a_preface_is_known_before_anything_follows_it() -> None:
    assert outcome([HTTP2_PREFACE]) == [(False, HTTP2_PREFACE)]


@pytest.mark.parametrize(
    "beginning", [b"GET /health HTTP/1.1\n", b"GET /health HTTP/1.1\r\nHost: a\n", b"get", b"\x00"]
)
def test_what_cannot_become_a_request_is_not_waited_for(beginning: bytes) -> None:
    (refused,) = outcome([beginning])
    assert isinstance(refused, tuple)
    assert refused[0] is BadRequest


def test_what_is_missing_of_a_body() -> None:
    parser = RequestParser(LINES)
    assert parser.missing == 0
    parser.feed(PUBLISH[:-2])
    assert parser.next() is None
    assert parser.missing == 2
    parser.feed(b"{")
    assert parser.next() is None
    assert (parser.missing, len(parser.buffer)) == (1, 1)
    parser.feed(b"}" + HEALTH)
    request = parser.next()
    assert isinstance(request, Request)
    assert request.body == b"{}"
    assert (parser.missing, len(parser.buffer)) == (0, len(HEALTH))


def test_the_largest_body() -> None:
    parser = RequestParser(LINES)
    head = PUBLISH[: -len(b"2\r\n\r\n{}")] + b"%d\r\n\r\n" % MAX_BODY_BYTES
    body = bytes(MAX_BODY_BYTES)
    parser.feed(head)
    for start in range(0, MAX_BODY_BYTES, 65536):
        assert parser.next() is None
        parser.feed(body[start : start + 65536])
    request = parser.next()
    assert isinstance(request, Request)
    assert request.body == body
    assert parser.next() is None
    assert (len(parser.buffer), parser.buffer.data) == (0, b"")


def test_nothing_is_kept_of_a_request_that_was_taken() -> None:
    parser = RequestParser(LINES)
    parser.feed(HEALTH)
    assert isinstance(parser.next(), Request)
    assert parser.next() is None
    assert parser.buffer.data == b""


def test_a_request_that_came_alone_precedes_no_preface() -> None:
    parser = RequestParser(LINES)
    assert read_batchable_call(HEALTH, LINES) is not None
    parser.request_read()
    parser.feed(HTTP2_PREFACE)
    with pytest.raises(BadRequest):
        parser.next()


def test_empty_lines_are_counted_from_one_request_to_the_next() -> None:
    (refused,) = outcome([b"\r\n" * (MAX_EMPTY_LINES + 1)])
    assert isinstance(refused, tuple)
    assert refused[0] is BadRequest
    parser = RequestParser(LINES)
    for _ in range(2):
        parser.feed(b"\r\n" * MAX_EMPTY_LINES)
        assert parser.next() is None
        parser.request_read()
    parser.feed(b"\r\n" * (MAX_EMPTY_LINES + 1))
    with pytest.raises(BadRequest):
        parser.next()


def test_a_call_that_came_alone() -> None:
    call = read_batchable_call(PUBLISH, LINES)
    assert call is not None
    assert (call.operation.name, call.params, call.body, call.query) == ("publish", (), b"{}", "")
    call = read_batchable_call(
        b"POST /ack/a%20b/c?x HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 2\r\n\r\n{}", LINES
    )
    assert call is not None
    assert (call.operation.name, call.params, call.body, call.query) == ("ack", ("a b", "c"), b"{}", "x")


NOT_BATCHABLE = {
    "a part": PUBLISH[:-1],
    "more": PUBLISH + b"P",
    "an empty line": b"\r\n" + PUBLISH,
    "a part of the headers": PUBLISH[:30],
    "nothing": b"",
    "a long line": b"POST /publish?" + b"x" * 1020 + PUBLISH[13:],
    "many headers": PUBLISH.replace(HOST, HOST + b"X: 1\r\n" * 40),
    "long headers": PUBLISH.replace(HOST, HOST + b"X: " + b"1" * 3000 + b"\r\n"),
    "another operation": b"GET /stats HTTP/1.1\r\n" + HOST + b"\r\n",
    "an unknown path": b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n",
    "a file": STATIC,
    "HTTP/1.0": PUBLISH.replace(b"1.1", b"1.0"),
    "HEAD": HEALTH.replace(b"GET", b"HEAD"),
    "a browser": PUBLISH.replace(HOST, HOST + b"Origin: null\r\n"),
    "close": PUBLISH.replace(HOST, HOST + b"Connection: close\r\n"),
    "expect": PUBLISH.replace(HOST, HOST + b"Expect: 100-continue\r\n"),
    "another content type": PUBLISH.replace(b"application/json", b"text/plain"),
    "no body": b"POST /publish HTTP/1.1\r\n" + HOST + b"\r\n",
    "chunked": CHUNKED,
    "a bad header": PUBLISH.replace(HOST, HOST + b"X: a\x01b\r\n"),
    "a bad line": PUBLISH.replace(b"POST", b"post"),
}


@pytest.mark.parametrize("name", NOT_BATCHABLE)
def test_what_the_connection_itself_has_to_read(name: str) -> None:
    for _ in range(3):
        assert read_batchable_call(NOT_BATCHABLE[name], LINES) is None


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=4), st.integers(0, 6), st.sampled_from(["skip", "gather"]))))
@example([b"ab", b"cd", "skip", b"ef"])
def test_a_buffer_gives_what_it_was_fed_in_order(steps: list[bytes | int | str]) -> None:
    buffer, expected = Buffer(), b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.feed(step)
            expected += step
        elif isinstance(step, int):
            assert buffer.take(step) == expected[:step]
            expected = expected[step:]
        elif step == "skip":
            expected = expected[len(buffer.data) - buffer.position :]
            buffer.position = len(buffer.data)
        else:
            buffer.gather()
            assert buffer.data[buffer.position :] == expected
        assert len(buffer) == len(expected)
    assert not buffer.ended
    assert buffer.take_all() == expected
    assert (len(buffer), buffer.data, buffer.position) == (0, b"", 0)
    buffer.feed(b"")
    assert buffer.ended


def test_a_body_passes_piece_by_piece_and_no_further() -> None:
    reader, buffer = LengthReader(5), Buffer()
    assert len(buffer) == 0
    assert reader.read(buffer) is None
    buffer.feed(b"ab")
    assert (reader.read(buffer), reader.read(buffer), reader.done) == (b"ab", None, False)
    buffer.feed(b"cd")
    buffer.feed(b"efg")
    assert (reader.read(buffer), reader.done) == (b"cde", True)
    assert buffer.take_all() == b"fg"
