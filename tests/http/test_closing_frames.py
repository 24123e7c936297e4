"""What a peer sends after the server's close frame: passed over in short steps, up to its own, within limits."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest
import trio
import trio.testing
from websockets.protocol import OPEN, Protocol
from websockets.server import ServerProtocol

from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.http import closing_frames
from qrusty_trio.http.closing_frames import pass_to_close
from qrusty_trio.http.fast_websocket import FastWebSocketTransport
from qrusty_trio.http.frame_reader import BYTES_PER_STEP, TEXTS_PER_STEP
from qrusty_trio.http.turns import Turns
from tests.http.ws_raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, Raw, frame, head, raw
from tests.http.ws_server import PATIENCE, running

FAREWELL = frame(CLOSE, b"\x03\xe8")
SMALL = [frame(PING), frame(PONG), frame(TEXT), frame(CONT)]
STEPS = TEXTS_PER_STEP + BYTES_PER_STEP // len(frame(PING))


class FramesPerStep(trio.abc.Instrument):
    """Counts the frames that the library reads in one step of any task."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._frames = 0
        original = Protocol.recv_frame

        def recv_frame(protocol: Protocol, received: object) -> None:
            self._frames += 1
            self.most = max(self.most, self._frames)
            original(protocol, received)  # type: ignore[arg-type]

        monkeypatch.setattr(Protocol, "recv_frame", recv_frame)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._frames = 0


async def to_the_end(peer: Raw) -> int:
    """The close code, once the server has closed."""
    code = (await peer.read()).close_code
    assert await peer.ended()
    return code


