"""What a header block says, and that it says the same when it is found in the cache without its ids."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from qrusty_trio.access.sessions import COOKIE
from qrusty_trio.api.identity import MAX_REQUEST_ID_BYTES, Identity
from qrusty_trio.errors import BadRequest, QrustyError
from qrusty_trio.http import header_block
from qrusty_trio.http.header_block import (
    MAX_BATCHABLE_BLOCK_BYTES,
    MAX_BATCHABLE_HEADERS,
    MAX_HEADERS,
    MAX_KEPT_BLOCK_BYTES,
    MAX_KEPT_BLOCKS,
    HeaderBlock,
    HeadersTooLarge,
    accepts_gzip,
    read_batchable_block,
    read_block,
)
from qrusty_trio.http.origins import Browser
from qrusty_trio.http.repeat_cache import RepeatCache

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NAMES = (
    b"X-Request-Id",
    b"x-request-id",
    b"traceparent",
    b"Traceparent",
    b"X-Request-Id ",
    b"x-request-idx",
    b" traceparent",
)
VALUES = (
    b"",
    b" 7",
    b"\t7 8 \t",
    b"\x00",
    b"a\x7f",
    b"\xff",
    b"\t\xe9",
    b" " + TRACE,
    b" a\n",
    b" a\rb",
    b" a\r\n folded",
)
OTHERS = (
    b"Host: here",
    b"Host: there",
    b"Content-Length: 5",
    b"Accept: x-request-id: 1",
    b"Connection: close",
    b"Origin: null",
)
line = st.one_of(
    st.sampled_from(OTHERS),
    st.builds(lambda name, value: name + b":" + value, st.sampled_from(NAMES), st.sampled_from(VALUES)),
    st.builds(lambda size: b"X-Request-Id: " + b"i" * size, st.sampled_from([127, 128, 129, 1024])),
)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = tuple(RepeatCache[HeaderBlock](MAX_KEPT_BLOCKS) for _ in range(2))
    monkeypatch.setattr(header_block, "_kept", caches)


def outcome(block: bytes, read: object) -> HeaderBlock | tuple[type, str]:
    assert callable(read)
    try:
        found = read(block, True)
    except QrustyError as error:
        return type(error), str(error)
    assert isinstance(found, HeaderBlock)
    return found


# Verifies: API-0031, API-0078
@given(st.lists(line, max_size=8))
@example([b"Host: here"] + [b"X-Request-Id: 1"] * 2)
@example([b"X-Request-Id: 1", b" folded: 1", b"Host: here"])
def test_a_block_means_the_same_with_and_without_the_cache(lines: list[bytes]) -> None:
    block = b"\r\n" + b"".join(each + b"\r\n" for each in lines) + b"\r\n"
    whole = outcome(block, header_block._read_block)
    for _ in range(3):
        assert outcome(block, read_block) == whole


def block_of(number: int, *more: bytes) -> bytes:
    trace = b"00-%032x-%016x-01" % (number, number)
    lines = [b"Host: here", b"X-Request-Id: %d" % number, *more, b"traceparent: " + trace]
    return b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"


# Verifies: API-0044, API-0078
@pytest.mark.parametrize("first", [False, True])
def test_ids_that_change_take_no_room_in_the_cache(first: bool) -> None:
    for number in range(1, 100):
        block = block_of(number)
        if first:
            block = b"\r\n".join(sorted(block[2:-4].split(b"\r\n"), reverse=True)).join([b"\r\n", b"\r\n\r\n"])
        found = read_batchable_block(block)
        assert found is not None
        assert found.batchable
        assert found.identity == Identity(b"%d" % number, b"00-%032x-%016x-01" % (number, number))
    assert header_block._kept[True].entries == 1
    without = read_block(b"\r\nHost: here\r\n\r\n", True)
    assert without.identity is None


def test_a_block_that_is_kept_has_no_id_of_another() -> None:
    first = read_block(block_of(1), True)
    second = read_block(block_of(2), True)
    assert first.identity is not None
    assert second.identity is not None
    assert (first.identity.request_id, second.identity.request_id) == (b"1", b"2")
    long = block_of(3, b"X-Note: " + b"n" * 2048)
    assert read_block(long, True).identity == Identity(b"3", b"00-%032x-%016x-01" % (3, 3))
    too_long = b"\r\nHost: here\r\nX-Request-Id: " + b"i" * (MAX_REQUEST_ID_BYTES + 1) + b"\r\n\r\n"
    assert read_block(too_long, True).identity is None


HOST = b"Host: a:80"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
WEBSOCKET = [HOST, b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket", KEY, b"Sec-WebSocket-Version: 13"]


def block_with(lines: Sequence[bytes]) -> bytes:
    return b"".join(b"\r\n" + each for each in lines) + b"\r\n\r\n"


def settings_of(*pairs: tuple[int, int]) -> list[bytes]:
    payload = b"".join(struct.pack(">HI", name, value) for name, value in pairs)
    return [HOST, b"Upgrade: h2c", b"HTTP2-Settings: " + base64.urlsafe_b64encode(payload).rstrip(b"=")]


NOTHING = {
    "length": 0,
    "chunked": False,
    "keep_alive": True,
    "content_type": None,
    "browser": None,
    "upgrade": "",
    "handshake_fault": "",
    "settings_fault": "",
    "none_match": "",
    "takes_gzip": False,
    "plain": True,
    "identity": None,
    "authorization": b"",
    "session": b"",
    "batchable": True,
}
ELSEWHERE: dict[str, object] = {"plain": False, "batchable": False}
SAID: list[tuple[list[bytes], dict[str, object]]] = [
    ([HOST], {}),
    ([HOST, b"Content-Length: 000000000000000005"], {"length": 5}),
    ([HOST, b"Transfer-Encoding: Chunked"], ELSEWHERE | {"chunked": True}),
    ([HOST, b"Expect: 100-continue"], ELSEWHERE),
    ([HOST, b"Connection: x", b"Connection: a,\tCLOSE"], {"keep_alive": False, "batchable": False}),
    ([HOST, b"Content-Type: application/json"], {"content_type": "application/json", "json": True}),
    ([HOST, b"Content-Type: text/\xfc"], {"content_type": "text/\xfc", "json": False}),
    ([HOST, b"Origin: null"], {"browser": Browser("a:80", "null", None), "batchable": False}),
    ([HOST, b"Sec-Fetch-Site: none"], {"browser": Browser("a:80", None, "none"), "batchable": False}),
    ([HOST, b"Sec-Fetch-Mode: cors"], {"browser": Browser("a:80", None, None), "batchable": False}),
    (WEBSOCKET, ELSEWHERE | {"upgrade": "websocket"}),
    (settings_of(), ELSEWHERE | {"upgrade": "h2c"}),
    ([HOST, b"Upgrade: Odd"], ELSEWHERE | {"upgrade": "odd"}),
    ([HOST, b'If-None-Match: "a"', b"If-None-Match:b "], {"none_match": '"a", b'}),
    ([HOST, b"Accept-Encoding: br", b"Accept-Encoding: gzip"], {"takes_gzip": True}),
    ([HOST, b"X-Request-Id: 7"], {"identity": Identity(b"7", b"")}),
    ([HOST, b"traceparent: " + TRACE], {"identity": Identity(b"", TRACE)}),
    ([HOST, b"traceparent: " + TRACE, b"X: " + b"x" * MAX_KEPT_BLOCK_BYTES], {"identity": Identity(b"", TRACE)}),
    ([HOST, b"Authorization: Bearer a"], {"authorization": b"Bearer a"}),
    ([HOST, b"Authorization: Bearer a", b"Authorization: b"], {"authorization": b"Bearer a, b"}),
    ([HOST, b"Cookie: a=b"], {}),
    ([HOST, b"Cookie: a=b;%b=c=d ; e=f" % COOKIE.encode()], {"session": b"c=d", "batchable": False}),
    (
        [HOST, b"Cookie: a=b", b"Cookie: %b=1" % COOKIE.encode(), b"Cookie: %b=2" % COOKIE.encode()],
        {"session": b"1", "batchable": False},
    ),
]


# Verifies: API-0031
@pytest.mark.parametrize(("lines", "said"), SAID)
def test_what_a_block_says(lines: list[bytes], said: dict[str, object]) -> None:
    found = structs.asdict(read_block(block_with(lines), True))
    if "json" not in said:
        del found["json"]
    assert found == NOTHING | said


@pytest.mark.parametrize(
    ("lines", "keeps_alive"),
    [([], False), ([b"Connection: close, keep-alive"], False), ([HOST, b"Connection: Keep-Alive"], True)],
)
def test_a_block_of_http_1_0(lines: list[bytes], keeps_alive: bool) -> None:
    found = read_block(block_with(lines), False)
    assert (found.keep_alive, found.batchable) == (keeps_alive, keeps_alive)
    browser = read_block(block_with([b"Origin: null"]), False).browser
    assert browser == Browser("", "null", None)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [HOST, HOST],
        [b"Host: a b"],
        [HOST, b"Content-Length: 1234567890123456789"],
        [HOST, b"Content-Length: "],
        [HOST, b"Content-Length: +1"],
        [HOST, b"Transfer-Encoding: gzip"],
        [HOST, b"Transfer-Encoding: gzip, chunked"],
        [HOST, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [HOST, b"Content-Length: 2", b"Transfer-Encoding: chunked"],
        [HOST, b"Content-Length: 2", b"Content-Length: 2"],
        [HOST, b"Content-Length: 2", b"Content-Length: 3"],
        *([HOST, each] for each in (b"no colon", b": no name", b"Name : a", b" folded: a", b"\tfolded", b"N\xe4me: a")),
        *([HOST, b"Name: a%cb" % octet] for octet in b"\0\n\r\x1f\x7f"),
        *([HOST, each, each] for each in (b"Content-Type: a", b"Origin: a", b"Sec-Fetch-Site: a", b"Upgrade: a")),
    ],
)
def test_what_is_not_read(lines: list[bytes]) -> None:
    with pytest.raises(BadRequest):
        read_block(block_with(lines), True)


def test_a_chunked_body_of_http_1_0_is_not_read() -> None:
    with pytest.raises(BadRequest):
        read_block(block_with([HOST, b"Transfer-Encoding: chunked"]), False)


# Verifies: WS-0031
@pytest.mark.parametrize(
    "lines",
    [
        [HOST, *WEBSOCKET[2:]],
        [each.replace(b"Upgrade", b"Updates") for each in WEBSOCKET[:2]] + WEBSOCKET[2:],
        [each for each in WEBSOCKET if each != KEY],
        [*WEBSOCKET, KEY],
        [each.replace(b"==", b"=") for each in WEBSOCKET],
        WEBSOCKET[:-1],
        [*WEBSOCKET, b"Sec-WebSocket-Version: 8"],
        [each.replace(b"13", b"14") for each in WEBSOCKET],
    ],
)
def test_a_handshake_with_a_fault(lines: list[bytes]) -> None:
    assert read_block(block_with(lines), True).handshake_fault
    assert read_block(block_with(WEBSOCKET), False).handshake_fault, "HTTP/1.0"


@pytest.mark.parametrize(
    ("lines", "is_right"),
    [
        (settings_of((2, 0), (2, 1), (4, 2**31 - 1), (5, 2**14), (5, 2**24 - 1), (8, 1), (3, 2**32 - 1)), True),
        *((settings_of((4, 1), pair), False) for pair in [(2, 2), (4, 2**31), (5, 2**14 - 1), (5, 2**24), (8, 2)]),
        (settings_of()[:-1], False),
        ([*settings_of(), settings_of()[-1]], False),
        ([*settings_of()[:-1], b"HTTP2-Settings: AAQAAP+/"], False),
        ([*settings_of()[:-1], b"HTTP2-Settings: AAQAAA"], False),
        ([*settings_of()[:-1], b"HTTP2-Settings: A"], False),
    ],
)
def test_the_settings_of_an_upgrade(lines: list[bytes], is_right: bool) -> None:
    assert bool(read_block(block_with(lines), True).settings_fault) is not is_right


@pytest.mark.parametrize(
    ("accept", "takes"),
    [
        *((each, True) for each in ("gzip", "GZip", "br, gzip", "gzip;q=0.001", "*", "br;q=0, *;q=0.5", "gzip; q=1")),
        *((each, False) for each in ("", "br", "gzip;q=0", "gzip; q=0.000", "*;q=0", "gzip;q=0, *", "gzip;x=1;q=0")),
        *((each, False) for each in ("gzip, gzip;q=0", "gzip;q=0, gzip", "gzip;q=1;q=0", "identity")),
    ],
)
def test_who_takes_gzip(accept: str, takes: bool) -> None:
    assert accepts_gzip(accept) is takes


# Verifies: API-0033
def test_the_most_lines() -> None:
    lines = [HOST, *[b"X: 1"] * (MAX_HEADERS - 1)]
    assert read_block(block_with(lines), True).plain
    with pytest.raises(HeadersTooLarge):
        read_block(block_with([*lines, b"X: 1"]), True)


def longer(size: int) -> bytes:
    """A block of so many bytes."""
    start = block_with([HOST, b"X: "])
    return block_with([HOST, b"X: " + b"x" * (size - len(start))])


def test_what_takes_microseconds_to_read_is_read_at_once() -> None:
    assert read_batchable_block(longer(MAX_BATCHABLE_BLOCK_BYTES)) is not None
    assert read_batchable_block(longer(MAX_BATCHABLE_BLOCK_BYTES + 1)) is None
    lines = [HOST, *[b"X: 1"] * (MAX_BATCHABLE_HEADERS - 1)]
    assert read_batchable_block(block_with(lines)) is not None
    lines.append(b"X: 2")
    for known in (False, True, True):
        assert (read_batchable_block(block_with(lines)) is not None) is known
        read_block(block_with(lines), True)


# Verifies: API-0044
def test_the_longest_block_that_is_kept() -> None:
    for size, kept in ((MAX_KEPT_BLOCK_BYTES + 1, 0), (MAX_KEPT_BLOCK_BYTES, 1)):
        for http11 in (True, False):
            read_block(longer(size), http11)
            assert header_block._kept[http11].entries == kept
