"""When an HTTP/2 connection does not get on, from the frames that pass."""

from __future__ import annotations

import pytest

from qrusty_trio.http.fallback.http2_progress import MAX_STREAMS, Http2Progress
from qrusty_trio.http.header_block import BODY_SECONDS, HEADER_SECONDS, IDLE_SECONDS, SEND_SECONDS

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


GET = frame(HEADERS, b"x", END_STREAM | END_HEADERS, 1)
POST = frame(HEADERS, b"x", END_HEADERS, 1)
RESPONSE = frame(HEADERS, b"x", END_HEADERS, 1)


def connection() -> Http2Progress:
    progress = Http2Progress(len(PREFACE), 0.0)
    progress.received(PREFACE + frame(SETTINGS), 0.0)
    return progress


# Verifies: API-0047
@pytest.mark.parametrize(
    ("received", "limit"),
    [
        (b"", IDLE_SECONDS),
        (frame(PING, bytes(8)), IDLE_SECONDS),
        (GET, SEND_SECONDS),
        (POST, BODY_SECONDS + SEND_SECONDS),
        (POST + frame(DATA, b"", 0, 1), BODY_SECONDS + SEND_SECONDS),
        (b"\0", HEADER_SECONDS),
        (frame(DATA, b"x" * 100, 0, 1)[:50], HEADER_SECONDS),
        (frame(HEADERS, b"x", 0, 1), HEADER_SECONDS),
        (frame(HEADERS, b"x", 0, 1) + frame(CONTINUATION, b"x", 0, 1), HEADER_SECONDS),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_what_is_not_gone_on_with_is_cut_off_in_time(received: bytes, limit: float, piece: int) -> None:
    progress = connection()
    for start in range(0, len(received), piece):
        progress.received(received[start : start + piece], 0.0)
    assert progress.stuck(limit - 0.1) is None
    assert progress.stuck(limit) is not None


# Verifies: API-0047
def test_an_answer_that_is_taken_bit_by_bit_gets_on() -> None:
    progress = connection()
    progress.received(GET, 0.0)
    progress.sent(RESPONSE, 1.0)
    for second in range(2, 100):
        progress.sent(frame(DATA, b"x", 0, 1), float(second))
        assert progress.stuck(second + SEND_SECONDS - 1) is None
    # Pings show that somebody is there, not that the response is taken.
    progress.received(frame(PING, bytes(8)), 120.0)
    assert progress.stuck(99 + SEND_SECONDS) is not None
    progress.sent(frame(DATA, b"", END_STREAM, 1), 130.0)
    assert progress.stuck(130 + IDLE_SECONDS - 1) is None
    assert progress.stuck(130 + IDLE_SECONDS) is not None


# Verifies: API-0047
@pytest.mark.parametrize("kind", [WINDOW_UPDATE, DATA])
def test_room_for_a_body_and_an_empty_frame_are_no_response(kind: int) -> None:
    progress = connection()
    progress.received(POST, 0.0)
    progress.sent(frame(kind, bytes(4) if kind == WINDOW_UPDATE else b"", 0, 1), 50.0)
    assert progress.stuck(BODY_SECONDS + SEND_SECONDS) is not None


# Verifies: API-0047
@pytest.mark.parametrize("kind", [WINDOW_UPDATE, PRIORITY])
def test_what_is_neither_headers_nor_data_is_no_progress_of_a_request(kind: int) -> None:
    progress = connection()
    progress.received(POST, 0.0)
    progress.received(frame(kind, bytes(5), END_STREAM, 1), 50.0)
    progress.sent(frame(kind, bytes(5), END_STREAM, 1), 50.0)
    assert progress.stuck(BODY_SECONDS + SEND_SECONDS - 1) is None
    assert progress.stuck(BODY_SECONDS + SEND_SECONDS) is not None


def test_a_stream_that_is_reset_by_either_side_is_over() -> None:
    for by_peer in (True, False):
        progress = connection()
        progress.received(GET, 0.0)
        (progress.received if by_peer else progress.sent)(frame(RST, bytes(4), 0, 1), 20.0)
        assert progress.stuck(20 + IDLE_SECONDS - 1) is None


def test_a_tunnel_has_its_own_pings() -> None:
    progress = connection()
    progress.received(POST, 0.0)
    progress.sent(RESPONSE, 1.0)
    assert progress.stuck(1_000_000) is None


# Verifies: API-0047
@pytest.mark.parametrize(
    ("then", "limit"),
    [
        (frame(DATA, b"x", 0, 1), 50 + BODY_SECONDS + SEND_SECONDS),
        (frame(DATA, b"", 0, 1), BODY_SECONDS + SEND_SECONDS),
        (frame(HEADERS, b"x", END_STREAM | END_HEADERS, 1), 50 + SEND_SECONDS),
        (frame(DATA, b"", END_STREAM, 9), BODY_SECONDS + SEND_SECONDS),
    ],
    ids=["body", "nothing", "trailers", "of another"],
)
def test_what_comes_of_a_body_is_progress(then: bytes, limit: float) -> None:
    progress = connection()
    progress.received(POST, 0.0)
    progress.received(then, 50.0)
    assert progress.stuck(limit - 1) is None
    assert progress.stuck(limit) == "a response that is not taken"


# Verifies: API-0047
def test_each_frame_has_its_own_time_to_arrive() -> None:
    progress = connection()
    ping = frame(PING, bytes(8))
    progress.received(ping[:5], 0.0)
    later = HEADER_SECONDS - 1
    progress.received(ping[5:] + ping[:5], later)
    assert progress.stuck(later + HEADER_SECONDS - 1) is None
    assert progress.stuck(later + HEADER_SECONDS) == "half a frame or header block"


# Verifies: DLV-0022
@pytest.mark.parametrize("stream", [1, 0x01020305, 0x7FFFFFFF])
@pytest.mark.parametrize("reserved", [0, 1 << 31])
def test_which_stream_has_ended_and_whether_whole(stream: int, reserved: int) -> None:
    ended: list[tuple[int, bool]] = []
    for last, whole in ((frame(DATA, b"x", END_STREAM, stream), True), (frame(RST, bytes(4), 0, stream), False)):
        progress = connection()
        progress.on_end = lambda stream, whole: ended.append((stream, whole))
        progress.received(frame(HEADERS, b"x", END_STREAM | END_HEADERS, stream | reserved), 0.0)
        assert progress.unfinished(stream)
        assert not progress.unfinished(stream - 1)
        progress.sent(frame(SETTINGS) + last, 1.0)
        assert not progress.unfinished(stream)
        assert ended.pop() == (stream, whole)
    progress = connection()
    progress.on_end = lambda stream, whole: ended.append((stream, whole))
    progress.received(frame(HEADERS, b"x", END_STREAM | END_HEADERS, stream), 0.0)
    progress.received(frame(RST, bytes(4), 0, stream), 1.0)
    assert ended == [(stream, False)]
    progress.received(frame(RST, bytes(4), 0, stream), 2.0)
    assert ended == [(stream, False)]
    assert progress.stuck(1 + IDLE_SECONDS) == "no request"


# Verifies: API-0047
def test_a_request_that_was_upgraded_is_answered_on_the_first_stream() -> None:
    progress = Http2Progress(len(PREFACE), 0.0)
    progress.upgraded(5.0)
    assert progress.unfinished(1)
    progress.received(PREFACE + frame(SETTINGS), 6.0)
    assert progress.stuck(5 + SEND_SECONDS - 1) is None
    assert progress.stuck(5 + SEND_SECONDS) == "a response that is not taken"


def test_so_many_streams_are_followed() -> None:
    progress = connection()
    for number in range(MAX_STREAMS + 1):
        progress.received(frame(HEADERS, b"x", END_HEADERS, 2 * number + 1), 0.0)
    assert progress.unfinished(2 * MAX_STREAMS - 1)
    assert not progress.unfinished(2 * MAX_STREAMS + 1)
