"""A server under a memory limit, and a publisher that never stops: what happens to its memory, and to the publishes.

    python -m bench.pressure [--limit MIB] [--seconds S] [--queues N] [--environment NAME=VALUE ...]

Rule: the server is a process of its own with nothing of this one; its resident memory is what the kernel says, ten
times a second. `--environment` is for the allocator: MALLOC_ARENA_MAX=2, LD_PRELOAD=/path/to/libjemalloc.so.2.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import trio

from tests.server.running import Child, child_server, url
from tests.wire.http_client import HttpClient, open_client

MIB = 2**20
WORKERS = 4
CONSUMER_SHARE = 0.25
"""Of the time that consumers do not sleep: they fall behind."""
PAYLOAD_BYTES = 4000
CACHE_MB, WRITE_BUFFER_MB = "32", "8"


async def main() -> None:
    arguments = _arguments()
    variables = dict(each.split("=", 1) for each in arguments.environment)
    with tempfile.TemporaryDirectory() as directory:
        async with child_server(
            Path(directory) / "data",
            QRUSTY_MEMORY_LIMIT_MB=str(arguments.limit),
            QRUSTY_FSYNC="everysec",
            ROCKSDB_CACHE_MB=CACHE_MB,
            ROCKSDB_WRITE_BUFFER_MB=WRITE_BUFFER_MB,
            **variables,
        ) as server:
            load = Load(server, arguments.queues)
            with trio.move_on_after(arguments.seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(load.watch)
                    for number in range(WORKERS):
                        nursery.start_soon(load.publish, number)
                    nursery.start_soon(load.consume)
            levels = Counter(re.findall("memory pressure: ([a-z]+),", server.log))
            print(json.dumps({**load.report(), "limit": arguments.limit, "levels": levels, **variables}))


class Load:
    """Clients of one server, and what they saw."""

    def __init__(self, server: Child, queues: int) -> None:
        self._server = server
        self._queues = queues
        self._payload = base64.b64encode(os.urandom(PAYLOAD_BYTES)).decode()[:PAYLOAD_BYTES]
        self._responses: Counter[str] = Counter()
        self._resident: list[int] = []

    async def publish(self, number: int) -> None:
        async with open_client(url(self._server.port)) as client:
            count = number
            while True:
                count += WORKERS
                body = {"queue": f"q{count % self._queues}", "priority": 1, "payload": self._payload}
                status = await self._post(client, "/publish", body)
                self._responses[f"publish {status}"] += 1
                if status != 200:
                    await trio.sleep(0.1)

    async def consume(self) -> None:
        async with open_client(url(self._server.port)) as client:
            count = 0
            while True:
                began = time.monotonic()
                count += 1
                queue = f"q{count % self._queues}"
                response = await client.request("POST", f"/consume/{queue}", b'{"consumer_id": "c"}')
                self._responses[f"consume {response.status}"] += 1
                delivery = response.json()
                if delivery is not None:
                    status = await self._post(client, f"/ack/{queue}/{delivery['id']}", {"consumer_id": "c"})
                    self._responses[f"ack {status}"] += 1
                await trio.sleep((time.monotonic() - began) * (1 / CONSUMER_SHARE - 1))

    async def _post(self, client: HttpClient, target: str, body: dict[str, object]) -> int:
        return (await client.request("POST", target, json.dumps(body).encode())).status

    async def watch(self) -> None:
        process = psutil.Process(self._server.process.pid)
        while True:
            self._resident.append(process.memory_info().rss)
            await trio.sleep(0.1)

    def report(self) -> dict[str, object]:
        resident = sorted(self._resident)
        return {
            **dict(sorted(self._responses.items())),
            "resident at first": round(self._resident[0] / MIB, 1),
            "resident median": round(resident[len(resident) // 2] / MIB, 1),
            "resident most": round(resident[-1] / MIB, 1),
        }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=144, help="QRUSTY_MEMORY_LIMIT_MB")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--queues", type=int, default=200)
    parser.add_argument("--environment", nargs="*", default=[], metavar="NAME=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    trio.run(main)
