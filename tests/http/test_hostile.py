"""Hostile bytes: both paths answer them alike, and what parsers could read differently is refused and ends it."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
import trio
import trio.testing

from qrusty_trio.api.operations import error_reply
from qrusty_trio.api.routes import NOTHING_THERE
from qrusty_trio.errors import NotFound
from qrusty_trio.http.header_block import MAX_EMPTY_LINES
from tests.http.web import HOST, JSON, Response, Web, request, running

PUBLISH = b'{"queue":"q","priority":1,"payload":"p"}'
HEALTH = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"
CLOSES = "closes"


class Case(NamedTuple):
    data: bytes
    expected: list[int | str]
    """Statuses in order, and CLOSES when the connection must end after them."""


def post(headers: bytes, body: bytes = PUBLISH, path: bytes = b"/publish") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + JSON + headers + b"\r\n" + body


LENGTH = b"Content-Length: %d\r\n" % len(PUBLISH)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PUBLISH), PUBLISH)
SMUGGLED = b"POST /delete-all HTTP/1.1\r\nHost: test\r\n\r\n"

CASES = {
    "both length headers": Case(post(LENGTH + CHUNKED, CHUNKS), [400, CLOSES]),
    "both length headers, chunked first": Case(post(CHUNKED + LENGTH, CHUNKS), [400, CLOSES]),
    "two lengths": Case(post(LENGTH + b"Content-Length: 3\r\n"), [400, CLOSES]),
    "two equal lengths": Case(post(LENGTH + LENGTH), [400, CLOSES]),
    "two lengths in one header": Case(post(b"Content-Length: 40, 40\r\n"), [400, CLOSES]),
    "signed length": Case(post(b"Content-Length: +40\r\n"), [400, CLOSES]),
    "negative length": Case(post(b"Content-Length: -1\r\n"), [400, CLOSES]),
    "hexadecimal length": Case(post(b"Content-Length: 0x28\r\n"), [400, CLOSES]),
    "empty length": Case(post(b"Content-Length: \r\n"), [400, CLOSES]),
    "length of 40 digits": Case(post(b"Content-Length: " + b"9" * 40 + b"\r\n"), [400, CLOSES]),
    "length of 18 digits": Case(post(b"Content-Length: " + b"9" * 18 + b"\r\n"), [413, CLOSES]),
    "length with underscore": Case(post(b"Content-Length: 4_0\r\n"), [400, CLOSES]),
    "folded header": Case(post(b"X-A: b\r\n c: d\r\n" + LENGTH), [400, CLOSES]),
    "folded length": Case(post(b"Content-Length:\r\n 40\r\n"), [400, CLOSES]),
    "fold with tab": Case(post(b"X-A: b\r\n\tc\r\n" + LENGTH), [400, CLOSES]),
    "first header folded": Case(b"GET /health HTTP/1.1\r\n Host: test\r\n\r\n", [400, CLOSES]),
    "bare line feed in headers": Case(post(b"X-A: b\n" + LENGTH), [400, CLOSES]),
    "bare line feeds only": Case(b"GET /health HTTP/1.1\nHost: test\n\n", [400, CLOSES]),
    "bare line feed after the line": Case(b"GET /health HTTP/1.1\nHost: test\r\n\r\n", [400, CLOSES]),
    "bare line feed before the end": Case(b"GET /health HTTP/1.1\r\nHost: test\r\n\n" + SMUGGLED, [400, CLOSES]),
    "bare carriage return": Case(post(b"X-A: b\rX-B: c\r\n" + LENGTH), [400, CLOSES]),
    "two carriage returns": Case(b"GET /health HTTP/1.1\r\r\nHost: test\r\n\r\n", [400, CLOSES]),
    "space before colon": Case(post(b"Content-Length : 40\r\n"), [400, CLOSES]),
    "no colon": Case(post(b"Nonsense\r\n" + LENGTH), [400, CLOSES]),
    "no name": Case(post(b": value\r\n" + LENGTH), [400, CLOSES]),
    "NUL in a value": Case(post(b"X-A: b\x00c\r\n" + LENGTH), [400, CLOSES]),
    "control character in a value": Case(post(b"X-A: b\x01c\r\n" + LENGTH), [400, CLOSES]),
    "delete character in a value": Case(post(b"X-A: b\x7fc\r\n" + LENGTH), [400, CLOSES]),
    "vertical tab around coding": Case(post(b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS), [400, CLOSES]),
    "8-bit value": Case(post("X-A: café\r\n".encode("latin-1") + LENGTH), [200]),
    "8-bit name": Case(post("X-é: a\r\n".encode("latin-1") + LENGTH), [400, CLOSES]),
    "8-bit target": Case(b"GET /queue-stats/caf\xe9 HTTP/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "tabs around a value": Case(post(b"X-A:\t b\t\r\n" + LENGTH), [200]),
    "empty value": Case(post(b"X-A:\r\n" + LENGTH), [200]),
    "unknown coding": Case(post(b"Transfer-Encoding: gzip\r\n", CHUNKS), [400, CLOSES]),
    "coding list": Case(post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS), [400, CLOSES]),
    "identity": Case(post(b"Transfer-Encoding: identity\r\n", CHUNKS), [400, CLOSES]),
    "two codings": Case(post(CHUNKED + CHUNKED, CHUNKS), [400, CLOSES]),
    "quoted coding": Case(post(b'Transfer-Encoding: "chunked"\r\n', CHUNKS), [400, CLOSES]),
    "empty coding": Case(post(b"Transfer-Encoding:\r\n", CHUNKS), [400, CLOSES]),
    "chunks": Case(post(CHUNKED, CHUNKS), [200]),
    "chunks in capital letters": Case(post(b"TRANSFER-ENCODING: CHUNKED\r\n", CHUNKS.upper()), [422]),
    "several chunks": Case(post(CHUNKED, b"1\r\n{\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(PUBLISH) - 1, PUBLISH[1:])), [200]),
    "zeros before a size": Case(post(CHUNKED, b"00000" + CHUNKS), [200]),
    "too many zeros before a size": Case(post(CHUNKED, b"0" * 30 + CHUNKS), [400, CLOSES]),
    "chunk extension": Case(post(CHUNKED, CHUNKS.replace(b"\r\n", b";a=b\r\n", 1)) + HEALTH, [200, 200]),
    "chunk extension of another form": Case(
        post(CHUNKED, CHUNKS.replace(b"\r\n", b' \t; a ; b = "c; d" ;\xff\r\n', 1)) + HEALTH, [200, 200]
    ),
    "extension of the last chunk": Case(
        post(CHUNKED, CHUNKS.replace(b"\r\n0\r\n", b"\r\n0;a\r\n")) + HEALTH, [200, 200]
    ),
    "line feed in a chunk extension": Case(post(CHUNKED, CHUNKS.replace(b"\r\n", b";a\nb\r\n", 1)), [400, CLOSES]),
    "line feed after a chunk extension": Case(post(CHUNKED, CHUNKS.replace(b"\r\n", b";a\n", 1)), [400, CLOSES]),
    "carriage return in a chunk extension": Case(
        post(CHUNKED, CHUNKS.replace(b"\r\n", b";a\rb\r\n", 1)), [400, CLOSES]
    ),
    "NUL in a chunk extension": Case(post(CHUNKED, CHUNKS.replace(b"\r\n", b";\0\r\n", 1)), [400, CLOSES]),
    "chunk extension without a size": Case(post(CHUNKED, b";a" + CHUNKS), [400, CLOSES]),
    "chunk extension that never ends": Case(post(CHUNKED, b"28;" + b"a" * 70_000), [431, CLOSES]),
    "many chunk extensions": Case(post(CHUNKED, (b"1;" + b"a" * 999 + b"\r\n \r\n") * 20), [431, CLOSES]),
    "sizes over the limit": Case(post(CHUNKED, b"ffffffff\r\n" + b" " * 100_000), [413, CLOSES]),
    "space after a size": Case(post(CHUNKED, CHUNKS.replace(b"\r\n", b" \r\n", 1)), [400, CLOSES]),
    "size with sign": Case(post(CHUNKED, b"+" + CHUNKS), [400, CLOSES]),
    "size in hexadecimal notation": Case(post(CHUNKED, b"0x" + CHUNKS), [400, CLOSES]),
    "negative size": Case(post(CHUNKED, b"-1\r\n" + PUBLISH + b"\r\n0\r\n\r\n"), [400, CLOSES]),
    "size too small": Case(post(CHUNKED, b"5\r\n" + PUBLISH + b"\r\n0\r\n\r\n"), [400, CLOSES]),
    "size too large by one": Case(post(CHUNKED, b"29\r\n" + PUBLISH + b"\r\n0\r\n\r\n"), [400, CLOSES]),
    "line feeds around a chunk": Case(post(CHUNKED, CHUNKS.replace(b"\r\n", b"\n")), [400, CLOSES]),
    "trailer": Case(post(CHUNKED, CHUNKS[:-2] + b"X-A: b\r\n\r\n") + HEALTH, [200, 200]),
    "trailers": Case(post(CHUNKED, CHUNKS[:-2] + b"X-A: b\r\nx-b:\r\n\r\n") + HEALTH, [200, 200]),
    "trailer with a length": Case(post(CHUNKED, CHUNKS[:-2] + b"Content-Length: 9\r\n\r\n") + HEALTH, [200, 200]),
    "trailer with a coding": Case(post(CHUNKED, CHUNKS[:-2] + CHUNKED + b"\r\n") + HEALTH, [200, 200]),
    "folded trailer": Case(post(CHUNKED, CHUNKS[:-2] + b"X-A: b\r\n c\r\n\r\n"), [400, CLOSES]),
    "trailer without a colon": Case(post(CHUNKED, CHUNKS[:-2] + b"X-A\r\n\r\n"), [400, CLOSES]),
    "space before the colon of a trailer": Case(post(CHUNKED, CHUNKS[:-2] + b"X-A : b\r\n\r\n"), [400, CLOSES]),
    "line feed after a trailer": Case(post(CHUNKED, CHUNKS[:-2] + b"X-A: b\n\r\n"), [400, CLOSES]),
    "NUL in a trailer": Case(post(CHUNKED, CHUNKS[:-2] + b"X-A: \0\r\n\r\n"), [400, CLOSES]),
    "trailers that never end": Case(post(CHUNKED, CHUNKS[:-2] + b"X-A: b\r\n" * 9000), [431, CLOSES]),
    "last chunk without its end": Case(post(CHUNKED, CHUNKS[:-2] + SMUGGLED), [400, CLOSES]),
    "chunks in HTTP/1.0": Case(b"POST /publish HTTP/1.0\r\n" + HOST + JSON + CHUNKED + b"\r\n" + CHUNKS, [400, CLOSES]),
    "chunks, then another request": Case(post(CHUNKED, CHUNKS) + HEALTH, [200, 200]),
    "refused chunks, then another request": Case(post(CHUNKED, b"zz\r\n") + HEALTH, [400, CLOSES]),
    "absolute target": Case(b"GET http://test/health HTTP/1.1\r\n" + HOST + b"\r\n", [200]),
    "absolute target without path": Case(b"GET http://test HTTP/1.1\r\n" + HOST + b"\r\n", [200]),
    "absolute target with query": Case(
        b"GET http://test:1/operation-timings?seconds=x HTTP/1.1\r\n" + HOST + b"\r\n", [400]
    ),
    "absolute target with user": Case(b"GET http://a@b/health HTTP/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "absolute target of another scheme": Case(b"GET ftp://test/health HTTP/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "relative target": Case(b"GET health HTTP/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "asterisk": Case(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "CONNECT": Case(b"CONNECT test:80 HTTP/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "fragment": Case(b"GET /health#a HTTP/1.1\r\n" + HOST + b"\r\n", [404]),
    "two slashes": Case(b"GET //health HTTP/1.1\r\n" + HOST + b"\r\n", [404]),
    "slash at the end": Case(b"GET /health/ HTTP/1.1\r\n" + HOST + b"\r\n", [404]),
    "dots": Case(b"GET /x/../health HTTP/1.1\r\n" + HOST + b"\r\n", [404]),
    "percent NUL": Case(b"GET /queue-stats/a%00b HTTP/1.1\r\n" + HOST + b"\r\n", [200]),
    "broken percent": Case(b"GET /queue-stats/a%0 HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
    "percent not UTF-8": Case(b"GET /queue-stats/%ff HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
    "percent slash": Case(b"GET /queue-stats/a%2Fb HTTP/1.1\r\n" + HOST + b"\r\n", [200]),
    "percent in a fixed part": Case(b"GET /%68ealth HTTP/1.1\r\n" + HOST + b"\r\n", [404]),
    "query with a question mark": Case(b"GET /health?a?b=/%00 HTTP/1.1\r\n" + HOST + b"\r\n", [200]),
    "strange host": Case(b"GET /health HTTP/1.1\r\nHost: " + b"a" * 300 + b"..b\r\n\r\n", [200]),
    "no name in host": Case(b"GET /health HTTP/1.1\r\nHost:\r\n\r\n", [200]),
    "host of IPv6": Case(b"GET /health HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", [200]),
    "space in host": Case(b"GET /health HTTP/1.1\r\nHost: a b\r\n\r\n", [400, CLOSES]),
    "slash in host": Case(b"GET /health HTTP/1.1\r\nHost: a/b\r\n\r\n", [400, CLOSES]),
    "user in host": Case(b"GET /health HTTP/1.1\r\nHost: a@b\r\n\r\n", [400, CLOSES]),
    "no host": Case(b"GET /health HTTP/1.1\r\n\r\n", [400, CLOSES]),
    "two hosts": Case(b"GET /health HTTP/1.1\r\n" + HOST + HOST + b"\r\n", [400, CLOSES]),
    "no host in HTTP/1.0": Case(b"GET /health HTTP/1.0\r\n\r\n", [200, CLOSES]),
    "two content types": Case(post(JSON + LENGTH), [400, CLOSES]),
    "small letters": Case(b"get /health HTTP/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "unknown method": Case(b"BREW /health HTTP/1.1\r\n" + HOST + b"\r\n", [405]),
    "version 1.2": Case(b"GET /health HTTP/1.2\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "version 2.0": Case(b"GET /health HTTP/2.0\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "version 0.9": Case(b"GET /health\r\n\r\n", [400, CLOSES]),
    "version in small letters": Case(b"GET /health http/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "two spaces in the line": Case(b"GET  /health HTTP/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "space at the end of the line": Case(b"GET /health HTTP/1.1 \r\n" + HOST + b"\r\n", [400, CLOSES]),
    "tab in the line": Case(b"GET\t/health HTTP/1.1\r\n" + HOST + b"\r\n", [400, CLOSES]),
    "empty line first": Case(b"\r\n" + HEALTH, [200]),
    "empty lines first": Case(b"\r\n" * 100 + HEALTH, [200]),
    "too many empty lines first": Case(b"\r\n" * 101 + HEALTH, [400, CLOSES]),
    "too many empty lines": Case(HEALTH + b"\r\n" * 50_000, [200, 400, CLOSES]),
    "empty lines between requests": Case((HEALTH + b"\r\n\r\n") * 70, [200] * 70),
    "empty line after a body": Case(post(LENGTH) + b"\r\n" + post(LENGTH) + b"\r\n", [200, 200]),
    "empty line after chunks": Case(post(CHUNKED, CHUNKS) + b"\r\n" + post(CHUNKED, CHUNKS), [200, 200]),
    "empty lines only": Case(b"\r\n\r\n\r\n", []),
    "line feed first": Case(b"\n" + HEALTH, [400, CLOSES]),
    "line feed after an empty line": Case(b"\r\n\n" + HEALTH, [400, CLOSES]),
    "carriage return first": Case(b"\r" + HEALTH, [400, CLOSES]),
    "two carriage returns first": Case(b"\r\r\n" + HEALTH, [400, CLOSES]),
    "a line with a space first": Case(b" \r\n" + HEALTH, [400, CLOSES]),
    "HTTP/2 after an empty line": Case(b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400, CLOSES]),
    "TLS": Case(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), [400, CLOSES]),
    "noise": Case(bytes(range(256)), [400, CLOSES]),
    "100 KB of headers": Case(b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: b\r\n" * 13_000 + b"\r\n", [431, CLOSES]),
    "100 KB of one header": Case(
        b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: " + b"b" * 102_400 + b"\r\n\r\n", [431, CLOSES]
    ),
    "100 KB of headers without end": Case(
        b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: " + b"b" * 102_400, [431, CLOSES]
    ),
    "100 KB of target": Case(b"GET /" + b"a" * 102_400 + b" HTTP/1.1\r\n" + HOST + b"\r\n", [431, CLOSES]),
    "60 KB of headers": Case(
        b"GET /health HTTP/1.1\r\n" + HOST + (b"X-A: " + b"b" * 240 + b"\r\n") * 240 + b"\r\n", [200]
    ),
    "256 headers": Case(b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: b\r\n" * 255 + b"\r\n", [200]),
    "257 headers": Case(b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: b\r\n" * 256 + b"\r\n", [431, CLOSES]),
    "60 KB of spaces": Case(b"GET /health HTTP/1.1\r\n" + HOST + b"X-A:" + b" " * 60_000 + b"b\r\n\r\n", [200]),
    "good, bad, good": Case(HEALTH + b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n" + HEALTH, [200, 400, CLOSES]),
    "good, unknown, good": Case(HEALTH + b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n" + HEALTH, [200, 404, 200]),
    "good, wrong shape, good": Case(HEALTH + post(b"Content-Length: 2\r\n", b"{}") + HEALTH, [200, 422, 200]),
    "good, too large, good": Case(HEALTH + post(b"Content-Length: 3000000\r\n", b"") + HEALTH, [200, 413, CLOSES]),
    "published before the bad one": Case(post(LENGTH) + post(LENGTH + b"X : y\r\n"), [200, 400, CLOSES]),
    "body on a GET": Case(b"GET /health HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello" + HEALTH, [200, 200]),
    "body on an unknown path": Case(post(LENGTH, path=b"/nothing") + HEALTH, [404, 200]),
    "Expect": Case(post(LENGTH + b"Expect: 100-continue\r\n"), [200]),
    "unknown upgrade": Case(
        b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n" + HEALTH, [200, 200]
    ),
    "HTTP/1.0": Case(b"GET /health HTTP/1.0\r\n" + HOST + b"\r\n" + HEALTH, [200, CLOSES]),
    "close": Case(b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: foo, Close\r\n\r\n" + HEALTH, [200, CLOSES]),
    "64 at once": Case(HEALTH * 64, [200] * 64),
    "200 at once": Case(HEALTH * 200, [200] * 200),
}


async def answers_to(web: Web, data: bytes, *, cut: int = 0) -> list[Response]:
    """All answers until the server closes or has nothing more to say."""
    async with web.client() as client:
        found: list[Response] = []

        async def send() -> None:
            try:
                if cut:
                    for start in range(0, len(data), cut):
                        await client.send(data[start : start + cut])
                        await trio.sleep(0.0005)
                else:
                    await client.send(data)
                await client.stream.send_eof()
            except trio.BrokenResourceError:
                pass  # Refused and closed meanwhile.

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                while True:
                    found.append(await client.response())
            except EOFError as ended:
                rest = ended.args[0]
            nursery.cancel_scope.cancel()
        assert rest == b"", "a part of an answer"
        return found


def shown(responses: list[Response]) -> list[int | str]:
    found: list[int | str] = [response.status for response in responses]
    for response in responses:
        if response.status >= 400:
            assert response.headers["content-type"] == "application/json"
            assert set(response.json()) == {"error", "code"}
        assert "server" not in response.headers
    for response in responses[:-1]:
        assert response.headers.get("connection") != "close"
    if responses and responses[-1].headers.get("connection") == "close":
        found.append(CLOSES)
    return found


# Verifies: SYS-0019, API-0031, API-0033
@pytest.mark.parametrize("name", CASES)
async def test_both_paths_answer_alike(name: str) -> None:
    case = CASES[name]
    found = []
    for fast_path in (True, False):
        async with running(fast_path) as web:
            found.append(await answers_to(web, case.data))
            assert web.engine.broker.catalog.names() in ([], ["q"])
    fast, quart = found
    assert shown(fast) == case.expected
    assert shown(quart) == case.expected
    for one, other in zip(fast, quart, strict=True):
        if one.status >= 400:
            assert json.loads(one.body) == json.loads(other.body)


# Verifies: API-0031
@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "quart"])
async def test_bytes_in_small_pieces_mean_the_same(fast_path: bool) -> None:
    async with running(fast_path) as web:
        data = (
            b"\r\n"
            + request("POST", "/publish", {"queue": "q", "priority": 1, "payload": "ü"})
            + b"\r\n\r\n"
            + HEALTH
            + post(CHUNKED, CHUNKS)
            + b"\r\n"
            + post(CHUNKED, CHUNKS.replace(b"\r\n", b' ; a="b"\r\n', 1)[:-2] + b"X-A: b\r\nX-B:\r\n\r\n")
        )
        for cut in (1, 2, 7):
            assert shown(await answers_to(web, data, cut=cut)) == [200, 200, 200, 200]
        assert web.engine.broker.catalog.stats("q").available == 9  # type: ignore[union-attr]  # it was published to


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "quart"])
async def test_empty_lines_are_counted_from_request_to_request(fast_path: bool) -> None:
    """A client that sends one after each body may send as many requests as it likes."""
    async with running(fast_path) as web, web.client() as client:
        for _ in range(MAX_EMPTY_LINES + 2):
            await client.send(post(LENGTH))
            assert (await client.response()).status == 200
            await client.send(b"\r\n")
            await trio.testing.wait_all_tasks_blocked()  # read by itself, so that the next request is, too
        for _ in range(MAX_EMPTY_LINES + 2):
            await client.send(post(LENGTH) + b"\r\n" + HEALTH + b"\r\n")
            assert [(await client.response()).status for _ in range(2)] == [200, 200]


# Verifies: API-0044
async def test_what_is_remembered_of_request_lines_changes_no_answer() -> None:
    """Request lines and header blocks are remembered; what is almost the same is not mistaken for it."""
    known = b"POST /ack/q/%b HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n"
    body = b'{"consumer_id":"w"}'
    ids = [b"a", b"a%2Fb", b"a%", b"a?x=1", b"", b"a/b", b"%", b"b", b"..", b"a#b", b"a" * 300, b"a", b"A-1", b"a b"]
    data = b"".join(known % one + body for one in ids)
    data = data.replace(b"POST /ack/q/b ", b"PUT /ack/q/b ").replace(b"/A-1 HTTP/1.1", b"/A-1 HTTP/1.0")
    requests = [data, data.replace(b"/A-1 HTTP/1.0", b"/A-1 HTTP/1.1")]
    for part in requests:
        found = []
        for fast_path in (True, False):
            async with running(fast_path) as web:
                found.append([(response.status, response.body) for response in await answers_to(web, part)])
        assert found[0] == found[1]
        assert (404, error_reply(NotFound(NOTHING_THERE)).body) in found[0]
