"""Chunked bodies: however they are cut, the same passes, and nothing but sizes and data."""

from __future__ import annotations

import itertools

import pytest

from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.errors import BadRequest, BodyTooLarge, QrustyError
from qrusty_trio.http.chunked_reader import MAX_EXTRA_BYTES, ChunkedReader
from qrusty_trio.http.header_block import HeadersTooLarge
from qrusty_trio.http.request_parser import Buffer

NEXT = b"GET /health HTTP/1.1\r\n"
PLAIN = b"5\r\nhello\r\n0A\r\n, world!\r\n\r\n0\r\n\r\n"
ODD = b'5 ;a="b;c"\r\nhello\r\n0A;\xff\r\n, world!\r\n\r\n0 ;x\r\nX-A: b\r\nContent-Length: 7\r\nX-B:\r\n\r\n'


def decoded(passed: bytes) -> bytes:
    """What another parser reads. Raises ValueError for anything but sizes and data."""
    body = b""
    while True:
        size, _, passed = passed.partition(b"\r\n")
        length = int(size, 16)
        body += passed[:length]
        assert passed[length : length + 2] == b"\r\n"
        passed = passed[length + 2 :]
        if not length:
            assert passed == b""
            return body


def passing(pieces: list[bytes]) -> tuple[bytes, bytes]:
    """What passes of a body that comes in pieces, and what is left."""
    reader, buffer = ChunkedReader(), Buffer()
    passed = b""
    for piece in pieces:
        if piece:
            buffer.feed(piece)
        while not reader.done and (some := reader.read(buffer)) is not None:
            assert some
            passed += some
    assert reader.done
    return passed, buffer.take_all()


# Verifies: API-0032
@pytest.mark.parametrize("body", [PLAIN, ODD], ids=["plain", "odd"])
def test_however_it_is_cut(body: bytes) -> None:
    data = body + NEXT
    cuts = range(len(data) + 1)
    for first, second in itertools.combinations(cuts, 2):
        passed, rest = passing([data[:first], data[first:second], data[second:]])
        assert decoded(passed) == b"hello, world!\r\n"
        assert rest == NEXT
    passed, rest = passing([data[each : each + 1] for each in range(len(data))])
    assert (decoded(passed), rest) == (b"hello, world!\r\n", NEXT)


REFUSED = {
    "no digits": (b"zz\r\n", BadRequest),
    "no size": (b";a\r\n", BadRequest),
    "space": (b"5 \r\n", BadRequest),
    "sign": (b"+5\r\n", BadRequest),
    "nine digits": (b"000000005", BadRequest),
    "line feed": (b"5\n", BadRequest),
    "line feed in an extension": (b"5;a\n", BadRequest),
    "carriage return in an extension": (b"5;a\rb", BadRequest),
    "data too long": (b"1\r\nab", BadRequest),
    "line feed after data": (b"1\r\na\n", BadRequest),
    "a request as a trailer": (b"0\r\nGET ", BadRequest),
    "line feed in trailers": (b"0\r\n\n", BadRequest),
    "line feed after a trailer": (b"0\r\na:b\n", BadRequest),
    "fold": (b"0\r\na:b\r\n ", BadRequest),
    "trailer without a name": (b"0\r\n:b", BadRequest),
    "trailer without a colon": (b"0\r\nab\r\n", BadRequest),
    "too large": (b"%x\r\n" % (MAX_BODY_BYTES + 1), BodyTooLarge),
    "too large together": (b"%x\r\n" % MAX_BODY_BYTES + bytes(MAX_BODY_BYTES) + b"\r\n1\r\n", BodyTooLarge),
    "extension too long": (b"5;" + b"a" * (MAX_EXTRA_BYTES + 8) + b"\r\n", HeadersTooLarge),
    "trailers too long": (b"0\r\n" + b"a:b\r\n" * (MAX_EXTRA_BYTES // 5 + 2), HeadersTooLarge),
    "no line at all": (b"\r\n" + bytes(MAX_EXTRA_BYTES + 100), BadRequest),
    "both too long": (b"0;" + b"a" * 9000 + b"\r\na:" + b"b" * 9000, HeadersTooLarge),
}


# Verifies: API-0032
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_as_soon_as_it_is_there(name: str) -> None:
    data, error = REFUSED[name]

    def feed(*pieces: bytes) -> None:
        reader, buffer = ChunkedReader(), Buffer()
        for piece in pieces:
            if piece:
                buffer.feed(piece)
            while reader.read(buffer) is not None:
                pass

    with pytest.raises(error):
        feed(data)
    with pytest.raises(error):
        feed(data[:1], data[1:-1], data[-1:])


def with_extra(octets: int) -> dict[str, bytes]:
    """Bodies with so many bytes of extensions and trailers."""
    half, chunk, end = octets // 2 - 1, b"\r\nhello\r\n", b"\r\n\r\n"
    return {
        "extension": b"5;" + b"e" * (octets - 1) + chunk + b"0" + end,
        "extension of a size of many digits": b"00000005;" + b"e" * (octets - 1) + chunk + b"0" + end,
        "extensions": (b"5;" + b"e" * (half - 1) + chunk) * 2 + b"0;" + b"e" * (octets - 2 * half - 1) + end,
        "trailers": b"0\r\na:" + b"b" * (octets - 2) + end,
        "both": b"5;" + b"e" * (half - 1) + chunk + b"0\r\na:" + b"b" * (octets - half - 2) + end,
    }


# Verifies: API-0032
@pytest.mark.parametrize("name", with_extra(MAX_EXTRA_BYTES))
def test_the_most_of_extensions_and_trailers(name: str) -> None:
    """However it is cut, as many bytes pass, and not one more."""
    for octets in (MAX_EXTRA_BYTES, MAX_EXTRA_BYTES + 1):
        data = with_extra(octets)[name] + NEXT
        cuts = [each for each in range(len(data) - len(NEXT)) if b"\r\n" in data[each - 2 : each + 3]]
        for cut in (0, *cuts):
            if octets > MAX_EXTRA_BYTES:
                with pytest.raises(HeadersTooLarge):
                    passing([data[:cut], data[cut:]])
            else:
                passed, rest = passing([data[:cut], data[cut:]])
                assert (decoded(passed).strip(b"helo"), rest) == (b"", NEXT)


@pytest.mark.parametrize("data", [b"5\r\nhello\r\nzz\r\n", b"5\r\nhelloX", b"zz\r\n", b"5\r\nhello\r\n0\r\n\n"])
def test_a_body_that_is_refused_can_be_brought_to_an_end(data: bytes) -> None:
    reader, buffer = ChunkedReader(), Buffer()
    buffer.feed(data)
    passed = b""
    with pytest.raises(QrustyError):
        while True:
            some = reader.read(buffer)
            assert some
            passed += some
    assert decoded(passed + reader.broken_off()) in (b"hello", bytes(5), b"")


# Verifies: API-0009
def test_the_largest_body() -> None:
    passed, rest = passing([b"%x\r\n" % MAX_BODY_BYTES + bytes(MAX_BODY_BYTES) + b"\r\n0\r\n\r\n"])
    assert (len(decoded(passed)), rest) == (MAX_BODY_BYTES, b"")
