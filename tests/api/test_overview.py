"""The state of the server, and the queues a page at a time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio import __version__
from qrusty_trio.api.about import About
from qrusty_trio.api.overview import MAX_ROWS, ROWS_PIECE, WALK_PIECE
from tests.wire.table import Table


@pytest.fixture
def table() -> Table:
    return Table()


def publish(table: Table, queue: str, times: int = 1, max_retries: int = 3, priority: int = 1) -> None:
    for number in range(times):
        body = {"queue": queue, "priority": priority, "payload": f"p{number}", "max_retries": max_retries}
        assert table.post("/publish", body).status == 200


def bury(table: Table, queue: str) -> None:
    """Publish a message and make it a dead letter."""
    publish(table, queue, max_retries=1, priority=9)
    message = json.loads(table.post(f"/consume/{queue}", {"consumer_id": "c"}).body)
    assert table.post(f"/nack/{queue}/{message['id']}", {"consumer_id": "c"}).status == 200


def names(table: Table, query: str) -> list[str]:
    return [queue["name"] for queue in table.get(f"/queue-list?{query}")["queues"]]


def seconds(table: Table, count: int) -> None:
    """Sample the rates as the server does, once a second."""
    for _ in range(count):
        table.now += 1000
        for _ in table.broker.catalog.sample(table.now):
            pass


# Verifies: API-0069
def test_the_server_tells_what_it_is(table: Table) -> None:
    assert table.get("/server") == {
        "version": __version__,
        "state": "ok",
        "message": None,
        "environment": None,
        "read_only": False,
        "now_ms": table.now,
        "started_at_ms": 0,
        "uptime_seconds": table.now / 1000,
        "storage": {
            "mode": "memory",
            "fsync": "never",
            "fsync_locks": False,
            "payload_store": False,
            "payload_disk_bytes": 7,
            "publishes_refused": False,
        },
        "connections": {"open": 0, "limit": 0},
        "memory": {
            "level": "normal",
            "publishes_refused": False,
            "usage_bytes": 50,
            "limit_bytes": 100,
            "thresholds": {"exit": 0.7, "warning": 0.8, "critical": 0.9},
        },
        "limits": {},
    }


def test_a_clock_that_was_set_back_makes_no_uptime_negative(table: Table) -> None:
    table.services.about = About(started_ms=table.now + 1)
    assert table.get("/server")["uptime_seconds"] == 0


def test_a_clock_that_was_set_back_makes_no_age_negative(table: Table) -> None:
    publish(table, "q")
    table.now -= 1000
    (row,) = table.get("/queue-list")["queues"]
    for described in (row, table.get("/queue-stats/q"), *table.get("/stats")["queues"]):
        assert described["oldest_age_seconds"] == 0


# Verifies: API-0069
def test_the_server_tells_what_it_refuses(table: Table) -> None:
    table.gate.starting = True
    assert table.get("/server")["state"] == "starting"
    table.gate.fault = "the disk is gone"
    table.gate.memory_critical = table.gate.read_only = True
    table.gate.disk_short = "little room"
    told = table.get("/server")
    assert told["storage"]["publishes_refused"]
    assert (told["state"], told["message"], told["read_only"]) == ("storage_fault", "the disk is gone", True)
    assert told["memory"]["publishes_refused"]


# Verifies: API-0070
def test_a_row_has_everything_about_a_queue(table: Table) -> None:
    publish(table, "q", 3)
    bury(table, "q")
    table.post("/consume/q", {"consumer_id": "c"})
    seconds(table, 2)
    listed = table.get("/queue-list")
    (row,) = listed["queues"]
    rates = {name: row.pop(name) for name in ("publish_rate_per_sec", "ack_rate_per_sec", "nack_rate_per_sec")}
    assert rates["publish_rate_per_sec"] > 0
    assert row == {
        "name": "q",
        "available": 2,
        "locked": 1,
        "dead": 1,
        "config": {"ordering": "MaxFirst", "allow_duplicates": True, "priority_kind": "Numeric"},
        "oldest_age_seconds": 2.0,
        "oldest_age_exact": False,
        "trend": "steady",
        "drain_seconds": None,
        "recent": [3, 3],
    }
    assert listed["offset"] == 0
    assert listed["totals"] == {"queues": 1, "troubled": 1, "available": 2, "locked": 1, "dead": 1, **rates}


# Verifies: API-0070
def test_search_finds_parts_of_names_in_any_case(table: Table) -> None:
    for name in ("Mail.out", "mail.in", "jobs", "ÜBER mail"):
        publish(table, name)
    assert names(table, "search=MAIL") == ["Mail.out", "mail.in", "ÜBER mail"]
    assert names(table, "search=%C3%BCber") == ["ÜBER mail"]
    assert names(table, "search=nothing") == []
    assert table.get("/queue-list?search=mail")["totals"]["available"] == 3
    assert names(table, "name=jobs") == ["jobs"]
    assert names(table, "name=Jobs") == []
    assert names(table, "name=") == []


# Verifies: API-0071
def test_sorting_over_pieces_with_equals_by_name(table: Table) -> None:
    many = WALK_PIECE + 40
    for number in range(many):
        publish(table, f"q{number:04}", 1 + number % 3)
    expected = sorted((f"q{number:04}" for number in range(many)), key=lambda name: (-(1 + int(name[1:]) % 3), name))
    assert names(table, f"sort=available&order=desc&limit={MAX_ROWS}") == expected[:MAX_ROWS]
    assert names(table, f"sort=available&order=desc&limit=50&offset={MAX_ROWS}") == expected[MAX_ROWS : MAX_ROWS + 50]
    assert table.steps > 2
    assert names(table, "sort=name&order=desc&limit=1") == [f"q{many - 1:04}"]
    assert len(names(table, "")) == 50
    assert names(table, "limit=0") == []
    assert names(table, "offset=10000") == []
    assert table.get("/queue-list?limit=0")["totals"]["queues"] == many


# Verifies: API-0070
@pytest.mark.parametrize(
    "sort",
    ["name", "available", "locked", "dead", "total", "oldest", "publish_rate", "ack_rate", "nack_rate", "trouble"],
)
def test_every_order(table: Table, sort: str) -> None:
    publish(table, "a")
    publish(table, "b", 2)
    assert sorted(names(table, f"sort={sort}&order=desc")) == ["a", "b"]


@pytest.mark.parametrize("what", ["publish", "ack", "nack"])
def test_rates_sort_as_they_were_last(table: Table, what: str) -> None:
    publish(table, "a", 5)
    publish(table, "b", 5)
    seconds(table, 1)
    for queue, times in (("a", 1), ("b", 5)):
        for _ in range(times):
            publish(table, queue)
            message = json.loads(table.post(f"/consume/{queue}", {"consumer_id": "c"}).body)
            if what != "publish":
                assert table.post(f"/{what}/{queue}/{message['id']}", {"consumer_id": "c"}).status == 200
        seconds(table, 1)
    assert names(table, f"sort={what}_rate&order=desc") == ["b", "a"]
    listed = table.get("/queue-list")
    rates = [queue[f"{what}_rate_per_sec"] for queue in listed["queues"]]
    assert min(rates) > 0
    assert listed["totals"][f"{what}_rate_per_sec"] == pytest.approx(sum(rates), abs=0.002)


def test_the_queue_whose_oldest_message_waits_longest_comes_first(table: Table) -> None:
    for queue in ("b", "a", "c"):
        publish(table, queue)
        table.now += 1000
    table.post("/create-queue", {"name": "empty", "config": {"ordering": "Fifo"}})
    assert names(table, "sort=oldest&order=desc") == ["b", "a", "c", "empty"]
    ages = [queue["oldest_age_seconds"] for queue in table.get("/queue-list?sort=oldest&order=desc")["queues"]]
    assert ages == [3.0, 2.0, 1.0, None]


def test_trouble_first(table: Table) -> None:
    publish(table, "well")
    seconds(table, 1)
    bury(table, "dead")
    publish(table, "stalled", 2)
    table.post("/consume/well", {"consumer_id": "c", "timeout_seconds": 600})
    for second in range(12):
        publish(table, "growing", 5)
        if second == 0:
            table.post("/consume/growing", {"consumer_id": "c", "timeout_seconds": 600})
        seconds(table, 1)
    assert names(table, "sort=trouble&order=desc") == ["dead", "stalled", "growing", "well"]
    publish(table, "well", 100)
    listed = table.get("/queue-list?sort=trouble&order=desc")
    assert [queue["name"] for queue in listed["queues"]] == ["dead", "stalled", "growing", "well"]
    assert [queue["trend"] for queue in listed["queues"]] == ["empty", "stalled", "growing", "steady"]
    assert listed["totals"]["troubled"] == 3


def test_a_queue_that_is_all_locked_is_not_empty(table: Table) -> None:
    publish(table, "q", 2)
    table.post("/consume/q", {"consumer_id": "c"})
    (row,) = table.get("/queue-list")["queues"]
    assert (row["available"], row["locked"], row["trend"]) == (1, 1, "steady")


def test_rows_are_made_in_steps(table: Table) -> None:
    for number in range(MAX_ROWS):
        publish(table, f"q{number:03}")
    table.get(f"/queue-list?limit={MAX_ROWS}")
    walked = -(-MAX_ROWS // WALK_PIECE)
    assert table.steps == walked + MAX_ROWS // ROWS_PIECE
    table.get("/queue-list?limit=1&offset=190")
    assert table.steps == walked + 2


def test_among_queues_with_the_same_trouble_the_one_with_more_messages_comes_first(table: Table) -> None:
    """Locked messages count as much as available ones."""
    publish(table, "few", 2)
    publish(table, "many", 4)
    for _ in range(3):
        table.post("/consume/many", {"consumer_id": "c"})
    for queue, letters in (("dead", 1), ("deader", 2)):
        for _ in range(letters):
            bury(table, queue)
    assert names(table, "sort=trouble&order=desc") == ["deader", "dead", "many", "few"]


# Verifies: API-0070
@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"limit={value}", "limit") for value in ("-1", "201", "x", "", "1.5", "9" * 5000)),
        *((f"offset={value}", "offset") for value in ("-1", "10001", "null", "%C2%B2")),
        ("sort=size", "sort"),
        ("sort=", "sort"),
        ("order=up", "order"),
        ("limit=1&limit=2", "limit"),
        ("search=%ff", "search"),
    ],
)
def test_what_is_not_allowed(table: Table, query: str, field: str) -> None:
    reply = table.run("GET", f"/queue-list?{query}")
    refused: dict[str, Any] = json.loads(reply.body)
    assert (reply.status, refused["code"]) == (400, "bad_request")
    assert f"'{field}'" in refused["error"]


# Verifies: API-0071
def test_a_queue_deleted_while_the_list_is_made_is_left_out_or_shown_as_it_was(table: Table) -> None:
    for number in range(2 * WALK_PIECE):
        publish(table, f"q{number:04}")
    from qrusty_trio.api.call import Call, Reply, Wait
    from qrusty_trio.api.operations import resolve

    operation, _ = resolve("GET", b"/queue-list")
    response = operation.function(table.services, Call(operation), table.now)
    assert not isinstance(response, Reply | Wait)
    next(response)
    table.post("/delete-all")
    steps = list(answer_of(response))
    assert json.loads(steps[-1])["totals"]["queues"] == WALK_PIECE


def answer_of(response: Any) -> list[bytes]:
    try:
        while True:
            next(response)
    except StopIteration as stop:
        return [stop.value.body]
