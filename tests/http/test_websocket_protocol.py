"""RFC 6455 by hand against /ws, on both transports: what is allowed is served, what is not ends with the right code."""

from __future__ import annotations

import json

import pytest
import trio.testing
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.http.fast_websocket import FRAMES_PER_STEP, FastWebSocketTransport
from qrusty_trio.http.turns import Turns
from qrusty_trio.http.websocket_transport import Finished
from tests.http.ws_raw import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Raw,
    Received,
    frame,
    head,
    masked,
    raw,
    request,
    upgrade,
)
from tests.http.ws_server import both_paths, running

MAX = 2 * 1024 * 1024
ASK = json.dumps({"type": "unsubscribe", "queue": "jobs", "req_id": "ü"}).encode()
RESPONSE = {"type": "ok", "req_id": "ü"}


# Verifies: WS-0030
@both_paths
async def test_fragments_with_control_frames_between_them(fast_path: bool) -> None:
    async with running(fast_path) as server, raw(server.port) as peer:
        await peer.send(
            frame(TEXT, ASK[:10], fin=False),
            frame(PING, b"one"),
            frame(CONT, b"", fin=False),
            frame(PONG, b"unasked"),
            frame(CONT, ASK[10:20], fin=False),
            frame(PING, b"x" * 125),
            frame(CONT, ASK[20:]),
        )
        got = [await peer.read() for _ in range(3)]
        assert [each.data for each in got if each.opcode == PONG] == [b"one", b"x" * 125]
        assert [each.json() for each in got if each.opcode == TEXT] == [RESPONSE]


# Verifies: WS-0024
@both_paths
async def test_who_is_not_silent_gets_no_ping(fast_path: bool) -> None:
    async with running(fast_path, ws_ping_interval_secs=3600) as server, raw(server.port) as peer:
        for _ in range(3):
            await peer.send(frame(TEXT, ASK))
            assert (await peer.any_frame()).json() == RESPONSE


# Verifies: WS-0030
@both_paths
async def test_one_byte_at_a_time(fast_path: bool) -> None:
    text = json.dumps({"type": "unsubscribe", "queue": "jobs", "req_id": "ü"}, ensure_ascii=False).encode()
    async with running(fast_path) as server, raw(server.port) as peer:
        for number in range(len(text)):  # "ü" is torn apart as well
            await peer.send(
                frame(TEXT if number == 0 else CONT, text[number : number + 1], fin=number == len(text) - 1)
            )
        assert (await peer.read()).json() == RESPONSE
        for byte in frame(TEXT, ASK) + frame(PING, b"p"):
            await peer.send(bytes([byte]))
        assert (await peer.read()).opcode in (TEXT, PONG)
        assert (await peer.read()).opcode in (TEXT, PONG)


# Verifies: WS-0030
@both_paths
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("requests", [1, 3])
async def test_a_handshake_behind_other_requests(fast_path: bool, requests: int, together: bool) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"
    handshake = health * requests + upgrade() + (frame(TEXT, ASK) if together else b"")
    async with running(fast_path) as server, raw(server.port, handshake) as peer:
        for _ in range(requests):
            head = (await peer.head()).lower()
            assert head.startswith(b"http/1.1 200 ")
            await peer.body(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        if not together:
            await peer.send(frame(TEXT, ASK))
        assert (await peer.read()).json() == RESPONSE
        await peer.send(frame(TEXT, ASK))
        assert (await peer.read()).json() == RESPONSE


# Verifies: WS-0026
@pytest.mark.parametrize("count", [1, 128, FRAMES_PER_STEP, FRAMES_PER_STEP + 1, 700])
async def test_many_small_frames_are_given_in_bursts(count: int) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    transport = FastWebSocketTransport(ours, ServerProtocol(state=OPEN), Budget(), Turns())
    await theirs.send_all(b"".join(frame(TEXT, b"%d" % number) for number in range(count)))
    bursts: list[list[str | bytes]] = []
    while sum(map(len, bursts)) < count:
        bursts.append(await transport.receive())
    assert [text for burst in bursts for text in burst] == [str(number) for number in range(count)]
    full, rest = divmod(count, FRAMES_PER_STEP)
    assert [len(burst) for burst in bursts] == [FRAMES_PER_STEP] * full + [rest] * bool(rest)


async def test_what_came_before_the_end_is_given_first() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    transport = FastWebSocketTransport(ours, ServerProtocol(state=OPEN), Budget(), Turns())
    await theirs.send_all(frame(TEXT, b"x") * (2 * FRAMES_PER_STEP) + frame(CLOSE, b"\x03\xe8"))
    assert [len(await transport.receive()) for _ in range(2)] == [FRAMES_PER_STEP] * 2
    with pytest.raises(Finished):
        await transport.receive()


async def test_a_close_does_not_follow_half_a_frame() -> None:
    """A send that was cancelled may have left a part of its frame. What comes next would be read as the rest."""
    ours, theirs = trio.testing.memory_stream_pair()
    transport = FastWebSocketTransport(ours, ServerProtocol(state=OPEN), Budget(), Turns())
    with trio.CancelScope() as scope:
        ours.send_stream.send_all_hook = trio.lowlevel.checkpoint
        scope.cancel()
        await transport.send([b"half of this"])
    ours.send_stream.send_all_hook = None
    assert scope.cancelled_caught
    with trio.fail_after(1):
        await transport.close(1000, "")
    await ours.aclose()
    assert len(await theirs.receive_some()) <= len("half of this") + 2


# Verifies: WS-0030
async def test_frames_right_behind_the_handshake() -> None:
    """A client should wait for the response; the fast transport serves one that does not."""
    async with running(True) as server, raw(server.port, upgrade() + frame(TEXT, ASK)) as peer:
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await peer.read()).json() == RESPONSE


