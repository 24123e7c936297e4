"""Texts read past the library's protocol: what they are, and that nobody can tell the difference."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from unittest.mock import patch

import pytest
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.http import frame_reader
from qrusty_trio.http.fast_websocket import FastWebSocketTransport
from qrusty_trio.http.pipe import ConnectionLost
from qrusty_trio.http.text_frames import frame_size, take_texts
from qrusty_trio.http.turns import Turns
from qrusty_trio.http.websocket_transport import Finished
from tests.http.ws_raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame, head, masked

NOT_UTF8 = b"\xc3("
MASK = b"\x01\x02\x03\x04"


def padded(length: int) -> bytes:
    """A text whose length takes eight bytes although it fits in fewer."""
    return struct.pack("!BBQ", 0x81, 0x80 | 127, length) + masked(b"x" * length)


# Verifies: WS-0030
@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535])
def test_a_text_is_taken_whole_or_not_at_all(length: int) -> None:
    data = frame(TEXT, b"x" * length)
    for kept in {0, 1, 2, 5, 6, 7, 8, len(data) - 1} & set(range(len(data))):
        nothing: list[str | bytes] = []
        assert (take_texts(data[:kept], 0, nothing, 9), nothing) == (0, [])
    texts: list[str | bytes] = []
    assert take_texts(data + data + data[:3], 0, texts, 9) == 2 * len(data)
    assert texts == ["x" * length] * 2


def test_so_many_texts_are_added_to_those_that_are_there() -> None:
    texts: list[str | bytes] = ["a", b"b"]
    one = frame(TEXT, b"x")
    assert take_texts(one * 4, len(one), texts, 2) == 3 * len(one)
    assert texts == ["a", b"b", "x", "x"]


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONT, PING])
@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1])
def test_the_size_of_a_frame_is_known_from_its_head(opcode: int, length: int) -> None:
    start = head(opcode, length)
    size = len(start) + length if length <= MAX_FRAME_BYTES else 0
    mask = 4
    for count in range(len(start) + 1):
        known = count >= len(start) - mask
        assert frame_size(start[:count], 0) == (size if known else None)
        assert frame_size(b"\x88\x80" + start[:count], 2) == (size if known else None)


@pytest.mark.parametrize("begin", [frame(CLOSE), frame(TEXT, b"x", mask=False), frame(CONT, bytes(200), mask=False)])
def test_what_ends_a_connection_has_no_size(begin: bytes) -> None:
    assert frame_size(begin, 0) == 0
    assert frame_size(begin[:1], 0) is None


# Verifies: WS-0030
@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, NOT_UTF8),
        frame(TEXT, b"x", fin=False),
        frame(CONT, b"x"),
        frame(BINARY, b"x"),
        frame(PING, b"x"),
        frame(CLOSE, b""),
        frame(TEXT, b"x" * 65536),
        padded(5),
        b"\x81\x05hello",
        b"\xc1" + frame(TEXT, b"x")[1:],
    ],
    ids=["utf8", "fragment", "rest", "binary", "ping", "close", "64 KiB", "long length", "no mask", "reserved bit"],
)
def test_all_else_is_left(data: bytes) -> None:
    texts: list[str | bytes] = []
    plain = frame(TEXT, "ü".encode())
    assert take_texts(plain + data + plain, 0, texts, 9) == len(plain)
    assert texts == ["ü"]


# Verifies: WS-0032
def test_of_a_message_that_never_ends_nothing_is_kept() -> None:
    reader = frame_reader.FrameReader(ServerProtocol(state=OPEN))
    reader.read(frame(TEXT, b"x" * 100, fin=False), 0, 1, 1024)
    assert reader.held == 100
    reader.let_go()
    assert reader.held == 0


async def read(pieces: Sequence[bytes]) -> tuple[list[str | bytes], bytes]:
    """What a transport makes of these pieces: the frames it gives, and all that it sends until it is closed."""
    ours, theirs = trio.testing.memory_stream_pair()
    transport = FastWebSocketTransport(ours, ServerProtocol(state=OPEN, max_size=2 * 1024 * 1024), Budget(), Turns())
    frames: list[str | bytes] = []
    for piece in pieces:
        await transport.feed(piece)
    await theirs.send_eof()
    with suppress(ConnectionLost, Finished):
        while True:
            frames += await transport.receive()
    await transport.close(1001, "")
    await ours.aclose()
    sent = b""
    while more := await theirs.receive_some():
        sent += more
    return frames, sent


texts = st.one_of(
    st.text(max_size=8).map(str.encode), st.sampled_from([b"", b"x" * 125, b"y" * 126, NOT_UTF8, b"\xc3"])
)
INSIDE = frame(BINARY, masked(frame(TEXT, b"inside")))
"""Whose data look like a frame on the wire."""
frames_sent = st.one_of(
    st.builds(frame, st.just(TEXT), texts),
    st.builds(frame, st.sampled_from([TEXT, BINARY, CONT]), texts, fin=st.booleans()),
    st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=4)),
    st.sampled_from(
        [
            INSIDE,
            padded(3),
            frame(CLOSE, b"\x03\xe8"),
            b"\x81\x05hello",
            b"\xc1\x80" + MASK,
            b"\x83\x80" + MASK,
            b"\x81",
        ]
    ),
)
ENDS = st.none() | st.integers(0, 12)
"""Where in a frame a piece ends, if one does; 0: before it."""


# Verifies: WS-0030
@given(st.lists(st.tuples(frames_sent, ENDS), max_size=8))
@example([(frame(TEXT, b"a", fin=False), None), (frame(TEXT, b"b"), 0)])
@example([(INSIDE, 6), (frame(TEXT, b"b"), 0)])
@example([(padded(3), None), (frame(TEXT, b"b"), 0)])
@example([(frame(TEXT, b"x" * 126), None), (frame(TEXT, NOT_UTF8), None), (frame(PING, b""), None)])
@example([(frame(CONT, b"x", fin=False), 1), (frame(TEXT, b"x" * 126), 3), (frame(PING, b"p"), 1)])
@example([(frame(BINARY, b"z" * 2000), 1100), (frame(TEXT, b"a"), None), (frame(PING, b"p"), 1)])
@example([(frame(PING, b"p"), None), (frame(TEXT, b"y" * 70_000), None), (frame(TEXT, NOT_UTF8), None)])
@settings(max_examples=300, deadline=None)
def test_the_library_alone_makes_the_same_of_it_in_pieces_of_any_size(sent: list[tuple[bytes, int | None]]) -> None:
    pieces = [b""]
    for data, end in sent:
        if end is None:
            pieces[-1] += data
        else:
            pieces[-1] += data[:end]
            pieces.append(data[end:])
    quick = trio.run(read, pieces)
    with patch.object(frame_reader, "take_texts", lambda data, begin, texts, most: begin):
        assert trio.run(read, pieces) == quick
    whole = b"".join(pieces)
    assert trio.run(read, [whole]) == quick
    assert trio.run(read, [whole[at : at + 1] for at in range(len(whole))]) == quick
