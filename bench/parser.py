"""Processor time of reading a request, in one process: our parser, with and without its caches, and h11.

    python -m bench.parser [--requests 20000] [--rounds 9]

Rule: all read the same requests, in turns, and each figure is the median of the rounds with the lowest and the highest.
Constant requests repeat their headers and come from the caches; changing ones have headers of their own each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import h11

from qrusty_trio.api.operations import resolve
from qrusty_trio.http.request_line import RequestLines
from qrusty_trio.http.request_parser import RequestParser, read_batchable_call

HEADERS = b"Host: 127.0.0.1:6784\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Type: application/json\r\n"
TRACE = b"traceparent: 00-%032x-%016x-01\r\nX-Request-Id: %d\r\n"
PUBLISH = b'{"queue":"q","priority":1,"payload":"%b"}' % (b"x" * 100)
SETTLE = b'{"consumer_id":"worker-1"}'
PIPELINED = 15
"""Requests that `RequestParser` gets at a time."""
Work = Callable[[Sequence[bytes]], None]


def requests(count: int, *, changing: bool) -> list[bytes]:
    """Publish, consume and ack in turn; each ack has an id of its own."""
    made = []
    for number in range(count):
        path, body = [
            (b"/publish", PUBLISH),
            (b"/consume/q", SETTLE),
            (b"/ack/q/01890a5d-ac96-774b-bcce-%012d" % number, SETTLE),
        ][number % 3]
        headers = HEADERS + (TRACE % (number, number, number) if changing else b"")
        made.append(b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (path, headers, len(body), body))
    return made


def alone(made: Sequence[bytes]) -> None:
    """Each request came alone."""
    lines = RequestLines()
    for request in made:
        assert read_batchable_call(request, lines) is not None


def pipelined(made: Sequence[bytes]) -> None:
    """Several came together."""
    parser = RequestParser(RequestLines())
    for start in range(0, len(made), PIPELINED):
        parser.feed(b"".join(made[start : start + PIPELINED]))
        while parser.next() is not None:
            pass


def with_h11(made: Sequence[bytes]) -> None:
    """By h11, on one connection. What the path means is not looked up."""
    connection = h11.Connection(h11.SERVER)
    response = h11.Response(status_code=200, headers=[("content-length", "0")])
    for request in made:
        connection.receive_data(request)
        while not isinstance(connection.next_event(), h11.EndOfMessage):
            pass
        # Without a response it would read no further. The time for it is not counted.
        begun = time.process_time_ns()
        connection.send(response)
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()
        NOT_COUNTED[0] += time.process_time_ns() - begun


NOT_COUNTED = [0]


def routed(made: Sequence[bytes]) -> None:
    """Only the route, without the cache of request lines."""
    for request in made:
        method, path, _ = request.split(b" ", 2)
        resolve(method.decode(), path)


WORK: dict[str, Work] = {
    "a request that came alone": alone,
    "pipelined requests": pipelined,
    "h11": with_h11,
    "the route alone": routed,
}


def microseconds(work: Work, made: Sequence[bytes]) -> float:
    NOT_COUNTED[0] = 0
    begun = time.process_time_ns()
    work(made)
    return (time.process_time_ns() - begun - NOT_COUNTED[0]) / len(made) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    for kind, changing in (("constant", False), ("changing", True)):
        made = requests(options.requests, changing=changing)
        figures: dict[str, list[float]] = {name: [] for name in WORK}
        for _ in range(options.rounds):
            for name, work in WORK.items():
                figures[name].append(microseconds(work, made))
        for name, values in figures.items():
            print(f"{kind}  {name:28} {statistics.median(values):6.2f} µs ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
