"""Conversations in HTTP/2, frame by frame: right ones, and what no library would send."""

from __future__ import annotations

import base64
import json
from random import Random

from hpack import Encoder

from fuzz.server import bodies, http1, websocket
from fuzz.server.conversation import ID, PAUSE, SEND, UNTIL, Step, masked_frame
from fuzz.server.mutations import mutate

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x4, 0x8, 0x20
UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: %b\r\n\r\n"
)

Header = tuple[bytes, bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def settings(rng: Random, odd: float) -> bytes:
    """A SETTINGS frame: none, no window, or something not allowed."""
    choices = [
        b"",
        b"\0\4\0\0\0\0",
        b"\0\4\x7f\xff\xff\xff",
        b"\0\3\0\0\0\1",
        b"\0\1\0\0\0\0",
        b"\0\5\0\0\x40\0",
        b"\0\4\0\0\0\1",
    ]
    bad = [
        b"\0\2\0\0\0\2",
        b"\0\4\x80\0\0\0",
        b"\0\5\0\0\0\1",
        b"\0\x08\0\0\0\2",
        b"\0",
        b"\0\x99\1\2\3\4",
        b"\0\6\0\0\0\0",
    ]
    chosen = rng.choice(bad) if rng.random() < odd else rng.choice(choices)
    return frame(SETTINGS, 0, 1 if rng.random() < odd / 10 else 0, chosen)


def opening(rng: Random, odd: float) -> bytes:
    return PREFACE + settings(rng, odd / 2) + (frame(SETTINGS, 1, 0) if rng.random() < 0.5 else b"")


def pseudo(rng: Random, method: bytes, path: bytes, odd: float) -> list[Header]:
    headers = [(b":method", method), (b":scheme", b"http"), (b":authority", b"localhost"), (b":path", path)]
    if rng.random() < odd:
        at = rng.randrange(4)
        name, value = headers[at]
        changes: list[list[Header]] = [
            [],
            [(name, value), (name, value)],
            [(name, b"")],
            [(name, value + b"\xc3\xbc")],
            [(name, b"\xff" + value)],
            [(name, value + b"\r\nx: y")],
            [(name, value + b" \x00")],
            [(name, rng.choice(http1.TARGETS))],
            [(name.upper(), value)],
            [(b":unknown", value), (name, value)],
            [(b":protocol", b"websocket"), (name, value)],
            [(b"", value)],
        ]
        headers[at : at + 1] = rng.choice(changes)
    if rng.random() < odd / 3:
        headers = rng.choice(
            [headers[::-1], headers[1:], [(b":method", b"CONNECT"), (b":authority", b"a")], [], headers * 2]
        )
    return headers


def ordinary(rng: Random, odd: float) -> list[Header]:
    """Headers after the pseudo-headers."""
    headers = [(b"content-type", b"application/json")]
    for _ in range(rng.choice([0, 1, 3]) if rng.random() < odd else 0):
        name, _, value = rng.choice(http1.HEADERS).replace(b"%x", b"1f").partition(b":")
        headers.append((name if rng.random() < odd / 3 else name.strip().lower(), value.strip()))
    if rng.random() < odd / 4:
        long: list[list[Header]] = [
            [(b"x", b"y" * 70_000)],
            [(b"x-%d" % n, b"y") for n in range(300)],
            [(b"cookie", b"a=b")] * 50,
        ]
        headers += rng.choice(long)
    if rng.random() < odd / 4:
        headers.append(
            rng.choice(
                [
                    (b"content-length", b"3"),
                    (b"content-length", b"x"),
                    (b"te", b"gzip"),
                    (b":path", b"/"),
                    (b"host", b"b"),
                ]
            )
        )
    return headers


def headers_frames(rng: Random, encoder: Encoder, stream: int, headers: list[Header], flags: int, odd: float) -> bytes:
    """A header block in HEADERS and perhaps CONTINUATION frames, padded and with a priority at times."""
    block = encoder.encode(headers, huffman=rng.random() < 0.5)
    if rng.random() < odd / 4:
        block = mutate(rng, block)
    size = rng.choice([1, 10, 16_000]) if rng.random() < 0.3 else 16_000
    pieces = [block[at : at + size] for at in range(0, len(block), size)][:400] or [b""]
    first = pieces[0]
    if rng.random() < 0.1:
        flags |= PRIORITISED
        first = rng.choice([b"\0\0\0\0\1", stream.to_bytes(4, "big") + b"\1", b"\x80\0\0\1\xff"]) + first
    if rng.random() < 0.1:
        flags |= PADDED
        first = bytes([rng.choice([0, 3]) if rng.random() >= odd else 255]) + first + bytes(3)
    last = len(pieces) - 1
    data = frame(HEADERS, flags | (END_HEADERS if last == 0 else 0), stream, first)
    for number, piece in enumerate(pieces[1:], 1):
        if rng.random() < odd / 20:
            data += frame(PING, 0, 0, bytes(8))
        data += frame(CONTINUATION, END_HEADERS if number == last and rng.random() >= odd / 10 else 0, stream, piece)
    return data


def request(rng: Random, encoder: Encoder, stream: int, odd: float, sweep: bool) -> bytes:
    """One stream from its headers to its end, or not to its end."""
    method, path, body = http1.operation(rng, odd / 2, sweep)
    headers = pseudo(rng, method, path.replace(ID, b"0" * 36), odd) + ordinary(rng, odd)
    if body is None:
        return headers_frames(rng, encoder, stream, headers, END_STREAM, odd)
    data = headers_frames(rng, encoder, stream, headers, 0, odd)
    size = rng.choice([1, 1000, 16_000])
    pieces = [body[at : at + size] for at in range(0, min(len(body), 60_000), size)][:100] or [b""]
    for piece in pieces:
        flags, content = 0, piece
        if rng.random() < 0.1:
            flags, content = PADDED, bytes([rng.choice([0, 5, 255] if odd else [0, 5])]) + piece + bytes(5)
        data += frame(DATA, flags, stream, content)
    chance = rng.random()
    if chance < 0.1 + odd / 4:
        data += odd_frame(rng, stream)
    if chance < 0.7:
        return data + frame(DATA, END_STREAM, stream)
    if chance < 0.85:
        return data + headers_frames(rng, encoder, stream, [(b"x-trailer", b"y")], END_STREAM, odd)
    return data + (frame(RST, 0, stream, bytes(3) + b"\x08") if chance < 0.92 else b"")


def odd_frame(rng: Random, stream: int) -> bytes:
    """A frame nobody waits for."""
    number = rng.choice([0, 1, 2, stream, stream + 2, 2**31 - 1])
    choices = [
        frame(PING, 0, 0, b"12345678"),
        frame(PING, 0, 0, b"1234"),
        frame(WINDOW, 0, number, rng.choice([b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\1\0\0", b"\0"])),
        frame(RST, 0, number, b"\0\0\0\x08"),
        frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0"),
        frame(PRIORITY, 0, number, rng.choice([b"\0\0\0\0\1", number.to_bytes(4, "big") + b"\1", b"\0"])),
        frame(PUSH, END_HEADERS, number, b"\0\0\0\2\x82"),
        frame(CONTINUATION, END_HEADERS, number, b"\x82"),
        frame(
            HEADERS, END_HEADERS, number, rng.choice([b"\x82", b"\x80", b"\xff" * 10, b"\x3f\xff\xff\xff\xff\x0f", b""])
        ),
        frame(DATA, END_STREAM, number, b"x" * rng.choice([0, 1, 16_385])),
        frame(rng.randrange(256), rng.randrange(256), number, rng.randbytes(rng.randrange(20))),
        settings(rng, 0.5),
        frame(SETTINGS, 1, 0, b"x"),
        b"\xff\xff\xff" + rng.randbytes(6),
    ]
    return rng.choice(choices)


def connection(rng: Random, odd: float, sweep: bool) -> bytes:
    encoder = Encoder()
    data = opening(rng, odd)
    for stream in range(1, 2 * rng.choice([1, 2, 5, 30]), 2):
        number = rng.choice([stream, stream + 1, 1, 0]) if rng.random() < odd / 10 else stream
        data += request(rng, encoder, number, odd, sweep)
        if rng.random() < odd:
            data += odd_frame(rng, stream)
    return data


def plain(rng: Random, sweep: bool) -> list[Step]:
    return [(SEND, connection(rng, 0.0, sweep)), (PAUSE, rng.choice([0.0, 0.05]))]


def wrong(rng: Random, sweep: bool) -> list[Step]:
    data = connection(rng, rng.choice([0.1, 0.5]), sweep)
    if rng.random() < 0.2:
        data = PREFACE + mutate(rng, data[len(PREFACE) :], rng.randrange(1, 4))
    if rng.random() < 0.2:
        data = data[: rng.randrange(len(data))]
    return [(SEND, data), (PAUSE, rng.choice([0.0, 0.05]))]


def flood(rng: Random, sweep: bool) -> list[Step]:
    """Many small frames that cost the sender nothing, then a request."""
    encoder = Encoder()
    get = pseudo(rng, b"GET", rng.choice([b"/health", b"/stats"]), 0.0)
    block = encoder.encode(get)
    count = rng.choice([200, 2000, 5000])
    chosen = rng.choice(
        ["priority", "settings", "ping", "reset", "data", "continuation", "window", "requests", "unknown"]
    )
    odd = [2 * number + 1 for number in range(count)]
    frames = {
        "priority": lambda: [frame(PRIORITY, 0, stream, b"\0\0\0\0\1") for stream in odd],
        "settings": lambda: [frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff")] * count,
        "ping": lambda: [frame(PING, 0, 0, bytes(8))] * count,
        "reset": lambda: [frame(HEADERS, 5, n, block) + frame(RST, 0, n, bytes(4)) for n in odd[:1000]],
        "data": lambda: [frame(HEADERS, 4, 1, block), *[frame(DATA, 0, 1)] * count],
        "continuation": lambda: [frame(HEADERS, 0, 1, block), *[frame(CONTINUATION, 0, 1, b"\x40\1x\1y")] * count],
        "window": lambda: [frame(WINDOW, 0, 0, b"\0\0\0\1")] * count,
        "requests": lambda: [frame(HEADERS, 5, stream, block) for stream in odd[:500]],
        "unknown": lambda: [frame(99, 0, 0, b"x" * 10)] * count,
    }[chosen]()
    ending = frame(HEADERS, 5, 2 * count + 1, block) if rng.random() < 0.7 else b""
    return [(SEND, opening(rng, 0.0) + b"".join(frames) + ending), (PAUSE, rng.choice([0.0, 0.1]))]


def stuck(rng: Random, sweep: bool) -> list[Step]:
    """No window for the answers, or nothing more after a beginning."""
    encoder = Encoder()
    start = PREFACE + frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0")
    choice = rng.randrange(4)
    if choice == 0:
        return [(SEND, (PREFACE + settings(rng, 0.0))[: rng.randrange(1, 40)]), (PAUSE, 0.2)]
    path = rng.choice([b"/stats", b"/queues", b"/health", b"/consume/fuzz"])
    consume = b"consume" in path
    body = frame(DATA, END_STREAM, 0, b'{"consumer_id":"worker","timeout_seconds":1}') if consume else b""
    ask = []
    for stream in range(1, 2 * rng.choice([1, 20, 100]), 2):
        headers = pseudo(rng, b"POST" if consume else b"GET", path, 0.0) + [(b"content-type", b"application/json")]
        ask.append(frame(HEADERS, END_HEADERS | (0 if consume else END_STREAM), stream, encoder.encode(headers)))
        ask.append(body[:5] + stream.to_bytes(4, "big") + body[9:] if consume else b"")
    if choice == 1:
        return [(SEND, start + b"".join(ask)), (PAUSE, 0.2), (SEND, frame(WINDOW, 0, 1, b"\0\0\0\1")), (PAUSE, 0.1)]
    if choice == 2:
        return [(SEND, start + b"".join(ask)), (PAUSE, rng.choice([0.0, 0.2]))]
    whole = start + b"".join(ask)
    return [(SEND, whole[: rng.randrange(30, len(whole))]), (PAUSE, 0.2)]


def upgraded(rng: Random, sweep: bool) -> list[Step]:
    """From HTTP/1 by Upgrade: h2c, with good settings and bad ones."""
    good = base64.urlsafe_b64encode(rng.choice([b"", b"\0\3\0\0\0\x64", b"\0\4\0\0\0\0"])).rstrip(b"=")
    bad = [b"A", b"!", b"", b"AAAA", b"AAQAAP__AAQ", b"\xff", b"AAIAAAAC", b"AAMAAABkAAQAAP__" * 500, b"AAR_____"]
    value = good if rng.random() < 0.4 else rng.choice(bad)
    path = rng.choice([b"/health", b"/stats", b"/ws", b"/nope"] if rng.random() < 0.7 else http1.TARGETS)
    steps: list[Step] = [(SEND, UPGRADE % (path, value))]
    if rng.random() < 0.5:
        steps.append((UNTIL, b"101"))
    steps.append((SEND, connection(rng, rng.choice([0.0, 0.3]), sweep)))
    return steps[:1] if rng.random() < 0.3 else steps


def websockets(rng: Random, sweep: bool) -> list[Step]:
    """WebSocket over HTTP/2 (RFC 8441): frames inside DATA frames."""
    encoder = Encoder()
    data = opening(rng, 0.0)
    for stream in range(1, 2 * rng.choice([1, 1, 3]), 2):
        path = b"/ws" if rng.random() < 0.8 else rng.choice([b"/nope", b"/ws?x", b"/", b"/ws\xc3\xbc"])
        headers = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", path)]
        headers += [(b":authority", b"localhost"), (b"sec-websocket-version", rng.choice([b"13"] * 5 + [b"12", b"x"]))]
        if rng.random() < 0.2:
            headers.append(
                rng.choice(
                    [
                        (b"origin", b"https://evil"),
                        (b"sec-websocket-extensions", b"permessage-deflate"),
                        (b"sec-websocket-protocol", b"a, b"),
                    ]
                )
            )
        if rng.random() < 0.1:
            del headers[rng.randrange(len(headers))]
        data += headers_frames(rng, encoder, stream, headers, 0, 0.0)
        content = b"".join(_websocket_bytes(rng) for _ in range(rng.choice([0, 1, 3, 20])))
        size = rng.choice([1, 7, 16_000])
        pieces = [content[at : at + size] for at in range(0, min(len(content), 50_000), size)][:300]
        data += b"".join(frame(DATA, 0, stream, piece) for piece in pieces)
        data += rng.choice(
            [b"", frame(DATA, END_STREAM, stream), frame(RST, 0, stream, bytes(4)), odd_frame(rng, stream)]
        )
    return [(SEND, data), (PAUSE, rng.choice([0.0, 0.1]))]


def _websocket_bytes(rng: Random) -> bytes:
    if rng.random() < 0.5:
        return masked_frame(1, json.dumps(bodies.websocket_request(rng)).encode()[:3000])
    return websocket.odd_frame(rng)
