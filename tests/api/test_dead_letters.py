"""Dead letters over the operation table: what is listed, read, requeued and purged, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.api import dead_letters as module
from qrusty_trio.api.paging import Cursor, Listed
from qrusty_trio.core.keys import lock_key
from qrusty_trio.core.model import U64_MAX
from tests.api.test_operations import WORKER, consume, publish, refusal, table
from tests.wire.table import Table

__all__ = ["table"]
PATH = "/queues/q/dead-letters"


def bury(table: Table, payload: str = "p", error: str | None = "it failed", queue: str = "q", **more: Any) -> str:
    """A message that died of a nack; nothing else may be available in its queue."""
    message_id = publish(table, queue, payload, max_retries=1, **more)
    assert consume(table, queue)["id"] == message_id
    assert table.post(f"/nack/{queue}/{message_id}", WORKER | {"error": error}).status == 200
    return message_id


def pages(table: Table, query: str = "") -> list[Any]:
    """All pages of a list."""
    found = [table.get(f"{PATH}?{query}")]
    while (cursor := found[-1]["cursor"]) is not None:
        found.append(table.get(f"{PATH}?{query}&cursor={cursor}"))
    return found


def ids_of(table: Table, query: str = "") -> list[str]:
    return [letter["id"] for page in pages(table, query) for letter in page["messages"]]


# Verifies: DLV-0045
def test_all_about_a_dead_letter(table: Table) -> None:
    published = table.now
    table.post("/create-queue", {"name": "q", "config": {"ordering": "MinFirst"}})
    reply = table.post("/publish", {"queue": "q", "priority": U64_MAX, "payload": "ü", "max_retries": 2})
    message_id = json.loads(reply.body)["id"]
    for _ in range(2):
        table.now += 5
        consume(table)
        table.post(f"/nack/q/{message_id}", WORKER | {"error": "ünable"})
    expected = {
        "id": message_id,
        "priority": U64_MAX,
        "priority_text": str(U64_MAX),
        "created_at": published,
        "died_at": published + 10,
        "reason": "nacked",
        "error": "ünable",
        "consumer": "w",
        "deliveries": 2,
        "max_retries": 2,
        "requeues": 0,
        "state": "dead",
        "payload": "ü",
    }
    assert table.get(PATH) == {
        "messages": [expected],
        "cursor": None,
        "looked_at": 1,
        "up_to": 1,
        "dead_letters": 1,
    }
    assert table.get(f"{PATH}/{message_id}") == expected
    requeued = json.loads(table.post(f"{PATH}/requeue", {"ids": [message_id]}).body)
    assert requeued == {
        "requeued": 1,
        "up_to": 1,
        "looked_at": 1,
        "not_found": [],
        "refused": 0,
        "not_eligible": [],
    }
    assert consume(table)["retry_count"] == 1
    assert refusal(table.run("GET", f"{PATH}/{message_id}")) == (404, "not_found")


# Verifies: DLV-0045
@pytest.mark.parametrize("path", ["/nack/q/{id}", "/nack-batch/q"])
@pytest.mark.parametrize(
    ("error", "shown"),
    [(None, None), ("", None), ("x", "x"), ("ü" * 512, "ü" * 512), ("x" * 1025, LookupError), ("ü" * 513, LookupError)],
)
def test_the_error_of_a_nack(table: Table, path: str, error: str | None, shown: Any) -> None:
    message_id = publish(table, max_retries=1)
    consume(table)
    body = WORKER | {"error": error} | ({"message_ids": [message_id]} if "batch" in path else {})
    reply = table.post(path.format(id=message_id), body)
    if shown is LookupError:
        assert refusal(reply) == (400, "limit_reached")
        assert "'error' must be at most 1024 bytes" in reply.body.decode()
        assert table.get("/queue-stats/q")["locked"] == 1
        return
    assert reply.status == 200
    assert table.get(f"{PATH}/{message_id}")["error"] == shown


@pytest.mark.parametrize("error", [5, True, ["x"], {}])
def test_an_error_of_the_wrong_type(table: Table, error: Any) -> None:
    message_id = publish(table, max_retries=1)
    consume(table)
    for path, more in ((f"/nack/q/{message_id}", {}), ("/nack-batch/q", {"message_ids": [message_id]})):
        reply = table.post(path, WORKER | more | {"error": error})
        assert refusal(reply) == (422, "wrong_shape")
        assert "'error' must be a string" in reply.body.decode()
    twice = b'{"consumer_id":"w","error":"x","error":"y"}'
    assert refusal(table.run("POST", f"/nack/q/{message_id}", twice)) == (422, "wrong_shape")
    assert table.get("/queue-stats/q")["locked"] == 1


def test_the_counts(table: Table) -> None:
    bury(table)
    bury(table, queue="r")
    bury(table, queue="r")
    assert table.get("/queue-stats/q")["dead_letters"] == 1
    assert table.get("/queue-stats/unknown")["dead_letters"] == 0
    stats = table.get("/stats")
    assert [queue["dead_letters"] for queue in stats["queues"]] == [1, 2]
    assert stats["summary"]["total_dead_letters"] == 3
    for _ in table.broker.catalog.sample(table.now):
        pass
    assert table.get("/queues/r/metrics")["points"][-1]["dead_letters"] == 2


# Verifies: DLV-0046
def test_pages(table: Table) -> None:
    ids = [bury(table, str(number)) for number in range(7)]
    for limit in (1, 2, 3, 7, 100):
        found = pages(table, f"limit={limit}")
        assert len(found) == -(-7 // limit)
        assert [letter["id"] for page in found for letter in page["messages"]] == ids
    first = table.get(f"{PATH}?limit=3")
    assert (first["up_to"], first["dead_letters"]) == (7, 7)
    # What comes and goes moves nothing.
    late = bury(table)
    table.post(f"{PATH}/purge", {"ids": ids[:5]})
    assert [letter["id"] for letter in table.get(f"{PATH}?cursor={first['cursor']}")["messages"]] == ids[5:]
    assert ids_of(table) == [*ids[5:], late]


# Verifies: DLV-0046
def test_a_page_is_bounded_by_its_size(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LIST_BYTES", 5_000)
    ids = [bury(table, "x" * 1_500) for _ in range(7)]
    ids.append(bury(table, "\0" * 15_000))
    found = pages(table)
    assert [len(page["messages"]) for page in found] == [2, 2, 2, 1, 1]
    assert [letter["id"] for page in found for letter in page["messages"]] == ids


# Verifies: DLV-0046
@pytest.mark.parametrize("over", [0, 1])
def test_a_page_has_its_size_to_the_byte(table: Table, monkeypatch: pytest.MonkeyPatch, over: int) -> None:
    ids = [bury(table, "x" * 1_500) for _ in range(3)]
    entries = json.loads(table.run("GET", PATH).body.decode())["messages"]
    octets = sum(len(json.dumps(entry, separators=(",", ":"))) for entry in entries)
    monkeypatch.setattr(module, "MAX_LIST_BYTES", octets - over)
    assert [letter["id"] for letter in table.get(PATH)["messages"]] == (ids[:2] if over else ids)


@pytest.mark.parametrize("character", ["ü", "\U0001f600", "\uffff"])
def test_a_large_payload_is_shown_in_part(table: Table, character: str) -> None:
    payload = "x" + character * module.MAX_SHOWN_BYTES
    bury(table, payload)
    bury(table, "y" * module.MAX_SHOWN_BYTES)
    part, whole = table.get(PATH)["messages"]
    assert part["payload_preview"] == payload[: module.PREVIEW_CHARACTERS]
    assert part["payload_bytes"] == len(payload.encode())
    assert "payload" not in part
    assert whole["payload"] == "y" * module.MAX_SHOWN_BYTES


def test_a_list_takes_so_many_steps_for_one_call(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is so many letters that were looked at, or a large one that is shown."""
    monkeypatch.setattr(module, "LIST_STEPS", 3)
    monkeypatch.setattr(module, "READ_PER_STEP", 4)
    for _ in range(20):
        bury(table, "hay")
    assert [page["looked_at"] for page in pages(table, "text=needle")] == [12, 8]
    table.post(f"{PATH}/purge", {"all": True})
    for _ in range(8):
        bury(table, "needle")
    monkeypatch.setattr(module, "STEP_BYTES", 1)
    assert [len(page["messages"]) for page in pages(table, "text=needle")] == [4, 4]


