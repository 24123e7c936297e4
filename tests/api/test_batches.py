"""publish-batch and consume-batch without sockets: what is accepted, rejected and refused, in which steps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.api import batches
from qrusty_trio.api.batch_bodies import PER_STEP, NewMessage, quotes_of
from qrusty_trio.api.batches import CONSUMED_PER_STEP, MAX_RESPONSE_BYTES
from qrusty_trio.api.call import Call, DeliveryReceipts, Reply, Wait
from qrusty_trio.api.operations import resolve
from qrusty_trio.core.model import MAX_BATCH_DELIVERIES, MAX_BATCH_MESSAGES, MAX_QUEUES, U32_MAX, U64_MAX
from tests.wire.table import Table

WORKER = {"consumer_id": "w"}


@pytest.fixture
def table() -> Table:
    return Table()


def message(payload: str = "p", priority: int | str = 1, **more: Any) -> dict[str, Any]:
    return {"priority": priority, "payload": payload, **more}


def publish(table: Table, *messages: dict[str, Any], queue: str = "q") -> dict[str, Any]:
    reply = table.post("/publish-batch", {"queue": queue, "messages": list(messages)})
    assert reply.status == 200, reply.body
    response: dict[str, Any] = json.loads(reply.body)
    return response


def consume(table: Table, most: int = 10, queue: str = "q", **more: Any) -> Reply:
    reply = table.post(f"/consume-batch/{queue}", {**WORKER, "max_messages": most, **more})
    assert reply.status == 200, reply.body
    return reply


def messages_of(reply: Reply) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(reply.body)["messages"]
    return messages


def refused(table: Table, body: str | bytes, target: str = "/publish-batch") -> tuple[int, str, str]:
    raw = body if isinstance(body, bytes) else body.encode()
    before = table.get("/stats")
    reply = table.run("POST", target, raw)
    assert table.get("/stats") == before, "nothing has changed"
    error = json.loads(reply.body)
    return reply.status, error["code"], error["error"]


def batch(*messages: str, queue: str = '"q"') -> str:
    return f'{{"queue":{queue},"messages":[{",".join(messages)}]}}'


# Verifies: DLV-0037
def test_a_batch_is_published_in_order(table: Table) -> None:
    response = publish(table, *(message(f"m{number}", 5, max_retries=number) for number in range(5)))
    assert response["rejected"] == []
    taken = messages_of(consume(table))
    assert [each["id"] for each in taken] == response["ids"]
    assert taken[0] == {"id": response["ids"][0], "payload": "m0", "retry_count": 1}
    assert [each["payload"] for each in taken] == [f"m{number}" for number in range(5)]


def test_nothing_is_published_by_an_empty_batch(table: Table) -> None:
    assert publish(table) == {"ids": [], "rejected": []}
    assert table.get("/queues") == []


# Verifies: DLV-0037
def test_a_refused_message_is_rejected_alone(table: Table) -> None:
    table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo", "allow_duplicates": False}})
    response = publish(table, message("a"), message("a"), message("b", "text"), message("b", U64_MAX))
    assert len(response["ids"]) == 2
    assert [(each["index"], each["code"]) for each in response["rejected"]] == [
        (1, "duplicate_payload"),
        (2, "priority_kind_mismatch"),
    ]
    assert response["rejected"][0]["error"] == "Duplicate payload rejected"
    assert response["rejected"][1]["error"].startswith("Priority kind mismatch: queue expects Numeric")


def test_text_for_an_unknown_queue_makes_none(table: Table) -> None:
    response = publish(table, message("a", "text"))
    assert [each["code"] for each in response["rejected"]] == ["priority_kind_mismatch"]
    assert table.get("/queues") == []


@pytest.mark.parametrize(("name", "code"), [("", "invalid_queue_name"), ("x" * 256, "invalid_queue_name")])
def test_a_batch_for_an_impossible_queue(table: Table, name: str, code: str) -> None:
    assert refused(table, batch(json.dumps(message()), queue=json.dumps(name)))[:2] == (400, code)


def test_a_batch_for_one_queue_too_many(table: Table) -> None:
    for number in range(MAX_QUEUES):
        table.broker.catalog.create_default(str(number))
    assert refused(table, batch(json.dumps(message())))[:2] == (400, "limit_reached")


def test_under_memory_pressure_no_batch_is_taken(table: Table) -> None:
    table.gate.memory_critical = True
    assert refused(table, batch(json.dumps(message())))[:2] == (503, "memory_pressure")


PRIORITY = f"must be an integer from 0 to {U64_MAX} or a string"
RETRIES = f"must be an integer from 0 to {U32_MAX}"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ('"payload":"p"', f"'messages[1].priority' is missing: it {PRIORITY}"),
        ('"priority":1', "'messages[1].payload' is missing: it must be a string"),
        *(
            (f'"priority":{value},"payload":"p"', f"'messages[1].priority' {PRIORITY}")
            for value in ("-1", "1.5", "null", "true", "[]", str(U64_MAX + 1), "1e300")
        ),
        *(
            (f'"priority":1,"payload":{value}', "'messages[1].payload' must be a string")
            for value in ("1", "null", "[]", "{}")
        ),
        *(
            (f'"priority":1,"payload":"p","max_retries":{value}', f"'messages[1].max_retries' {RETRIES}")
            for value in ("-1", "0.5", '"3"', str(U32_MAX + 1), "true")
        ),
        *(
            (f'"priority":1,"payload":"p",{more}', f"'messages[1].{name}' must be given only once")
            for name, more in (
                ("priority", '"priority":2'),
                ("payload", '"pay\\u006coad":"q"'),
                ("max_retries", '"max_retries":1,"max_retries":2'),
            )
        ),
    ],
)
def test_a_message_of_the_wrong_shape(table: Table, fields: str, sentence: str) -> None:
    good = json.dumps(message('"priority" \\ ü'))
    assert refused(table, batch(good, f"{{{fields}}}")) == (422, "wrong_shape", sentence)


# Verifies: DLV-0037
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('{"messages":[]}', "'queue' is missing: it must be a string"),
        ('{"queue":"q"}', f"'messages' is missing: it must be a list of at most {MAX_BATCH_MESSAGES} objects"),
        ('{"queue":null,"messages":[]}', "'queue' must be a string"),
        *(
            (
                f'{{"queue":"q","messages":{value}}}',
                f"'messages' must be a list of at most {MAX_BATCH_MESSAGES} objects",
            )
            for value in ("null", "{}", '"x"', "3")
        ),
        (batch("3"), "'messages[0]' must be an object"),
        (batch("null"), "'messages[0]' must be an object"),
        ('{"queue":"q","messages":[],"messages":[]}', "'messages' must be given only once"),
        ('{"queue":"q","queue":"r","messages":[{"priority":1,"payload":"queue"}]}', "'queue' must be given only once"),
        ("[]", "the body must be a JSON object"),
    ],
)
def test_a_batch_of_the_wrong_shape(table: Table, body: str, sentence: str) -> None:
    assert refused(table, body) == (422, "wrong_shape", sentence)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b'{"queue":"q","messages":[NaN]}',
        b'{"queue":"q","messages":[{"priority":NaN,"payload":"p"}]}',
        b'{"queue":"q","messages":[{"priority":1,"payload":"p","other":"\xff"}]}',
    ],
)
def test_a_batch_that_is_not_json(table: Table, body: bytes) -> None:
    assert refused(table, body)[:2] == (400, "malformed_json")


def test_what_looks_like_a_field_is_none(table: Table) -> None:
    """Payloads that are names of fields, and fields that nobody knows."""
    names = ["queue", "messages", "priority", "payload", "max_retries"]
    known = [message(name, more={"payload": "x"}, max_retries=None) for name in names]
    assert len(publish(table, *known)["ids"]) == len(names)
    assert sorted(each["payload"] for each in messages_of(consume(table))) == sorted(names)


def test_too_many_messages(table: Table) -> None:
    one = json.dumps(message(""))
    sentence = f"'messages' may hold at most {MAX_BATCH_MESSAGES} messages"
    for count in (MAX_BATCH_MESSAGES + 1, 2 * MAX_BATCH_MESSAGES):
        assert refused(table, batch(*[one] * count)) == (400, "limit_reached", sentence)
    assert refused(table, batch(*[one] * 2 * MAX_BATCH_MESSAGES)[:-1])[:2] == (400, "malformed_json")
    assert len(publish(table, *[message('""""', "1", max_retries=0)] * 10)["rejected"]) == 10


