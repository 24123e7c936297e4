"""Which part of an operation its timings count: by a clock that stands still but for what takes its time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from qrusty_trio.api import messages, reports, schema
from qrusty_trio.api.reports import STATS_PIECE
from tests.wire.table import Table

READING, STORING, ENCODING, ELSEWHERE = 1_000, 20_000, 300_000, 10**9
"""Nanoseconds."""
WORKER = {"consumer_id": "w"}


class Timed(Table):
    """Reading a body, the broker and encoding take so long, and what others do between two steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.nanoseconds = 0
        for module in (messages, reports):
            monkeypatch.setattr(module, "_clock", lambda: self.nanoseconds)
            monkeypatch.setattr(module, "_encode", self._taking(ENCODING, module._encode))
        for name in ("publish", "consume", "consume_from", "settle", "nack", "settle_batch", "nack_batch"):
            read = f"{name}_body"
            monkeypatch.setattr(schema, read, self._taking(READING, getattr(schema, read)))
        for name in ("publish", "consume", "ack", "nack"):
            monkeypatch.setattr(self.broker, name, self._taking(STORING, getattr(self.broker, name)))
        monkeypatch.setattr(self.broker.catalog, "stats", self._taking(STORING, self.broker.catalog.stats))
        monkeypatch.setattr(self.broker, "commit", self._taking(ELSEWHERE, self.broker.commit))

    def _taking(self, nanoseconds: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def taking(*given: Any, **named: Any) -> Any:
            self.nanoseconds += nanoseconds
            return function(*given, **named)

        return taking

    def publish(self, count: int = 1, payload: str = "p") -> None:
        for _ in range(count):
            self.broker.publish("q", 1, payload, 3, self.now)

    def held(self, count: int = 1) -> list[str]:
        """Messages of `q` that the worker holds."""
        self.publish(count)
        found = [self.broker.consume("q", "w", 30, self.now) for _ in range(count)]
        return [each.id for each in found if each is not None]

    def points(self, name: str) -> list[tuple[int, int, int]]:
        """Second, count, nanoseconds in all."""
        points = self.get("/operation-timings?seconds=10")[name]
        return [(each["t_epoch_s"], each["count"], 1000 * each["total_us"]) for each in points]

    def check(self, operation: str, share: str, whole_ns: int, share_ns: int) -> None:
        """It ran once, and took so long."""
        second = self.now // 1000
        assert self.points(operation) == [(second, 1, whole_ns)]
        assert self.points(share) == [(second, 1, share_ns)]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Timed:
    return Timed(monkeypatch)


# Verifies: API-0028
@pytest.mark.parametrize(("octets", "steps"), [(100, 0), (messages.LARGE_BYTES, 0), (messages.LARGE_BYTES + 1, 1)])
def test_publish(table: Timed, octets: int, steps: int) -> None:
    """What others do between the two steps of a large one is no part of it."""
    frame = b'{"queue":"q","priority":1,"payload":"%b"}'
    body = frame % (b"x" * (octets - len(frame) + 2))
    assert len(body) == octets
    assert table.run("POST", "/publish", body).status == 200
    assert table.steps == steps
    table.check("publish", "storage_push", READING + STORING, STORING)


# Verifies: API-0028
@pytest.mark.parametrize("there", [True, False])
def test_consume(table: Timed, there: bool) -> None:
    table.publish(int(there))
    assert (table.post("/consume/q", WORKER).body != b"null") is there
    table.check("consume", "storage_pop", READING + STORING, STORING)


# Verifies: API-0028
@pytest.mark.parametrize(("queues", "asked"), [(["q", "r"], 1), (["r", "q"], 2), (["r", "s", "t"], 3)])
def test_consume_from(table: Timed, queues: list[str], asked: int) -> None:
    table.publish()
    table.post("/consume", {**WORKER, "queues": queues})
    table.check("consume", "storage_pop", READING + asked * STORING, asked * STORING)


def test_a_consume_that_waits_is_not_timed(table: Timed) -> None:
    table.post("/consume/q", {**WORKER, "wait_seconds": 1})
    table.post("/consume", {**WORKER, "queues": ["q", "r"], "wait_seconds": 1})
    assert table.points("consume") == table.points("storage_pop") == []


# Verifies: API-0028
@pytest.mark.parametrize("operation", ["ack", "nack"])
def test_settling(table: Timed, operation: str) -> None:
    (id,) = table.held()
    assert table.post(f"/{operation}/q/{id}", WORKER).status == 200
    table.check(operation, f"storage_{operation}", READING + STORING, STORING)


# Verifies: API-0028
@pytest.mark.parametrize("operation", ["ack", "nack"])
@pytest.mark.parametrize("count", [0, 1, messages.BATCH_PIECE, 2 * messages.BATCH_PIECE + 1])
def test_settling_a_batch(table: Timed, operation: str, count: int) -> None:
    ids = table.held(count)
    reply = table.post(f"/{operation}-batch/q", {**WORKER, "message_ids": ids})
    assert json.loads(reply.body)["acked" if operation == "ack" else "unlocked"] == ids
    assert table.steps == max(count - 1, 0) // messages.BATCH_PIECE
    stored = count * STORING
    table.check(f"{operation}_batch", f"storage_batch_{operation}", READING + stored + ENCODING, stored)


# Verifies: API-0028
@pytest.mark.parametrize("name", ["q", "unknown"])
def test_queue_stats(table: Timed, name: str) -> None:
    table.publish()
    table.get(f"/queue-stats/{name}")
    table.check("queue_stats", "storage_get_queue_stats", STORING + ENCODING, STORING)


# Verifies: API-0028
def test_stats(table: Timed) -> None:
    """Two encodings for a queue; what others do between two steps is no part of it."""
    count = STATS_PIECE + 1
    for number in range(count):
        table.broker.publish(f"q{number}", 1, "p", 3, table.now)
    table.get("/stats")
    assert table.steps >= 1
    share = count * (STORING + 2 * ENCODING)
    assert table.points("storage_get_all_queue_stats") == [(table.now // 1000, 1, share)]
