"""Request lines that are remembered: bounded in number and in bytes."""

from __future__ import annotations

from qrusty_trio.http.head import read_line
from qrusty_trio.http.targets import MAX_KEPT_LINE_BYTES, MAX_KEPT_TARGETS, Targets


def known(targets: Targets, line: bytes) -> bool:
    targets.resolve(line, read_line(line))
    return targets.of(line) is not None


def test_a_line_is_remembered_up_to_a_length() -> None:
    targets = Targets()
    start, end = b"GET /stats?", b" HTTP/1.1"
    assert known(targets, start + b"x" * (MAX_KEPT_LINE_BYTES - len(start) - len(end)) + end)
    assert not known(targets, start + b"x" * (MAX_KEPT_LINE_BYTES - len(start) - len(end) + 1) + end)


def test_all_is_forgotten_when_there_are_too_many() -> None:
    targets = Targets()
    first = b"GET /queue-stats/0 HTTP/1.1"
    assert known(targets, first)
    for number in range(1, MAX_KEPT_TARGETS + 1):
        line = b"GET /queue-stats/%d HTTP/1.1" % number
        assert known(targets, line)
    assert targets.of(first) is None
