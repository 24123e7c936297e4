"""Finding a message by its id over all queues: wherever it is, bounded in a call, and only what a token may read."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from qrusty_trio.access.grants import Granted, Principal
from qrusty_trio.api.browsing import SHOWN_BYTES
from qrusty_trio.api.paging import Cursor, Listed
from qrusty_trio.core import locating
from qrusty_trio.core.keys import prefix
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.api.test_browsing import WORKER, consume, publish, refusal, small_table
from tests.core.test_dead_letters import as_before_the_index
from tests.wire.table import Table

UNKNOWN = "0" * 36


@pytest.fixture(params=["all in memory", "three in memory"])
def table(request: pytest.FixtureRequest) -> Table:
    return Table() if request.param == "all in memory" else small_table()


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call looks at ten messages, or at as many empty queues."""
    monkeypatch.setattr(locating, "WORK_PER_STEP", 4)
    monkeypatch.setattr(locating, "WORK_PER_CALL", 10)
    monkeypatch.setattr(locating, "WORK_PER_QUEUE", 1)


def bury(table: Table, queue: str) -> str:
    message_id = publish(table, 2**63, queue=queue, max_retries=1)
    assert consume(table, queue)["id"] == message_id
    table.post(f"/nack/{queue}/{message_id}", WORKER)
    return message_id


def search(table: Table, id: str) -> list[dict[str, Any]]:
    """The responses of a search until it is over."""
    responses = [table.get(f"/find?id={id}")]
    while responses[-1]["cursor"] is not None:
        responses.append(table.get(f"/find?id={id}&cursor={responses[-1]['cursor']}"))
        assert len(responses) < 1000
    return responses


# Verifies: DLV-0061
def test_a_message_is_found_in_any_queue_and_state(table: Table) -> None:
    for queue in ("a", "b/ü", "empty"):
        table.post("/create-queue", {"name": queue, "config": {"ordering": "MaxFirst"}})
    waiting = [publish(table, payload=str(number), queue="a") for number in range(8)]
    dead = bury(table, "a")
    locked = publish(table, 7, queue="b/ü")
    table.post("/consume?queue=b%2F%C3%BC", WORKER)
    before = table.get("/stats")["queues"]
    for place, message_id in enumerate(waiting):
        found = search(table, message_id)[-1]
        assert (found["queue"], found["state"], found["before"]) == ("a", "available", place)
        assert (found["payload"], found["looked_at"], found["available"]) == (str(place), place + 1, 8)
        assert (found["complete"], found["cursor"]) == (True, None)
        assert found["id"] == message_id
    (found,) = search(table, locked)
    assert (found["queue"], found["state"], found["consumer"], found["looked_at"]) == ("b/ü", "locked", "w", 0)
    assert found["complete"] is True
    (found,) = search(table, dead)
    assert (found["queue"], found["state"], found["reason"], found["payload"]) == ("a", "dead", "nacked", "p")
    assert table.get("/stats")["queues"] == before
    table.post("/queues/a/dead-letters/purge", {"all": True})
    for gone in (dead, UNKNOWN, "ü" * 36):
        assert refusal(table.run("GET", f"/find?id={quote(gone)}")) == (
            404,
            "message_not_found",
            f"There is no message '{gone}' in any queue",
        )


def test_what_has_to_be_given(table: Table) -> None:
    assert refusal(table.run("GET", "/find"))[1:] == ("bad_request", "'id' is missing in the query")
    for wrong in ("", "x", "0" * 37, "%C3%BC" * 35):
        status, code, sentence = refusal(table.run("GET", f"/find?id={wrong}"))
        assert (status, code) == (400, "bad_request")
        assert sentence == "'id' must be the id of a message, which has 36 characters"


