"""What a response handed out goes back if it was not sent, and is kept in mind until the next one if it was."""

from __future__ import annotations

from typing import Any

import pytest

from qrusty_trio.api.call import Reply
from qrusty_trio.http.fallback.http2_progress import Http2Progress
from qrusty_trio.http.fallback.response_deliveries import ResponseDeliveries


class Engine:
    def __init__(self) -> None:
        self.given_back: list[Reply] = []

    def give_back(self, reply: Reply) -> None:
        self.given_back.append(reply)


def handed_out() -> Reply:
    delivery: Any = object()
    return Reply(200, b"{}", deliveries=[delivery])


def deliveries() -> tuple[ResponseDeliveries, Engine]:
    engine: Any = Engine()
    return ResponseDeliveries(engine), engine


def http2(*streams: int) -> Http2Progress:
    """A connection with requests on these streams."""
    progress = Http2Progress(0, 0.0)
    for stream in streams:
        progress.received(b"\x00\x00\x01\x01\x05" + stream.to_bytes(4, "big") + b"x", 0.0)
    return progress


# Verifies: DLV-0020
@pytest.mark.parametrize("written", [True, False])
def test_over_http_1(written: bool) -> None:
    reply = handed_out()
    found, engine = deliveries()
    found.answered(reply, written, 1, None)
    assert (found.given, engine.given_back) == (([reply], []) if written else ([], [reply]))
    found.answered(None, True, 1, None)
    assert found.given == [], "the peer has asked for more, so it has taken that"
    found.answered(Reply(200, b"{}"), False, 1, None)
    assert len(engine.given_back) == (not written)


# Verifies: DLV-0020
@pytest.mark.parametrize("written", [True, False])
def test_over_http_2(written: bool) -> None:
    replies = {stream: handed_out() for stream in (1, 3, 5, 7, 9)}
    found, engine = deliveries()
    progress = http2(1, 3, 5, 7)
    for stream, reply in replies.items():
        found.answered(reply, written, stream, progress)
    assert engine.given_back == [replies[9]], "that stream has ended before"
    assert found.given == []
    found.stream_ended(1, True)
    assert found.given == [replies[1]]
    found.stream_ended(3, False)
    found.stream_ended(1, False)
    found.stream_ended(11, True)
    assert found.given == [replies[1]]
    assert engine.given_back == [replies[9], replies[3]]
    found.give_back_unsent()
    assert engine.given_back[2:] == [replies[7], replies[5]]
    found.give_back_unsent()
    assert len(engine.given_back) == 4
