"""Wake-up: how long after a publish over HTTP a waiting WebSocket subscriber, or a waiting consume, has the message.

    python -m bench.latency [--rounds 5] [--messages 200] [--dry] [--dir DIRECTORY]

Rule: one thread does both ends: it sends the publish, then waits on the socket, so no thread switch is in the figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

from bench import machine
from bench.report import section, spread, table, today
from bench.servers import OURS_ALWAYS, OURS_NEVER, QRUSTY_NEW, QRUSTY_OLD, Running, Server, exit_on_sigterm
from bench.wire import Connection

SERVERS = (OURS_ALWAYS, OURS_NEVER, QRUSTY_NEW, QRUSTY_OLD)
SECONDS_A_ROUND = 10.0
"""A server that polls takes long for each message: then a round ends with fewer of them."""
PAUSE_SECONDS = 0.005
"""Until a consume certainly waits."""
QUEUE = "wake-up"
PAYLOAD = "x" * 100


def one_round(port: int, messages: int) -> list[float]:
    """Milliseconds from sending each publish to having its delivery."""
    http = Connection(port)
    http.ask("POST", "/create-queue", {"name": QUEUE, "config": {"ordering": "MaxFirst"}})
    waits: list[float] = []
    with connect(f"ws://127.0.0.1:{port}/ws", compression=None) as socket:
        socket.send(json.dumps({"type": "subscribe", "queue": QUEUE, "req_id": "s"}))
        expect(socket, "ok")
        end = time.perf_counter() + SECONDS_A_ROUND
        while len(waits) < messages and time.perf_counter() < end:
            begun = time.perf_counter()
            http.send("POST", "/publish", {"queue": QUEUE, "priority": 0, "payload": PAYLOAD})
            message = expect(socket, "deliver")
            waits.append((time.perf_counter() - begun) * 1000)
            http.receive()
            socket.send(json.dumps({"type": "ack", "queue": QUEUE, "id": message["id"], "req_id": "a"}))
            expect(socket, "ok")
    http.close()
    return waits


def one_waiting_round(port: int, messages: int) -> list[float]:
    """The same for a consume with `wait_seconds`."""
    http, worker = Connection(port), Connection(port)
    waits: list[float] = []
    for _ in range(messages):
        worker.send("POST", f"/consume/{QUEUE}", {"consumer_id": "wake-up", "wait_seconds": 60})
        time.sleep(PAUSE_SECONDS)
        begun = time.perf_counter()
        http.send("POST", "/publish", {"queue": QUEUE, "priority": 0, "payload": PAYLOAD})
        message = worker.receive()
        waits.append((time.perf_counter() - begun) * 1000)
        http.receive()
        worker.ask("POST", f"/ack/{QUEUE}/{message['id']}", {"consumer_id": "wake-up"})
    http.close()
    worker.close()
    return waits


def expect(socket: ClientConnection, kind: str) -> dict[str, str]:
    frame: dict[str, str] = json.loads(socket.recv(timeout=30))
    if frame["type"] != kind:
        raise RuntimeError(f"{frame} instead of {kind}")
    return frame


def row(label: str, server: Server, rounds: list[list[float]]) -> list[str]:
    medians = [statistics.median(waits) for waits in rounds]
    tails = [sorted(waits)[int(0.99 * len(waits))] for waits in rounds]
    count = f"{sum(len(waits) for waits in rounds):,}"
    return [label, server.fsync, spread(medians, 2), spread(tails, 2), count]


def main() -> None:
    exit_on_sigterm()
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=200, help="a round (default: 200)")
    parser.add_argument("--dry", action="store_true", help="print the section, do not write it")
    parser.add_argument("--dir", type=Path, help="where the data goes for the time (default: the system's)")
    arguments = parser.parse_args()
    rows, missing = [], []
    with tempfile.TemporaryDirectory(prefix="qrusty-bench-", dir=arguments.dir) as name:
        machine.refuse_memory_disk(Path(name))
        described = machine.describe(Path(name))
        for server in SERVERS:
            if why := server.missing():
                missing.append(f"Not measured: {why}.")
                continue
            with Running(server, Path(name) / server.key) as running:
                rounds = [one_round(running.port, arguments.messages) for _ in range(arguments.rounds)]
                rows.append(row(server.label, server, rounds))
                if server.ours:
                    rounds = [one_waiting_round(running.port, arguments.messages) for _ in range(arguments.rounds)]
                    rows.append(row(f"{server.label}, a waiting consume", server, rounds))
    text = "\n\n".join(
        (
            "## Wake-up",
            machine.sentence(described),
            f"Measured on {today()}, {arguments.rounds} rounds. From sending a publish over HTTP to having its "
            "delivery on the WebSocket of a waiting subscriber, or in the response to a consume that waits, one "
            "message at a time; milliseconds.",
            *missing,
            table(("server", "fsync", "p50 ms", "p99 ms", "messages"), rows),
        )
    )
    print(text)
    if not arguments.dry:
        section("latency", text)


if __name__ == "__main__":
    main()
