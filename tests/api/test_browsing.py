"""Looking at messages: in order, in pages, one by its id; and nothing is changed by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qrusty_trio.api import browsing
from qrusty_trio.api.browsing import MAX_LIST_BYTES, PREVIEW_BYTES, SHOWN_BYTES
from qrusty_trio.api.paging import Cursor, Listed
from qrusty_trio.core import browsing as core_browsing
from qrusty_trio.core import finding
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import U64_MAX
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from tests.core.brokers import break_payload
from tests.wire.table import Table

WORKER = {"consumer_id": "w"}


def small_table(payloads: PayloadStore | None = None) -> Table:
    """Its queues keep three messages in memory."""
    table = Table()
    storage = MemoryStorage()
    table.broker = Broker(storage, hot_tier_size=3, refill_threshold=1, payloads=payloads)
    table.services.broker = table.broker
    return table


@pytest.fixture(params=["all in memory", "three in memory"])
def table(request: pytest.FixtureRequest) -> Table:
    return Table() if request.param == "all in memory" else small_table()


@pytest.fixture
def payloads(tmp_path: Path) -> Iterator[PayloadStore]:
    store = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=5_000)
    yield store
    store.close()


def publish(table: Table, priority: Any = 1, payload: str = "p", queue: str = "q", **fields: Any) -> str:
    reply = table.post("/publish", {"queue": queue, "priority": priority, "payload": payload, **fields})
    message_id: str = json.loads(reply.body)["id"]
    return message_id


def consume(table: Table, queue: str = "q") -> Any:
    return json.loads(table.post(f"/consume/{queue}", WORKER).body)


def messages(table: Table, **query: Any) -> tuple[list[dict[str, Any]], str | None]:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    response = table.get(f"/queues/q/messages?{text}")
    assert response.keys() == {"messages", "cursor"}
    return response["messages"], response["cursor"]


def all_ids(table: Table, **query: Any) -> list[str]:
    found, cursor = messages(table, **query)
    ids = [message["id"] for message in found]
    while cursor is not None:
        found, cursor = messages(table, **query, cursor=cursor)
        ids += [message["id"] for message in found]
    return ids


def find(table: Table, id: str, queue: str = "q") -> dict[str, Any]:
    """Go on until the search is over."""
    response = table.get(f"/queues/{queue}/messages/{id}")
    while response["cursor"] is not None:
        response = table.get(f"/queues/{queue}/messages/{id}?cursor={response['cursor']}")
    found: dict[str, Any] = response
    return found


def refusal(reply: Any) -> tuple[int, str, str]:
    response = json.loads(reply.body)
    return reply.status, response["code"], response["error"]


# Lists


# Verifies: DLV-0052
def test_what_is_listed(table: Table) -> None:
    low, high = publish(table, 2**63 + 1, 'ü"\0'), publish(table, U64_MAX, max_retries=7)
    taken = consume(table)
    assert taken["id"] == high
    table.now += 5
    table.post(f"/nack/q/{high}", WORKER)
    published = table.now - 5
    assert messages(table) == (
        [
            {
                "id": high,
                "payload": "p",
                "priority": U64_MAX,
                "priority_text": str(U64_MAX),
                "created_at": published,
                "deliveries": 1,
                "max_retries": 7,
                "state": "available",
            },
            {
                "id": low,
                "payload": 'ü"\0',
                "priority": 2**63 + 1,
                "priority_text": str(2**63 + 1),
                "created_at": published,
                "deliveries": 0,
                "max_retries": 3,
                "state": "available",
            },
        ],
        None,
    )
    consume(table)
    assert messages(table, state="locked") == (
        [
            {
                "id": high,
                "payload": "p",
                "priority": U64_MAX,
                "priority_text": str(U64_MAX),
                "created_at": published,
                "deliveries": 2,
                "max_retries": 7,
                "state": "locked",
                "consumer": "w",
                "locked_since": table.now,
                "lock_until": table.now + 30_000,
            }
        ],
        None,
    )
    assert all_ids(table, state="available") == [low]


# Verifies: DLV-0052
@pytest.mark.parametrize("ordering", ["MaxFirst", "MinFirst", "Fifo"])
@pytest.mark.parametrize("kind", ["Numeric", "Text"])
def test_in_the_order_in_which_they_will_be_consumed(table: Table, ordering: str, kind: str) -> None:
    table.post("/create-queue", {"name": "q", "config": {"ordering": ordering, "priority_kind": kind}})
    for number in range(120):
        publish(table, number * 7 % 5 if kind == "Numeric" else "\0" * (number * 7 % 5 + 1))
    held = [consume(table)["id"] for _ in range(10)]
    for message_id in held[3:7]:
        table.post(f"/nack/q/{message_id}", WORKER)
    before = table.get("/queue-stats/q")
    listed = all_ids(table)
    assert listed == all_ids(table, limit=1) == all_ids(table, limit=7) == all_ids(table, limit=100)
    assert all_ids(table, state="locked", limit=2) == held[:3] + held[7:]
    assert len(messages(table)[0]) == 50
    assert table.get("/queue-stats/q") == before
    assert [consume(table)["id"] for _ in range(114)] == listed


# Verifies: DLV-0052
def test_a_page_goes_on_where_the_last_one_ended_whatever_happened_meanwhile(table: Table) -> None:
    ids = [publish(table, 5) for _ in range(10)]
    page, cursor = messages(table, limit=4)
    assert [message["id"] for message in page] == ids[:4]
    for _ in range(6):
        consume(table)
    first, last = publish(table, 9), publish(table, 1)
    page, cursor = messages(table, limit=100, cursor=cursor)
    assert [message["id"] for message in page] == [*ids[6:], last]
    assert cursor is None
    assert all_ids(table)[0] == first


def test_after_a_restart(table: Table) -> None:
    ids = [publish(table) for _ in range(10)]
    consume(table)
    _, cursor = messages(table, limit=3)
    again = Table(table.broker.journal.storage)
    assert all_ids(again) == ids[1:]
    assert [message["id"] for message in messages(again, cursor=cursor)[0]] == ids[4:]


@pytest.mark.parametrize("state", ["available", "locked"])
def test_large_payloads_are_shown_in_part(table: Table, state: str) -> None:
    publish(table, payload="x" * SHOWN_BYTES)
    publish(table, payload="x" + "ü" * SHOWN_BYTES)
    if state == "locked":
        consume(table), consume(table)
    (whole, part), _ = messages(table, state=state)
    assert whole["payload"] == "x" * SHOWN_BYTES
    assert "payload" not in part
    assert (part["payload_preview"], part["payload_bytes"]) == (
        "x" + "ü" * ((PREVIEW_BYTES - 1) // 2),
        2 * SHOWN_BYTES + 1,
    )
    assert find(table, part["id"])["payload"] == "x" + "ü" * SHOWN_BYTES


# Verifies: DLV-0052
@pytest.mark.parametrize("state", ["available", "locked"])
def test_a_page_is_of_limited_size(table: Table, state: str) -> None:
    ids = [publish(table, payload="\0" * (SHOWN_BYTES - number)) for number in range(20)]
    if state == "locked":
        ids = [consume(table)["id"] for _ in ids]
    reply = table.run("GET", f"/queues/q/messages?state={state}&limit=100")
    assert MAX_LIST_BYTES - 7 * SHOWN_BYTES < len(reply.body) < MAX_LIST_BYTES + 1000
    assert len(json.loads(reply.body)["messages"]) < 20
    assert all_ids(table, state=state, limit=100) == ids


# Verifies: DLV-0052
@pytest.mark.parametrize("over", [0, 1])
def test_a_page_has_its_size_to_the_byte(table: Table, over: int) -> None:
    """The messages and the commas between them."""
    size = SHOWN_BYTES // 2 - 500
    one = len(table.run("GET", f"/queues/{queue_with(table, 'one', size, 1)}/messages").body) - len(EMPTY_PAGE)
    fit, left = divmod(MAX_LIST_BYTES + 1, one + 1)
    queue_with(table, "q", size, fit - 1)
    publish(table, payload="x" * (size + left + over))
    publish(table)
    found, cursor = messages(table, limit=100)
    assert len(found) == (fit if not over else fit - 1)
    assert cursor is not None


EMPTY_PAGE = b'{"messages":[],"cursor":null}'


def queue_with(table: Table, name: str, octets: int, count: int) -> str:
    """Make a queue of messages with so large payloads."""
    for _ in range(count):
        publish(table, payload="x" * octets, queue=name)
    return name


def test_a_page_takes_steps(table: Table) -> None:
    for _ in range(100):
        publish(table)
    messages(table, limit=100)
    assert table.steps >= 100 // browsing.MESSAGES_PER_STEP


def test_payloads_in_files(payloads: PayloadStore, tmp_path: Path) -> None:
    table = small_table(payloads)
    sizes = [4_096, SHOWN_BYTES, SHOWN_BYTES + 1, 50_000]
    ids = [publish(table, payload=str(number) * size) for number, size in enumerate(sizes)]
    page, _ = messages(table)
    assert [message.get("payload") for message in page] == ["0" * sizes[0], "1" * sizes[1], None, None]
    assert [message["payload_preview"] for message in page[2:]] == ["2" * PREVIEW_BYTES, "3" * PREVIEW_BYTES]
    assert [message["payload_bytes"] for message in page[2:]] == sizes[2:]
    assert find(table, ids[3])["payload"] == "3" * sizes[3]
    break_payload(payloads, tmp_path, 0)
    break_payload(payloads, tmp_path, 3)
    page, _ = messages(table)
    # How a payload begins is shown without a look at the rest.
    assert page[3]["payload_preview"] == "3" * PREVIEW_BYTES
    for broken in (page[0], find(table, ids[3])):
        assert (broken["payload"], broken["payload_error"]) == (None, "checksum")
    assert table.get("/queue-stats/q")["available"] == 4
    assert consume(table)["id"] == ids[1]


@pytest.mark.parametrize("state", ["available", "locked"])
def test_cursors(table: Table, state: str) -> None:
    for queue in ("q", "other"):
        for _ in range(6):
            publish(table, queue=queue)
        for _ in range(3):
            consume(table, queue)
    _, cursor = messages(table, limit=1, state=state)
    elsewhere = table.get(f"/queues/other/messages?limit=1&state={state}")["cursor"]
    another = messages(table, limit=1, state="locked" if state == "available" else "available")[1]
    searched = table.run("GET", f"/queues/q/messages/x?cursor={cursor}")
    assert refusal(searched)[:2] == (400, "bad_request")
    for wrong in (elsewhere, another, "", "x", f"{cursor}=", "%FF"):
        assert refusal(table.run("GET", f"/queues/q/messages?state={state}&cursor={wrong}"))[:2] == (400, "bad_request")
    assert len(messages(table, state=state, cursor=cursor)[0]) == 2
    table.post("/purge-queue/q")
    assert "purged" in refusal(table.run("GET", f"/queues/q/messages?state={state}&cursor={cursor}"))[2]
    assert messages(table, state=state) == ([], None)


def test_a_forged_cursor_shows_nothing_of_other_queues(table: Table) -> None:
    publish(table, queue="first", payload="secret")
    ids = [publish(table) for _ in range(5)]
    publish(table, queue="third", payload="secret")
    queue = table.broker.catalog.by_name["q"]
    for position, expected in ((b"", ids), (b"\xff" * 9, []), (queue.prefix, ids), (b"\0\0\0\1", ids)):
        cursor = Cursor(Listed.AVAILABLE, queue.number, queue.next_sequence, position).text()
        assert [message["id"] for message in messages(table, cursor=cursor)[0]] == expected
        start = b"\0" * 8 + position
        cursor = Cursor(Listed.SEARCHED, queue.number, queue.next_sequence, start).text()
        reply = table.run("GET", f"/queues/q/messages/{ids[4]}?cursor={cursor}")
        assert reply.status == (200 if expected else 404)


def test_a_forged_cursor_that_has_counted_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "MESSAGES_PER_STEP", 4)
    monkeypatch.setattr(finding, "MESSAGES_PER_SEARCH", 4)
    table = small_table()
    publish(table)
    queue = table.broker.catalog.by_name["q"]
    for _ in range(20):
        publish(table)
    for before, status in ((2**63, 200), (2**63 + 1, 400), (2**64 - 1, 400)):
        position = before.to_bytes(8, "big") + queue.prefix
        cursor = Cursor(Listed.SEARCHED, queue.number, queue.next_sequence, position).text()
        assert table.run("GET", f"/queues/q/messages/x?cursor={cursor}").status == status


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "state=", "state=gone", "state=Available", "state=locked&state=locked"]
)
def test_queries_that_are_refused(table: Table, query: str) -> None:
    publish(table)
    status, code, sentence = refusal(table.run("GET", f"/queues/q/messages?{query}"))
    assert (status, code) == (400, "bad_request")
    assert query.partition("=")[0] in sentence


def test_a_queue_that_does_not_exist(table: Table) -> None:
    for path in ("messages", "messages?state=locked", "messages/x", "priorities"):
        assert refusal(table.run("GET", f"/queues/q/{path}"))[:2] == (404, "queue_not_found")


@pytest.mark.parametrize(("clear", "status"), [("delete", 404), ("purge", 200)])
def test_a_queue_that_is_emptied_meanwhile(table: Table, clear: str, status: int) -> None:
    for _ in range(100):
        publish(table)
    commit = table.broker.commit

    def empty() -> None:
        getattr(table.broker.catalog, clear)("q")
        commit()

    table.broker.commit = empty  # type: ignore[method-assign]  # between two steps
    reply = table.run("GET", "/queues/q/messages?limit=100")
    assert reply.status == status
    assert len(json.loads(reply.body).get("messages", ())) in (0, browsing.MESSAGES_PER_STEP, 3)


# One message


# Verifies: DLV-0053
def test_a_message_is_found_wherever_it_is(table: Table) -> None:
    ids = [publish(table, payload=str(number)) for number in range(20)]
    held = [consume(table)["id"] for _ in range(2)]
    locked = find(table, held[1])
    assert (locked["state"], locked["consumer"], locked["deliveries"], locked["payload"]) == ("locked", "w", 1, "1")
    assert (locked["looked_at"], locked["complete"], locked["cursor"]) == (0, True, None)
    assert "before" not in locked
    for before, message_id in enumerate(ids[2:]):
        found = find(table, message_id)
        assert (found["id"], found["state"], found["before"]) == (message_id, "available", before)
        assert (found["payload"], found["looked_at"], found["complete"]) == (str(before + 2), before + 1, True)
    table.post(f"/ack/q/{held[0]}", WORKER)
    for gone in (held[0], "x", "x" * 36, "%00", "ü"):
        assert refusal(table.run("GET", f"/queues/q/messages/{gone}"))[:2] == (404, "message_not_found")


# Verifies: DLV-0053
def test_a_search_ends_after_some_messages_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "MESSAGES_PER_STEP", 4)
    monkeypatch.setattr(finding, "MESSAGES_PER_SEARCH", 10)
    table = small_table()
    ids = [publish(table) for _ in range(40)]
    response = table.get(f"/queues/q/messages/{ids[30]}")
    cursor = response.pop("cursor")
    assert response == {"id": ids[30], "state": None, "looked_at": 11, "complete": False}
    assert table.steps >= 2
    assert table.get(f"/queues/q/messages/{ids[30]}?cursor={cursor}")["looked_at"] == 12
    found = find(table, ids[30])
    assert (found["before"], found["state"]) == (30, "available")
    table.post("/purge-queue/q")
    assert refusal(table.run("GET", f"/queues/q/messages/x?cursor={cursor}"))[:2] == (400, "bad_request")


# Verifies: DLV-0053
def test_a_search_in_large_records_ends_after_some_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_browsing, "READ_BYTES", 2_000)
    monkeypatch.setattr(finding, "STEPS_PER_SEARCH", 3)
    table = small_table()
    ids = [publish(table, payload="x" * 900) for _ in range(12)]
    response = table.get(f"/queues/q/messages/{ids[11]}")
    assert (response["looked_at"], response["complete"]) == (9, False)
    assert find(table, ids[11])["before"] == 11


# Priorities


# Verifies: DLV-0054
def test_priorities(table: Table) -> None:
    for priority in (2**63 + 1, 5, 5):
        publish(table, priority)
    assert table.get("/queues/q/priorities") == {
        "priorities": [
            {"priority": 2**63 + 1, "priority_text": str(2**63 + 1), "count": 1},
            {"priority": 5, "priority_text": "5", "count": 2},
        ],
        "others": 0,
        "sampled": False,
        "looked_at": 3,
    }
    consume(table)
    assert table.get("/queues/q/priorities")["looked_at"] == 2
    table.post("/purge-queue/q")
    assert table.get("/queues/q/priorities")["priorities"] == []


# Dead letters


def test_dead_letters(table: Table) -> None:
    dead, alive = publish(table, 9, max_retries=1), publish(table)
    consume(table)
    table.post(f"/nack/q/{dead}", WORKER)
    assert all_dead(table) == [(dead, "dead")]
    found = find(table, dead)
    assert (found["state"], found["payload"], found["reason"], found["looked_at"]) == ("dead", "p", "nacked", 0)
    assert find(table, alive)["state"] == "available"
    assert all_ids(table) == [alive]


def all_dead(table: Table) -> list[tuple[str, str]]:
    return [(message["id"], message["state"]) for message in table.get("/queues/q/messages?state=dead")["messages"]]
