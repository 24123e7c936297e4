"""Request lines that are remembered: bounded in number and in bytes."""

from __future__ import annotations

from qrusty_trio.http.header_block import read_line
from qrusty_trio.http.request_lines import MAX_KEPT_LINE_BYTES, MAX_KEPT_TARGETS, Targets


def known(targets: Targets, line: bytes) -> bool:
    targets.resolve(line, read_line(line))
    return targets.of(line) is not None


def test_a_line_is_remembered_up_to_a_length() -> None:
    targets = Targets()
    start, end = b"GET /stats?", b" HTTP/1.1"
    assert known(targets, start + b"x" * (MAX_KEPT_LINE_BYTES - len(start) - len(end)) + end)
    assert not known(targets, start + b"x" * (MAX_KEPT_LINE_BYTES - len(start) - len(end) + 1) + end)


def test_a_line_of_many_that_come_once_is_forgotten() -> None:
    targets = Targets()
    first = b"GET /queue-stats/0 HTTP/1.1"
    targets.resolve(first, read_line(first))
    for number in range(1, MAX_KEPT_TARGETS + 1):
        line = b"GET /queue-stats/%d HTTP/1.1" % number
        targets.resolve(line, read_line(line))
    assert targets.of(first) is None


# Verifies: API-0044
def test_a_line_that_comes_again_is_not_displaced_by_those_that_come_once() -> None:
    targets = Targets()
    publish, ack = b"POST /publish HTTP/1.1", b"POST /ack/q/%d HTTP/1.1"
    for _ in range(2):
        assert known(targets, publish)
        assert known(targets, ack % 1)
    for number in range(3 * MAX_KEPT_TARGETS):
        line = b"POST /publish?trace=%d HTTP/1.1" % number
        targets.resolve(line, read_line(line))
        line = b"POST /ack/q%d/1 HTTP/1.1" % number
        targets.resolve(line, read_line(line))
    assert targets.of(publish) is not None
    assert targets.of(ack % 2) is not None
