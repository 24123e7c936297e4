"""What responses begin with."""

from __future__ import annotations

import pytest

from qrusty_trio.http.responses import Responses


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
