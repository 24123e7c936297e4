"""Conversations in HTTP/1: right, nearly right, and wrong."""

from __future__ import annotations

from random import Random
from urllib.parse import quote

from fuzz.server import bodies
from fuzz.server.conversation import ID, IDS, PAUSE, SEND, Step
from fuzz.server.mutations import TOKENS, mutate

HEADERS = [
    b"Accept: */*", b"User-Agent: fuzz/1", b"traceparent: 00-%x-1-01", b"X-Request-Id: %x", b"Cookie: a=%x",
    b"Connection: keep-alive", b"Connection: Keep-Alive, x", b"Connection: close", b"Accept-Encoding: gzip",
    b"Origin: null", b"Origin: https://other.example", b"Origin: http://localhost", b"Sec-Fetch-Site: same-origin",
    b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: no-cors", b"Access-Control-Request-Method: POST",
    b"Expect: 100-continue", b"Expect: nonsense", b"Upgrade: h2c", b"Upgrade: websocket", b"Upgrade: x, h2c",
    b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: A", b"HTTP2-Settings: AAMAAABkAAQAAP__",
    b"Connection: upgrade", b"TE: trailers", b"Trailer: x", b"Content-Encoding: gzip", b"Range: bytes=0-1",
    b"If-None-Match: *", b"If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT", b"X: \xc3\xbc", b"X: \xff", b"X:",
    b": x", b"X : y", b" folded", b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
    b"Content-Length: 104857600", b"Content-Length: 2097153", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked", b"Host: other", b"Host: [::1]:80", b"Host: a b", b"Host:", b"Forwarded: for=x",
    b"X-Forwarded-Host: evil", b"Content-Type: text/plain", b"Content-Type: application/json; charset=utf-8",
    b"Content-Type:",
]  # fmt: skip
TARGETS = [
    b"/", b"*", b"//", b"/%", b"/%zz", b"/\xc3\xbc", b"/\xff", b"/ui/../..", b"/ui/%2e%2e/%2e%2e/etc/passwd", b"/ui",
    b"/assets/x", b"/favicon.ico", b"http://a/health", b"http://[::1]/health", b"https://a", b"a:80",
    b"/queue-stats/%00",
    b"/queue-stats/", b"/queue-stats/%ff", b"/queue-stats/" + b"a" * 256, b"/queue-stats/.", b"/queue-stats/..",
    b"/queue-stats/%2e%2e", b"/health?" + b"a" * 9000, b"/operation-timings?seconds=abc",
    b"/operation-timings?seconds=",
    b"/operation-timings?seconds=1&seconds=2", b"/operation-timings?seconds=%ff",
    b"/operation-timings?seconds=" + b"9" * 5000,
    b"/consume/fuzz?x", b"/ack/fuzz", b"/ack/fuzz/x/y", b"/ws", b"/nope", b"/health#x", b"/health;x", b"/publish/",
    b"/queue-stats/\xc3\xbc", b"/a b", b"/openapi.json", b"/docs",
]  # fmt: skip
METHODS = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PATCH",
    b"PRI",
    b"get",
    b"M" * 21,
]
VERSIONS = [b"HTTP/1.1"] * 6 + [
    b"HTTP/1.0",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"HTTP/1.1 ",
    b"http/1.1",
]


def request(rng: Random, odd: float, sweep: bool) -> Step:
    """One request as a whole; with the chance `odd` each of its parts is not as it should be."""
    method, target, body = operation(rng, odd / 2, sweep)
    line_method = rng.choice(METHODS) if rng.random() < odd / 4 else method
    line_target = rng.choice(TARGETS) if rng.random() < odd / 2 else target
    version = rng.choice(VERSIONS) if rng.random() < odd else b"HTTP/1.1"
    lines = [b"%b %b %b" % (line_method, line_target, version)]
    if rng.random() >= odd / 4:
        lines.append(b"Host: " + rng.choice([b"localhost", b"127.0.0.1:6784", b"fuzz.example"]))
    headers = [_header(rng) for _ in range(rng.choice([0, 0, 1, 2, 5]))] if rng.random() < odd else []
    if rng.random() < odd / 15:
        headers += rng.choice([[b"X: y"] * 300, [b"X: " + b"y" * 70_000], [b"X-%d: y" % n for n in range(250)]])
    content = b""
    if body is not None:
        lines.append(b"Content-Type: application/json")
        content = body
        if rng.random() < 0.15 or (odd and rng.random() < 0.3):
            lines.append(b"Transfer-Encoding: chunked")
            content = chunked(rng, body, odd)
        elif rng.random() >= odd / 5:
            # An id is longer than its place.
            length = len(body.replace(ID, b"i" * 36)) + (rng.choice([0, 0, 0, -1, 1, 7]) if rng.random() < odd else 0)
            lines.append(b"Content-Length: %d" % max(0, length))
    rng.shuffle(headers)
    end = rng.choice([b"\n", b"\r"]) if rng.random() < odd / 20 else b"\r\n"
    data = end.join([*lines, *headers, b"", b""]) + content
    if rng.random() < odd / 10:
        data = b"\r\n" * rng.choice([1, 2, 1000]) + data
    if rng.random() < odd / 2:
        data = mutate(rng, data, rng.randrange(1, 4))
    return (IDS, data) if ID in data else (SEND, data)


