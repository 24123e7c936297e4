"""Renewing, ending and listing locks."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from qrusty_trio.api.locking import BATCH_PIECE, LOOKED_AT_PIECE
from qrusty_trio.core import browsing
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.model import MAX_BATCH_IDS, MAX_LOCK_SECONDS, U64_MAX, WS_CONSUMER_PREFIX
from qrusty_trio.core.queue import Lock
from tests.wire.table import Table

WORKER = {"consumer_id": "w"}
OTHER = {"consumer_id": "other"}


@pytest.fixture
def table() -> Table:
    return Table()


def publish(table: Table, count: int = 1, queue: str = "q", **fields: Any) -> list[str]:
    bodies = [{"queue": queue, "priority": 1, "payload": str(number), **fields} for number in range(count)]
    return [json.loads(table.post("/publish", body).body)["id"] for body in bodies]


def locked(table: Table, count: int = 1, body: dict[str, Any] = WORKER, **fields: Any) -> list[str]:
    """The ids of new messages, in the order in which they were locked."""
    publish(table, count, **fields)
    path = f"/consume/{fields.get('queue', 'q')}"
    return [json.loads(table.post(path, body).body)["id"] for _ in range(count)]


def locks(table: Table, **query: Any) -> tuple[list[dict[str, Any]], str | None]:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    response = table.get(f"/queues/q/locks?{text}")
    assert response.keys() == {"locks", "cursor"}
    return response["locks"], response["cursor"]


def all_locks(table: Table, **query: Any) -> list[str]:
    found, cursor = locks(table, **query)
    ids = [lock["id"] for lock in found]
    while cursor is not None:
        found, cursor = locks(table, cursor=cursor, **query)
        ids += [lock["id"] for lock in found]
    return ids


def refusal(reply: Any) -> tuple[int, str, str]:
    response = json.loads(reply.body)
    assert not reply.needs_sync
    return reply.status, response["code"], response["error"]


# Renew


# Verifies: DLV-0041
def test_renew(table: Table) -> None:
    (message_id,) = locked(table)
    table.now += 20_000
    reply = table.post(f"/renew/q/{message_id}", WORKER)
    assert (json.loads(reply.body), reply.needs_sync) == ({"lock_until": table.now + 30_000}, False)
    reply = table.post(f"/renew/q/{message_id}", WORKER | {"timeout_seconds": 5})
    assert json.loads(reply.body) == {"lock_until": table.now + 5_000}
    assert locks(table)[0][0]["lock_until"] == table.now + 5_000
    reply = table.post(f"/renew/q/{message_id}", WORKER | {"timeout_seconds": U64_MAX})
    assert json.loads(reply.body) == {"lock_until": table.now + MAX_LOCK_SECONDS * 1000}
    table.post(f"/renew/q/{message_id}", WORKER | {"timeout_seconds": 0})
    assert table.broker.expire(table.now, 10) == 1
    assert refusal(table.post(f"/renew/q/{message_id}", WORKER))[:2] == (404, "message_not_locked")


# Verifies: DLV-0041
def test_only_who_holds_a_message_can_renew_it(table: Table) -> None:
    (message_id,) = locked(table)
    before = locks(table)
    for path, body in (
        (f"/renew/q/{message_id}", OTHER),
        (f"/renew/other/{message_id}", WORKER),
        ("/renew/q/unknown", WORKER),
    ):
        assert refusal(table.post(path, body))[:2] == (404, "message_not_locked")
    reply = table.post("/renew-batch/q", OTHER | {"message_ids": [message_id]})
    assert json.loads(reply.body) == {"renewed": [], "not_found": [message_id]}
    assert locks(table) == before


# Verifies: DLV-0041
def test_renew_in_a_batch(table: Table) -> None:
    ids = locked(table, 2 * BATCH_PIECE + 1)
    table.now += 10_000
    reply = table.post("/renew-batch/q", WORKER | {"message_ids": [*ids, "x", ids[0]], "timeout_seconds": 7})
    assert table.steps == 2
    assert json.loads(reply.body) == {"renewed": [*ids, ids[0]], "not_found": ["x"]}
    assert {lock["lock_until"] for lock in locks(table, limit=100)[0]} == {table.now + 7_000}
    table.post("/renew-batch/q", WORKER | {"message_ids": ids[:1]})
    assert locks(table, limit=1)[0][0]["lock_until"] == table.now + 30_000
    unknown = table.post("/renew-batch/unknown", WORKER | {"message_ids": ids[:2]})
    assert json.loads(unknown.body) == {"renewed": [], "not_found": ids[:2]}


# Force-unlock


# Verifies: DLV-0042
@pytest.mark.parametrize("body", [{"all": True}, WORKER, None])
def test_what_is_unlocked_is_back_in_its_place_and_does_not_count(table: Table, body: Any) -> None:
    ids = locked(table, 3 * BATCH_PIECE, max_retries=1)
    more = publish(table)
    reply = table.post("/force-unlock/q", body or {"ids": [*ids, "unknown", ids[0]]})
    assert (json.loads(reply.body), reply.needs_sync) == ({"unlocked": len(ids)}, True)
    assert table.steps >= 3
    assert locks(table) == ([], None)
    assert refusal(table.post(f"/ack/q/{ids[0]}", WORKER))[:2] == (404, "message_not_locked")
    again = [json.loads(table.post("/consume/q", OTHER).body) for _ in range(len(ids) + 1)]
    assert [each["id"] for each in again] == ids + more
    assert {each["retry_count"] for each in again} == {1}


# Verifies: DLV-0042
def test_only_the_locks_that_were_meant_end(table: Table) -> None:
    mine, theirs = locked(table, 2), locked(table, 2, OTHER)
    elsewhere = locked(table, 1, queue="other")
    nothing: list[dict[str, Any]] = [{"ids": [*elsewhere, "x"]}, {"ids": []}, {"consumer_id": "nobody"}]
    for body in nothing:
        reply = table.post("/force-unlock/q", body)
        assert (json.loads(reply.body), reply.needs_sync) == ({"unlocked": 0}, False)
    assert json.loads(table.post("/force-unlock/q", {"ids": theirs[:1]}).body) == {"unlocked": 1}
    assert all_locks(table) == [*mine, theirs[1]]
    assert json.loads(table.post("/force-unlock/q", WORKER).body) == {"unlocked": 2}
    assert all_locks(table) == [theirs[1]]
    assert table.get("/queue-stats/other")["locked"] == 1


def test_a_websocket_is_unlocked_under_the_name_that_is_shown(table: Table) -> None:
    publish(table, 2)
    name = WS_CONSUMER_PREFIX + "0b9a3b6e-6c0e-4a0e-9d5a-1d2c3b4a5f60"
    ids = [delivery.id for _ in range(2) if (delivery := table.broker.consume("q", name, 30, table.now)) is not None]
    shown = locks(table)[0][0]["consumer"]
    assert shown == name[1:]
    assert all_locks(table, consumer=shown) == ids
    assert refusal(table.post(f"/renew/q/{ids[0]}", {"consumer_id": shown}))[0] == 404
    assert json.loads(table.post("/force-unlock/q", {"consumer_id": shown}).body) == {"unlocked": 2}
    assert table.broker.held(name, ids[0]) is None


# Verifies: DLV-0042
def test_locks_made_meanwhile_stay(table: Table) -> None:
    """A subscriber that waits gets the message at once; that lock must not end, too."""
    ids = locked(table, 3 * BATCH_PIECE)
    seen = 0
    commit = table.broker.commit

    def take_again() -> None:
        nonlocal seen
        while table.broker.consume("q", "again", 30, table.now) is not None:
            seen += 1
        commit()

    table.broker.commit = take_again  # type: ignore[method-assign]  # between two steps, as the dispatcher would
    assert json.loads(table.post("/force-unlock/q", {"all": True}).body) == {"unlocked": len(ids)}
    assert seen == len(ids)
    assert {lock["consumer"] for lock in locks(table, limit=100)[0]} == {"again"}


# Verifies: DLV-0042
def test_a_message_that_is_locked_meanwhile_stays_so_although_it_is_named(table: Table) -> None:
    ids = locked(table, BATCH_PIECE)
    late = json.loads(table.post("/publish", {"queue": "q", "priority": 0, "payload": "p"}).body)["id"]
    commit = table.broker.commit

    def take() -> None:
        while late not in {lock.id for lock in table.broker.catalog.by_name["q"].locks}:
            assert table.broker.consume("q", "again", 30, table.now) is not None
        commit()

    table.broker.commit = take  # type: ignore[method-assign]  # between two steps
    assert json.loads(table.post("/force-unlock/q", {"ids": ["unknown", *ids, late]}).body) == {"unlocked": len(ids)}
    assert late in {lock["id"] for lock in locks(table, limit=100)[0]}


@pytest.mark.parametrize("clear", ["/purge-queue/q", "/delete-queue/q"])
def test_a_queue_that_is_emptied_meanwhile(table: Table, clear: str) -> None:
    ids = locked(table, 3 * BATCH_PIECE)
    commit = table.broker.commit

    def purge() -> None:
        (table.broker.catalog.delete if "delete" in clear else table.broker.catalog.purge)("q")
        commit()

    table.broker.commit = purge  # type: ignore[method-assign]  # between two steps
    reply = table.post("/force-unlock/q", {"ids": ids})
    assert json.loads(reply.body) == {"unlocked": BATCH_PIECE}


def test_many_unknown_ids_take_steps(table: Table) -> None:
    locked(table)
    table.post("/force-unlock/q", {"ids": ["x"] * (3 * LOOKED_AT_PIECE)})
    assert table.steps == 3


# The list


# Verifies: DLV-0043
def test_what_is_listed(table: Table) -> None:
    (first,) = locked(table, priority=2**63 + 1)
    table.now += 5
    (second,) = locked(table, body=OTHER | {"timeout_seconds": 9})
    table.post(f"/nack/q/{second}", OTHER)
    table.post("/consume/q", OTHER | {"timeout_seconds": 9})
    assert locks(table) == (
        [
            {
                "id": first,
                "consumer": "w",
                "locked_since": table.now - 5,
                "lock_until": table.now - 5 + 30_000,
                "deliveries": 1,
                "priority": 2**63 + 1,
                "priority_text": str(2**63 + 1),
            },
            {
                "id": second,
                "consumer": "other",
                "locked_since": table.now,
                "lock_until": table.now + 9_000,
                "deliveries": 2,
                "priority": 1,
                "priority_text": "1",
            },
        ],
        None,
    )
    again = Table(table.broker.journal.storage)
    assert [lock["locked_since"] for lock in locks(again)[0]] == [None, None]
    assert all_locks(again) == [first, second]


def test_text_priorities(table: Table) -> None:
    table.post("/create-queue", {"name": "q", "config": {"ordering": "MinFirst", "priority_kind": "Text"}})
    locked(table, priority="é\0")
    assert [(lock["priority"], lock["priority_text"]) for lock in locks(table)[0]] == [("é\0", "é\0")]


# Verifies: DLV-0043
@pytest.mark.parametrize("few", [browsing.FEW_LOCKS, 0])
@pytest.mark.parametrize("octets", [browsing.READ_BYTES, 500])
def test_pages(table: Table, few: int, octets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From memory and from the store, with gaps, while locks come and go."""
    monkeypatch.setattr(browsing, "FEW_LOCKS", few)
    monkeypatch.setattr(browsing, "READ_BYTES", octets)
    monkeypatch.setattr(browsing, "LOCKS_PER_STEP", 7)
    monkeypatch.setattr(browsing, "LOCK_NUMBERS_PER_STEP", 13)
    monkeypatch.setattr(browsing, "LOCK_STEPS_PER_PAGE", 3)
    ids = [locked(table, 1, WORKER if number % 3 else OTHER)[0] for number in range(200)]
    dice = random.Random(few)
    for message_id in dice.sample(ids, 120):
        table.post(f"/ack/q/{message_id}", WORKER)
        table.post(f"/ack/q/{message_id}", OTHER)
    there = sorted(table.broker.catalog.by_name["q"].locks, key=lambda lock: lock.number)
    left = [lock.id for lock in there]
    assert all_locks(table) == all_locks(table, limit=1) == all_locks(table, limit=100) == left
    assert all_locks(table, consumer="w", limit=3) == [lock.id for lock in there if lock.consumer == "w"]
    assert all_locks(table, consumer="nobody") == []
    page, cursor = locks(table, limit=5)
    gone = page[-1]["id"]
    table.post("/force-unlock/q", {"ids": [gone, left[6]]})
    new = locked(table)
    rest = []
    while cursor is not None:
        page, cursor = locks(table, limit=100, cursor=cursor)
        rest += [lock["id"] for lock in page]
    assert rest == [*left[5:6], *left[7:], *new]


