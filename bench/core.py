"""The engine alone: JSON bytes in and out of the operation table, in one thread, on RocksDB; and a start after kill -9.

    python -m bench.core [--rounds 5] [--messages 1000000] [--bursts 3000] [--no-server] [--dry] [--dir DIRECTORY]

Rule: what is timed is what a connection would cause (find the operation, run it, write the batch), no more and no less;
requests are made before the clock runs, as a client would have made them.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import string
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bench import machine
from bench.driver import build, load
from bench.report import section, spread, table, today
from bench.servers import OURS_NEVER, Running, exit_on_sigterm
from bench.wire import Connection
from qrusty_trio.api.call import Call, Reply, Services
from qrusty_trio.api.gate import Gate
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.timings import Timings
from qrusty_trio.http.request_line import RequestLines
from qrusty_trio.server.clock import Clock
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.pressure import PressureStatus
from qrusty_trio.server.startup import GC_THRESHOLDS
from qrusty_trio.storage.rocksdb import RocksStorage

BATCH = 64
"""Requests of one burst: one batch, one write."""
PAYLOAD = 100
SHALLOW = 1_000
MEBIBYTE = 2**20
Request = tuple[bytes, bytes]
"""Request line, body."""


@dataclass(slots=True)
class Figures:
    """One value a round each."""

    publishes: list[float] = field(default_factory=list)
    cycles: list[float] = field(default_factory=list)
    shallow_us: list[float] = field(default_factory=list)
    deep_us: list[float] = field(default_factory=list)
    ready_seconds: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)


class Bench:
    """An engine on a store of its own, and one queue in it."""

    def __init__(self, directory: Path) -> None:
        self._lines = RequestLines()
        self.storage = RocksStorage.open(directory, cache_mb=128, write_buffer_mb=16, max_open_files=128)
        broker = Broker(self.storage)
        for _ in broker.load():
            pass
        services = Services(broker, Gate(), Timings(), PressureStatus(), lambda: 0)
        self.engine = Engine(services, Dispatcher(), Clock())
        self.run([(b"POST /create-queue HTTP/1.1", b'{"name":"bench","config":{"ordering":"MaxFirst"}}')])

    def run(self, requests: Sequence[Request]) -> list[Reply]:
        """One burst through the engine, as a connection would."""
        calls = []
        for line, body in requests:
            target = self._lines.read(line)
            assert target.operation is not None
            calls.append(Call(target.operation, target.params, body))
        replies = self.engine.run_to_end(calls)
        for reply in replies:
            if reply.status != 200:
                raise RuntimeError(f"status {reply.status}: {reply.body!r}")
        return replies

    def cycle(self, publishes: Sequence[Request], consumes: Sequence[Request], ack: bytes) -> None:
        """A burst of publishes, one of consumes, one of acks of what was consumed."""
        self.run(publishes)
        taken = self.run(consumes)
        # {"id":"<36 characters>", … in every answer
        self.run([(b"POST /ack/bench/%b HTTP/1.1" % reply.body[7:43], ack) for reply in taken])

    def close(self) -> None:
        self.storage.close()


def publish_bursts(count: int) -> list[list[Request]]:
    """`count` bursts with different payloads and ten priorities, the same in every run."""
    source = random.Random(1)
    letters = string.ascii_letters + string.digits
    bodies = []
    for _ in range(count * BATCH):
        payload = "".join(source.choices(letters, k=PAYLOAD))
        body = {"queue": "bench", "priority": source.randrange(10), "payload": payload}
        bodies.append(json.dumps(body, separators=(",", ":")).encode())
    requests: list[Request] = [(b"POST /publish HTTP/1.1", body) for body in bodies]
    return [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]


CONSUMES: list[Request] = [
    (b"POST /consume/bench HTTP/1.1", b'{"consumer_id":"worker-1","timeout_seconds":30}')
] * BATCH
ACK = b'{"consumer_id":"worker-1"}'


def fill(bench: Bench, bursts: list[list[Request]], count: int) -> None:
    for number in range(count // BATCH):
        bench.run(bursts[number % len(bursts)])


def seconds_of_cycles(bench: Bench, bursts: list[list[Request]]) -> float:
    begun = time.perf_counter()
    for burst in bursts:
        bench.cycle(burst, CONSUMES, ACK)
    return time.perf_counter() - begun


def engine_rates(figures: Figures, directory: Path, rounds: int, bursts: list[list[Request]]) -> None:
    """Publishes a second and cycles a second, each round on a new store."""
    for number in range(rounds):
        bench = Bench(directory / f"rates-{number}")
        try:
            begun = time.perf_counter()
            for burst in bursts:
                bench.run(burst)
            figures.publishes.append(len(bursts) * BATCH / (time.perf_counter() - begun))
            bench.run([(b"POST /purge-queue/bench HTTP/1.1", b"")])
            figures.cycles.append(len(bursts) * BATCH / seconds_of_cycles(bench, bursts))
        finally:
            bench.close()


def depth_costs(figures: Figures, directory: Path, rounds: int, bursts: list[list[Request]], deep: int) -> None:
    """The cost of a cycle with few and with many messages in the queue; both stores are open and take turns."""
    shallow, many = Bench(directory / "shallow"), Bench(directory / "deep")
    try:
        fill(shallow, bursts, SHALLOW)
        fill(many, bursts, deep)
        seconds_of_cycles(shallow, bursts[: len(bursts) // 4])
        seconds_of_cycles(many, bursts[: len(bursts) // 4])
        for _ in range(rounds):
            for bench, costs in ((shallow, figures.shallow_us), (many, figures.deep_us)):
                costs.append(seconds_of_cycles(bench, bursts) / len(bursts) / BATCH * 1e6)
    finally:
        shallow.close()
        many.close()


def start_up(figures: Figures, directory: Path, rounds: int, deep: int) -> None:
    """Fill a real server, then kill -9 and start it again, each round: seconds until a consume works, and memory."""
    running = Running(OURS_NEVER, directory / "server")
    running.start()
    try:
        load(build(), running.address, "ws", "publish", connections=4, window=256, count=deep, queue="bench", keep=True)
        for _ in range(rounds):
            running.kill()
            begun = time.perf_counter()
            running.start()
            consume_and_return(running.port)
            figures.ready_seconds.append(time.perf_counter() - begun)
            figures.resident_mib.append(running.resident_bytes() / MEBIBYTE)
    finally:
        running.stop()


def consume_and_return(port: int) -> None:
    """Take one message and nack it; raises RuntimeError when there is none."""
    connection = Connection(port)
    message = connection.ask("POST", "/consume/bench", {"consumer_id": "start-up"})
    if message is None:
        raise RuntimeError("nothing to consume after the start")
    connection.ask("POST", f"/nack/bench/{message['id']}", {"consumer_id": "start-up"})
    connection.close()


def report(figures: Figures, described: dict[str, str], deep: int, rounds: int) -> str:
    """The section in Markdown."""
    ratios = [many / few for few, many in zip(figures.shallow_us, figures.deep_us, strict=True)]
    rows = [
        ["publishes/s", spread(figures.publishes), "150,000 or more", _verdict(figures.publishes, at_least=150_000)],
        [
            "cycles/s (publish, consume, ack)",
            spread(figures.cycles),
            "80,000 or more",
            _verdict(figures.cycles, 80_000),
        ],
        [f"µs a cycle, {SHALLOW:,} messages in the queue", spread(figures.shallow_us, 2), "", ""],
        [f"µs a cycle, {deep:,} messages in the queue", spread(figures.deep_us, 2), "", ""],
        ["deep : shallow", spread(ratios, 2), "1.3 or less", _verdict(ratios, at_most=1.3)],
    ]
    if figures.ready_seconds:
        ready, memory = figures.ready_seconds, figures.resident_mib
        what = f"after kill -9, {deep:,} messages stored"
        rows += [
            [f"seconds to the first consume, {what}", spread(ready, 2), "1 or less", _verdict(ready, at_most=1.0)],
            [f"MiB resident then, {what}", spread(memory), "150 or less", _verdict(memory, at_most=150)],
        ]
    return "\n\n".join(
        (
            "## The engine alone",
            machine.sentence(described),
            f"Measured on {today()}, {rounds} rounds. In one thread, JSON bytes in and out of the operation table, "
            f"RocksDB, payloads of {PAYLOAD} bytes, no fsync, bursts of {BATCH} requests. The seconds of a start "
            "include that of the interpreter.",
            table(("figure", "median (lowest to highest)", "to reach", "reached"), rows),
        )
    )


def _verdict(values: Sequence[float], at_least: float = float("-inf"), at_most: float = float("inf")) -> str:
    return "yes" if at_least <= statistics.median(values) <= at_most else "**no**"


def main() -> None:
    exit_on_sigterm()
    parser = argparse.ArgumentParser(prog="python -m bench.core", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=1_000_000, help="in the deep queue (default: 1,000,000)")
    parser.add_argument("--bursts", type=int, default=3_000, help=f"of {BATCH} requests each round (default: 3,000)")
    parser.add_argument("--no-server", action="store_true", help="leave out the start after kill -9")
    parser.add_argument("--dry", action="store_true", help="print the section, do not write it")
    parser.add_argument("--dir", type=Path, help="where the data goes for the time (default: the system's)")
    arguments = parser.parse_args()
    figures = Figures()
    bursts = publish_bursts(arguments.bursts)
    # As the server does at its start; and the requests made here are no concern of the engine's collections.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with tempfile.TemporaryDirectory(prefix="qrusty-bench-", dir=arguments.dir) as name:
        directory = Path(name)
        machine.refuse_memory_disk(directory)
        described = machine.describe(directory)

        async def in_process() -> None:
            # The engine's clock is Trio's; nothing here waits.
            engine_rates(figures, directory, arguments.rounds, bursts)
            depth_costs(figures, directory, arguments.rounds, bursts, arguments.messages)

        trio.run(in_process)
        if not arguments.no_server:
            start_up(figures, directory, arguments.rounds, arguments.messages)
    text = report(figures, described, arguments.messages, arguments.rounds)
    print(text)
    if not arguments.dry:
        section("core", text)


if __name__ == "__main__":
    main()
