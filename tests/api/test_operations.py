"""What the operations do beyond the recorded steps: refusals, gates, durability, deliveries, pieces, reports."""

from __future__ import annotations

import json
from time import perf_counter_ns
from typing import Any

import pytest

from qrusty_trio.api.messages import BATCH_PIECE, LARGE_BYTES
from qrusty_trio.api.operations import OPERATIONS, error_reply
from qrusty_trio.api.queues import QUEUES_PIECE
from qrusty_trio.api.reports import STATS_PIECE
from qrusty_trio.core.model import ID_CHARACTERS, MAX_LOCK_SECONDS, U64_MAX
from qrusty_trio.core.timings import TIMED_OPERATIONS, Timings
from qrusty_trio.errors import DiskFull, QrustyError, Starting
from qrusty_trio.wording import MAX_SENTENCE_CHARACTERS
from tests.wire.table import Table

WORKER = {"consumer_id": "w"}


@pytest.fixture
def table() -> Table:
    return Table()


def publish(table: Table, queue: str = "q", payload: str = "p", **more: Any) -> str:
    reply = table.post("/publish", {"queue": queue, "priority": 1, "payload": payload, **more})
    assert reply.status == 200, reply.body
    message_id: str = json.loads(reply.body)["id"]
    return message_id


def consume(table: Table, queue: str = "q", **more: Any) -> Any:
    reply = table.post(f"/consume/{queue}", WORKER | more)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def refusal(reply: Any) -> tuple[int, str]:
    assert not reply.deliveries
    error = json.loads(reply.body)
    assert error.keys() == {"error", "code"}
    assert reply.needs_sync == (error["code"] in ("duplicate_payload", "queue_exists"))
    assert error["error"]
    return reply.status, error["code"]


# Verifies: PER-0001, PER-0068
def test_what_has_to_be_durable(table: Table) -> None:
    """Everything that changes something but a consume, whose loss only makes a message available again."""
    assert table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo"}}).needs_sync
    assert table.post("/publish", {"queue": "q", "priority": 1, "payload": "p"}).needs_sync
    ids = [publish(table) for _ in range(4)]
    for _ in range(5):
        assert not table.post("/consume/q", WORKER).needs_sync
    assert table.post(f"/ack/q/{ids[0]}", WORKER).needs_sync
    assert table.post(f"/nack/q/{ids[1]}", WORKER).needs_sync
    assert table.post("/ack-batch/q", WORKER | {"message_ids": [ids[2]]}).needs_sync
    assert table.post("/nack-batch/q", WORKER | {"message_ids": [ids[3], "unknown"]}).needs_sync
    assert not table.post("/renew/q/unknown", WORKER).needs_sync
    assert not table.post("/renew-batch/q", WORKER | {"message_ids": ids}).needs_sync
    assert table.post("/force-unlock/q", {"all": True}).needs_sync
    assert not table.post("/ack-batch/q", WORKER | {"message_ids": ["unknown"]}).needs_sync
    assert table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo"}}).needs_sync
    assert not table.post("/create-queue", {"name": "", "config": {"ordering": "Fifo"}}).needs_sync
    assert not table.post("/nack-batch/q", WORKER | {"message_ids": []}).needs_sync
    assert table.post("/queues/q/dead-letters/requeue", {"all": True}).needs_sync
    assert table.post("/queues/q/dead-letters/purge", {"ids": []}).needs_sync
    assert not table.post("/queues/q/dead-letters/purge", {"all": True, "dry_run": True}).needs_sync
    assert not table.run("GET", "/queues/q/dead-letters").needs_sync
    assert table.post("/update-queue", {"name": "q", "config": {"name": "r"}}).needs_sync
    assert table.post("/purge-queue/r").needs_sync
    assert table.run("DELETE", "/delete-queue/r").needs_sync
    assert table.post("/purge-all").needs_sync
    assert table.post("/delete-all").needs_sync
    assert table.post("/publish-batch", {"queue": "q", "messages": [{"priority": 1, "payload": "p"}]}).needs_sync
    assert not table.post("/publish-batch", {"queue": "q", "messages": []}).needs_sync
    assert not table.post("/consume-batch/q", WORKER | {"max_messages": 2}).needs_sync
    for path in ("/queues", "/stats", "/health", "/queue-stats/q", "/queues/q/metrics", "/operation-timings"):
        assert not table.run("GET", path).needs_sync