# Verifies: DLV-0043
def test_a_message_that_is_locked_anew_meanwhile_is_listed_once(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "FEW_LOCKS", 0)
    monkeypatch.setattr(browsing, "LOCK_NUMBERS_PER_STEP", 2)
    ids = [locked(table)[0] for _ in range(6)]
    queue = table.broker.catalog.by_name["q"]
    steps = browsing.lock_page(table.broker.journal, queue, None, -1, 100)
    next(steps)
    table.post(f"/nack/q/{ids[0]}", WORKER)
    table.post("/consume/q", OTHER)
    page: list[Lock] = []
    while not page:
        try:
            next(steps)
        except StopIteration as end:
            page = end.value.locks
    assert [lock.id for lock in page] == [*ids[1:], ids[0]]
    assert page[-1].consumer == "other"


# Verifies: DLV-0044
def test_a_step_looks_at_so_many_lock_numbers(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few locks are left between them: what was removed is read over, too."""
    monkeypatch.setattr(browsing, "FEW_LOCKS", 0)
    monkeypatch.setattr(browsing, "LOCK_NUMBERS_PER_STEP", 13)
    for _ in range(40):
        locked(table)
    spans = []
    scan = Journal.scan

    def watched(journal: Journal, family: Any, begin: bytes, end: bytes, *limits: int) -> list[tuple[bytes, bytes]]:
        spans.append(int.from_bytes(end[4:], "big") - int.from_bytes(begin[4:], "big"))
        return scan(journal, family, begin, end, *limits)

    monkeypatch.setattr(Journal, "scan", watched)
    assert len(all_locks(table, limit=100)) == 40
    assert max(spans) == 13
    assert sum(spans) == 40


# Verifies: DLV-0044
def test_a_page_ends_after_some_steps(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "FEW_LOCKS", 0)
    monkeypatch.setattr(browsing, "LOCKS_PER_STEP", 2)
    monkeypatch.setattr(browsing, "LOCK_STEPS_PER_PAGE", 2)
    ids = locked(table, 10)
    page, cursor = locks(table)
    assert [lock["id"] for lock in page] == ids[:4]
    assert table.steps == 2
    assert cursor is not None


# Verifies: DLV-0043
@pytest.mark.parametrize("few", [browsing.FEW_LOCKS, 0])
def test_cursors(table: Table, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "FEW_LOCKS", few)
    locked(table, 3)
    locked(table, 3, queue="other")
    _, cursor = locks(table, limit=1)
    other = table.get("/queues/other/locks?limit=1")["cursor"]
    assert len(locks(table, cursor=cursor)[0]) == 2
    for wrong in (other, "", "x", f"{cursor}A", str(cursor)[:-1], "%00"):
        reply = table.run("GET", f"/queues/q/locks?cursor={wrong}")
        assert refusal(reply)[:2] == (400, "bad_request"), wrong
        assert "'cursor'" in refusal(reply)[2]
    table.post("/purge-queue/q")
    assert "purged" in refusal(table.run("GET", f"/queues/q/locks?cursor={cursor}"))[2]
    locked(table, 2)
    _, cursor = locks(table, limit=1)
    assert len(locks(table, cursor=cursor)[0]) == 1


def test_a_cursor_from_before_a_purge_that_nothing_followed(table: Table) -> None:
    locked(table, 2)
    _, cursor = locks(table, limit=1)
    table.post("/purge-queue/q")
    assert refusal(table.run("GET", f"/queues/q/locks?cursor={cursor}"))[0] == 400


# Verifies: DLV-0044
@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=-1", "limit=1e1", "limit=x", "limit=", "limit=1&limit=1", "cursor=&cursor="],
)
def test_queries_that_are_refused(table: Table, query: str) -> None:
    locked(table)
    status, code, sentence = refusal(table.run("GET", f"/queues/q/locks?{query}"))
    assert (status, code) == (400, "bad_request")
    assert query.partition("=")[0] in sentence


def test_a_queue_that_does_not_exist(table: Table) -> None:
    for reply in (table.run("GET", "/queues/q/locks"), table.post("/force-unlock/q", {"all": True})):
        assert refusal(reply)[:2] == (404, "queue_not_found")


# Bodies


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/renew/q/i", {}, 422, "'consumer_id' is missing"),
        ("/renew/q/i", {"consumer_id": None}, 422, "'consumer_id' must be a string"),
        ("/renew/q/i", WORKER | {"timeout_seconds": -1}, 422, "'timeout_seconds' must be an integer from 0"),
        ("/renew/q/i", WORKER | {"timeout_seconds": 1.5}, 422, "'timeout_seconds' must be an integer from 0"),
        ("/renew/q/i", WORKER | {"timeout_seconds": 2**64}, 422, "'timeout_seconds' must be an integer from 0"),
        ("/renew/q/i", {"consumer_id": "x" * 1025}, 400, "'consumer_id'"),
        ("/renew/q/i", b'{"consumer_id":"w","timeout_seconds":NaN}', 400, ""),
        ("/renew/q/i", b'{"consumer_id":"w","consumer_id":"x"}', 422, "'consumer_id' must be given only once"),
        ("/renew-batch/q", WORKER, 422, "'message_ids' is missing"),
        ("/renew-batch/q", WORKER | {"message_ids": [1]}, 422, "'message_ids' must be a list of strings"),
        ("/renew-batch/q", WORKER | {"message_ids": "x"}, 422, "'message_ids' must be a list of strings"),
        ("/renew-batch/q", WORKER | {"message_ids": None}, 422, "'message_ids' must be a list of strings"),
        (
            "/renew-batch/q",
            WORKER | {"message_ids": ["x"] * (MAX_BATCH_IDS + 1)},
            400,
            "'message_ids' may hold at most",
        ),
        ("/renew-batch/q", WORKER | {"message_ids": [], "timeout_seconds": -1}, 422, "'timeout_seconds' must be"),
        ("/renew-batch/q", {"consumer_id": "x" * 1025, "message_ids": []}, 400, "'consumer_id'"),
        ("/renew-batch/q", b"[]", 422, "a JSON object"),
        ("/force-unlock/q", {}, 422, "exactly one of 'ids', 'consumer_id' and 'all'"),
        ("/force-unlock/q", {"ids": None}, 422, "exactly one of"),
        ("/force-unlock/q", {"ids": [], "all": True}, 422, "exactly one of"),
        ("/force-unlock/q", {"consumer_id": "w", "all": True}, 422, "exactly one of"),
        ("/force-unlock/q", {"all": False}, 422, "'all' must be true"),
        ("/force-unlock/q", {"all": 1}, 422, "'all' must be true"),
        ("/force-unlock/q", {"ids": "x"}, 422, "'ids' must be a list of strings"),
        ("/force-unlock/q", {"ids": [None]}, 422, "'ids' must be a list of strings"),
        ("/force-unlock/q", {"ids": ["x"] * (MAX_BATCH_IDS + 1)}, 400, "'ids' may hold at most"),
        ("/force-unlock/q", {"consumer_id": 7}, 422, "'consumer_id' must be a string"),
        ("/force-unlock/q", {"consumer_id": "x" * 1025}, 400, "'consumer_id' must be at most"),
        ("/force-unlock/q", b'{"all":true,"all":true}', 422, "'all' must be given only once"),
        ("/force-unlock/q", b"", 400, ""),
        ("/force-unlock/q", b'{"all":true', 400, ""),
    ],
)
def test_bodies_that_are_refused(table: Table, path: str, body: Any, status: int, field: str) -> None:
    locked(table)
    before = locks(table)
    reply = table.run("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert refusal(reply)[0] == status
    assert field in refusal(reply)[2]
    assert locks(table) == before