def test_a_filtered_list_does_so_much_for_one_call(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AT", 20)
    monkeypatch.setattr(module, "READ_PER_STEP", 10)
    ids = [bury(table, "needle" if number in (25, 30) else "hay") for number in range(45)]
    found = pages(table, "text=needle")
    assert [page["looked_at"] for page in found] == [20, 20, 5]
    assert [letter["id"] for page in found for letter in page["messages"]] == [ids[25], ids[30]]
    assert table.steps >= 1


# Verifies: DLV-0046
def test_filters_of_the_query(table: Table) -> None:
    nacked = bury(table, "a", "100% ünable")
    table.now += 10_000
    expired = publish(table, payload="b", max_retries=1)
    consume(table, consumer_id="other", timeout_seconds=0)
    table.broker.expire(table.now, 10)
    assert ids_of(table, "reason=nacked") == [nacked]
    assert ids_of(table, "reason=expired") == [expired]
    assert ids_of(table, "reason=unknown") == []
    assert ids_of(table, "consumer=other") == [expired]
    assert ids_of(table, "consumer=w&reason=nacked") == [nacked]
    assert ids_of(table, "older_than_secs=10") == [nacked]
    assert ids_of(table, "older_than_secs=11") == []
    assert ids_of(table, "text=100%25+%C3%BC") == [nacked]
    assert ids_of(table, "text=b") == [nacked, expired]  # one in its error
    table.now += 999
    assert ids_of(table, "older_than_secs=11") == []
    table.now += 1
    assert ids_of(table, "older_than_secs=11") == [nacked]


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "limit=1&limit=2", "limit=1e1"),
        *("cursor=", "cursor=x", "cursor=AQMAAAABAAAAAAAAAAEAAA", "cursor=%00"),
        *("reason=", "reason=NACKED", "reason=other", "reason=nacked&reason=nacked"),
        *("older_than_secs=-1", "older_than_secs=1.5", "older_than_secs=NaN", "older_than_secs=4294967296"),
        *("text=", "text=%FF", f"text={'x' * 1025}", f"consumer={'x' * 1025}"),
    ],
)
def test_a_query_that_is_refused(table: Table, query: str) -> None:
    bury(table)
    reply = table.run("GET", f"{PATH}?{query}")
    assert refusal(reply) == (400, "bad_request")
    assert f"'{query.partition('=')[0]}'" in json.loads(reply.body)["error"]