def test_an_answer_says_what_it_hands_out(table: Table) -> None:
    message_id = publish(table, payload='ü"\\\n\0😀')
    reply = table.post("/consume/q", {"consumer_id": "wörker"})
    (delivery,) = reply.deliveries
    assert (delivery.id, delivery.payload, reply.consumer) == (message_id, 'ü"\\\n\0😀', "wörker")
    assert json.loads(reply.body) == {"id": message_id, "payload": 'ü"\\\n\0😀', "retry_count": 1}
    nothing = table.post("/consume/q", WORKER)
    assert (nothing.body, nothing.deliveries) == (b"null", ())


# Verifies: SCH-0014
def test_lock_times(table: Table) -> None:
    message_id = publish(table)
    assert consume(table, timeout_seconds=0)["retry_count"] == 1
    table.broker.expire(table.now, 10)
    assert consume(table, timeout_seconds=U64_MAX)["retry_count"] == 2
    table.now += MAX_LOCK_SECONDS * 1000 - 1
    assert table.broker.expire(table.now, 10) == 0
    assert table.post(f"/nack/q/{message_id}", WORKER).status == 200
    assert consume(table)["retry_count"] == 3
    table.now += 30_000
    assert table.broker.expire(table.now, 10) == 1


# Verifies: DLV-0002
@pytest.mark.parametrize("verb", ["ack", "nack"])
@pytest.mark.parametrize("message_id", ["i", "i" * 36, "i" * 3_000, "%00", "%F0%9F%98%80", "%2F", "..", "0" * 36])
def test_settling_what_is_not_locked(table: Table, verb: str, message_id: str) -> None:
    publish(table)
    for queue in ("q", "unknown", "%00", "a%2Fb"):
        assert refusal(table.post(f"/{verb}/{queue}/{message_id}", WORKER))[0] == 404
        batch = WORKER | {"message_ids": [message_id, "\0", "😀", ""]}
        outcomes = json.loads(table.post(f"/{verb}-batch/{queue}", batch).body)
        assert outcomes.pop("not_found") == batch["message_ids"]
        assert not any(outcomes.values())


# Verifies: SCH-0031
def test_a_long_batch_is_done_in_pieces(table: Table) -> None:
    ids = [publish(table) for _ in range(3 * BATCH_PIECE + 1)]
    for _ in ids:
        consume(table)
    reply = table.post("/ack-batch/q", WORKER | {"message_ids": [*ids, ids[0]]})
    assert table.steps == 3
    assert json.loads(reply.body) == {"acked": ids, "not_found": [ids[0]]}
    assert table.get("/queue-stats/q")["total"] == 0


# Verifies: DLV-0006
def test_nacks_in_a_batch(table: Table) -> None:
    kept, dead = publish(table, max_retries=2), publish(table, max_retries=0)
    assert [consume(table)["id"] for _ in range(2)] == [kept, dead]
    reply = table.post("/nack-batch/q", WORKER | {"message_ids": [dead, "x", kept, kept]})
    assert json.loads(reply.body) == {
        "unlocked": [kept],
        "dead_lettered": [dead],
        "dropped": [],
        "not_found": ["x", kept],
    }


# Verifies: SCH-0031
def test_many_queues_are_emptied_and_deleted_in_pieces(table: Table) -> None:
    count = 3 * QUEUES_PIECE + 1
    for number in range(count):
        publish(table, f"q{number}")
        publish(table, f"q{number}")
    consume(table, "q0")
    assert json.loads(table.post("/purge-all").body) == {"purged_queues": count, "purged_messages": 2 * count}
    assert table.steps == 3
    publish(table, "q0")
    assert json.loads(table.post("/delete-all").body) == {"deleted_queues": count, "deleted_messages": 1}
    assert table.steps == 3
    assert table.get("/queues") == []


