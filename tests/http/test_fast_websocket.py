"""The fast transport of a WebSocket over a stream in memory: what it holds, sends, remembers, and how it ends."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair, wait_all_tasks_blocked
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.http.fast_websocket import (
    FRAME_OVERHEAD,
    FRAMES_PER_STEP,
    NAMED_FROM_BYTES,
    SEND_BYTES,
    FastWebSocketTransport,
)
from qrusty_trio.http.text_frames import text_frame_header
from qrusty_trio.http.turns import Turns
from tests.http.ws_raw import BINARY, CLOSE, CONT, PING, TEXT, frame, head

Peer = trio.StapledStream[MemorySendStream, MemoryReceiveStream]
CLOSED_1000, CLOSED_1009 = frame(CLOSE, b"\x03\xe8"), frame(CLOSE, b"\x03\xf1")


def pair(budget: Budget | None = None) -> tuple[FastWebSocketTransport, Peer]:
    ours, theirs = memory_stream_pair()
    return FastWebSocketTransport(ours, ServerProtocol(state=OPEN), budget or Budget(), Turns()), theirs


async def waits(transport: FastWebSocketTransport) -> None:
    """All frames before were served, and no further one is complete."""
    with trio.move_on_after(math.inf) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.receive)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught


# Verifies: WS-0021
@pytest.mark.parametrize(
    ("rest", "held"),
    [
        (b"", 0),
        (b"\x81", 1),
        (head(TEXT, 1000) + b"x" * 500, 500),
        (frame(TEXT, b"x" * 500, fin=False), 500),
        (frame(TEXT, b"x" * 500, fin=False) + frame(CONT, b"x" * 100, fin=False), 600),
        (frame(BINARY, b"x" * 500, fin=False) + frame(CONT, b"x" * 100) + b"\x81", 1),
        (frame(PING, b"x" * 10), 12),
    ],
    ids=["nothing", "a byte", "half a frame", "half a message", "parts", "a message", "a pong"],
)
async def test_what_is_not_served_yet_counts(rest: bytes, held: int) -> None:
    budget = Budget()
    transport, peer = pair(budget)
    data = frame(TEXT, b"x" * 1000) + rest
    await peer.send_all(data)
    assert (await transport.receive())[0] == "x" * 1000
    assert budget.held == transport.held == len(data)
    await waits(transport)
    assert budget.held == transport.held == held
    transport.let_go()
    assert budget.held == transport.held == 0


# Verifies: WS-0021
async def test_what_waits_for_its_turn_counts() -> None:
    budget, held = Budget(), list[int]()

    class Waiting(Turns):
        async def arrive(self) -> None:
            held.append(budget.held)

    ours, peer = memory_stream_pair()
    transport = FastWebSocketTransport(ours, ServerProtocol(state=OPEN), budget, Waiting())
    for sent in (frame(TEXT, b"x" * 500, fin=False), frame(CONT, b"x" * 100)):
        await peer.send_all(sent)
        await transport.receive()
    assert held == [508, 500 + 106]


# Verifies: WS-0021
async def test_many_frames_that_wait_count_as_what_they_take() -> None:
    budget = Budget()
    transport, _ = pair(budget)
    data = frame(TEXT, b"") * (FRAMES_PER_STEP + 1)
    await transport.feed(data)
    assert budget.held == transport.held == len(data) + FRAME_OVERHEAD * (FRAMES_PER_STEP + 1)


@pytest.mark.parametrize(
    ("sizes", "sends"),
    [
        ([5], 1),
        ([5, 6], 1),
        ([SEND_BYTES - 4], 1),
        ([SEND_BYTES - 3], 2),
        ([SEND_BYTES], 2),
        ([SEND_BYTES + 1], 3),
        ([2 * SEND_BYTES], 3),
        ([2 * SEND_BYTES + 1], 4),
        ([SEND_BYTES, SEND_BYTES], 3),
    ],
)
async def test_what_is_sent_goes_in_pieces_that_are_counted(sizes: list[int], sends: int) -> None:
    """Whether the peer takes anything shows in their number."""
    transport, peer = pair()
    frames = [b"x" * size for size in sizes]
    await transport.send(list(frames))
    assert (transport.sends, transport.sending) == (sends, False)
    expected = b"".join(text_frame_header(len(each)) + each for each in frames)
    data = b""
    while len(data) < len(expected):
        data += await peer.receive_some()
    assert data == expected


def delivery(number: int, size: int) -> bytes:
    text = b'{"type":"deliver","queue":"q \\"1\\"","id":"%d","payload":"' % number
    return text + b"x" * (size - len(text) - 2) + b'"}'


# Verifies: DLV-0018
@pytest.mark.parametrize(
    ("frames", "named"),
    [
        ([delivery(1, NAMED_FROM_BYTES)], None),
        ([delivery(1, NAMED_FROM_BYTES + 1)], f'message 1 of queue "q \\"1\\"", {NAMED_FROM_BYTES + 1} bytes'),
        ([delivery(1, 3000), delivery(2, 2999), delivery(3, 3000)], 'message 1 of queue "q \\"1\\"", 3000 bytes'),
        ([delivery(1, 3000), delivery(2, 3001)], 'message 2 of queue "q \\"1\\"", 3001 bytes'),
        ([delivery(1, 70_000), delivery(2, 3000)], 'message 1 of queue "q \\"1\\"", 70000 bytes'),
        ([b"[" + b"x" * 2000], "a response, 2001 bytes"),
    ],
)
async def test_the_largest_frame_is_named_to_a_peer_for_whom_one_was_too_big(
    frames: list[bytes], named: str | None
) -> None:
    for together in (False, True):
        for close in (CLOSED_1009, CLOSED_1000):
            transport, peer = pair()
            for batch in [frames] if together else [[each] for each in frames]:
                await transport.send(list(batch))
            assert transport.too_big() is None
            assert transport.farewell() is None
            await peer.send_all(close)
            await transport.receive()
            assert transport.farewell() is Ending.CLOSED
            assert transport.too_big() == (named if close is CLOSED_1009 else None)
            transport.let_go()
            assert transport.too_big() is None


async def test_control_frames_leave_with_the_next_send() -> None:
    transport, peer = pair()
    transport.ping()
    assert transport.control_bytes() == 2
    await transport.send([b"a"])
    assert transport.control_bytes() == 0
    assert await peer.receive_some() == b"\x89\x00\x81\x01a"
    await peer.send_all(frame(PING, b"p"))
    await transport.receive()
    assert transport.control_bytes() == 3
    await transport.send([])
    assert await peer.receive_some() == b"\x8a\x01p"
    await peer.send_all(frame(PING, b"p"))
    await transport.receive()
    await transport.send([b"x" * (SEND_BYTES + 1)])
    assert (await peer.receive_some(7))[:7] == b"\x8a\x01p\x81\x7f\x00\x00"
    await peer.send_all(CLOSED_1000)
    await transport.receive()
    transport.ping()
    assert transport.control_bytes() == 0, "there is nobody to answer"


# Verifies: WS-0025
@pytest.mark.parametrize(
    ("before", "waits_for_the_peer"),
    [
        (b"", True),
        (frame(TEXT, b"a"), True),
        *((frame(BINARY, bytes(size)), True) for size in (10, 125, 126, 65535, 65536)),
        (frame(TEXT, b"a", fin=False), True),
        (head(TEXT, 5) + b"a", False),
    ],
    ids=["nothing", "text", "10", "125", "126", "65535", "65536", "half a message", "half a frame"],
)
async def test_a_close_waits_for_that_of_the_peer_unless_a_frame_is_not_complete(
    before: bytes, waits_for_the_peer: bool
) -> None:
    transport, peer = pair()
    if before:
        await transport.feed(before)
    done = trio.Event()

    async def close() -> None:
        await transport.close(1001, "why")
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        assert await peer.receive_some() == b"\x88\x05\x03\xe9why"
        await wait_all_tasks_blocked()
        if waits_for_the_peer:
            await peer.send_all(frame(TEXT, b"x"))
            await wait_all_tasks_blocked()
            assert not done.is_set()
            await peer.send_all(CLOSED_1000)
        assert await peer.receive_some() == b"", "there is no more from the server"
        await peer.aclose()


# Verifies: WS-0055
async def test_the_close_frame_of_the_peer_may_have_come_before_ours() -> None:
    transport, peer = pair()
    transport.first = frame(TEXT, b"x") + CLOSED_1000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.close, 1013, "")
        assert await peer.receive_some() == b"\x88\x02\x03\xf5"
        assert await peer.receive_some() == b""
        await peer.aclose()
