"""Conversations over WebSocket: the contract's frames, and frames that break RFC 6455 in every place."""

from __future__ import annotations

import base64
import json
from random import Random

from fuzz.server import bodies
from fuzz.server.conversation import FRAME, ID, PAUSE, SEND, UNTIL, Step, frame_start, masked_frame
from fuzz.server.mutations import mutate

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
CODES = [
    0,
    999,
    1000,
    1001,
    1002,
    1003,
    1004,
    1005,
    1006,
    1007,
    1008,
    1009,
    1010,
    1011,
    1012,
    1013,
    1015,
    2999,
    3000,
    4999,
    5000,
    65535,
]
PATHS = [
    b"/ws",
    b"/nope",
    b"/",
    b"/ws/",
    b"/ws?x=y",
    b"/health",
    b"/publish",
    b"/ui/",
    b"/%77s",
    b"/ws%00",
    b"http://a/ws",
    b"/\xc3\xbc",
]
EXTRA = [
    b"Origin: https://evil.example", b"Origin: null", b"Sec-WebSocket-Extensions: permessage-deflate",
    b"Sec-WebSocket-Extensions: \x00", b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Protocol: ", b"Cookie: a=b",
    b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Expect: 100-continue",
    b"Sec-WebSocket-Key: again", b"Connection: close", b"Upgrade: h2c", b"Sec-Fetch-Site: cross-site",
    b"X: " + b"y" * 70_000, b"Sec-WebSocket-Version: 8",
]  # fmt: skip


def handshake(rng: Random, odd: float) -> bytes:
    path = rng.choice(PATHS) if rng.random() < odd else b"/ws"
    key = base64.b64encode(rng.randbytes(16))
    lines = [
        b"Host: localhost",
        b"Upgrade: " + rng.choice([b"websocket", b"websocket", b"WebSocket"]),
        b"Connection: " + rng.choice([b"Upgrade", b"keep-alive, Upgrade"]),
        b"Sec-WebSocket-Key: " + key,
        b"Sec-WebSocket-Version: 13",
    ]
    if rng.random() < odd / 2:
        at = rng.randrange(len(lines))
        lines[at : at + 1] = rng.choice([[], [lines[at]] * 2, [mutate(rng, lines[at])]])
    if rng.random() < odd:
        lines.append(rng.choice(EXTRA))
    rng.shuffle(lines)
    method = rng.choice([b"POST", b"HEAD", b"CONNECT"]) if rng.random() < odd / 10 else b"GET"
    version = b"HTTP/1.0" if rng.random() < odd / 10 else b"HTTP/1.1"
    return b"\r\n".join([b"%b %b %b" % (method, path, version), *lines, b"", b""])


def request(rng: Random, odd: float) -> list[Step]:
    """One frame of the contract, whole or in fragments."""
    value = bodies.websocket_request(rng)
    data = bodies.text(rng, value, odd)
    if ID in data:
        return [(FRAME, data)]
    if rng.random() < 0.1:
        return [(SEND, fragmented(rng, data))]
    return [(SEND, masked_frame(TEXT, data, mask=rng.randbytes(4)))]