NAMES = [
    "a b",
    "a/b",
    "/",
    "ü",
    "😀",
    "\0",
    "%2F",
    "..",
    "null",
    "queues",
    "N",
    "x" * 255,
    "ü" * 127,
    "a?b#c",
    "+",
    "{m}",
]


# Verifies: API-0016
@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_queue_of_its_own(table: Table, name: str) -> None:
    path = "".join(f"%{octet:02X}" for octet in name.encode())
    others = [other for other in NAMES if other != name]
    for other in others:
        publish(table, other, "not this one")
    assert table.post("/create-queue", {"name": name, "config": {"ordering": "MinFirst"}}).status == 200
    message_id = publish(table, name, "this one")
    assert table.get("/queues") == sorted(NAMES)
    assert consume(table, path) == {"id": message_id, "payload": "this one", "retry_count": 1}
    assert consume(table, path) is None
    assert table.get(f"/queue-stats/{path}")["name"] == name
    assert table.get(f"/queues/{path}/metrics")["queue"] == name
    assert table.post(f"/ack/{path}/{message_id}", WORKER).status == 200
    assert json.loads(table.post(f"/purge-queue/{path}").body) == {"queue": name, "purged_messages": 0}
    assert json.loads(table.run("DELETE", f"/delete-queue/{path}").body) == {"queue": name, "deleted_messages": 0}
    assert table.get("/queues") == sorted(others)
    assert table.get("/stats")["summary"]["total_available"] == len(others)


@pytest.mark.parametrize("name", ["", "x" * 256, "ü" * 128, "😀" * 64])
def test_names_that_are_not_allowed(table: Table, name: str) -> None:
    config = {"ordering": "Fifo"}
    publish(table, "there")
    assert refusal(table.post("/create-queue", {"name": name, "config": config})) == (400, "invalid_queue_name")
    wrong = table.post("/publish", {"queue": name, "priority": 1, "payload": "p"})
    assert refusal(wrong) == (400, "invalid_queue_name")
    renamed = table.post("/update-queue", {"name": "there", "config": {"name": name}})
    assert refusal(renamed) == (400, "invalid_queue_name")
    assert table.get("/queues") == ["there"]


# Verifies: API-0017
def test_update_refusals(table: Table) -> None:
    publish(table, "a")
    publish(table, "b")
    assert refusal(table.post("/update-queue", {"name": "c", "config": {}})) == (404, "queue_not_found")
    assert refusal(table.post("/update-queue", {"name": "a", "config": {"name": "b"}})) == (409, "queue_exists")
    assert refusal(table.post("/update-queue", {"name": " ", "config": {}})) == (400, "invalid_queue_name")
    assert refusal(table.post("/update-queue", {"name": "a", "config": {"name": " "}})) == (400, "invalid_queue_name")
    ignored = {"name": "a", "config": {"ordering": "Fifo", "priority_kind": "Text"}}
    assert table.post("/update-queue", ignored).status == 200
    assert table.get("/queue-stats/a")["config"] == {
        "ordering": "MaxFirst",
        "allow_duplicates": True,
        "priority_kind": "Numeric",
    }


# Verifies: SCH-0007
def test_publish_refusals_say_the_recorded_sentences(table: Table) -> None:
    def sentence(queue: str, priority: Any) -> Any:
        reply = table.post("/publish", {"queue": queue, "priority": priority, "payload": "p"})
        assert reply.status == 400
        return json.loads(reply.body)["error"]

    table.post("/create-queue", {"name": "n", "config": {"ordering": "Fifo", "allow_duplicates": False}})
    table.post("/create-queue", {"name": "t", "config": {"ordering": "Fifo", "priority_kind": "Text"}})
    assert sentence("n", "x") == "Priority kind mismatch: queue expects Numeric but got Text"
    assert sentence("t", 1) == "Priority kind mismatch: queue expects Text but got Numeric"
    assert sentence("t", "") == "Text priority must not be empty"
    assert "1024" in sentence("t", "ü" * 513).replace(",", "")
    publish(table, "n")
    assert sentence("n", 2) == "Duplicate payload rejected"
    assert table.get("/stats")["summary"]["total_messages"] == 1