# Verifies: WS-0003
@both_paths
async def test_a_burst_is_answered_in_order(fast_path: bool) -> None:
    async with running(fast_path) as server, raw(server.port) as peer:
        await server.create()
        await peer.send(
            *(request(type="publish", queue="jobs", payload=str(number), req_id=str(number)) for number in range(500))
        )
        responses = [(await peer.read()).json() for _ in range(500)]
        assert [response["req_id"] for response in responses] == [str(number) for number in range(500)]
        assert server.counts() == (500, 0, 0)


@both_paths
async def test_the_largest_frame(fast_path: bool) -> None:
    async with running(fast_path) as server, raw(server.port) as peer:
        await server.create()
        overhead = len(json.dumps({"type": "publish", "queue": "jobs", "payload": ""}))
        text = json.dumps({"type": "publish", "queue": "jobs", "payload": "x" * (MAX - overhead)}).encode()
        assert len(text) == MAX
        await peer.send(frame(TEXT, text))
        assert (await peer.read()).json()["type"] == "ok"
        await peer.send(request(type="subscribe", queue="jobs"))
        assert (await peer.read()).json()["type"] == "ok"
        assert len((await peer.read()).json()["payload"]) == MAX - overhead


REFUSED = {
    "invalid UTF-8": (1007, frame(TEXT, b'{"type":"\xff"}')),
    "half a character": (1007, frame(TEXT, b'"\xc3"')),
    "a surrogate": (1007, frame(TEXT, b'"\xed\xa0\x80"')),
    "invalid UTF-8 in fragments": (1007, frame(TEXT, b'{"type":"\xc3', fin=False) + frame(CONT, b'\x28"}')),
    "not JSON": (1007, frame(TEXT, b"hello")),
    "an empty text": (1007, frame(TEXT, b"")),
    "binary": (1003, frame(BINARY, b"{}")),
    "empty binary": (1003, frame(BINARY, b"")),
    "binary fragments": (1003, frame(BINARY, b"{", fin=False) + frame(CONT, b"}")),
    "unmasked": (1002, frame(TEXT, ASK, mask=False)),
    "an unmasked ping": (1002, frame(PING, b"", mask=False)),
    "reserved bits": (1002, frame(TEXT, ASK, reserved=0x40)),
    "a reserved opcode": (1002, frame(0x3, ASK)),
    "a reserved control opcode": (1002, frame(0xB, b"")),
    "a long ping": (1002, frame(PING, b"x" * 126)),
    "a ping in fragments": (1002, frame(PING, b"x", fin=False)),
    "a continuation of nothing": (1002, frame(CONT, ASK)),
    "a text within a text": (1002, frame(TEXT, ASK, fin=False) + frame(TEXT, ASK)),
    "a close of one byte": (1002, frame(CLOSE, b"\x03")),
    "a close with a code that is none": (1002, frame(CLOSE, b"\x03\xed")),
    "a close whose reason is not UTF-8": (1007, frame(CLOSE, b"\x03\xe8\xff")),
    "fragments too long together": (
        1009,
        frame(TEXT, b" " * MAX, fin=False) + frame(CONT, b" "),
    ),
    "a frame too long": (1009, head(TEXT, MAX + 1) + masked(b" " * (MAX + 1))),
}


@both_paths
@pytest.mark.parametrize("name", REFUSED)
async def test_what_ends_the_connection(fast_path: bool, name: str) -> None:
    """What came before it is answered; what the connection held is available again."""
    code, data = REFUSED[name]
    async with running(fast_path) as server, raw(server.port) as peer:
        await server.create()
        await server.publish()
        await peer.send(request(type="subscribe", queue="jobs", lock_timeout_secs=600))
        assert (await peer.read()).json() == {"type": "ok"}
        assert (await peer.read()).json()["type"] == "deliver"
        await peer.send(data)
        closed = await peer.read()
        assert closed.close_code == code
        await peer.send(frame(CLOSE, closed.data[:2]))
        assert await peer.ended()
        await server.settle_down(1, 0, 0)