def test_a_cursor_of_another_queue_or_from_before_a_purge(table: Table) -> None:
    for queue in "qr":
        for _ in range(3):
            bury(table, queue=queue)
    cursor = table.get(f"{PATH}?limit=1")["cursor"]
    assert b"another list" in table.run("GET", f"/queues/r/dead-letters?cursor={cursor}").body
    table.post(f"{PATH}/purge", {"all": True})
    assert b"before the queue was purged" in table.run("GET", f"{PATH}?cursor={cursor}").body
    for _ in range(3):
        bury(table)
    cursor = table.get(f"{PATH}?limit=1")["cursor"]
    assert len(table.get(f"{PATH}?cursor={cursor}")["messages"]) == 2


@pytest.mark.parametrize("leave", ["purge", "requeue"])
def test_a_list_that_was_emptied_has_no_further_page(table: Table, leave: str) -> None:
    for _ in range(3):
        bury(table)
    table.post(f"{PATH}/{leave}", {"all": True})
    assert [(page["messages"], page["cursor"]) for page in pages(table)] == [([], None)]


def test_a_cursor_that_is_ahead_hides_no_letter(table: Table) -> None:
    bury(table)
    table.post(f"{PATH}/purge", {"all": True})
    queue = table.broker.catalog.by_name["q"]
    cursor = Cursor(Listed.DEAD, queue.number, U64_MAX, lock_key(queue.number, 0)).text()
    assert refusal(table.run("GET", f"{PATH}?cursor={cursor}")) == (400, "bad_request")
    ids = [bury(table), bury(table)]
    assert ids_of(table) == ids


def test_large_payloads_are_previewed(table: Table) -> None:
    message_id = bury(table, "ü" * 8_193)
    (letter,) = table.get(PATH)["messages"]
    assert letter["payload_preview"] == "ü" * 1024
    assert letter["payload_bytes"] == 16_386
    assert "payload" not in letter
    assert table.get(f"{PATH}/{message_id}")["payload"] == "ü" * 8_193
    shown = bury(table, "x" * 16_384)
    assert table.get(f"{PATH}?limit=2")["messages"][1] == table.get(f"{PATH}/{shown}")


