"""Each operation with each grant on one's own and on a foreign queue, at the table of operations.

Rule: the requests are made from the table, so an operation that is new is here, too. The same over sockets, on both
paths, is in `test_served_matrix.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.limits import Limit
from qrusty_trio.access.needs import Named, Needs
from qrusty_trio.api.call import Operation
from qrusty_trio.api.messages import LARGE_BYTES
from qrusty_trio.api.operations import OPERATIONS
from qrusty_trio.storage.memory import MemoryStorage
from tests.access.asking import FOREIGN, OWN, allowed, principal, request_of
from tests.core.brokers import exhaust
from tests.wire.table import Table

IDS = [each.name for each in OPERATIONS]
NAMED_IN_BODY = {"publish", "publish_batch", "consume_from", "create_queue", "update_queue"}
OPEN_TO_ALL = {"health", "live", "ready"}


def world(grants: list[str]) -> Table:
    """Two queues with messages, guarded, asked for a token with these grants."""
    table = Table()
    for queue in (OWN, FOREIGN, f"{OWN}-r", f"{FOREIGN}-r"):
        table.broker.publish(queue, 1, "p", 3, table.now)
    table.services.guarded = True
    table.principal = principal(*grants)
    return table


def told(table: Table) -> list[tuple[str, int]]:
    return [(name, queue.available + queue.locked) for name, queue in sorted(table.broker.catalog.by_name.items())]


# Verifies: SYS-0023, API-0137
@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_each_operation_with_each_grant(operation: Operation) -> None:
    for grant in Grant:
        for pattern in ("team.*", "*"):
            for queue in (OWN, FOREIGN):
                table = world([f"{grant}:{pattern}"])
                before = told(table)
                path, body = request_of(operation, queue)
                reply = table.run(operation.method, path, body)
                case = grant, pattern, queue, reply.body
                if allowed(operation, grant, pattern == "*", queue == OWN):
                    assert reply.status not in (401, 403), case
                else:
                    refusal = json.loads(reply.body)
                    assert (reply.status, refusal["code"]) == (403, "forbidden"), case
                    assert f"no grant {operation.needs.grant} on" in refusal["error"], case
                    assert operation.needs.named is Named.EVERY or f"'{queue}" in refusal["error"], case
                    assert told(table) == before, case


# Verifies: API-0136
@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_each_operation_without_a_token(operation: Operation) -> None:
    table = world([])
    table.principal = None
    reply = table.run(operation.method, *request_of(operation, OWN))
    if operation.name in OPEN_TO_ALL:
        assert reply.status != 401
    else:
        assert (reply.status, json.loads(reply.body)["code"]) == (401, "unauthenticated")


# Verifies: API-0137
@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_each_operation_says_how_it_names_its_queues(operation: Operation) -> None:
    needs = operation.needs
    assert isinstance(needs, Needs)
    assert (needs.named is Named.PATH) is ("{queue}" in operation.path)
    assert (needs.named is Named.BODY) is (operation.name in NAMED_IN_BODY)
    assert needs.token is (operation.name not in OPEN_TO_ALL)
    assert not operation.mutating or needs.grant is not None
    assert needs.grant is not Grant.READ or not operation.mutating


# Verifies: API-0137
@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/consume", {"consumer_id": "c", "queues": [OWN, FOREIGN]}),
        ("/update-queue", {"name": OWN, "config": {"name": "other.taken"}}),
        ("/update-queue", {"name": FOREIGN, "config": {"name": "team.taken"}}),
        (f"/queues/{OWN}/dead-letters/requeue", {"all": True, "to": FOREIGN}),
        (f"/queues/{FOREIGN}/dead-letters/requeue", {"all": True, "to": OWN}),
    ],
)
def test_each_queue_of_several_needs_the_grant(target: str, body: dict[str, Any]) -> None:
    table = world(["admin:team.*"])
    before = told(table)
    reply = table.post(target, body)
    assert (reply.status, json.loads(reply.body)["code"]) == (403, "forbidden")
    assert told(table) == before


# Verifies: API-0137
def test_lists_show_the_queues_that_the_token_may_read() -> None:
    table = world(["read:team.*", "publish:other.*"])
    assert table.get("/queues") == [OWN, f"{OWN}-r"]
    stats = table.get("/stats")
    assert [each["name"] for each in stats["queues"]] == [OWN, f"{OWN}-r"]
    assert list(stats["summary"]["storage"]["hot_tier_sizes"]) == [OWN, f"{OWN}-r"]
    assert (stats["summary"]["total_queues"], stats["summary"]["total_messages"]) == (2, 2)
    listed = table.get("/queue-list")
    assert ([each["name"] for each in listed["queues"]], listed["totals"]["queues"]) == ([OWN, f"{OWN}-r"], 2)
    assert table.get(f"/queue-list?name={FOREIGN}")["queues"] == []
    table.principal = principal("publish:*")
    assert table.get("/queues") == []


def test_long_lists_that_show_little_still_let_others_run() -> None:
    table = world(["read:zz*"])
    for number in range(600):
        table.broker.publish(f"hidden{number:04}", 1, "p", 3, table.now)
    table.broker.publish("zz", 1, "p", 3, table.now)
    for path in ("/queues", "/stats", "/queue-list"):
        assert b"hidden" not in table.run("GET", path).body
        assert table.steps >= 2, path
    assert table.get("/queues") == ["zz"]


# Verifies: API-0137
@pytest.mark.parametrize("size", [1, 2 * LARGE_BYTES])
def test_a_publish_of_any_size_needs_its_grant(size: int) -> None:
    table = world(["publish:team.*"])
    before = told(table)
    message = {"priority": 1, "payload": "x" * size}
    assert table.post("/publish", {"queue": FOREIGN, **message}).status == 403
    assert told(table) == before
    assert table.post("/publish", {"queue": OWN, **message}).status == 200


# Verifies: API-0137
def test_an_unknown_name_tells_of_no_queue_that_the_token_may_not_know() -> None:
    table = world(["consume:team.*"])
    table.broker.catalog.refuses_unknown = True
    table.broker.catalog.create("team.jobx", next(iter(table.broker.catalog.by_name.values())).config)
    reply = json.loads(table.post("/consume/team.jobz", {"consumer_id": "c"}).body)
    assert reply["nearest"]
    assert all(name.startswith("team.") for name in reply["nearest"])
    table.principal = principal("consume:team.jobz")
    reply = json.loads(table.post("/consume/team.jobz", {"consumer_id": "c"}).body)
    assert reply == {"error": "Queue 'team.jobz' does not exist", "code": "queue_not_found"}


# Verifies: API-0138
def test_a_token_that_asks_for_too_much() -> None:
    table = world([])
    table.principal = principal("admin:*", limit=Limit(None, 3))
    batch = {"queue": OWN, "messages": [{"priority": 1, "payload": "p"}] * 5}
    assert table.post("/publish-batch", batch).status == 200
    reply = table.post("/publish", {"queue": OWN, "priority": 1, "payload": "p"})
    assert (reply.status, reply.retry_after, json.loads(reply.body)["code"]) == (429, 1, "rate_limited")
    # What settles a message is let through.
    assert table.post(f"/ack-batch/{OWN}", {"consumer_id": "c", "message_ids": ["x"]}).status == 200
    table.now += 1000
    assert table.post("/publish", {"queue": OWN, "priority": 1, "payload": "p"}).status == 200


# Verifies: API-0137
def test_what_is_kept_aside_is_there_for_whoever_manages_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    table = world(["manage:team.*"])
    monkeypatch.setattr(MemoryStorage, "persistent", True)
    kept = {name: table.broker.trash.delete(name, 600, table.now)[1] for name in (OWN, FOREIGN)}
    numbers = {name: queue.number for name, queue in kept.items() if queue is not None}
    assert [each["queue"] for each in table.get("/trash")["trash"]] == [OWN]
    for verb in ("restore", "erase"):
        assert table.post(f"/trash/{numbers[FOREIGN]}/{verb}").status == 404
    assert table.post(f"/trash/{numbers[OWN]}/restore?to=other.taken").status == 403
    assert table.post(f"/trash/{numbers[OWN]}/restore").status == 200
    # Its messages go back into a queue that is somebody else's by now.
    _, purged = table.broker.trash.purge(OWN, 600, table.now)
    assert purged is not None
    exhaust(table.broker.catalog.update(OWN, "other.renamed", None, table.now))
    assert table.post(f"/trash/{purged.number}/restore").status == 403
    assert table.post(f"/trash/{purged.number}/erase").status == 200


# Verifies: API-0138
def test_only_messages_count_against_the_limit_of_messages() -> None:
    """Other requests use nothing up, and give nothing back."""
    table = world([])
    table.principal = principal("admin:*", limit=Limit(None, 2))
    publish = {"queue": OWN, "priority": 1, "payload": "p"}
    for _ in range(5):
        nothing = table.post("/consume", {"consumer_id": "c", "queues": ["team.empty", "team.void"]})
        assert (nothing.status, nothing.body) == (200, b"null")
    assert [table.post("/publish", publish).status for _ in range(3)] == [200, 200, 429]