# Verifies: API-0015
@pytest.mark.parametrize("name", ["x" * 1_000_000, "\0" * 300_000, "ü" * 500_000])
def test_a_refusal_quotes_only_so_much(table: Table, name: str) -> None:
    publish(table)
    for reply in (
        table.post("/update-queue", {"name": name, "config": {}}),
        table.post(f"/ack/q/{'i' * 60_000}", WORKER),
        table.run("POST", f"/nack/q/{'%41' * 1_300}", json.dumps(WORKER).encode()),
    ):
        assert refusal(reply)[0] == 404
        assert len(json.loads(reply.body)["error"]) <= MAX_SENTENCE_CHARACTERS + 3
    missing = table.post("/update-queue", {"name": name, "config": {}})
    assert json.loads(missing.body)["error"].endswith("does not exist")


# Verifies: API-0024, API-0030
def test_starting(table: Table) -> None:
    publish(table)
    table.gate.starting = True
    for operation in OPERATIONS:
        reply = table.run(operation.method, operation.path.replace("{queue}", "q").replace("{id}", "i"))
        if operation.needs_store:
            assert reply.status == 503
            assert json.loads(reply.body) == {
                "status": "starting",
                "message": "Qrusty is initialising. Retry shortly.",
                "retry_after_secs": 2,
            }
        else:
            assert reply.status == (503 if operation.name == "ready" else 200)
    assert table.get("/server")["state"] == "starting"
    assert table.get("/health") == {"status": "starting", "message": "Qrusty is initialising. Retry shortly."}
    table.gate.starting = False
    assert table.get("/health") == {"status": "ok", "memory_pressure": False}
    assert consume(table)["payload"] == "p"


# Verifies: API-0074
def test_read_only(table: Table) -> None:
    publish(table)
    table.gate.read_only = True
    for operation in OPERATIONS:
        path = operation.path.replace("{queue}", "q").replace("{id}", "i")
        if operation.name == "find":
            path += f"?id={'0' * ID_CHARACTERS}"
        reply = table.run(operation.method, path)
        if operation.mutating:
            assert (reply.status, json.loads(reply.body)["code"]) == (403, "read_only")
        else:
            assert reply.status == (404 if "{id}" in operation.path or operation.name == "find" else 200)
    table.gate.read_only = False
    assert consume(table)["payload"] == "p"


# Verifies: SCH-0040
def test_memory_pressure_refuses_publishes_only(table: Table) -> None:
    ids = [publish(table) for _ in range(2)]
    table.gate.memory_critical = True
    reply = table.post("/publish", {"queue": "q", "priority": 1, "payload": "p"})
    assert refusal(reply) == (503, "memory_pressure")
    assert json.loads(reply.body)["error"] == "Server is under memory pressure. Try again later."
    assert [consume(table)["id"] for _ in ids] == ids
    assert table.post(f"/ack/q/{ids[0]}", WORKER).status == 200
    assert table.post(f"/nack/q/{ids[1]}", WORKER).status == 200


# Verifies: PER-0063
@pytest.mark.parametrize("size", [1, LARGE_BYTES])
def test_a_disk_with_little_room_refuses_publishes_only(table: Table, size: int) -> None:
    ids = [publish(table) for _ in range(2)]
    table.gate.disk_short = "No space left"
    one = {"priority": 1, "payload": "p" * size}
    for reply in (
        table.post("/publish", {"queue": "q", **one}),
        table.post("/publish-batch", {"queue": "q", "messages": [one]}),
    ):
        assert refusal(reply) == (507, "disk_full")
        assert json.loads(reply.body)["error"] == "No space left"
    assert [consume(table)["id"] for _ in ids] == ids
    assert table.post(f"/ack/q/{ids[0]}", WORKER).status == 200
    assert table.post(f"/nack/q/{ids[1]}", WORKER).status == 200
    table.gate.disk_short = None
    assert table.post("/publish", {"queue": "q", **one}).status == 200


