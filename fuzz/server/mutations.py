"""Changes of bytes, and of how they arrive."""

from __future__ import annotations

from random import Random

from fuzz.server.conversation import DRAIN, HALF_CLOSE, IDS, LISTEN, MORE, MUTE, NARROW, PAUSE, RESET, SEND, Step

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b"\t", b"\x00", b"\x0b", b"\xff", b":", b" :", b"0\r\n\r\n", b";a=b",
    b"+40", b"0x28", b"-1", b"Content-Length: 40\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Host: b\r\n",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"%00", b"%", b"%ff", b"GET ", b"HEAD ", b"OPTIONS ", b"CONNECT ", b"? ",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n", b"HTTP2-Settings: \r\n",
    b"Expect: 100-continue\r\n", b"Origin: https://a\r\n", b"\xc3\xbc", b"/../", b"//", b"\x89\x80\x00\x00\x00\x00",
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", b"\x80" * 5, b"\x7f" * 9,
]  # fmt: skip
"""What hurts parsers."""


def mutate(rng: Random, data: bytes, times: int = 1) -> bytes:
    """Bytes changed, left out, doubled or put in."""
    for _ in range(times):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice([0, 1, 1, 2, 4, 8, 40]))
        chance = rng.random()
        if chance < 0.3:
            data = data[:at] + rng.choice(TOKENS) + data[rng.choice([at, end]) :]
        elif chance < 0.5:
            data = data[:at] + data[end:]
        elif chance < 0.6:
            data = data[:end] + data[at:end] * rng.choice([1, 1, 3, 100]) + data[end:]
        elif chance < 0.9 and at < len(data):
            flipped = data[at] ^ (1 << rng.randrange(8)) if rng.random() < 0.5 else rng.randrange(256)
            data = data[:at] + bytes([flipped]) + data[at + 1 :]
        else:
            data = data[:at]
    return data


def arrive(rng: Random, parts: list[Step]) -> list[Step]:
    """The same bytes, split and coalesced at random, with pauses here and there."""
    steps: list[Step] = []
    style = rng.choice(["as they are", "together", "pieces", "pieces", "first byte", "bytes"])
    for part in _together(parts) if style == "together" or rng.random() < 0.3 else parts:
        if not isinstance(part[1], bytes) or part[0] not in (SEND, IDS) or part[0] == IDS:
            steps.append(part)
            continue
        for piece in _cut(rng, part[1], style):
            steps.append((SEND, piece))
            if rng.random() < 0.3:
                steps.append((PAUSE, rng.choice([0.0, 0.001, 0.01])))
    return steps


def _together(parts: list[Step]) -> list[Step]:
    """Neighbouring sends as one."""
    joined: list[Step] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last is not None and part[0] == last[0] == SEND:
            assert isinstance(part[1], bytes)
            assert isinstance(last[1], bytes)
            joined[-1] = (SEND, last[1] + part[1])
        else:
            joined.append(part)
    return joined


def _cut(rng: Random, data: bytes, style: str) -> list[bytes]:
    if style == "first byte" and len(data) > 1:
        return [data[:1], data[1:]]
    if style == "bytes" and len(data) <= 300:
        return [data[at : at + 1] for at in range(len(data))]
    if style == "pieces" and len(data) > 1:
        cuts = sorted(rng.randrange(len(data)) for _ in range(rng.randrange(1, 6)))
        return [piece for piece in (data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)) if piece]
    return [data]


def leave(rng: Random, steps: list[Step]) -> list[Step]:
    """How the client goes: it waits for answers, or reads nothing, or cuts its last words short, or resets."""
    chance = rng.random()
    if chance < 0.12:
        steps = [(NARROW, 4096.0), (MUTE, 0.0), *steps, (PAUSE, rng.choice([0.0, 0.1, 1.0]))]
        if rng.random() < 0.5:
            steps += [(LISTEN, 0.0), (PAUSE, 0.05)]
    if rng.random() < 0.15:
        steps = steps[: rng.randrange(1, len(steps) + 1)]
    chance = rng.random()
    if chance < 0.2:
        steps.append((RESET, 0.0))
    elif chance < 0.4:
        steps += [(HALF_CLOSE, 0.0), (DRAIN, rng.choice([0.05, 0.5]))]
    elif chance < 0.5:
        pass
    elif chance < 0.55:
        steps += [(PAUSE, 0.05), (RESET, 0.0)]
    elif chance < 0.65:
        # As an answer comes to its end.
        steps += [(MORE, 0.3), (PAUSE, rng.choice([0.0, 0.0002, 0.0005, 0.001, 0.003])), (RESET, 0.0)]
    else:
        steps.append((DRAIN, rng.choice([0.02, 0.1, 0.3])))
    return steps
