"""Status lines of HTTP/1.1 get their reason, and nothing else is changed."""

from __future__ import annotations

import pytest

from qrusty_trio.http.fallback.reason_phrases import ReasonPhrases


def test_the_first_bytes_of_each_response_get_it() -> None:
    phrases = ReasonPhrases()
    for status, phrase in ((200, b"OK"), (404, b"Not Found"), (299, b"Unknown")):
        line = b"HTTP/1.1 %d \r\n" % status
        phrases.response_begins(status)
        assert phrases.complete(line + b"x: y\r\n\r\n") == b"HTTP/1.1 %d %b\r\nx: y\r\n\r\n" % (status, phrase)
        for body in (line, b"HTTP/1.1 100 \r\n", b"HTTP/1.1 101 \r\n"):
            assert phrases.complete(body) == body, "it is in the body"
        phrases.response_ended()
        assert phrases.complete(b"HTTP/1.1 100 \r\n") == b"HTTP/1.1 100 Continue\r\n", "before the next one"


@pytest.mark.parametrize(("status", "phrase"), [(100, b"Continue"), (101, b"Switching Protocols")])
def test_what_hypercorn_sends_by_itself_before_a_response(status: int, phrase: bytes) -> None:
    phrases = ReasonPhrases()
    for _ in range(2):
        assert phrases.complete(b"HTTP/1.1 %d \r\nx" % status) == b"HTTP/1.1 %d %b\r\nx" % (status, phrase)
    phrases.response_begins(200)
    assert phrases.complete(b"HTTP/1.1 %d \r\nx" % status) == b"HTTP/1.1 %d \r\nx" % status, "another was said"


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 \r\n", b"\x00\x00\x04", b""])
def test_anything_else_stays(data: bytes) -> None:
    phrases = ReasonPhrases()
    phrases.response_begins(200)
    assert phrases.complete(data) == data
    assert ReasonPhrases().complete(data) == data
