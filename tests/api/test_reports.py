"""Long answers of the operations that only look: made in pieces, whole all the same, with rates that can be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.api import reports
from qrusty_trio.api.call import Call
from qrusty_trio.api.operations import resolve
from qrusty_trio.api.reports import JOIN_BYTES, NAMES_PIECE, RATE_DIGITS, STATS_PIECE
from tests.wire.table import Table

WORKER = {"consumer_id": "w"}


@pytest.fixture
def table() -> Table:
    return Table()


def publish(table: Table, queue: str = "q") -> None:
    assert table.post("/publish", {"queue": queue, "priority": 1, "payload": "p"}).status == 200


def consume(table: Table) -> Any:
    return json.loads(table.post("/consume/q", WORKER).body)


# Verifies: SCH-0032
def test_many_names_are_listed_in_pieces(table: Table) -> None:
    names = [f'{number:05} "ü\0' for number in range(2 * NAMES_PIECE + 1)]
    for name in names[:NAMES_PIECE]:
        publish(table, name)
    assert table.get("/queues") == names[:NAMES_PIECE]
    assert table.steps == 0
    for name in names[NAMES_PIECE:]:
        publish(table, name)
    assert table.get("/queues") == names
    assert table.steps == 3


# Verifies: SCH-0032
def test_large_answers_are_joined_in_pieces(table: Table) -> None:
    names = [f"{number:05}" + "\0" * 250 for number in range(4 * STATS_PIECE + 1)]
    for name in names:
        publish(table, name)
    response = table.get("/stats")
    octets = len(json.dumps(response))
    assert octets > 2 * JOIN_BYTES
    assert table.steps >= 4 + octets // (2 * JOIN_BYTES)
    assert [queue["name"] for queue in response["queues"]] == names
    assert list(response["summary"]["storage"]["hot_tier_sizes"]) == names
    assert table.get("/queues") == names


def test_no_queues_at_all(table: Table) -> None:
    assert table.get("/queues") == []
    response = table.get("/stats")
    assert response["queues"] == []
    assert response["summary"]["storage"]["hot_tier_sizes"] == {}


# Verifies: SCH-0032
def test_queues_that_are_deleted_while_they_are_counted(table: Table) -> None:
    for number in range(2 * STATS_PIECE):
        publish(table, f"q{number:04}")
    steps = reports.stats(table.services, Call(resolve("GET", b"/stats")[0]), table.now)
    next(steps)
    assert json.loads(table.post("/delete-all").body)["deleted_queues"] == 2 * STATS_PIECE
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
    response = json.loads(end.value.value.body)
    assert len(response["queues"]) == response["summary"]["total_queues"] == STATS_PIECE
    assert len(response["summary"]["storage"]["hot_tier_sizes"]) == STATS_PIECE


def test_rates_are_rounded(table: Table) -> None:
    for second in range(12):
        for _ in range(second % 3):
            publish(table)
            message_id = consume(table)["id"]
            table.post(f"/{'n' * (second % 2)}ack/q/{message_id}", WORKER)
        table.now += 1_000
        for _ in table.broker.catalog.sample(table.now):
            pass
    (described,) = table.get("/stats")["queues"]
    shown = [described, table.get("/queue-stats/q"), *table.get("/queues/q/metrics")["points"]]
    rates = [each[f"{rate}_rate_per_sec"] for each in shown for rate in ("publish", "ack", "nack")]
    assert any(rates)
    for rate in rates:
        assert isinstance(rate, float)
        assert rate == round(rate, RATE_DIGITS)
    exact = table.broker.catalog.by_name["q"].rates.points[-1].publish_rate
    assert described["publish_rate_per_sec"] == pytest.approx(exact, abs=0.0005)


def test_histograms_of_durations(table: Table) -> None:
    assert table.get("/operation-histograms")["operations"]["publish"] == {"count": 0, "total_ns": 0, "buckets": []}
    for nanoseconds in (0, 1, 1000, 1023, 1024):
        table.timings.record("publish", nanoseconds, 0, 1)
    assert table.get("/operation-histograms")["operations"]["publish"] == {
        "count": 5,
        "total_ns": 3048,
        "buckets": [[1, 1], [2, 1], [1024, 2], [2048, 1]],
    }
