"""Fuzz the connection code: the same bytes go over both paths, over memory streams, and must mean the same.

    python fuzz/fuzz_fast_path.py -max_total_time=20      # seconds; any option of libFuzzer

What holds for all input: nothing is raised and nothing hangs; what comes back is whole answers, none after the one
that closes; both paths hand the engine the same calls and answer with the same statuses. A difference is a way to
smuggle a request past a proxy that reads like one of them. (One is known and left out: Hypercorn closes after every
HTTP/1.0 request, and says so; the fast path keeps the connection when asked to.)
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["qrusty_trio.http", "h11"]):
    from qrusty_trio.http.context import HttpContext
    from qrusty_trio.http.fallback.hypercorn import Fallback
    from qrusty_trio.http.fast_path import FastPath
    from qrusty_trio.http.header_block import HTTP2_PREFACE
    from qrusty_trio.http.websocket import WebSocketServices

import trio
import trio.testing

from qrusty_trio.api.call import Call, Pause, Reply
from qrusty_trio.api.gate import Gate
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.errors import StorageFault
from qrusty_trio.logs import LogRing

MAX_PIECES = 8
"""Pieces that an input arrives in."""
ELSEWHERE = (b"/ui", b"/assets", b"/favicon", b"/ws")
"""Paths that need threads or another protocol: not what is fuzzed here."""
WHOLE_SECONDS = 1000
"""No exchange takes longer on the clock that jumps, whatever limits it runs into."""

BODY = b'{"queue":"q","priority":1,"payload":"p"}'
HOST = b"Host: a\r\n"
JSON = b"Content-Type: application/json\r\n"
POST = b"POST /publish HTTP/1.1\r\n" + HOST + JSON
SEEDS = [
    b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /health HTTP/1.0\r\n\r\n",
    b"GET http://a/queues?x=1 HTTP/1.1\r\n" + HOST + b"\r\n",
    POST + b"Content-Length: 40\r\n\r\n" + BODY,
    POST + b"Transfer-Encoding: chunked\r\n\r\n28\r\n" + BODY + b"\r\n0\r\n\r\n",
    POST + b"Expect: 100-continue\r\nContent-Length: 40\r\n\r\n" + BODY,
    b"POST /ack/a%2Fb/c HTTP/1.1\r\n"
    + HOST
    + JSON
    + b"Content-Length: 19\r\nConnection: close\r\n\r\n"
    + b'{"consumer_id":"w"}',
    b"DELETE /delete-queue/%C3%BC HTTP/1.1\r\n" + HOST + b"Connection: keep-alive\r\n\r\n",
    b"OPTIONS /publish HTTP/1.1\r\n" + HOST + b"Origin: https://a\r\nAccess-Control-Request-Method: POST\r\n\r\n",
    b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
TOKENS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\r\n ",
    b"\t",
    b"\x00",
    b"\x0b",
    b"\xff",
    b":",
    b" :",
    b"0\r\n\r\n",
    b";a=b",
    b"+40",
    b"0x28",
    b"Content-Length: 40\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Host: b\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"%00",
    b"GET ",
    b"HEAD ",
]


class Recorder:
    """An engine that does nothing but remember."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[str, ...], bytes, str]] = []

    async def run(self, calls: Sequence[Call], pause: Pause | None = None) -> list[Reply]:
        await trio.lowlevel.checkpoint()
        return self.run_nowait(calls)

    async def end_waits(self) -> None:
        """Nothing ever waits."""

    waits = False
    """Nothing is ever synced."""

    def run_nowait(self, calls: Sequence[Call]) -> list[Reply]:
        self.seen += [(call.operation.name, call.params, call.body, call.query) for call in calls]
        return [Reply(200, b"{}") for _ in calls]

    def when_durable(self, callback: Callable[[StorageFault | None], None], peers: Sequence[object]) -> None:
        callback(None)

    def checked(self, call: Call, reply: Reply) -> Reply:
        return reply

    def give_back(self, reply: Reply) -> None:
        """There is nothing to be given back."""


def statuses(data: bytes) -> list[int]:
    """The statuses of whole answers; raises when they are not whole or go on after the last one."""
    found: list[int] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        lines = head.split(b"\r\n")
        version, status, _ = lines[0].split(b" ", 2)
        assert version == b"HTTP/1.1", lines[0]
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
        if status == b"100":
            continue
        found.append(int(status))
        length = int(headers.get(b"content-length", b"0"))
        assert len(data) >= length, "a part of an answer"
        data = data[length:]
        assert not data or headers.get(b"connection") != b"close", "an answer after the last"
    return found


async def exchange(pieces: list[bytes], fast: bool) -> tuple[Recorder, bytes]:
    """What the engine is asked and what comes back when `pieces` arrive one by one and then no more."""
    engine = Recorder()
    # The WebSocket needs more of an engine, and is not fuzzed.
    websocket = WebSocketServices(engine, Dispatcher(), Gate(), LogRing(), 30, 10)  # type: ignore[arg-type]
    context = HttpContext(engine, websocket, Path("webui"), 10, fast, allowed_origins=["https://a"])
    fallback = Fallback(context)
    fast_path = FastPath(context, fallback.serve)
    ours, theirs = trio.testing.memory_stream_pair()
    received = b""
    with trio.fail_after(WHOLE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fast_path.watch)
            nursery.start_soon(fast_path.serve if fast else fallback.serve, ours)
            try:
                for piece in pieces:
                    await theirs.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()
                await theirs.send_eof()
            except trio.BrokenResourceError:
                pass  # Closed before all was sent.
            while data := await theirs.receive_some(65536):
                received += data
            nursery.cancel_scope.cancel()
    return engine, received


def without_heads(data: bytes) -> bool:
    """Whether answers to HEAD can be among those to `data`: their length says nothing."""
    return b"HEAD " not in data


def test_one(data: bytes) -> None:
    if len(data) < 2 or any(path in data for path in ELSEWHERE):
        return
    if b"HTTP/1.0" in data and b"keep-alive" in data.lower():
        return
    count, data = data[0] % MAX_PIECES + 1, data[1:]
    size = len(data) // count + 1
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    clock = trio.testing.MockClock(autojump_threshold=0)
    fast, fast_bytes = trio.run(exchange, pieces, True, clock=clock)
    clock = trio.testing.MockClock(autojump_threshold=0)
    slow, slow_bytes = trio.run(exchange, pieces, False, clock=clock)
    assert fast.seen == slow.seen, (fast.seen, slow.seen)
    if without_heads(data) and not data.startswith(HTTP2_PREFACE):
        assert statuses(fast_bytes) == statuses(slow_bytes), (fast_bytes, slow_bytes)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Libfuzzer's own changes, and now and then a request, or a token where it hurts."""
    rng = random.Random(seed)
    choice = rng.random()
    if len(data) < 2 or choice < 0.1:
        return (bytes([rng.randrange(256)]) + b"".join(rng.choices(SEEDS, k=rng.randint(1, 3))))[:max_size]
    if choice < 0.5:
        at = rng.randrange(1, len(data) + 1)
        cut = rng.choice([0, 0, 1, 2, 8])
        return (data[:at] + rng.choice(TOKENS) + data[at + cut :])[:max_size]
    if choice < 0.6:
        return (data + rng.choice(SEEDS))[:max_size]
    return bytes(atheris.Mutate(data, max_size))


if __name__ == "__main__":
    atheris.Setup([*sys.argv, "-max_len=2048"], test_one, custom_mutator=mutate)
    atheris.Fuzz()