BEFORE = 600
"""Requests before an ending: more than one read, one burst or one queue takes."""


# Verifies: SYS-0019, WS-0009
@both_paths
@pytest.mark.parametrize("name", REFUSED)
async def test_what_came_before_a_refusal_is_answered(fast_path: bool, name: str) -> None:
    """What comes after it is not even done."""
    code, data = REFUSED[name]
    async with running(fast_path) as server, raw(server.port) as peer:
        await server.create()
        publish = request(type="publish", queue="jobs", payload="p")
        await peer.send(publish * BEFORE, data, publish)
        assert [(await peer.read()).json()["type"] for _ in range(BEFORE)] == ["ok"] * BEFORE
        assert (await peer.read()).close_code == code
        assert server.counts() == (BEFORE, 0, 0)


async def but_pings(peer: Raw) -> Received:
    """The next frame but pings, which a peer that has closed can't answer."""
    while (received := await peer.any_frame()).opcode == PING:
        pass
    return received


# Verifies: SYS-0019
@both_paths
@pytest.mark.parametrize("closes_its_side", [False, True], ids=["stays", "half closes"])
@pytest.mark.parametrize("data", [b"", b"\x03\xe8bye", b"\x0f\xa0mine"])
async def test_what_came_before_a_close_is_answered(fast_path: bool, data: bytes, closes_its_side: bool) -> None:
    """With an orderly close, nothing is done that is not answered."""
    async with running(fast_path) as server, raw(server.port) as peer:
        await server.create()
        publish = request(type="publish", queue="jobs", payload="p")
        await peer.send(publish * BEFORE, frame(CLOSE, data), publish)
        if closes_its_side:
            await peer.end()
        assert [(await but_pings(peer)).json()["type"] for _ in range(BEFORE)] == ["ok"] * BEFORE
        closed = await but_pings(peer)
        assert (closed.opcode, closed.data[:2]) == (CLOSE, data[:2])
        assert await peer.ended()
        assert server.counts() == (BEFORE, 0, 0)


# Verifies: SYS-0019
@both_paths
async def test_what_came_before_the_end_is_done(fast_path: bool) -> None:
    """A peer that closes its side without a close frame expects no answer, but what it sent whole counts."""
    async with running(fast_path) as server, raw(server.port) as peer:
        await server.create()
        await peer.send(request(type="publish", queue="jobs", payload="p") * BEFORE)
        await peer.end()
        await server.settle_down(BEFORE, 0, 0)
        while not await peer.ended():
            pass


async def test_a_frame_too_long_is_refused_by_its_head() -> None:
    """The fast transport does not wait for what it will not take."""
    async with running(True) as server, raw(server.port) as peer:
        await peer.send(head(TEXT, 2**40))
        assert (await peer.read()).close_code == 1009


@both_paths
@pytest.mark.parametrize(
    ("data", "code"), [(b"\x03\xe8bye", 1000), (b"", 1005), (b"\x03\xe9", 1001), (b"\x0f\xa0mine", 4000)]
)
async def test_the_peer_closes(fast_path: bool, data: bytes, code: int) -> None:
    async with running(fast_path) as server, raw(server.port) as peer:
        await peer.send(frame(TEXT, ASK))
        assert (await peer.read()).json() == RESPONSE
        await peer.send(frame(CLOSE, data))
        closed = await peer.read()
        assert closed.opcode == CLOSE
        assert (closed.close_code if closed.data else 1005) == code
        assert await peer.ended()


BAD_HANDSHAKES = {
    "no key": (400, upgrade(Sec_WebSocket_Key=None)),
    "a short key": (400, upgrade(Sec_WebSocket_Key=b"short")),
    "no version": (400, upgrade(Sec_WebSocket_Version=None)),
    "version 8": (400, upgrade(Sec_WebSocket_Version=b"8")),
    "no connection": (400, upgrade(Connection=None)),
    "another connection": (400, upgrade(Connection=b"keep-alive")),
    "HTTP/1.0": (400, upgrade().replace(b"HTTP/1.1", b"HTTP/1.0")),
    "no upgrade": (426, upgrade(Upgrade=None, Connection=None)),
    "POST": (405, upgrade(method=b"POST")),
    "elsewhere": (404, upgrade(b"/nowhere")),
}


# Verifies: WS-0031
@both_paths
@pytest.mark.parametrize("name", BAD_HANDSHAKES)
async def test_handshakes_that_are_refused(fast_path: bool, name: str) -> None:
    status, handshake = BAD_HANDSHAKES[name]
    async with running(fast_path) as server, raw(server.port, handshake) as peer:
        response = await peer.head()
        assert int(response.split()[1]) == status, response
        lower = response.lower()
        assert (b"\r\nupgrade: websocket\r\n" in lower) == (status == 426)
        assert b"content-type: application/json" in lower
        length = int(lower.partition(b"content-length:")[2].split()[0])
        body = json.loads(await peer.body(length))
        assert body["error"]
        assert body["code"]
