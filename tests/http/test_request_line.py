"""Request lines that are kept: bounded in number and in bytes, and kept as they would be read."""

from __future__ import annotations

import pytest

from qrusty_trio.api.operations import OPERATIONS
from qrusty_trio.errors import BadRequest, MethodNotAllowed, NotFound
from qrusty_trio.http import request_line
from qrusty_trio.http.request_line import (
    BATCHABLE,
    MAX_KEPT_LINE_BYTES,
    MAX_KEPT_LINES,
    RequestLine,
    RequestLines,
    Target,
)


class Watched(RequestLines):
    """Counts what is read anew."""

    def __init__(self) -> None:
        super().__init__()
        self.anew = 0

    def _read_anew(self, text: bytes) -> Target:
        self.anew += 1
        return super()._read_anew(text)


def known(lines: Watched, line: bytes) -> bool:
    """Whether a line is kept, now that it has been read."""
    lines.read(line)
    before = lines.anew
    lines.read(line)
    return lines.anew == before


def test_a_line_is_kept_up_to_a_length() -> None:
    lines = Watched()
    start, end = b"GET /stats?", b" HTTP/1.1"
    assert known(lines, start + b"x" * (MAX_KEPT_LINE_BYTES - len(start) - len(end)) + end)
    assert not known(lines, start + b"x" * (MAX_KEPT_LINE_BYTES - len(start) - len(end) + 1) + end)


def test_a_line_of_many_that_come_once_is_forgotten() -> None:
    lines = Watched()
    first = b"GET /queue-stats/0 HTTP/1.1"
    lines.read(first)
    for number in range(1, MAX_KEPT_LINES + 1):
        lines.read(b"GET /queue-stats/%d HTTP/1.1" % number)
    before = lines.anew
    lines.read(first)
    assert lines.anew == before + 1


# Verifies: API-0044
def test_a_line_that_comes_again_is_not_displaced_by_those_that_come_once() -> None:
    lines = Watched()
    publish, ack = b"POST /publish HTTP/1.1", b"POST /ack/q/%d HTTP/1.1"
    for _ in range(2):
        assert known(lines, publish)
        assert known(lines, ack % 1)
    for number in range(3 * MAX_KEPT_LINES):
        lines.read(b"POST /publish?trace=%d HTTP/1.1" % number)
        lines.read(b"POST /ack/q%d/1 HTTP/1.1" % number)
    before = lines.anew
    lines.read(publish)
    lines.read(ack % 2)
    assert lines.anew == before


LINES = [
    b"POST /publish HTTP/1.1",
    b"POST /publish HTTP/1.0",
    b"POST /publish?trace=1 HTTP/1.1",
    b"POST http://a/publish HTTP/1.1",
    b"GET /health HTTP/1.1",
    b"HEAD /health HTTP/1.1",
    b"POST /consume/a%2Fb HTTP/1.1",
    b"POST /ack/q/one HTTP/1.1",
    b"POST /ack/q/two HTTP/1.1",
    b"POST /ack/q/t%77o HTTP/1.1",
    b"POST /ack/q/t%2Fo HTTP/1.1",
    b"POST /ack/q/one HTTP/1.0",
    b"POST /ack/q/one?x=1 HTTP/1.1",
    b"POST http://a/ack/q/one HTTP/1.1",
    b"POST /ack?queue=q&id=one HTTP/1.1",
    b"POST /nack/q/one HTTP/1.1",
    b"GET /queues/q/metrics HTTP/1.1",
]


@pytest.mark.parametrize("line", LINES)
def test_what_is_kept_is_what_reading_it_anew_gives(line: bytes) -> None:
    lines = RequestLines()
    for _ in range(3):
        for each in LINES:
            lines.read(each)
        assert lines.read(line) == RequestLines()._read_anew(line)


def asked(target: Target) -> tuple[object, ...]:
    return target.operation, target.params, type(target.refusal), str(target.refusal)


def test_a_fixed_segment_in_the_place_of_an_id_is_no_id() -> None:
    fixed = [each.path for each in OPERATIONS if each.path.rpartition("/")[0] + "/{id}" in {o.path for o in OPERATIONS}]
    assert any(not path.endswith("{id}") for path in fixed), "there is such a route"
    lines = RequestLines()
    for _ in range(3):
        for method in ("GET", "POST", "DELETE"):
            for path in fixed:
                line = f"{method} {path.replace('{queue}', 'q').replace('{id}', 'an-id')} HTTP/1.1".encode()
                assert asked(lines.read(line)) == asked(RequestLines()._read_anew(line)), line


def test_what_a_line_asks_for() -> None:
    read = RequestLines().read
    batchable = {
        operation.name
        for operation in OPERATIONS
        if read(f"{operation.method} {operation.path} HTTP/1.1".replace("{", "").replace("}", "").encode()).batchable
    }
    assert batchable == BATCHABLE
    assert not read(b"POST /publish HTTP/1.0").batchable
    assert not read(b"HEAD /health HTTP/1.1").batchable
    assert read(b"HEAD /health HTTP/1.1").head_only
    assert isinstance(read(b"GET /nothing HTTP/1.1").refusal, NotFound)
    assert isinstance(read(b"GET /publish HTTP/1.1").refusal, MethodNotAllowed)
    assert isinstance(read(b"POST /consume/%zz HTTP/1.1").refusal, BadRequest)
    for line in (b"OPTIONS /publish HTTP/1.1", b"GET / HTTP/1.1", b"GET /ui/x HTTP/1.1", b"GET /ws HTTP/1.1"):
        elsewhere = read(line)
        assert (elsewhere.operation, elsewhere.refusal) == (None, None)
        assert elsewhere.websocket == (line == b"GET /ws HTTP/1.1")
    assert not read(b"POST /ws HTTP/1.1").websocket


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"GET", b"GET /", b"GET / HTTP/2.0", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET  / HTTP/1.1"),
        *(b"get / HTTP/1.1", b"GET x HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET /\t HTTP/1.1", b"GET * HTTP/1.1"),
        *(b"G" * 21 + b" / HTTP/1.1", b"GET ftp://a/ HTTP/1.1", b"GET http:/// HTTP/1.1", b"GET http://a@b/ HTTP/1.1"),
    ],
)
def test_lines_that_cannot_be_read(line: bytes) -> None:
    with pytest.raises(BadRequest):
        request_line.read_line(line)
    with pytest.raises(BadRequest):
        RequestLines().read(line)


def test_the_parts_of_a_line() -> None:
    assert request_line.read_line(b"GET /a?b?c HTTP/1.1") == RequestLine("GET", b"/a", "b?c", True)
    assert request_line.read_line(b"GET http://host:1?x HTTP/1.0") == RequestLine("GET", b"/", "x", False)
