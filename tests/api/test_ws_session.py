"""Every request and every error of the WebSocket contract, bytes in and bytes out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.core.dead_letters import EVERY
from qrusty_trio.core.model import MAX_BATCH_IDS, WS_MARK, Kind, QueueConfig
from qrusty_trio.errors import DiskFull
from tests.api.ws_peer import OK, Peer, World, code, delivered, publish, subscribe

# publish


# Verifies: WS-0001
def test_publish_answers_with_an_id(world: World, peer: Peer) -> None:
    (response,) = peer.ask(publish(priority=7, max_retries=0))
    assert set(response) == {"type", "id"}
    assert response["type"] == "ok"
    assert len(response["id"]) == 36
    assert world.available("jobs") == 1


# Verifies: WS-0001
def test_publish_does_not_create_a_queue(peer: Peer) -> None:
    assert code(peer.ask(publish(queue="nope"))) == "queue_not_found"


# Verifies: WS-0001
def test_publish_refused(peer: Peer) -> None:
    assert code(peer.ask(publish(priority="high"))) == "publish_failed"


# Verifies: SCH-0040
def test_publish_under_pressure(world: World, peer: Peer) -> None:
    world.gate.memory_critical = True
    assert code(peer.ask(publish())) == "memory_pressure"
    world.gate.memory_critical = False
    assert peer.ask(publish())[0]["type"] == "ok"


# Verifies: WS-0006
@pytest.mark.parametrize(
    "fields",
    [
        {"queue": None},
        {"payload": None},
        {"payload": 5},
        {"priority": -1},
        {"priority": 2**64},
        {"priority": 1.5},
        {"priority": True},
        {"priority": [1]},
        {"max_retries": -1},
        {"max_retries": 2**32},
        {"max_retries": "3"},
    ],
)
def test_publish_of_the_wrong_shape(world: World, peer: Peer, fields: dict[str, Any]) -> None:
    (response,) = peer.ask(publish(req_id="r", **fields))
    assert (response["code"], response["req_id"]) == ("invalid_request", "r")
    assert next(iter(fields)) in response["message"]
    assert world.available("jobs") == 0


def test_what_the_contract_does_not_know_is_ignored(world: World, peer: Peer) -> None:
    (response,) = peer.ask(publish(colour="blue", nested={"a": [1, {}]}, id="x", ids=["y"], credits=4))
    assert set(response) == {"type", "id"}
    assert peer.ask(subscribe(colour="blue", payload="x"))[0] == OK


# Verifies: WS-0002
def test_text_priorities(world: World, peer: Peer) -> None:
    world.queue("letters", Kind.TEXT)
    assert code(peer.ask(publish(queue="letters", priority=5))) == "publish_failed"
    assert code(peer.ask(publish(queue="letters", priority=""))) == "publish_failed"
    peer.ask(publish(queue="letters", priority="a"), publish(queue="letters", priority="é"))
    frames = peer.ask(subscribe(queue="letters", no_reply=True))
    assert [frame["priority"] for frame in frames] == ["é", "a"]


# Verifies: DLV-0030
def test_a_duplicate_is_refused(world: World, peer: Peer) -> None:
    world.broker.catalog.create("once", QueueConfig(allow_duplicates=False))
    responses = peer.ask(publish(queue="once"), publish(queue="once", req_id="2"))
    assert (responses[0]["type"], responses[1]["code"], responses[1]["req_id"]) == ("ok", "publish_failed", "2")
    assert responses[1]["message"] == "Duplicate payload rejected"


# Verifies: SCH-0006
def test_publish_takes_the_whole_range(world: World, peer: Peer) -> None:
    peer.send(publish(priority=2**64 - 1), publish(priority=2**53 + 1), subscribe())
    frames = [frame for frame in peer.read() if frame["type"] == "deliver"]
    assert [frame["priority"] for frame in frames] == [2**64 - 1, 2**53 + 1]


# ack, nack, renew, batches


# Verifies: DLV-0003
def test_ack(world: World, peer: Peer) -> None:
    (id,) = delivered(world, peer)
    assert peer.ask({"type": "ack", "queue": "jobs", "id": id}) == [OK]
    assert not peer.held
    peer.gone()
    assert world.available("jobs") == 0


# Verifies: WS-0004
@pytest.mark.parametrize("kind", ["ack", "nack"])
def test_settling_what_is_not_held_is_ok(world: World, peer: Peer, kind: str) -> None:
    other = Peer(world, "c2")
    (id,) = delivered(world, other)
    assert peer.ask({"type": kind, "queue": "jobs", "id": id}, {"type": kind, "queue": "x", "id": "y"}) == [OK, OK]
    assert id in other.held
    other.gone()
    assert world.available("jobs") == 1


# Verifies: SCH-0008, DLV-0004
def test_nack_brings_it_back(world: World, peer: Peer) -> None:
    (id,) = delivered(world, peer)
    frames = peer.ask({"type": "nack", "queue": "jobs", "id": id})
    assert sorted(frame["type"] for frame in frames) == ["deliver", "ok"]


# Verifies: DLV-0006
def test_batch_ack(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 300)
    frames = peer.ask({"type": "batch-ack", "queue": "jobs", "ids": [*ids, "unknown"], "req_id": "b"})
    assert frames == [{"type": "ok", "acked": 300, "req_id": "b"}]
    assert peer.ask({"type": "batch-ack", "queue": "jobs", "ids": []}) == [{"type": "ok", "acked": 0}]


# Verifies: DLV-0006
def test_batch_nack(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 2) + [world.publish("jobs", retries=1)]
    peer.ask({"type": "unsubscribe", "queue": "jobs"})
    frames = peer.ask({"type": "batch-nack", "queue": "jobs", "ids": [*ids, "unknown"]})
    assert frames == [{"type": "ok", "unlocked": 2, "dropped": 1}]


# Verifies: SCH-0031
def test_long_batches_go_in_pieces(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 500)
    burst = peer.session.receive(
        [json.dumps({"type": "batch-ack", "queue": "jobs", "ids": ids}), json.dumps(publish())]
    )
    assert burst.weight == 502
    messages = [{"priority": 1, "payload": "p"}] * 5
    batch = json.dumps({"type": "batch-publish", "queue": "jobs", "messages": messages})
    assert peer.session.receive([batch]).weight == 6
    steps = 1
    while peer.session.run(burst, world.broker, world.now, 128):
        steps += 1
    assert steps >= 4
    peer.session.finish(burst)
    frames = peer.read()
    assert frames[0] == {"type": "ok", "acked": 500}
    assert "id" in frames[1]


# Verifies: DLV-0010
def test_dead_letters(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 2, retries=1)
    assert peer.ask({"type": "nack", "queue": "jobs", "id": ids[0]}) == [OK]
    response = {"type": "ok", "unlocked": 0, "dropped": 1}
    assert peer.ask({"type": "batch-nack", "queue": "jobs", "ids": ids}) == [response]
    stats = world.broker.catalog.stats("jobs")
    assert stats is not None
    assert (stats.available, stats.locked, stats.dead) == (0, 0, 2)


# Verifies: DLV-0045
@pytest.mark.parametrize("batch", [False, True])
def test_the_error_of_a_nack_is_kept(world: World, peer: Peer, batch: bool) -> None:
    (id,) = delivered(world, peer, 1, retries=1)
    which = {"type": "batch-nack", "ids": [id]} if batch else {"type": "nack", "id": id}
    request = which | {"queue": "jobs", "req_id": "r"}
    for error, problem in (
        ("x" * 1025, "'error' must be at most 1024 bytes of UTF-8"),
        ("ü" * 513, "'error' must be at most 1024 bytes of UTF-8"),
        (5, "'error' must be a string"),
    ):
        (refused,) = peer.ask(request | {"error": error})
        assert (refused["code"], refused["message"], refused["req_id"]) == ("invalid_request", problem, "r")
    assert peer.held == [id]
    (response,) = peer.ask(request | {"error": 'ünable "x"'})
    assert response["type"] == "ok"
    letters = world.broker.dead_letters
    queue = world.broker.catalog.by_name["jobs"]
    (letter,) = [each for batch in letters.search(queue, EVERY, 0, queue.next_dead, 9) for each in batch.letters]
    assert (letter.id, letter.stored.error.decode()) == (id, 'ünable "x"')
    assert letter.stored.consumer.decode() == peer.session.consumer.removeprefix(WS_MARK)
    assert letter.stored.consumer.startswith(b"ws-")


def test_after_a_rename_the_old_name_goes_on_as_well_as_the_new_one(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 4)
    for _ in world.broker.catalog.update("jobs", "work", None, world.now):
        pass
    world.queue("jobs")
    assert peer.ask({"type": "ack", "queue": "jobs", "id": ids[0]}) == [OK]
    assert peer.ask({"type": "ack", "queue": "work", "id": ids[1]}) == [OK]
    assert peer.ask({"type": "renew", "queue": "jobs", "id": ids[2]}) == [OK]
    assert peer.ask({"type": "ack", "queue": "third", "id": ids[2]}) == [OK]  # Accepted, not done.
    assert peer.held == ids[2:]
    assert peer.ask({"type": "batch-ack", "queue": "jobs", "ids": ids}) == [{"type": "ok", "acked": 2}]
    world.publish("work")
    assert [frame["queue"] for frame in peer.read()] == ["jobs"]


def test_a_queue_that_is_deleted_and_made_anew(world: World, peer: Peer) -> None:
    (id,) = delivered(world, peer)
    spent = Peer(world, "c2")
    spent.ask(subscribe(credits=0))
    world.broker.catalog.delete("jobs")
    assert peer.ask({"type": "ack", "queue": "jobs", "id": id}) == [OK]
    assert code(peer.ask({"type": "renew", "queue": "jobs", "id": id})) == "not_locked"
    world.queue("jobs")
    first = world.publish("jobs")
    assert [frame["id"] for frame in peer.read()] == [first]
    peer.gone()
    assert world.available("jobs") == 1
    spent.ask({"type": "credit", "queue": "jobs", "credits": 5})
    assert spent.held == [first]


@pytest.mark.parametrize("count", [MAX_BATCH_IDS + 1, 3 * MAX_BATCH_IDS])
def test_a_batch_of_too_many(world: World, peer: Peer, count: int) -> None:
    (id,) = delivered(world, peer)
    request = {"type": "batch-ack", "queue": "jobs", "ids": ["x"] * count, "req_id": "b"}
    (response,) = peer.ask(request)
    assert response.pop("message").endswith(f"'ids' may hold at most {MAX_BATCH_IDS} ids")
    assert response == {"type": "error", "code": "invalid_request", "req_id": "b"}
    assert peer.held == [id]
    assert peer.ask(request | {"no_reply": True}) == []
    assert "req_id" not in peer.ask(request | {"req_id": "x" * 2000})[0]
    assert peer.ask(request | {"req_id": 7})[0]["code"] == "invalid_request"
    assert peer.ask(request | {"ids": [id] * MAX_BATCH_IDS}) == [{"type": "ok", "acked": 1, "req_id": "b"}]
    assert peer.session.close_code is None


# Verifies: WS-0006
@pytest.mark.parametrize("ids", [None, "x", [1], {"a": 1}])
def test_batch_of_the_wrong_shape(peer: Peer, ids: object) -> None:
    assert code(peer.ask({"type": "batch-ack", "queue": "jobs", "ids": ids})) == "invalid_request"


# Verifies: WS-0005
def test_renew(world: World, peer: Peer) -> None:
    (id,) = delivered(world, peer)
    assert peer.ask({"type": "renew", "queue": "jobs", "id": id, "lock_timeout_secs": 60}) == [OK]
    lock = world.broker.locks.held(peer.session.consumer, id)
    assert lock is not None
    assert lock.expires_at_ms == world.now + 60_000
    for queue, wrong in (("jobs", "x"), ("nope", id)):
        assert code(peer.ask({"type": "renew", "queue": queue, "id": wrong})) == "not_locked"
    peer.ask({"type": "ack", "queue": "jobs", "id": id})
    assert code(peer.ask({"type": "renew", "queue": "jobs", "id": id})) == "not_locked"


# req_id, no_reply, shapes


# Verifies: WS-0003
def test_answers_keep_the_order_and_the_req_id(peer: Peer) -> None:
    frames = peer.ask(
        publish(req_id="1"),
        {"type": "?", "req_id": 'ü"'},
        subscribe(req_id="3", credits=0),
        {"queue": 1, "req_id": "4"},
    )
    assert [frame["req_id"] for frame in frames] == ["1", 'ü"', "3", "4"]
    assert [frame.get("code") for frame in frames] == [None, "unknown_type", None, "invalid_request"]


# Verifies: WS-0003
def test_no_reply(world: World, peer: Peer) -> None:
    assert peer.ask(publish(no_reply=True), {"type": "?", "no_reply": True}, {"queue": 1, "no_reply": True}) == []
    assert world.available("jobs") == 1
    assert code(peer.ask(publish(no_reply="yes"))) == "invalid_request"


# Verifies: WS-0006
@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "null", "5", '"type"', '{"type":null}', '{"type":5}', '{"x":1e999, "type":1}', '{"type":"ack"}']
    + [
        '{"type":"credit"}',
        '{"type":"renew","queue":"jobs"}',
        '{"type":"unsubscribe"}',
        '{"type":"publish","req_id":5}',
    ],
)
def test_invalid_request(peer: Peer, text: str) -> None:
    assert code(peer.ask(text)) == "invalid_request"


def test_null_is_not_given(peer: Peer) -> None:
    (response,) = peer.ask(publish(priority=None, max_retries=None, req_id=None, no_reply=None))
    assert set(response) == {"type", "id"}


@pytest.mark.parametrize("characters", [1024, 1025])
@pytest.mark.parametrize(
    "fields",
    [
        {"type": "unsubscribe", "queue": "jobs"},
        {"type": 5},
        {"type": "batch-ack", "queue": "jobs", "ids": ["x"] * 3 * MAX_BATCH_IDS},
        {"type": "publish", "queue": "jobs", "payload": "\ud800"},
    ],
    ids=["right", "misshapen", "too many", "half of a pair"],
)
def test_a_long_req_id_is_not_sent_back(peer: Peer, fields: dict[str, Any], characters: int) -> None:
    (response,) = peer.ask({**fields, "req_id": "x" * characters})
    right = (fields["type"], characters) == ("unsubscribe", 1024)
    assert response.get("code") == (None if right else "invalid_request")
    assert response.get("req_id") == ("x" * characters if characters == 1024 else None)


# Verifies: API-0015
def test_an_error_is_short_whatever_was_sent(peer: Peer) -> None:
    long = "x" * 1_000_000
    for frame in (
        publish(queue=long),
        subscribe(queue=long),
        {"type": "credit", "queue": long, "credits": 1},
        {"type": long},
    ):
        (response,) = peer.ask(frame)
        assert response["type"] == "error"
        assert len(response["message"]) <= 1000


# frames that end the connection


NOT_JSON = [
    "",
    "{",
    "nope",
    '{"type":"ack"} x',
    '{"type":5,',
    '{"queue":1}}',
    "[" * 5000,
    '{"payload":"\\ud800"',
    "NaN",
]
NOT_JSON.append('{"type":"batch-ack","queue":"jobs","ids":[' + '"x",' * 3 * MAX_BATCH_IDS)


# Verifies: WS-0009
@pytest.mark.parametrize("text", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_not_json_closes_with_1007_after_the_answers(world: World, peer: Peer, text: str) -> None:
    frames = peer.ask(publish(), text, publish())
    assert [frame["type"] for frame in frames] == ["ok"]
    assert peer.session.close_code == 1007
    assert world.available("jobs") == 1
    assert peer.ask(publish()) == []


# Verifies: WS-0009
def test_binary_closes_with_1003(peer: Peer) -> None:
    assert len(peer.ask(publish(), b"{}")) == 1
    assert (peer.session.close_code, peer.session.close_reason) == (1003, "binary frames are not taken")


# Verifies: WS-0009
def test_oversize_closes_with_1009(peer: Peer) -> None:
    overhead = len(json.dumps(publish(payload="")))
    assert peer.ask(publish(payload="x" * (MAX_FRAME_BYTES - overhead)))[0]["type"] == "ok"
    for character in "xü\U0001f600":
        other = Peer(peer.world)
        assert other.ask('{"payload":"' + character * (MAX_FRAME_BYTES // len(character.encode())) + '"}') == []
        assert other.session.close_code == 1009


def test_a_lock_that_ends_wakes_the_next_subscriber(world: World, peer: Peer) -> None:
    id = world.publish("jobs")
    peer.ask(subscribe(lock_timeout_secs=5, credits=1))
    other = Peer(world, "c2")
    other.ask(subscribe())
    world.now += 5001
    assert world.broker.expire(world.now, 10) == 1
    world.dispatch()
    assert [frame["id"] for frame in other.read()] == [id]
    assert peer.ask({"type": "ack", "queue": "jobs", "id": id}) == [OK]
    assert id in other.held


# gates


# Verifies: WS-0010
def test_while_starting_nothing_changes(world: World, peer: Peer) -> None:
    world.gate.starting = True
    frames = peer.ask(
        publish(),
        subscribe(),
        {"type": "credit", "queue": "jobs", "credits": 1},
        *({"type": kind, "queue": "jobs", "id": "x"} for kind in ("ack", "nack", "renew")),
        *({"type": kind, "queue": "jobs", "ids": []} for kind in ("batch-ack", "batch-nack")),
    )
    assert [frame["code"] for frame in frames] == ["starting"] * 8
    assert peer.ask({"type": "unsubscribe", "queue": "jobs"}, {"type": "subscribe-logs"}) == [OK, OK]


# Verifies: WS-0011
def test_a_burst_that_was_not_stored(world: World, peer: Peer) -> None:
    (id,) = delivered(world, peer)
    burst = peer.session.receive(
        [json.dumps(each) for each in (publish(req_id="1"), {"type": "ack", "queue": "jobs", "id": id}, {"type": "?"})]
        + [json.dumps(each) for each in ({"type": "unsubscribe", "queue": "jobs"}, publish(no_reply=True))]
    )
    peer.session.run(burst, world.broker, world.now, 128)
    peer.session.fail(burst, DiskFull("no space left"))
    frames = peer.read()
    assert [frame.get("code") for frame in frames] == ["storage_error", "storage_error", "unknown_type", None]
    assert frames[0]["req_id"] == "1"


# Verifies: WS-0011
def test_a_burst_that_failed_half_way(world: World, peer: Peer) -> None:
    """What did not run gets an error as well, also where it would have changed nothing."""
    requests = [publish(), {"type": "unsubscribe", "queue": "jobs"}] * 5
    burst = peer.session.receive([json.dumps(each | {"req_id": str(at)}) for at, each in enumerate(requests)])
    assert peer.session.run(burst, world.broker, world.now, 5)
    peer.session.fail(burst, DiskFull("no space left"))
    frames = peer.read()
    assert [frame["req_id"] for frame in frames] == [str(number) for number in range(10)]
    assert [frame["type"] for frame in frames] == ["error", "ok", "error", "ok", *["error"] * 6]
    assert {frame["code"] for frame in frames if frame["type"] == "error"} == {"storage_error"}


@pytest.mark.parametrize(
    "misshapen", ['{"queue": 1}', "[]", '"text"', "null", '{"type": 1}', '{"type": "ack", "id": 1}']
)
def test_a_misshapen_frame_in_a_burst_that_was_not_stored(world: World, peer: Peer, misshapen: str) -> None:
    """What is wrong with it does not depend on the store."""
    (wrong,) = peer.ask(misshapen)
    burst = peer.session.receive([misshapen, json.dumps(publish(req_id="1")), misshapen])
    peer.session.run(burst, world.broker, world.now, 128)
    peer.session.fail(burst, DiskFull("no space left"))
    first, second, third = peer.read()
    assert first == third == wrong
    assert (second["code"], second["req_id"]) == ("storage_error", "1")