# Verifies: DLV-0061
def test_a_call_does_so_much_and_the_next_one_goes_on(small_calls: None) -> None:
    table = small_table()
    ids = [publish(table, queue=f"q{number % 4}") for number in range(100)]
    bury(table, "q1")
    for wanted in (0, 3, 50, 97, 99):
        responses = search(table, ids[wanted])
        assert all(0 < each["looked_at"] <= 14 for each in responses)
        assert {each["available"] for each in responses} == {100}
        assert [each["complete"] for each in responses] == [False] * (len(responses) - 1) + [True]
        assert [each["state"] for each in responses] == [None] * (len(responses) - 1) + ["available"]
        found = responses[-1]
        assert (found["queue"], found["before"]) == (f"q{wanted % 4}", wanted // 4)
        assert sum(each["looked_at"] for each in responses) == 25 * (wanted % 4) + wanted // 4 + 1
    cursor, looked_at = "", 0
    while (reply := table.run("GET", f"/find?id={UNKNOWN}{cursor}")).status == 200:
        response = json.loads(reply.body)
        cursor, looked_at = f"&cursor={response['cursor']}", looked_at + response["looked_at"]
    assert reply.status == 404
    assert 86 <= looked_at <= 100


# Verifies: DLV-0061
def test_many_empty_queues_are_passed_in_steps(small_calls: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are less work than those that hold something."""
    monkeypatch.setattr(locating, "WORK_PER_QUEUE", 5)
    monkeypatch.setattr(locating, "QUEUES_PER_STEP", 10)
    table = Table()
    for number in range(35):
        table.post("/create-queue", {"name": f"q{number}", "config": {"ordering": "Fifo"}})
    last = publish(table, queue="z")
    responses = search(table, last)
    assert len(responses) == 4
    assert responses[-1]["queue"] == "z"
    # Thirty-six are asked for a lock, ten of them are looked through: that ends three steps and two.
    table.get(f"/find?id={UNKNOWN}")
    assert table.steps == 3 + 2


def test_a_long_queue_is_looked_through_in_steps(small_calls: None) -> None:
    """Three that are in memory, then four and four; the last ones end the call."""
    table = small_table()
    for _ in range(30):
        publish(table)
    assert table.get(f"/find?id={UNKNOWN}")["looked_at"] == 3 + 4 + 4
    assert table.steps == 2


# Verifies: DLV-0061
def test_what_moves_during_a_search_is_found_by_the_indexes(small_calls: None) -> None:
    table = small_table()
    ids = [publish(table, queue=queue) for queue in ("a", "b") for _ in range(20)]
    first = table.get(f"/find?id={ids[39]}")
    for _ in range(20):
        consume(table, "b")
    found = table.get(f"/find?id={ids[39]}&cursor={first['cursor']}")
    assert (found["queue"], found["state"], found["looked_at"]) == ("b", "locked", 0)
    # Queues that are purged, deleted, renamed or made meanwhile.
    first = table.get(f"/find?id={UNKNOWN}")
    table.post("/purge-queue/a")
    again = publish(table, queue="a")
    assert table.run("GET", f"/find?id={UNKNOWN}&cursor={first['cursor']}").status == 404
    first = table.get(f"/find?id={again}")
    assert first["queue"] == "a"
    table.run("DELETE", "/delete-queue/a")
    new = publish(table, queue="c")
    assert table.get(f"/find?id={new}")["queue"] == "c"


@pytest.mark.parametrize(("deleted", "looked_at"), [("a", 3 + 6), ("b", 6 + 3)])
def test_a_queue_that_is_deleted_between_two_steps_is_passed_over(
    small_calls: None, deleted: str, looked_at: int
) -> None:
    """It may be the one that is looked through, of which three were looked at."""
    table = small_table()
    for queue in ("a", "b", "c"):
        for _ in range(6 if queue == "a" else 3):
            publish(table, queue=queue)
    broker = table.broker
    search = locating.Locator(broker.journal, broker.catalog, broker.dead_letters, UNKNOWN, lambda name: True)
    steps = search.search(None)
    next(steps)
    broker.catalog.delete(deleted)
    with pytest.raises(StopIteration) as over:
        while True:
            next(steps)
    assert over.value.value == locating.Search(looked_at, 12, None, None)


def test_large_records_are_more_work(monkeypatch: pytest.MonkeyPatch, small_calls: None) -> None:
    monkeypatch.setattr(locating, "WORK_PER_CALL", 20)
    table = small_table()
    ids = [publish(table, payload="x" * 2_000) for _ in range(12)]
    responses = search(table, ids[11])
    assert responses[0]["looked_at"] == 7
    assert responses[-1]["before"] == 11


def test_after_a_restart_of_a_store_on_disk(tmp_path: Path) -> None:
    storage = RocksStorage.open(tmp_path / "store", cache_mb=8, write_buffer_mb=2, max_open_files=64)
    try:
        table = Table(storage)
        ids = [publish(table, queue=f"q{number % 3}") for number in range(30)]
        dead = bury(table, "q1")
        again = Table(storage)
        assert [again.get(f"/find?id={id}")["before"] for id in ids] == [number // 3 for number in range(30)]
        assert again.get(f"/find?id={dead}")["state"] == "dead"
    finally:
        storage.close()


# Verifies: DLV-0061
def test_dead_letters_from_before_their_index() -> None:
    table = Table()
    old = [bury(table, queue) for queue in ("q", "q")]
    again = Table(as_before_the_index(table.broker, old).journal.storage)
    new = bury(again, "a")
    for message_id in old:
        (found,) = search(again, message_id)
        assert (found["queue"], found["state"]) == ("q", "dead")
        assert found["looked_at"] > 0
    (found,) = search(again, new)
    assert (found["queue"], found["looked_at"]) == ("a", 0)
    assert again.run("GET", f"/find?id={UNKNOWN}").status == 404


# Verifies: API-0137
def test_only_queues_that_the_token_may_read_are_searched(table: Table) -> None:
    mine, theirs = publish(table, queue="mine.a"), publish(table, queue="theirs")
    locked = publish(table, 9, queue="theirs")
    consume(table, "theirs")
    dead = bury(table, "theirs")
    table.services.guarded = True
    table.principal = Principal("worker", (Granted.read("read:mine.*"), Granted.read("publish:theirs")))
    found = table.get(f"/find?id={mine}")
    assert (found["queue"], found["available"]) == ("mine.a", 1)
    for hidden in (theirs, locked, dead, UNKNOWN):
        assert refusal(table.run("GET", f"/find?id={hidden}")) == (
            404,
            "message_not_found",
            f"There is no message '{hidden}' in any queue that this token may read",
        )
    # A queue that the token may not read any more is passed over, although the cursor names it.
    cursor = Cursor(Listed.SEARCHED_EVERYWHERE, 2, 0, b"").text()
    assert refusal(table.run("GET", f"/find?id={theirs}&cursor={cursor}"))[:2] == (400, "bad_request")
    table.principal = None
    assert table.run("GET", f"/find?id={mine}").status == 401


# Verifies: DLV-0043
def test_cursors(small_calls: None) -> None:
    table = small_table()
    for queue in ("a", "b"):
        for _ in range(20):
            publish(table, queue=queue)
    cursor = table.get(f"/find?id={UNKNOWN}")["cursor"]
    other = table.get("/queues/a/messages?limit=1")["cursor"]
    assert refusal(table.run("GET", f"/find?id={'1' * 36}&cursor={cursor}"))[1:] == (
        "bad_request",
        "'cursor' belongs to another list: begin again without it",
    )
    assert refusal(table.run("GET", f"/find?id={UNKNOWN}&cursor={other}"))[:2] == (400, "bad_request")
    read = table.get(f"/find?id={UNKNOWN}&cursor={cursor}")
    assert read["complete"] is False
    for position in (prefix(2).rjust(12, b"\0") + b"x", b"\xff" * 9, b"\0" * 8 + b"x"):
        forged = Cursor(Listed.SEARCHED_EVERYWHERE, 1, zlib.crc32(UNKNOWN.encode()), position).text()
        assert refusal(table.run("GET", f"/find?id={UNKNOWN}&cursor={forged}"))[:2] == (400, "bad_request")
    for wrong in ("x", "", cursor + "!"):
        assert refusal(table.run("GET", f"/find?id={UNKNOWN}&cursor={wrong}"))[:2] == (400, "bad_request")


def test_a_large_message_is_found_whole(table: Table) -> None:
    """Whatever state it is in."""
    payload = "x" * (SHOWN_BYTES + 1)
    id = publish(table, payload=payload, max_retries=1)
    for state in ("available", "locked", "dead"):
        for path in (f"/find?id={id}", f"/queues/q/messages/{id}"):
            found = table.get(path)
            assert (found["state"], found["payload"] == payload) == (state, True)
            assert (found["complete"], found["cursor"]) == (True, None)
        if state == "available":
            consume(table)
        else:
            table.post(f"/nack/q/{id}", WORKER)