def test_unknown_queues_and_ids(table: Table) -> None:
    for method, target, body in (
        ("GET", PATH, None),
        ("GET", f"{PATH}/x", None),
        ("POST", f"{PATH}/requeue", {"all": True}),
        ("POST", f"{PATH}/purge", {"all": True}),
    ):
        reply = table.post(target, body) if method == "POST" else table.run("GET", target)
        assert refusal(reply) == (404, "queue_not_found")
    bury(table)
    for unknown in ("x", "%00", "i" * 36, "ü" * 36, "0" * 3000):
        assert refusal(table.run("GET", f"{PATH}/{unknown}".encode())) in ((404, "not_found"), (400, "bad_request"))
    reply = table.post(f"{PATH}/requeue", {"all": True, "to": "nowhere"})
    assert refusal(reply) == (404, "queue_not_found")
    assert table.get("/queue-stats/q")["dead_letters"] == 1


REQUEUE_ONLY: list[tuple[Any, str]] = [
    ({"all": True, "to": 5}, "'to' must be a string"),
    ({"all": True, "priority": -1}, "'priority' must be an integer from 0"),
    ({"all": True, "priority": 1.5}, "'priority' must be an integer from 0"),
    ({"all": True, "priority": U64_MAX + 1}, "'priority' must be an integer from 0"),
    ({"all": True, "priority": True}, "'priority' must be an integer from 0"),
    ({"all": True, "to": "text"}, "'priority' is missing: it must be a string, because 'text' has another kind"),
]
EITHER: list[tuple[Any, str]] = [
    ({}, "exactly one of 'ids', 'filter' and 'all' must be given: none was given"),
    ({"ids": [], "all": True}, "'ids' and 'all' were given"),
    ({"ids": [], "filter": {"text": "x"}, "all": True}, "'ids' and 'filter' and 'all' were given"),
    ({"all": False}, "'all' must be true"),
    ({"all": 1}, "'all' must be true"),
    ({"all": None}, "none was given"),
    ({"ids": "x"}, "'ids' must be a list of strings"),
    ({"ids": [5]}, "'ids' must be a list of strings"),
    ({"filter": {}}, "'filter' must have at least one of"),
    ({"filter": {"reason": None}}, "'filter' must have at least one of"),
    ({"filter": []}, "'filter' must be an object"),
    ({"filter": {"reason": "x"}}, "'filter.reason' must be one of unknown, nacked, expired, connection_lost"),
    ({"filter": {"reason": 5}}, "'filter.reason' must be one of"),
    ({"filter": {"reson": "nacked"}}, "'filter.reson' is no field of this request"),
    ({"filter": {"text": ""}}, "'filter.text' must be a string of 1 to 1024 bytes"),
    ({"filter": {"text": "x" * 1025}}, "'filter.text' must be"),
    ({"filter": {"consumer": "ü" * 513}}, "'filter.consumer' must be"),
    ({"filter": {"older_than_secs": -1}}, "'filter.older_than_secs' must be an integer from 0"),
    ({"filter": {"older_than_secs": 2**32}}, "'filter.older_than_secs' must be an integer from 0"),
    ({"filter": {"older_than_secs": "1"}}, "'filter.older_than_secs' must be an integer from 0"),
    ({"all": True, "up_to": -1}, "'up_to' must be an integer from 0"),
    ({"all": True, "up_to": 2**64}, "'up_to' must be an integer from 0"),
    ({"all": True, "up_to": 1.0}, "'up_to' must be an integer from 0"),
    ({"all": True, "upto": 1}, "'upto' is no field of this request"),
    ({"all": True, "dry_run": 0}, "'dry_run' must be true or false"),
    ([], "the body must be a JSON object"),
]


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [(path, body, sentence) for path in ("requeue", "purge") for body, sentence in EITHER]
    + [("requeue", body, sentence) for body, sentence in REQUEUE_ONLY]
    + [("purge", {"all": True, "to": "q"}, "'to' is no field of this request")],
)
def test_a_body_that_is_refused(table: Table, path: str, body: Any, sentence: str) -> None:
    bury(table)
    table.post("/create-queue", {"name": "text", "config": {"ordering": "Fifo", "priority_kind": "Text"}})
    reply = table.post(f"{PATH}/{path}", body)
    assert refusal(reply) == (422, "wrong_shape")
    assert sentence in json.loads(reply.body)["error"]
    assert table.get("/queue-stats/q")["dead_letters"] == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"all":NaN}', 400),
        (b'{"all":true,"all":true}', 422),
        (b'{"filter":{"text":"a","text":"b"}}', 422),
        (b'{"all":true,"priority":"x"}', 400),
        (b'{"ids":[' + b'"",' * 50_000 + b'""]}', 400),
    ],
)
def test_a_body_that_is_no_json_or_says_something_twice(table: Table, body: bytes, status: int) -> None:
    bury(table)
    assert refusal(table.run("POST", f"{PATH}/requeue", body))[0] == status
    assert table.get("/queue-stats/q")["dead_letters"] == 1


