"""The audit trail: what a record says, what is kept, and `GET /audit` page by page. Without a file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.access.grants import Granted, Principal
from qrusty_trio.api import auditing
from qrusty_trio.api.auditing import AUDITED, Actor, AuditTrail, Kept, Outcome
from qrusty_trio.api.call import Call, Reply, Wait
from qrusty_trio.api.identity import Identity
from qrusty_trio.api.operations import OPERATIONS, resolve
from tests.api.test_browsing import WORKER, consume, publish
from tests.wire.table import Table

BY_NAME = {each.name: each for each in OPERATIONS}
TIME = "2031-05-04T03:02:01.006Z"
ACTOR = Actor("orders", "192.0.2.1:5")
UNRECORDED = {
    "publish", "publish_batch", "consume", "consume_from", "consume_batch", "ack", "nack", "ack_batch", "nack_batch",
    "renew", "renew_batch",
}  # fmt: skip
"""Changes that are the work of the queues itself."""


class File:
    """Stands for the file: what would be written."""

    def __init__(self, *earlier: Kept) -> None:
        self.earlier = list(earlier)
        self.lost = 0
        self.failing = False
        self.records: list[dict[str, Any]] = []

    def put(self, record: Kept) -> None:
        self.records.append(json.loads(record.line))


def purge(queue: str = "q") -> Call:
    return Call(BY_NAME["purge_queue"], (queue,))


# Verifies: API-0165
def test_every_change_is_recorded_or_is_the_work_of_the_queues() -> None:
    assert {each.name for each in OPERATIONS if each.mutating} == AUDITED | UNRECORDED
    assert not AUDITED & UNRECORDED


# Verifies: API-0165
def test_a_record() -> None:
    file = File()
    trail = AuditTrail(file)
    body = b'{ "name": "jobs",\n "config": {"name": "new"}}'
    trail.add(TIME, ACTOR, Call(BY_NAME["update_queue"], body=body, identity=Identity(b"r1")), Reply(200))
    trail.add(TIME, ACTOR, purge(), Reply(200, b'{"purged_messages":3}'))
    trail.add(TIME, ACTOR, Call(BY_NAME["delete_all"]), None, Outcome.INTERRUPTED)
    assert file.records[0] == {
        "number": 1,
        "time": TIME,
        "who": "orders",
        "peer": "192.0.2.1:5",
        "request_id": "r1",
        "operation": "update_queue",
        "queue": "jobs",
        "request": {"name": "jobs", "config": {"name": "new"}},
        "response": None,
        "outcome": "done",
    }
    second, third = file.records[1:]
    assert (second["queue"], second["request"], second["response"]) == ("q", None, {"purged_messages": 3})
    assert (third["number"], third["queue"], third["outcome"]) == (3, None, "interrupted")


# Verifies: API-0165
@pytest.mark.parametrize("body", [b'{"ids":["%b"]}' % (b"x" * 3000), b"\xff"])
def test_a_long_or_odd_body_is_recorded_by_its_size(body: bytes) -> None:
    file = File()
    AuditTrail(file).add(TIME, ACTOR, Call(BY_NAME["force_unlock"], ("q",), body), Reply(200))
    (record,) = file.records
    assert record["request"] == {"bytes": len(body)}


# Verifies: API-0166
def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "MAX_RECORDS", 3)
    trail = AuditTrail(File())
    for _ in range(5):
        trail.add(TIME, ACTOR, purge(), Reply())
    lines, further = trail.page(100, 10)
    assert ([json.loads(line)["number"] for line in lines], further) == ([5, 4, 3], None)
    size = sum(map(len, lines))
    for most, count in ((size, 3), (size - 1, 2), (1, 1)):
        monkeypatch.setattr(auditing, "MAX_KEPT_BYTES", most)
        trail.add(TIME, ACTOR, purge(), Reply())
        assert len(trail.page(100, 10)[0]) == count, "the newest stays"


def asked(table: Table, query: str = "") -> Any:
    reply = table.run("GET", "/audit" + query)
    return reply.status, json.loads(reply.body)


# Verifies: API-0166
def test_pages() -> None:
    table = Table()
    assert asked(table) == (200, {"enabled": False, "records": [], "cursor": None, "lost": 0, "failing": False})
    file = File(*(Kept(number, b'{"number":%d}' % number) for number in (3, 4, 7)))
    trail = table.services.audit = AuditTrail(file)
    trail.add(TIME, ACTOR, purge(), Reply())
    file.lost, file.failing = 2, True
    status, page = asked(table, "?limit=3")
    assert (status, page["enabled"], page["lost"], page["failing"]) == (200, True, 2, True)
    assert ([each["number"] for each in page["records"]], page["cursor"]) == ([8, 7, 4], "4")
    _, rest = asked(table, f"?cursor={page['cursor']}")
    assert ([each["number"] for each in rest["records"]], rest["cursor"]) == ([3], None)
    assert asked(table, "?limit=4")[1]["cursor"] is None
    assert asked(table, "?limit=3&cursor=" + "9" * 16) == (status, page), "ahead of all of them"


# Verifies: API-0166
@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=101", "?limit=x", "?cursor=x", "?cursor=-1", "?cursor=" + "9" * 17]
)
def test_a_query_that_is_not_allowed(query: str) -> None:
    status, body = asked(Table(), query)
    assert (status, body["code"]) == (400, "bad_request")


# Verifies: API-0166
def test_only_admins_read_it() -> None:
    table = Table()
    table.services.guarded = True
    for granted, status in [("admin:*", 200), ("admin:orders*", 403), ("manage:*", 403)]:
        table.principal = Principal("t", (Granted.read(granted),))
        assert asked(table)[0] == status


# Verifies: API-0199
@pytest.mark.parametrize("verb", ["requeue", "purge"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_how_much_is_done_so_far_of_dead_letters(verb: str, dry_run: bool) -> None:
    table = Table()
    for number in range(3):
        publish(table, payload=str(number), max_retries=1)
        table.post(f"/nack/q/{consume(table)['id']}", WORKER)
    operation, params = resolve("POST", f"/queues/q/dead-letters/{verb}".encode())
    call = Call(operation, params, json.dumps({"all": True, "dry_run": dry_run}).encode())
    steps = operation.function(table.services, call, table.now)
    assert not isinstance(steps, Reply | Wait)
    for _ in steps:
        pass
    assert call.done is not None
    assert call.done() == {f"{verb}d": 0 if dry_run else 3}
