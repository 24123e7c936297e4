"""Whether the peer of a connection that Hypercorn serves gets on: what moved, and when it is too late."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qrusty_trio.http.byte_budget import LARGE_BYTES, STALL_BYTES, STALL_SECONDS, Budget, Holding
from qrusty_trio.http.fallback.peer_progress import PeerProgress
from qrusty_trio.http.fallback.share import ConnectionShare, Share
from qrusty_trio.http.header_block import HEADER_SECONDS, HTTP2_PREFACE, IDLE_SECONDS, SEND_SECONDS

HEADERS, END_STREAM, END_HEADERS = 1, 1, 4


def frame(kind: int, payload: bytes, flags: int, stream: int) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


GET = frame(HEADERS, b"x", END_STREAM | END_HEADERS, 1)
ANSWER = frame(HEADERS, b"x", END_STREAM | END_HEADERS, 1)


class Ended:
    def __init__(self) -> None:
        self.streams: list[tuple[int, bool]] = []

    def __call__(self, stream: int, whole: bool) -> None:
        self.streams.append((stream, whole))


def progress_of(share: ConnectionShare | None = None) -> tuple[PeerProgress, Ended]:
    ended = Ended()
    return PeerProgress("a socket", share or ConnectionShare(Budget(), Budget()), ended, 100.0), ended


def speaks_http2(progress: PeerProgress) -> bool:
    return progress.http2 is not None


def test_each_pause_is_asked() -> None:
    progress, _ = progress_of()
    asked: list[str] = []

    def one() -> bool:
        asked.append("one")
        return True

    def other() -> bool:
        asked.append("other")
        return False

    found = [progress.paused]
    progress.pauses[one] = progress.pauses[other] = None
    found.append(progress.paused)
    assert asked == ["one", "other"]
    del progress.pauses[one]
    assert [*found, progress.paused] == [False, True, False]


# Verifies: API-0034
def test_a_header_block_has_its_time_from_its_first_byte() -> None:
    progress, _ = progress_of()
    assert progress.socket == "a socket"
    assert (progress.last_heard, progress.header_deadline) == (100.0, 100.0 + HEADER_SECONDS)
    progress.received(b"GET", False, 150.0)
    assert (progress.last_heard, progress.header_deadline) == (150.0, 150.0 + HEADER_SECONDS)
    progress.received(b" /", True, 155.0)
    assert (progress.last_heard, progress.header_deadline) == (155.0, 150.0 + HEADER_SECONDS)
    progress.passed(b"GET /", 157.0)
    assert progress.header_deadline == 157.0 + HEADER_SECONDS
    assert progress.stalled(1000.0, 0, True) is None, "a stream over HTTP/1.1 has limits of its own"


# Verifies: API-0041
async def test_what_moves_in_either_direction_counts() -> None:
    budget = Budget(LARGE_BYTES)
    whole = ConnectionShare(budget, Budget())
    share = Share(whole, False)
    share.received.set(LARGE_BYTES)
    progress, _ = progress_of(whole)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Holding(budget).reserve, LARGE_BYTES)
        await wait_all_tasks_blocked()
        now = 0.0
        sent = 0
        assert progress.stalled(now, sent, True) is None
        for step in ("received", "sent", "sent before"):
            now += STALL_SECONDS
            if step == "received":
                progress.received(b"x" * STALL_BYTES, False, now)
            elif step == "sent":
                sent = STALL_BYTES
            else:
                progress.send_begins(STALL_BYTES)
            assert progress.stalled(now, sent, True) is None, step
        assert progress.stalled(now + STALL_SECONDS, sent, True) is not None
        share.close()


# Verifies: API-0047
def test_http_2_that_begins_with_its_preface() -> None:
    progress, ended = progress_of()
    http2 = progress.watch_http2(100.0)
    assert progress.http2 is http2
    progress.passed(HTTP2_PREFACE + GET, 110.0)
    assert http2.unfinished(1)
    progress.sent(ANSWER, 120.0)
    assert ended.streams == [(1, True)]
    assert progress.stalled(120 + IDLE_SECONDS - 1, 0, True) is None
    assert progress.stalled(120 + IDLE_SECONDS, 0, True) is not None


# Verifies: API-0047
@pytest.mark.parametrize("last", ["read", "sent"])
def test_hypercorn_that_neither_reads_nor_sends(last: str) -> None:
    progress, _ = progress_of()
    progress.watch_http2(100.0)
    assert progress.stalled(100 + SEND_SECONDS - 1, 0, False) is None
    assert progress.stalled(100 + SEND_SECONDS, 0, False) is not None
    if last == "read":
        progress.read_ended(110.0)
    else:
        progress.sent(b"", 110.0)
    assert progress.stalled(110 + SEND_SECONDS - 1, 0, False) is None
    assert progress.stalled(110 + SEND_SECONDS, 0, True) is None
    assert progress.stalled(110 + SEND_SECONDS, 0, False) is not None


# Verifies: API-0046
@pytest.mark.parametrize("before", [[], [b"HTTP/1.1 200 OK\r\n\r\n", b"", b"the body of the request before"]])
@pytest.mark.parametrize(
    ("answer", "is_http2"), [(b"HTTP/1.1 101 \r\nupgrade: h2c\r\n\r\n", True), (b"HTTP/1.1 101 \r\n", False)]
)
def test_http_2_by_an_upgrade_begins_behind_its_answer(before: list[bytes], answer: bytes, is_http2: bool) -> None:
    progress, ended = progress_of()
    progress.sent(answer, 100.0)
    assert not speaks_http2(progress), "there was no upgrade"
    progress.upgrade_to_h2c()
    for other in before:
        progress.sent(other, 100.0)
        assert not speaks_http2(progress), "that was the answer to another request"
    progress.sent(answer + frame(HEADERS, b"x", END_HEADERS, 3)[:4], 100.0)
    assert speaks_http2(progress) is is_http2
    progress.sent(frame(HEADERS, b"x", END_HEADERS, 3)[4:], 101.0)
    if is_http2:
        progress.passed(HTTP2_PREFACE + GET.replace(b"\x01x", b"\x03x"), 102.0)
        progress.sent(frame(0, b"x", END_STREAM, 3), 103.0)
        assert ended.streams == [(3, True)]
    progress.sent(b"HTTP/1.1 101 \r\nupgrade: websocket\r\n\r\n", 104.0)
    assert speaks_http2(progress) is is_http2


# Verifies: API-0047
@pytest.mark.parametrize("goes_on", [True, False])
def test_the_request_that_asked_for_the_upgrade_is_in_hand_until_it_is_answered(goes_on: bool) -> None:
    progress, ended = progress_of()
    progress.upgrade_to_h2c()
    progress.sent(b"HTTP/1.1 101 \r\n\r\n" + frame(HEADERS, b"x", END_HEADERS, 1), 100.0)
    assert progress.http2 is not None
    assert progress.http2.unfinished(1)
    now = 100.0
    while now < 100 + 2 * max(IDLE_SECONDS, SEND_SECONDS):
        now += SEND_SECONDS - 1
        assert progress.stalled(now, 0, True) is None, "it takes the response bit by bit"
        if not goes_on:
            assert progress.stalled(now + 1, 0, True) is not None
            return
        progress.sent(frame(0, b"x", 0, 1), now)
    assert ended.streams == []
    progress.sent(frame(0, b"", END_STREAM, 1), now)
    assert ended.streams == [(1, True)]
    assert progress.stalled(now + IDLE_SECONDS - 1, 0, True) is None
    assert progress.stalled(now + IDLE_SECONDS, 0, True) is not None