def test_a_dry_run_and_what_it_showed(table: Table) -> None:
    ids = [bury(table, str(number)) for number in range(12)]
    dry = json.loads(table.post(f"{PATH}/requeue", {"all": True, "dry_run": True}).body)
    assert (dry["requeued"], dry["dry_run"], dry["count"], dry["up_to"]) == (0, True, 12, 12)
    assert dry["samples"] == table.get(f"{PATH}?limit=10")["messages"]
    late = bury(table)
    assert json.loads(table.post(f"{PATH}/purge", {"all": True, "up_to": dry["up_to"]}).body)["purged"] == 12
    assert ids_of(table) == [late]
    assert len(ids) == 12


def test_what_can_not_be_requeued_is_told(table: Table) -> None:
    table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo", "allow_duplicates": False}})
    message_id = bury(table, "same")
    publish(table, payload="same")
    for dry_run in (True, False):
        body = {"filter": {"reason": "nacked"}, "dry_run": dry_run}
        response = json.loads(table.post(f"{PATH}/requeue", body).body)
        assert (response["requeued"], response["refused"]) == (0, 1)
        (refused,) = response["not_eligible"]
        assert (refused["id"], refused["code"]) == (message_id, "duplicate_payload")
    assert ids_of(table) == [message_id]


# Verifies: DLV-0049
def test_many_go_in_steps(table: Table) -> None:
    for _ in range(200):
        bury(table)
    response = json.loads(table.post(f"{PATH}/requeue", {"filter": {"consumer": "w"}}).body)
    assert (response["requeued"], response["looked_at"]) == (200, 200)
    assert table.steps >= 4
    assert table.get("/queue-stats/q")["available"] == 200


# Retention


# Verifies: DLV-0050
def test_retention_is_configured(table: Table) -> None:
    table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo", "dead_letter_max": 5}})
    assert table.get("/queue-stats/q")["config"] == {
        "ordering": "Fifo",
        "allow_duplicates": True,
        "priority_kind": "Numeric",
        "dead_letter_max": 5,
    }
    for change, shown in (
        ({"dead_letter_ttl_seconds": 60}, {"dead_letter_max": 5, "dead_letter_ttl_seconds": 60}),
        ({"allow_duplicates": True}, {"dead_letter_max": 5, "dead_letter_ttl_seconds": 60}),
        ({"dead_letter_max": None}, {"dead_letter_ttl_seconds": 60}),
        ({"dead_letter_ttl_seconds": None}, {}),
    ):
        assert table.post("/update-queue", {"name": "q", "config": change}).status == 200
        config = table.get("/queue-stats/q")["config"]
        assert {name: value for name, value in config.items() if name.startswith("dead")} == shown


@pytest.mark.parametrize("field", ["dead_letter_ttl_seconds", "dead_letter_max"])
@pytest.mark.parametrize("value", [0, -1, 2**32, 1.5, "1", True, [], 10**30])
def test_a_retention_that_is_refused(table: Table, field: str, value: Any) -> None:
    new = table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo", field: value}})
    assert refusal(new) == (422, "wrong_shape")
    assert f"'config.{field}' must be an integer from 1 to" in json.loads(new.body)["error"]
    assert table.get("/queues") == []
    table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo"}})
    changed = table.post("/update-queue", {"name": "q", "config": {"name": "r", field: value}})
    assert refusal(changed) == (422, "wrong_shape")
    assert table.get("/queues") == ["q"]