# Verifies: API-0002
def test_errors_as_answers() -> None:
    reply = error_reply(DiskFull('no "space"'))
    assert (reply.status, reply.body) == (507, b'{"error":"no \\"space\\"","code":"disk_full"}')
    assert not reply.needs_sync
    assert error_reply(Starting("")).status == 503
    assert error_reply(QrustyError("x")).status == 500


# Verifies: SYS-0017, API-0025
def test_stats(table: Table) -> None:
    for number in range(2 * STATS_PIECE + 1):
        publish(table, f"q{number:04}")
    publish(table, "q0000")
    consume(table, "q0000")
    response = table.get("/stats")
    assert table.steps == 2
    assert [queue["name"] for queue in response["queues"]] == [f"q{number:04}" for number in range(2 * STATS_PIECE + 1)]
    assert response["queues"][0] == table.get("/queue-stats/q0000")
    summary = response["summary"]
    assert summary.pop("storage") == {
        "hot_tier_sizes": {f"q{number:04}": 1 for number in range(2 * STATS_PIECE + 1)},
        "locked_index_size": 1,
        "payload_store_disk_bytes": 7,
    }
    assert response["queues"][0]["oldest_age_seconds"] == 0
    assert response["queues"][0]["oldest_age_exact"] is False
    assert summary == {
        "total_queues": 2 * STATS_PIECE + 1,
        "total_available": 2 * STATS_PIECE + 1,
        "total_locked": 1,
        "total_messages": 2 * STATS_PIECE + 2,
        "total_dead_letters": 0,
        "memory_pressure": False,
        "memory_usage_bytes": 50,
        "memory_limit_bytes": 100,
    }


# Verifies: SYS-0017, API-0027
def test_metrics_and_rates(table: Table) -> None:
    assert table.get("/queues/q/metrics") == {
        "queue": "q",
        "window_seconds": 10,
        "resolution_seconds": 1,
        "points": [],
    }
    for _ in range(15):
        publish(table)
        table.now += 1_000
        for _ in table.broker.catalog.sample(table.now):
            pass
    points = table.get("/queues/q/metrics")["points"]
    assert [point["t_ms"] for point in points] == [table.now - 1_000 * back for back in range(10, -1, -1)]
    assert [point["total"] for point in points] == list(range(5, 16))
    assert points[-1].keys() == {
        *("t_ms", "total", "locked", "publish_rate_per_sec", "ack_rate_per_sec", "nack_rate_per_sec"),
        "dead_letters",
    }
    stats = table.get("/queue-stats/q")
    for rate in ("publish_rate_per_sec", "ack_rate_per_sec", "nack_rate_per_sec"):
        assert stats[rate] == points[-1][rate]
    assert 0 < stats["publish_rate_per_sec"] <= 1


# Verifies: SYS-0017
def test_timings_of_every_operation(table: Table) -> None:
    assert table.get("/operation-timings") == {name: [] for name in TIMED_OPERATIONS}
    ids = [publish(table) for _ in range(4)]
    for _ in ids:
        consume(table)
    table.post(f"/ack/q/{ids[0]}", WORKER)
    table.post(f"/nack/q/{ids[1]}", WORKER)
    table.post("/ack-batch/q", WORKER | {"message_ids": ids[2:3]})
    table.post("/nack-batch/q", WORKER | {"message_ids": ids[3:]})
    table.get("/queue-stats/q")
    table.get("/stats")
    counts = {"publish": 4, "consume": 4, "storage_push": 4, "storage_pop": 4}
    for name, points in table.get("/operation-timings?seconds=1").items():
        (point,) = points
        assert point["t_epoch_s"] == table.now // 1000
        assert point["count"] == counts.get(name, 1)
        assert 0 <= point["min_us"] <= point["max_us"] <= point["total_us"]