def operation(rng: Random, odd: float, sweep: bool) -> tuple[bytes, bytes, bytes | None]:
    """Method, target and body of one operation of the contract."""
    table = bodies.HTTP + (bodies.SWEEPING if sweep else [])
    _, method, path, make = rng.choices(table, [row[0] for row in table])[0]
    place = quote(bodies.queue(rng), safe="") if rng.random() >= odd else quote(bodies.queue(rng))
    target = path.replace("{queue}", place).encode()
    if make is not None:
        return method.encode(), target, bodies.text(rng, make(rng), odd)
    return method.encode(), target, b"" if method == "POST" and rng.random() < 0.2 else None


def _header(rng: Random) -> bytes:
    header = rng.choice(HEADERS)
    if b"%x" in header:
        header = header % rng.getrandbits(64)
    return mutate(rng, header) if rng.random() < 0.1 else header


def chunked(rng: Random, body: bytes, odd: float) -> bytes:
    """A body in chunks, with extensions and trailers, and now and then not quite."""
    data = b""
    at = 0
    while at < len(body):
        size = rng.choice([1, 2, 7, 100, 5000, len(body)])
        piece = body[at : at + size]
        at += size
        extension = rng.choice([b"", b"", b"", b";a", b";a=b", b' ; a="b;c"', b";" + b"x" * 2000])
        length = b"%x" % len(piece.replace(ID, b"i" * 36))
        if rng.random() < odd / 5:
            length = rng.choice(
                [b"0x1", b"-1", b"", b"+2", b"f" * 8, b"f" * 17, b"00000000000000001", b" 1", length + b"g"]
            )
        data += (
            length
            + extension
            + b"\r\n"
            + piece
            + (rng.choice([b"\n", b"", b"x\r\n"]) if rng.random() < odd / 10 else b"\r\n")
        )
    trailer = b""
    if rng.random() < 0.3:
        trailer = rng.choice(
            [b"X: y\r\n", b"X: y\r\n" * 300, b"Content-Length: 3\r\n", b"bad\r\n", b"X: " + b"y" * 70_000]
        )
    return data + rng.choice([b"0", b"0", b"000", b"0;x=y"]) + b"\r\n" + trailer + b"\r\n"


def plain(rng: Random, sweep: bool) -> list[Step]:
    """As a good client speaks, pipelined or in turns."""
    return _spaced(rng, [request(rng, 0.0, sweep) for _ in range(rng.choice([1, 3, 10, 64]))])


def nearly(rng: Random, sweep: bool) -> list[Step]:
    """Some of it is odd."""
    return _spaced(rng, [request(rng, 0.25, sweep) for _ in range(rng.choice([1, 2, 4]))])


def wrong(rng: Random, sweep: bool) -> list[Step]:
    """Hardly anything is right."""
    steps = [request(rng, 1.0, sweep) for _ in range(rng.choice([1, 2, 3]))]
    if rng.random() < 0.2:
        steps.append((SEND, b"".join(rng.choices(TOKENS, k=rng.randrange(1, 8)))))
    return _spaced(rng, steps)


def same(rng: Random, sweep: bool) -> list[Step]:
    """One request again and again: large answers to somebody who may not read them."""
    if rng.random() < 0.5:
        requests = [request(rng, 0.0, sweep)] * rng.choice([20, 64, 200])
    else:
        target = rng.choice([b"/stats", b"/queues", b"/queues/fuzz/metrics", b"/operation-timings?seconds=3600"])
        requests = [(SEND, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)] * rng.choice([20, 64, 200])
    return requests if len(requests[0][1]) < 5000 else requests[:5]  # type: ignore[arg-type]  # bytes, as made here


def huge(rng: Random, sweep: bool) -> list[Step]:
    """Bodies over and about the limit, heads over the limit, bytes without end."""
    size = rng.choice([2_097_151, 2_097_153, 3_000_000, 8_000_000])
    start = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    filler = rng.choice([b" ", b"x", b'"', b"[", b"\\u0041"])
    body = (filler * (size // len(filler) + 1))[:size]
    choice = rng.randrange(5)
    if choice == 0:
        return [(SEND, start + b"Content-Length: %d\r\n\r\n" % size), (SEND, body)]
    if choice == 1:
        chunk = body[:100_000]
        return [
            (SEND, start + b"Transfer-Encoding: chunked\r\n\r\n"),
            *[(SEND, b"186a0\r\n" + chunk + b"\r\n")] * (size // 100_000),
        ]
    if choice == 2:
        return [
            (SEND, start + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % size),
            (PAUSE, 0.05),
            (SEND, body[:70_000]),
        ]
    if choice == 3:
        return [(SEND, b"GET /health HTTP/1.1\r\n" + b"X-%d: y\r\n" % rng.randrange(9) * 100_000)]
    return [(SEND, rng.choice([b"x", b"\r\n", b"\x00", b"GET /", b"\xff"]) * 300_000)]


def _spaced(rng: Random, steps: list[Step]) -> list[Step]:
    """Ids are there when what made them was answered: at times wait for that."""
    spaced: list[Step] = []
    wait = rng.choice([0.0, 0.3, 1.0])
    for step in steps:
        if rng.random() < wait:
            spaced.append((PAUSE, rng.choice([0.002, 0.01, 0.05])))
        spaced.append(step)
    return spaced
