"""Names that no queue has: taken for queues to come, or refused with the names that come near."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.core import loading
from qrusty_trio.core.model import MAX_QUEUE_NAME_BYTES
from qrusty_trio.wording import MAX_SENTENCE_CHARACTERS
from tests.api.ws_peer import Peer, World
from tests.wire.table import Table

WORKER = {"consumer_id": "w"}
MESSAGE = {"priority": 1, "payload": "p"}


@pytest.fixture
def table() -> Table:
    table = Table()
    for name in ("orders", "orders-eu"):
        table.post("/create-queue", {"name": name, "config": {"ordering": "Fifo"}})
    table.broker.catalog.refuses_unknown = True
    return table


def ask(table: Table, name: str) -> dict[str, Any]:
    """Everything that takes a queue for granted."""
    return {
        "publish": table.post("/publish", MESSAGE | {"queue": name}),
        "large": table.post("/publish", MESSAGE | {"queue": name, "payload": "x" * 300_000}),
        "publish-batch": table.post("/publish-batch", {"queue": name, "messages": [MESSAGE]}),
        "consume": table.post(f"/consume/{name}", WORKER),
        "consume-batch": table.post(f"/consume-batch/{name}", WORKER | {"max_messages": 1}),
        "queue-stats": table.run("GET", f"/queue-stats/{name}"),
    }


def test_a_misspelt_name_is_refused_with_those_that_come_near(table: Table) -> None:
    for what, reply in ask(table, "order").items():
        assert (reply.status, json.loads(reply.body)) == (
            404,
            {
                "error": "Queue 'order' does not exist. Is 'orders' or 'orders-eu' meant?",
                "code": "queue_not_found",
                "nearest": ["orders", "orders-eu"],
            },
        ), what
    for path in ("locks", "messages", "messages/x", "priorities"):
        assert json.loads(table.run("GET", f"/queues/order/{path}").body)["nearest"] == ["orders", "orders-eu"]
    assert table.get("/queues") == ["orders", "orders-eu"]


def test_a_name_that_nothing_comes_near(table: Table) -> None:
    for reply in ask(table, "something-else").values():
        response = {"error": "Queue 'something-else' does not exist", "code": "queue_not_found"}
        assert (reply.status, json.loads(reply.body)) == (404, response)


def test_long_names(table: Table) -> None:
    long = "n" * (MAX_QUEUE_NAME_BYTES - 1)
    for number in range(4):
        table.post("/create-queue", {"name": f"{long}{number}", "config": {"ordering": "Fifo"}})
    response = json.loads(ask(table, long)["publish"].body)
    assert response["nearest"] == [f"{long}{number}" for number in range(3)]
    assert len(response["error"]) <= MAX_SENTENCE_CHARACTERS + 3
    # A publish may name what no path can: it is unknown, too.
    too_long = ask(table, "x")["publish"], table.post("/publish", MESSAGE | {"queue": "n" * 5_000})
    assert {reply.status for reply in too_long} == {404}


def test_queues_that_exist_are_served(table: Table) -> None:
    assert {reply.status for reply in ask(table, "orders").values()} == {200}
    table.post("/create-queue", {"name": "order", "config": {"ordering": "Fifo"}})
    assert {reply.status for reply in ask(table, "order").values()} == {200}
    assert table.post("/purge-queue/unknown").status == 200


def test_by_default_nothing_is_refused(table: Table) -> None:
    table.broker.catalog.refuses_unknown = False
    stats = table.run("GET", "/queue-stats/order")
    assert (stats.status, json.loads(stats.body)["total"]) == (200, 0)
    assert table.post("/consume/order", WORKER).body == b"null"
    assert table.post("/consume-batch/order", WORKER | {"max_messages": 1}).status == 200
    assert json.loads(table.run("GET", "/queues/order/locks").body).keys() == {"error", "code"}
    assert table.post("/publish", MESSAGE | {"queue": "order"}).status == 200


def test_stats_are_answered_while_the_queues_are_loaded(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "QUEUES_PER_STEP", 1)
    table.gate.starting = True
    assert table.run("GET", "/queue-stats/order").status == 200
    table.gate.starting = False
    load = table.broker.load()
    next(load)
    assert table.get("/queues") == []
    assert table.run("GET", "/queue-stats/orders-eu").status == 200
    for _ in load:
        pass
    assert table.run("GET", "/queue-stats/order").status == 404


def test_over_websocket() -> None:
    world = World()
    world.queue("jobs")
    peer = Peer(world)
    for refuses, sentence in (
        (False, "Queue 'job' does not exist"),
        (True, "Queue 'job' does not exist. Is 'jobs' meant?"),
    ):
        world.broker.catalog.refuses_unknown = refuses
        for frame in ({"type": "publish", "queue": "job", "payload": "p"}, {"type": "subscribe", "queue": "job"}):
            assert peer.ask(frame) == [{"type": "error", "code": "queue_not_found", "message": sentence}]