# Verifies: WS-0055, WS-0026
@pytest.mark.parametrize("small", SMALL, ids=["ping", "pong", "text", "continuation"])
async def test_small_frames_after_a_close_hold_the_loop_for_short_steps(
    small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(True) as server, raw(server.port) as peer:
        counted = FramesPerStep(monkeypatch)
        trio.lowlevel.add_instrument(counted)
        try:
            await peer.send(frame(BINARY, b"x"))
            assert (await peer.read()).close_code == 1003
            await peer.send(small * 10_900, FAREWELL)
            assert await peer.ended()
        finally:
            trio.lowlevel.remove_instrument(counted)
    assert counted.most <= STEPS


# Verifies: WS-0055
async def test_a_surplus_connection_with_many_small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(True, max_connections=1) as server, raw(server.port), raw(server.port) as surplus:
        counted = FramesPerStep(monkeypatch)
        trio.lowlevel.add_instrument(counted)
        try:
            assert (await surplus.read()).close_code == 1013
            await surplus.send(frame(PING) * 10_900, FAREWELL)
            assert await surplus.ended()
        finally:
            trio.lowlevel.remove_instrument(counted)
    assert counted.most <= STEPS


# Verifies: WS-0055
async def test_steps_are_short() -> None:
    """Another task gets a turn for each step, whether the frames come at once or not."""
    ours, theirs = trio.testing.memory_stream_pair()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    await theirs.send_all(frame(PING) * 6000 + FAREWELL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        assert await pass_to_close(ours)
        nursery.cancel_scope.cancel()
    assert 0 <= turns - 6000 // closing_frames.FRAMES_PER_STEP < 5


async def passes(pieces: Iterable[bytes], *, first: bytes = b"", ends: bool = False) -> bool | None:
    """What `pass_to_close` makes of these; None if it waits for more."""
    ours, theirs = trio.testing.memory_stream_pair()
    found = None

    async def look() -> None:
        nonlocal found
        found = await pass_to_close(ours, first)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        for piece in pieces:
            await theirs.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        if ends:
            await theirs.aclose()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return found


FRAMES = [
    frame(TEXT, b"a"),
    frame(TEXT, b"\x88\x80" * 62 + b"x"),
    frame(BINARY, b"\x88\x80" * 63),
    frame(PING, b"\x88\x82"),
    frame(TEXT, b"\x88\x80" * 200, fin=False) + frame(CONT, b"\x88\x80"),
    frame(TEXT, b"\x88" * 70_000),
]


# Verifies: WS-0055
@pytest.mark.parametrize("seed", range(20))
async def test_the_close_frame_is_found_and_none_before_it(seed: int) -> None:
    dice = random.Random(seed)
    data = b"".join(dice.choices(FRAMES[: 5 + seed % 2], k=dice.randint(0, 12)))
    cuts = sorted({dice.randint(0, len(data)) for _ in range(dice.randint(0, 15))} | {0, len(data)})
    pieces = [data[begin:end] for begin, end in itertools.pairwise(cuts) if begin < end]
    assert await passes(pieces) is None
    assert await passes([*pieces, FAREWELL]) is True
    assert await passes(pieces, ends=True) is False
    first = pieces.pop(0) if pieces else b""
    assert await passes([*pieces, FAREWELL[:1], FAREWELL[1:]], first=first) is True
    assert await passes([data[index : index + 1] for index in range(min(len(data), 300))]) is None


# Verifies: WS-0055
@pytest.mark.parametrize(
    "data",
    [
        frame(PING) * (closing_frames.MOST_FRAMES + 1),
        frame(TEXT, b"x" * 2_000_000) * (closing_frames.MOST_BYTES // 2_000_000 + 1),
        frame(TEXT, b"x", mask=False),
        head(TEXT, MAX_FRAME_BYTES + 1),
    ],
    ids=["frames", "bytes", "no client", "too long"],
)
async def test_there_is_an_end_to_it(data: bytes) -> None:
    assert await passes([data]) is True
    assert await passes([], first=data[:2_000_000]) is (True if len(data) <= 2_000_000 else None)


# Verifies: WS-0055
@pytest.mark.parametrize(
    "data",
    [
        frame(PING) * closing_frames.MOST_FRAMES,
        frame(TEXT, bytes(MAX_FRAME_BYTES)) + frame(TEXT, bytes(MAX_FRAME_BYTES - 28)),
        frame(TEXT, bytes(256)),
    ],
    ids=["frames", "bytes", "of 256 bytes"],
)
async def test_up_to_its_end_it_goes_on(data: bytes) -> None:
    assert len(data) <= closing_frames.MOST_BYTES
    assert await passes([data]) is None


# Verifies: WS-0055
@pytest.mark.parametrize(
    "data",
    [FAREWELL[:2], frame(PING, b"x" * 5) + FAREWELL, b"\x81\x00", head(TEXT, MAX_FRAME_BYTES + 1)[:-4]],
    ids=["close", "close behind another", "no client", "too long"],
)
async def test_it_ends_with_the_first_bytes_that_say_so(data: bytes) -> None:
    assert await passes([data]) is True
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await pass_to_close(trio.testing.memory_stream_pair()[0], data), "without another step"
    assert not scope.cancelled_caught


# Verifies: WS-0055
async def test_a_peer_that_sends_on_without_end_is_cut_off() -> None:
    async with running(True) as server, raw(server.port) as peer:
        await peer.send(frame(BINARY, b"x"))
        assert (await peer.read()).close_code == 1003
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.send(frame(PING) * 1000)


# Verifies: WS-0055
async def test_frames_cut_short_by_the_end_are_not_mistaken() -> None:
    """Where the frames of the peer begin is not known if reading a part of them was cancelled."""
    ours, theirs = trio.testing.memory_stream_pair()
    transport = FastWebSocketTransport(ours, ServerProtocol(state=OPEN), Budget(), Turns())
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.feed(frame(PING, b"xx") * 6000)  # A step ends between two frames.
    assert scope.cancelled_caught
    with trio.move_on_after(10) as waiting:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.close, 1001, "")
            async for _ in theirs:  # Up to the end of what the server sends, which it does not wait to be answered.
                pass
            await theirs.aclose()
    assert not waiting.cancelled_caught