# Verifies: SYS-0017
@pytest.mark.parametrize(
    ("operation", "path", "body"),
    [
        ("publish", "/publish", {"queue": "q", "priority": 1, "payload": "p"}),
        ("publish", "/publish", {"queue": "q", "priority": 1, "payload": "p" * LARGE_BYTES}),
        ("consume", "/consume/q", WORKER),
        ("consume", "/consume", WORKER | {"queues": ["other", "q"]}),
        ("ack", "/ack/q/{}", WORKER),
        ("nack", "/nack/q/{}", WORKER),
        ("ack_batch", "/ack-batch/q", WORKER | {"message_ids": ["{}"]}),
        ("nack_batch", "/nack-batch/q", WORKER | {"message_ids": ["{}"]}),
    ],
)
def test_the_brokers_share_of_an_operation_is_a_part_of_it(
    table: Table, operation: str, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[tuple[str, int, int]] = []
    publish(table)
    id = json.loads(table.post("/consume/q", WORKER).body)["id"]
    publish(table)
    record = Timings.record

    def watched(timings: Timings, operation: str, whole_ns: int, share_ns: int, now_s: int) -> None:
        recorded.append((operation, whole_ns, share_ns))
        record(timings, operation, whole_ns, share_ns, now_s)

    monkeypatch.setattr(Timings, "record", watched)
    filled = json.loads(json.dumps(body).replace("{}", id))
    begun = perf_counter_ns()
    assert table.post(path.format(id), filled).status == 200
    ((name, whole, share),) = recorded
    assert name == operation
    assert 0 < share < whole < perf_counter_ns() - begun


# Verifies: API-0028
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        *(("", 301), ("?", 301), ("?x=7", 301), ("?seconds=1", 2), ("?seconds=0", 2), ("?seconds=%32", 3)),
        *(("?seconds=300", 301), ("?seconds=0000000009", 10), ("?seconds=3600", 400), ("?seconds=3601", 400)),
        *(("?x=y&seconds=5", 6), (f"?seconds={'9' * 5_000}", 400), ("?seconds=" + "0" * 5_000, 2)),
    ],
)
def test_seconds_of_the_timings(table: Table, query: str, expected: int) -> None:
    for second in range(400):
        table.timings.record("ack", 1_000, 500, table.now // 1000 - second)
    assert len(table.get(f"/operation-timings{query}")["ack"]) == expected


@pytest.mark.parametrize(
    "value",
    ["", "x", "-1", "1.5", "1e2", "+5", "%2B5", "%20", "٣", "²", "%D9%A3", "%C2%B2", "1&seconds=1", "%FF", "5%00"],
)
def test_seconds_that_are_no_number(table: Table, value: str) -> None:
    assert refusal(table.run("GET", f"/operation-timings?seconds={value}")) == (400, "bad_request")


# Verifies: SYS-0008
def test_whatever_is_refused_changes_nothing(table: Table) -> None:
    message_id = publish(table)
    consume(table)
    before = table.get("/stats")
    for method, target, body in (
        ("POST", "/publish", b'{"queue":"new","priority":-1,"payload":"p"}'),
        ("POST", "/publish", b'{"queue":"new","priority":"text","payload":"p"}'),
        ("POST", "/publish", b'{"queue":"new","queue":"q","priority":1,"payload":"p"}'),
        ("POST", "/consume/q", b'{"consumer_id":7}'),
        ("POST", f"/ack/q/{message_id}", b'{"consumer_id":"other"}'),
        ("POST", f"/nack/q/{message_id}", b'{"consumer_id":"w","consumer_id":"w"}'),
        ("POST", "/ack-batch/q", b'{"consumer_id":"w","message_ids":["%b",7]}' % message_id.encode()),
        ("POST", "/create-queue", b'{"name":"new","config":{"ordering":"Sideways"}}'),
        ("POST", "/update-queue", b'{"name":"q","config":{"name":"new","name":"new"}}'),
        ("GET", "/delete-all", b""),
        ("DELETE", "/purge-queue/q", b""),
        ("POST", "/delete-queue/q", b""),
        ("POST", "/consume/%zz", b'{"consumer_id":"w"}'),
    ):
        assert refusal(table.run(method, target, body))[0] >= 400
    assert table.get("/stats") == before
    assert table.run("POST", "/publish", b"{}", "text/plain").status == 415