def fragmented(rng: Random, data: bytes) -> bytes:
    """A message in several frames, with control frames in between."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([1, 2, 5, 50])))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    sent = b""
    for number, piece in enumerate(pieces):
        sent += masked_frame(TEXT if number == 0 else CONTINUATION, piece, fin=number == len(pieces) - 1)
        if rng.random() < 0.2:
            sent += masked_frame(rng.choice([PING, PONG]), rng.randbytes(rng.choice([0, 5, 125])))
    return sent


def odd_frame(rng: Random) -> bytes:
    """A frame that breaks a rule, or keeps it in an unusual way."""
    data = rng.randbytes(rng.choice([0, 1, 2, 5, 125, 126, 1000]))
    choices = [
        masked_frame(rng.randrange(16), data),
        masked_frame(TEXT, data),
        masked_frame(TEXT, b"{}", reserved=rng.choice([0x10, 0x20, 0x40, 0x70])),
        masked_frame(BINARY, b"{}"),
        masked_frame(CONTINUATION, b"{}", fin=rng.random() < 0.5),
        masked_frame(TEXT, b"{", fin=False) + masked_frame(TEXT, b"}"),
        masked_frame(PING, data[:125]),
        masked_frame(PING, b"x" * 126),
        masked_frame(PONG, data[:125]),
        masked_frame(PING, b"x", fin=False),
        masked_frame(CLOSE, rng.choice(CODES).to_bytes(2, "big") + rng.choice([b"", b"bye", b"\xff", b"x" * 123])),
        masked_frame(CLOSE, rng.choice([b"", b"\x03", b"\xff"])),
        masked_frame(CLOSE, b"\x03\xe8") + masked_frame(TEXT, b"{}") + masked_frame(PING, b"after"),
        bytes([0x81, len(data[:125])]) + data[:125],  # Without a mask.
        bytes([0x81, 0x80 | 126]) + b"\0\1" + b"\1\2\3\4" + b"x",  # Longer than it need be.
        bytes([0x81, 0x80 | 127]) + bytes(7) + b"\1" + b"\1\2\3\4" + b"x",
        bytes([0x81, 0x80 | 127]) + b"\xff" * 8 + b"\1\2\3\4",
        frame_start(TEXT, 2 * 1024 * 1024 + rng.choice([-1, 0, 1])) + b"x" * 5000,
        frame_start(TEXT, 2**62) + b"x" * 100,
        frame_start(TEXT, 1000) + b"x" * 10,
        masked_frame(TEXT, '{"type":"publish","queue":"ü"}'.encode()[:28]),
        b"\x89\x80\0\0\0\0" * rng.choice([1, 100, 3000]),
        b"\x8a\x80\0\0\0\0" * rng.choice([1, 3000]),
        masked_frame(TEXT, b"{", fin=False) + masked_frame(CONTINUATION, b" ", fin=False) * rng.choice([1, 2000]),
        rng.randbytes(30),
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    return rng.choice(choices)


def plain(rng: Random, sweep: bool) -> list[Step]:
    """A good client; at times so eager that its first frames come with the handshake."""
    steps: list[Step] = [(SEND, handshake(rng, 0.0))]
    if rng.random() < 0.6:
        steps.append((UNTIL, b"\r\n\r\n"))
    for _ in range(rng.choice([1, 5, 30])):
        steps += request(rng, 0.0)
        if rng.random() < 0.15:
            steps.append((UNTIL, b'"deliver"'))
        if rng.random() < 0.2:
            steps.append((PAUSE, rng.choice([0.001, 0.02])))
    if rng.random() < 0.5:
        steps += [(SEND, masked_frame(CLOSE, b"\x03\xe8")), (UNTIL, b"\x88\x02\x03\xe8")]
    return steps


def wrong(rng: Random, sweep: bool) -> list[Step]:
    """A good beginning and then odd frames, or an odd beginning."""
    steps: list[Step] = [(SEND, handshake(rng, rng.choice([0.0, 0.0, 0.5])))]
    if rng.random() < 0.1:
        steps.insert(
            0, (SEND, rng.choice([b"OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n"]))
        )
    if rng.random() < 0.5:
        steps.append((UNTIL, b"\r\n\r\n"))
    for _ in range(rng.choice([1, 2, 6])):
        if rng.random() < 0.5:
            steps += request(rng, 0.7)
        else:
            steps.append((SEND, odd_frame(rng)))
    return steps


def flood(rng: Random, sweep: bool) -> list[Step]:
    """Much of the same: requests whose answers pile up, large frames, a subscription that is not read."""
    steps: list[Step] = [(SEND, handshake(rng, 0.0)), (UNTIL, b"\r\n\r\n")]
    name = bodies.queue(rng)
    choice = rng.randrange(4)
    if choice == 0:
        steps.append(
            (SEND, masked_frame(TEXT, json.dumps(bodies.websocket_request(rng)).encode()) * rng.choice([100, 1000]))
        )
    elif choice == 1:
        large = {"type": "publish", "queue": name, "payload": "x" * rng.choice([100_000, 1_900_000]), "max_retries": 1}
        steps += [(SEND, masked_frame(TEXT, json.dumps(large).encode()))] * rng.choice([1, 4])
    elif choice == 2:
        subscribe = {"type": "subscribe", "queue": name, "lock_timeout_secs": 1}
        publish = {"type": "publish", "queue": name, "payload": "x" * 5000}
        steps.append((SEND, masked_frame(TEXT, json.dumps(subscribe).encode())))
        steps.append((SEND, masked_frame(TEXT, json.dumps(publish).encode()) * rng.choice([50, 400])))
    else:
        logs = {"type": "subscribe-logs"}
        steps.append((SEND, masked_frame(TEXT, json.dumps(logs).encode()) * rng.choice([1, 100])))
    return steps
