"""A protected queue: nothing empties, removes or renames it until that is lifted; everything else goes on."""

from __future__ import annotations

import json

import pytest

from qrusty_trio.core.broker import Broker
from qrusty_trio.storage.memory import MemoryStorage
from tests.wire.table import Table


@pytest.fixture
def table() -> Table:
    table = Table()
    assert table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo", "protected": True}}).status == 200
    publish(table, "q")
    return table


def publish(table: Table, queue: str) -> None:
    assert table.post("/publish", {"queue": queue, "priority": 1, "payload": "p"}).status == 200


def change(table: Table, **config: object) -> int:
    return table.post("/update-queue", {"name": "q", "config": config}).status


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/purge-queue/q", b""),
        ("DELETE", "/delete-queue/q", b""),
        ("POST", "/update-queue", b'{"name":"q","config":{"name":"r"}}'),
        ("POST", "/update-queue", b'{"name":"q","config":{"name":"r","protected":true}}'),
        ("POST", "/queues/q/dead-letters/purge", b'{"all":true}'),
        ("POST", "/update-queue", b'{"name":"q","config":{"dead_letter_max":9}}'),
        ("POST", "/update-queue", b'{"name":"q","config":{"dead_letter_ttl_seconds":1,"allow_duplicates":false}}'),
        ("POST", "/update-queue", b'{"name":"q","config":{"dead_letter_ttl_seconds":1,"protected":true}}'),
    ],
)
def test_what_is_refused_changes_nothing(table: Table, method: str, path: str, body: bytes) -> None:
    reply = table.run(method, path, body)
    assert (reply.status, json.loads(reply.body)["code"]) == (409, "queue_protected")
    assert "'q'" in json.loads(reply.body)["error"]
    assert table.get("/queue-stats/q")["available"] == 1
    assert table.get("/queues") == ["q"]
    assert table.get("/queue-stats/q")["config"] == {
        "ordering": "Fifo",
        "allow_duplicates": True,
        "priority_kind": "Numeric",
        "protected": True,
    }


def test_limits_of_dead_letters_may_only_get_wider(table: Table) -> None:
    assert change(table, dead_letter_max=10, protected=False) == 200
    assert change(table, protected=True) == 200
    assert [change(table, dead_letter_max=most) for most in (9, 10, 11, 10, None, 11)] == [409, 200, 200, 409, 200, 409]
    assert change(table, dead_letter_max=10, dead_letter_ttl_seconds=None) == 409
    assert change(table, dead_letter_max=None, dead_letter_ttl_seconds=60) == 409
    assert change(table, dead_letter_ttl_seconds=60, protected=False) == 200
    assert table.get("/queue-stats/q")["config"]["dead_letter_ttl_seconds"] == 60


def test_messages_come_and_go_as_ever(table: Table) -> None:
    message = json.loads(table.post("/consume/q", {"consumer_id": "c"}).body)
    assert table.post(f"/ack/q/{message['id']}", {"consumer_id": "c"}).status == 200
    assert table.post("/queues/q/dead-letters/purge", {"all": True, "dry_run": True}).status == 200
    assert change(table, allow_duplicates=False) == 200


def test_all_queues_are_purged_and_deleted_but_the_protected(table: Table) -> None:
    publish(table, "r")
    purged = {"purged_queues": 1, "purged_messages": 1, "protected_queues": 1}
    assert json.loads(table.post("/purge-all").body) == purged
    deleted = {"deleted_queues": 1, "deleted_messages": 0, "protected_queues": 1}
    assert json.loads(table.post("/delete-all").body) == deleted
    assert table.get("/queues") == ["q"]


def test_it_is_lifted_and_set_and_told(table: Table) -> None:
    assert table.get("/queue-stats/q")["config"]["protected"] is True
    assert table.get("/queue-list")["queues"][0]["config"]["protected"] is True
    assert change(table, protected=False) == 200
    assert "protected" not in table.get("/queue-stats/q")["config"]
    assert json.loads(table.post("/purge-queue/q").body)["purged_messages"] == 1
    assert change(table, protected=True) == 200
    assert change(table, protected=None) == 200
    assert table.run("DELETE", "/delete-queue/q").status == 409
    assert change(table, protected=False, name="r") == 200
    assert table.get("/queues") == ["r"]


@pytest.mark.parametrize("wrong", [b'"yes"', b"1", b"[]"])
@pytest.mark.parametrize("path", ["/create-queue", "/update-queue"])
def test_what_it_may_be(table: Table, path: str, wrong: bytes) -> None:
    reply = table.run("POST", path, b'{"name":"x","config":{"ordering":"Fifo","protected":%b}}' % wrong)
    assert reply.status == 422
    assert "'config.protected' must be true or false" in json.loads(reply.body)["error"]


def test_it_survives_a_restart() -> None:
    storage = MemoryStorage()
    table = Table(storage)
    table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo", "protected": True}})
    again = Broker(storage)
    for _ in again.load():
        pass
    assert again.catalog.by_name["q"].config.protected