# Verifies: DLV-0039
def test_a_long_batch_is_published_in_steps(table: Table) -> None:
    response = publish(table, *(message(str(number)) for number in range(MAX_BATCH_MESSAGES)))
    assert table.steps >= MAX_BATCH_MESSAGES // PER_STEP
    assert len(response["ids"]) == MAX_BATCH_MESSAGES
    publish(table, *[message()] * PER_STEP)
    assert table.steps == 0
    publish(table, *[message("x" * batches.PUBLISHED_CHARACTERS)] * 3)
    assert table.steps == 3, "one for reading it, and no message waits for one that is large"


def test_a_long_batch_with_a_doubtful_field_is_read_in_steps(table: Table) -> None:
    last = '{"priority":1,"payload":"p","payload":"q"}'
    good = '{"priority":1,"payload":"p","more":{"payload":"q"}}'
    one = json.dumps(message("queue"))
    text = batch(*[one] * (MAX_BATCH_MESSAGES - 1), last)
    status, _, sentence = refused(table, text)
    assert (status, sentence) == (422, f"'messages[{MAX_BATCH_MESSAGES - 1}].payload' must be given only once")
    assert table.run("POST", "/publish-batch", batch(*[one] * (MAX_BATCH_MESSAGES - 1), good).encode()).status == 200
    assert table.steps >= 2 * (MAX_BATCH_MESSAGES // PER_STEP)


def test_a_batch_that_makes_no_queue_goes_on_when_its_queue_goes(table: Table) -> None:
    """What was accepted stays told."""
    table.broker.catalog.create_default("q")
    publisher = batches.BatchPublisher(table.broker, "q", [NewMessage(1, "p")] * (PER_STEP + 1), create=False)
    assert publisher.step(table.now)
    table.broker.catalog.delete("q")
    assert not publisher.step(table.now)
    assert (len(publisher.ids), publisher.needs_sync) == (PER_STEP, True)
    assert [(each.index, each.code) for each in publisher.rejected] == [(PER_STEP, "queue_not_found")]


def test_a_queue_that_goes_while_its_batch_is_published(table: Table) -> None:
    publisher = batches.BatchPublisher(table.broker, "q", [NewMessage(1, "p")] * (PER_STEP + 1))
    assert publisher.step(table.now)
    table.broker.catalog.delete("q")
    assert not publisher.step(table.now)
    assert len(publisher.ids) == PER_STEP + 1
    assert table.broker.catalog.by_name["q"].available == 1


# Verifies: DLV-0038
@pytest.mark.parametrize("most", [0, -1, MAX_BATCH_DELIVERIES + 1, 1.5, "1", None, True, 10**30])
def test_how_many_may_be_consumed(table: Table, most: Any) -> None:
    publish(table, message())
    body = json.dumps({**WORKER, "max_messages": most})
    sentence = f"'max_messages' must be an integer from 1 to {MAX_BATCH_DELIVERIES}"
    assert refused(table, body, "/consume-batch/q") == (422, "wrong_shape", sentence)


@pytest.mark.parametrize(
    ("fields", "status", "name"),
    [
        ('"max_messages":1', 422, "consumer_id"),
        ('"consumer_id":"w"', 422, "max_messages"),
        ('"consumer_id":null,"max_messages":1', 422, "consumer_id"),
        ('"consumer_id":"w","max_messages":1,"max_messages":2', 422, "max_messages"),
        ('"consumer_id":"w","max_messages":1,"timeout_seconds":-1', 422, "timeout_seconds"),
        (f'"consumer_id":"{"w" * 1025}","max_messages":1', 400, "consumer_id"),
        ('"consumer_id":"w","max_messages":NaN', 400, "not JSON"),
    ],
)
def test_bad_bodies_of_consume_batch(table: Table, fields: str, status: int, name: str) -> None:
    publish(table, message())
    found, _, sentence = refused(table, f"{{{fields}}}", "/consume-batch/q")
    assert found == status
    assert name in sentence


# Verifies: DLV-0038
def test_no_more_than_there_are(table: Table) -> None:
    assert consume(table).body == b'{"messages":[]}'
    publish(table, message(), message())
    reply = consume(table, 1)
    assert len(messages_of(reply)) == len(reply.deliveries) == 1
    assert len(messages_of(consume(table, 5))) == 1
    assert consume(table).body == b'{"messages":[]}'


def test_a_lock_of_its_own_length(table: Table) -> None:
    publish(table, message())
    consume(table, timeout_seconds=7)
    (lock,) = table.broker.catalog.by_name["q"].locks
    assert lock.expires_at_ms == table.now + 7000
    table.now += 7000
    table.broker.expire(table.now, 10)
    assert messages_of(consume(table, timeout_seconds=None))[0]["retry_count"] == 2


# Verifies: DLV-0039
def test_a_long_batch_is_consumed_in_steps(table: Table) -> None:
    publish(table, *(message(str(number)) for number in range(MAX_BATCH_DELIVERIES + 1)))
    reply = consume(table, MAX_BATCH_DELIVERIES)
    assert [each["payload"] for each in messages_of(reply)] == [str(number) for number in range(MAX_BATCH_DELIVERIES)]
    assert table.steps == MAX_BATCH_DELIVERIES // CONSUMED_PER_STEP
    assert table.get("/queue-stats/q")["available"] == 1


# Verifies: DLV-0038
def test_a_response_is_at_most_2_mib(table: Table) -> None:
    consume(table)
    publish(table, *[message()] * 3, queue="another")
    consume(table, queue="another")  # so that locks have other numbers than queues
    half = "x" * (MAX_RESPONSE_BYTES // 2)
    for _ in range(3):
        publish(table, message(half))
    reply = consume(table)
    assert len(messages_of(reply)) == len(reply.deliveries) == 1
    assert table.get("/queue-stats/q")["available"] == 2
    again = consume(table)
    assert messages_of(again)[0]["retry_count"] == 1, "what did not fit was not counted"


# Verifies: DLV-0038
@pytest.mark.parametrize("over", [0, 1])
def test_a_response_has_2_mib_to_the_byte(table: Table, over: int) -> None:
    publish(table, *[message("")] * 2)
    room = MAX_RESPONSE_BYTES - len(consume(table).body)
    publish(table, message("x" * 1_000_000))
    publish(table, message("x" * (room - 1_000_000 + over)))
    body = consume(table).body
    assert len(body) == MAX_RESPONSE_BYTES if not over else len(json.loads(body)["messages"]) == 1


def test_large_messages_are_consumed_in_steps(table: Table) -> None:
    publish(table, message(""))
    room = batches.CONSUMED_BYTES - len(consume(table).body) + len(b'{"messages":[]}') - 1
    for octets, steps in ((room, 3), (room - 1, 1)):
        publish(table, *[message("x" * octets)] * 3)
        assert len(messages_of(consume(table))) == 3
        assert table.steps == steps


def waiting(table: Table) -> Wait:
    """A consume-batch of up to ten messages that found none."""
    operation, params = resolve("POST", b"/consume-batch/q")
    body = json.dumps({**WORKER, "max_messages": 10, "wait_seconds": 5}).encode()
    steps = operation.function(table.services, Call(operation, params, body), table.now)
    with pytest.raises(StopIteration) as end:
        next(steps)  # type: ignore[arg-type]  # its first step is its last
    wait: Wait = end.value.value
    return wait


# Verifies: DLV-0038
@pytest.mark.parametrize("over", [0, 1])
def test_a_batch_that_waited_has_2_mib_to_the_byte(table: Table, over: int) -> None:
    """What does not fit is left out, and so is all that follows."""
    wait = waiting(table)
    assert (wait.names, wait.consumer, wait.lock_seconds, wait.most) == (("q",), "w", 30, 10)
    assert (wait.until_ms, wait.nothing) == (table.now + 5000, b'{"messages":[]}')
    publish(table, *[message("")] * 2)
    frame = len(consume(table).body)
    publish(table, message("x" * 1_000_000), message("x" * (MAX_RESPONSE_BYTES - frame - 1_000_000 + over)), message())
    found = [table.broker.consume("q", "w", 30, table.now) for _ in range(3)]
    deliveries = [each for each in found if each is not None]
    reply = wait.make_reply(table.services, deliveries, "q")
    fit = 1 if over else 2
    assert [each["id"] for each in messages_of(reply)] == [each.id for each in deliveries[:fit]]
    assert (reply.status, reply.deliveries, reply.consumer) == (200, deliveries[:fit], "w")
    assert over or len(reply.body) == MAX_RESPONSE_BYTES


def test_far_too_many_messages_are_refused_without_decoding(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_decode_batch", None)
    one = json.dumps(message('"', "1", max_retries=0))
    sentence = f"'messages' may hold at most {MAX_BATCH_MESSAGES} messages"
    assert refused(table, batch(*[one] * 2 * MAX_BATCH_MESSAGES)) == (400, "limit_reached", sentence)


@pytest.mark.parametrize("priority", [1, "p"])
@pytest.mark.parametrize("retries", [None, 0, 3])
def test_the_quotation_marks_of_usual_messages_are_known(priority: int | str, retries: int | None) -> None:
    """So that they need no closer look, and a field given twice is not overlooked."""
    usual = message("x", priority) if retries is None else message("x", priority, max_retries=retries)
    for count in range(3):
        assert quotes_of([NewMessage(priority, "x", retries)] * count) == json.dumps([usual] * count).count('"')


def test_what_is_kept_of_a_batch_that_was_sent(table: Table) -> None:
    publish(table, *[message("x" * 100)] * 50)
    reply = consume(table, 50)
    receipt = reply.receipt()
    assert isinstance(receipt.deliveries, DeliveryReceipts)
    assert receipt.receipt() is receipt
    assert (receipt.body, len(receipt.deliveries)) == (b"", 50)
    assert [(each.queue_number, each.lock_number, each.id) for each in receipt.deliveries] == [
        (each.queue_number, each.lock_number, each.id) for each in reply.deliveries
    ]
