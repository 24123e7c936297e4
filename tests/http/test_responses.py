"""What responses begin with."""

from __future__ import annotations

import pytest

from qrusty_trio.api.call import Reply
from qrusty_trio.http.responses import Responses, cors_headers, header_lines, reason_phrase


def test_the_beginning_of_a_response_is_made_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0
    monkeypatch.setattr("qrusty_trio.http.responses.time.time", lambda: now)
    made = Responses()
    made.tick()
    first = made.prefix(200, True)
    assert first == (
        b"HTTP/1.1 200 OK\r\ndate: Tue, 14 Nov 2023 22:13:20 GMT\r\ncontent-type: application/json\r\ncontent-length: "
    )
    now += 0.9
    made.tick()
    assert made.prefix(200, True) is first
    assert made.prefix(200, False) is made.prefix(200, False)
    now += 0.1
    made.tick()
    assert b"22:13:21" in made.prefix(200, True)


@pytest.mark.parametrize(
    ("reply", "json", "expected"),
    [
        (Reply(200, b"{}"), True, b"content-type: application/json\r\ncontent-length: 2\r\nx: y\r\n\r\n{}"),
        (Reply(200, b"{}"), False, b"content-length: 2\r\nx: y\r\n\r\n{}"),
        (Reply(204), True, b"content-length: 0\r\nx: y\r\n\r\n"),
        (Reply(204), False, b"content-length: 0\r\nx: y\r\n\r\n"),
        (Reply(503), True, b"retry-after: 2\r\ncontent-length: 0\r\nx: y\r\n\r\n"),
        (Reply(401), True, b"www-authenticate: Bearer\r\ncontent-length: 0\r\nx: y\r\n\r\n"),
        (Reply(429, retry_after=7), True, b"content-length: 0\r\nx: y\r\nretry-after: 7\r\n\r\n"),
        (Reply(299), True, b"content-length: 0\r\nx: y\r\n\r\n"),
    ],
)
def test_a_whole_response(reply: Reply, json: bool, expected: bytes) -> None:
    for head_only in (False, True):
        found = Responses().response(reply, b"\r\nx: y", head_only, json)
        line, date, rest = found.split(b"\r\n", 2)
        assert line == b"HTTP/1.1 %d %b" % (reply.status, reason_phrase(reply.status))
        assert date.startswith(b"date: ")
        assert rest == (expected.removesuffix(reply.body) if head_only else expected)
    assert reason_phrase(404) == b"Not Found"
    assert reason_phrase(299) == b"Unknown"


def test_the_first_response_has_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if nobody has called `tick`."""
    monkeypatch.setattr("qrusty_trio.http.responses.time.time", lambda: 1_700_000_000.0)
    assert b"\r\ndate: Tue, 14 Nov 2023 22:13:20 GMT\r\n" in Responses().response(Reply(200))


def test_a_whole_response_is_json_with_its_body_unless_told_otherwise() -> None:
    response = Responses().response(Reply(200, b"{}"))
    assert b"\r\ncontent-type: application/json\r\n" in response
    assert response.endswith(b"\r\n\r\n{}")
    assert Responses().response(Reply(200, b"{}"), head_only=True).endswith(b"\r\ncontent-length: 2\r\n\r\n")


@pytest.mark.parametrize(
    ("origin", "headers"),
    [
        (None, {}),
        ("https://elsewhere.example", {}),
        ("https://ops.example", {"access-control-allow-origin": "https://ops.example", "vary": "Origin"}),
    ],
)
def test_an_origin_that_is_allowed_is_told_so(origin: str | None, headers: dict[str, str]) -> None:
    assert cors_headers(origin, {"https://ops.example"}) == headers
    lines = b"".join(b"\r\n%b: %b" % (name.encode(), value.encode()) for name, value in headers.items())
    assert header_lines(headers) == lines
