"""Every frame and every error of the WebSocket contract, bytes in and bytes out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.api.ws_outbox import ROOM_BYTES
from qrusty_trio.api.ws_requests import MAX_SUBSCRIPTIONS
from qrusty_trio.api.ws_session import MAX_FRAME_BYTES, SWEEP_FROM
from qrusty_trio.core.model import Kind, QueueConfig
from qrusty_trio.errors import DiskFull
from tests.api.ws_peer import Peer, World

OK = {"type": "ok"}


@pytest.fixture
def world() -> World:
    world = World()
    world.queue("jobs")
    return world


@pytest.fixture
def peer(world: World) -> Peer:
    return Peer(world)


def code(frames: list[dict[str, Any]]) -> str:
    (frame,) = frames
    assert frame["type"] == "error"
    assert frame["message"]
    return str(frame["code"])


def subscribe(**fields: object) -> dict[str, Any]:
    return {"type": "subscribe", "queue": "jobs", **fields}


def publish(**fields: object) -> dict[str, Any]:
    return {"type": "publish", "queue": "jobs", "payload": "hello", **fields}


# publish


def test_publish_answers_with_an_id(world: World, peer: Peer) -> None:
    (answer,) = peer.ask(publish(priority=7, max_retries=0))
    assert set(answer) == {"type", "id"}
    assert answer["type"] == "ok"
    assert len(answer["id"]) == 36
    assert world.available("jobs") == 1


def test_publish_does_not_create_a_queue(peer: Peer) -> None:
    assert code(peer.ask(publish(queue="nope"))) == "queue_not_found"


def test_publish_refused(peer: Peer) -> None:
    assert code(peer.ask(publish(priority="high"))) == "publish_failed"


def test_publish_under_pressure(world: World, peer: Peer) -> None:
    world.gate.memory_critical = True
    assert code(peer.ask(publish())) == "memory_pressure"
    world.gate.memory_critical = False
    assert peer.ask(publish())[0]["type"] == "ok"


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
    (answer,) = peer.ask(publish(req_id="r", **fields))
    assert (answer["code"], answer["req_id"]) == ("invalid_request", "r")
    assert next(iter(fields)) in answer["message"]
    assert world.available("jobs") == 0


def test_what_the_contract_does_not_know_is_ignored(world: World, peer: Peer) -> None:
    (answer,) = peer.ask(publish(colour="blue", nested={"a": [1, {}]}, id="x", ids=["y"], credits=4))
    assert set(answer) == {"type", "id"}
    assert peer.ask(subscribe(colour="blue", payload="x"))[0] == OK


def test_text_priorities(world: World, peer: Peer) -> None:
    world.queue("letters", Kind.TEXT)
    assert code(peer.ask(publish(queue="letters", priority=5))) == "publish_failed"
    assert code(peer.ask(publish(queue="letters", priority=""))) == "publish_failed"
    peer.ask(publish(queue="letters", priority="a"), publish(queue="letters", priority="é"))
    frames = peer.ask(subscribe(queue="letters", no_reply=True))
    assert [frame["priority"] for frame in frames] == ["é", "a"]


def test_a_duplicate_is_refused(world: World, peer: Peer) -> None:
    world.broker.create_queue("once", QueueConfig(allow_duplicates=False))
    answers = peer.ask(publish(queue="once"), publish(queue="once", req_id="2"))
    assert (answers[0]["type"], answers[1]["code"], answers[1]["req_id"]) == ("ok", "publish_failed", "2")
    assert answers[1]["message"] == "Duplicate payload rejected"


def test_publish_takes_the_whole_range(world: World, peer: Peer) -> None:
    peer.send(publish(priority=2**64 - 1), publish(priority=2**53 + 1), subscribe())
    frames = [frame for frame in peer.read() if frame["type"] == "deliver"]
    assert [frame["priority"] for frame in frames] == [2**64 - 1, 2**53 + 1]


# subscribe, deliver


def test_deliver(world: World, peer: Peer) -> None:
    assert peer.ask(subscribe()) == [OK]
    world.now = 1_767_323_045_006
    id = world.publish("jobs", 'ü "quoted"\n\x00', 7)
    assert peer.read() == [
        {
            "type": "deliver",
            "queue": "jobs",
            "id": id,
            "payload": 'ü "quoted"\n\x00',
            "priority": 7,
            "created_at": "2026-01-02T03:04:05.006Z",
        }
    ]
    assert peer.woken


def test_subscribe_is_answered_before_the_backlog(world: World, peer: Peer) -> None:
    world.publish("jobs")
    frames = peer.ask(subscribe(req_id="s"))
    assert frames[0] == {"type": "ok", "req_id": "s"}
    assert frames[1]["type"] == "deliver"


def test_subscribe_to_an_unknown_queue(peer: Peer) -> None:
    assert code(peer.ask(subscribe(queue="nope"))) == "queue_not_found"


def test_second_subscribe_changes_nothing(world: World, peer: Peer) -> None:
    assert peer.ask(subscribe(credits=1), subscribe(credits=5)) == [OK, OK]
    for _ in range(3):
        world.publish("jobs")
    assert len(peer.read()) == 1


@pytest.mark.parametrize("fields", [{"credits": -1}, {"credits": "1"}, {"lock_timeout_secs": 0}, {"queue": None}])
def test_subscribe_of_the_wrong_shape(peer: Peer, fields: dict[str, Any]) -> None:
    assert code(peer.ask(subscribe(**fields))) == "invalid_request"


def test_subscriptions_are_bounded(world: World, peer: Peer) -> None:
    for number in range(MAX_SUBSCRIPTIONS):
        world.queue(f"q{number}")
        peer.send(subscribe(queue=f"q{number}", no_reply=True))
    assert code(peer.ask(subscribe())) == "invalid_request"
    assert peer.ask({"type": "unsubscribe", "queue": "q0"}, subscribe()) == [OK, OK]


def test_unsubscribe(world: World, peer: Peer) -> None:
    assert peer.ask({"type": "unsubscribe", "queue": "jobs"}) == [OK]
    assert peer.ask(subscribe(), {"type": "unsubscribe", "queue": "jobs"}) == [OK, OK]
    world.publish("jobs")
    assert peer.read() == []
    assert world.available("jobs") == 1


def test_a_message_has_one_consumer(world: World) -> None:
    peers = [Peer(world, f"c{number}") for number in range(3)]
    for peer in peers:
        peer.send(subscribe())
    for number in range(30):
        world.publish("jobs", str(number))
    got = [[frame["payload"] for frame in peer.read() if frame["type"] == "deliver"] for peer in peers]
    assert [len(each) for each in got] == [10, 10, 10]
    assert sorted(sum(got, []), key=int) == [str(number) for number in range(30)]


# credit


def test_credits_are_spent_by_deliveries_and_come_back_by_credit_only(world: World, peer: Peer) -> None:
    peer.send(subscribe(credits=2))
    ids = [world.publish("jobs") for _ in range(5)]
    frames = peer.read()
    assert [frame["id"] for frame in frames[1:]] == ids[:2]
    assert peer.ask(*({"type": "ack", "queue": "jobs", "id": id} for id in ids[:2])) == [OK, OK]
    frames = peer.ask({"type": "credit", "queue": "jobs", "credits": 1})
    assert sorted(frame["type"] for frame in frames) == ["deliver", "ok"]


def test_no_credits_until_credit(world: World, peer: Peer) -> None:
    world.publish("jobs")
    assert peer.ask(subscribe(credits=0)) == [OK]
    assert len(peer.ask({"type": "credit", "queue": "jobs", "credits": 3})) == 2


def test_credit_errors(peer: Peer) -> None:
    assert code(peer.ask({"type": "credit", "queue": "jobs", "credits": 1})) == "not_subscribed"
    peer.ask(subscribe(credits=1))
    for credits in (0, -1, None, "1"):
        assert code(peer.ask({"type": "credit", "queue": "jobs", "credits": credits})) == "invalid_request"


def test_credit_has_no_effect_on_an_unlimited_subscription(world: World, peer: Peer) -> None:
    assert peer.ask(subscribe(), {"type": "credit", "queue": "jobs", "credits": 1}) == [OK, OK]
    for _ in range(3):
        world.publish("jobs")
    assert len(peer.read()) == 3


# ack, nack, renew, batches


def delivered(world: World, peer: Peer, count: int = 1, **fields: Any) -> list[str]:
    ids = [world.publish("jobs", **fields) for _ in range(count)]
    peer.ask(subscribe())
    return ids


def test_ack(world: World, peer: Peer) -> None:
    (id,) = delivered(world, peer)
    assert peer.ask({"type": "ack", "queue": "jobs", "id": id}) == [OK]
    assert not peer.session.held
    peer.gone()
    assert world.available("jobs") == 0


@pytest.mark.parametrize("kind", ["ack", "nack"])
def test_settling_what_is_not_held_is_ok(world: World, peer: Peer, kind: str) -> None:
    other = Peer(world, "c2")
    (id,) = delivered(world, other)
    assert peer.ask({"type": kind, "queue": "jobs", "id": id}, {"type": kind, "queue": "x", "id": "y"}) == [OK, OK]
    assert id in other.session.held
    other.gone()
    assert world.available("jobs") == 1


def test_nack_brings_it_back(world: World, peer: Peer) -> None:
    (id,) = delivered(world, peer)
    frames = peer.ask({"type": "nack", "queue": "jobs", "id": id})
    assert sorted(frame["type"] for frame in frames) == ["deliver", "ok"]


def test_batch_ack(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 300)
    frames = peer.ask({"type": "batch-ack", "queue": "jobs", "ids": [*ids, "unknown"], "req_id": "b"})
    assert frames == [{"type": "ok", "acked": 300, "req_id": "b"}]
    assert peer.ask({"type": "batch-ack", "queue": "jobs", "ids": []}) == [{"type": "ok", "acked": 0}]


def test_batch_nack(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 2) + [world.publish("jobs", retries=1)]
    peer.ask({"type": "unsubscribe", "queue": "jobs"})
    frames = peer.ask({"type": "batch-nack", "queue": "jobs", "ids": [*ids, "unknown"]})
    assert frames == [{"type": "ok", "unlocked": 2, "dropped": 1}]


def test_long_batches_go_in_pieces(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 500)
    burst = peer.session.receive(
        [json.dumps({"type": "batch-ack", "queue": "jobs", "ids": ids}), json.dumps(publish())]
    )
    assert burst.weight == 502
    steps = 1
    while peer.session.run(burst, world.broker, world.now, 128):
        steps += 1
    assert steps >= 4
    peer.session.finish(burst)
    frames = peer.read()
    assert frames[0] == {"type": "ok", "acked": 500}
    assert "id" in frames[1]


def test_dead_letters(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 2, retries=1)
    assert peer.ask({"type": "nack", "queue": "jobs", "id": ids[0]}) == [OK]
    answer = {"type": "ok", "unlocked": 0, "dropped": 1}
    assert peer.ask({"type": "batch-nack", "queue": "jobs", "ids": ids}) == [answer]
    stats = world.broker.stats("jobs")
    assert stats is not None
    assert (stats.available, stats.locked, stats.dead) == (0, 0, 2)


def test_after_a_rename_the_old_name_goes_on_as_well_as_the_new_one(world: World, peer: Peer) -> None:
    ids = delivered(world, peer, 4)
    for _ in world.broker.update_queue("jobs", "work", None, world.now):
        pass
    world.queue("jobs")
    assert peer.ask({"type": "ack", "queue": "jobs", "id": ids[0]}) == [OK]
    assert peer.ask({"type": "ack", "queue": "work", "id": ids[1]}) == [OK]
    assert peer.ask({"type": "renew", "queue": "jobs", "id": ids[2]}) == [OK]
    assert peer.ask({"type": "ack", "queue": "third", "id": ids[2]}) == [OK]  # Accepted, not done.
    assert list(peer.session.held) == ids[2:]
    assert peer.ask({"type": "batch-ack", "queue": "jobs", "ids": ids}) == [{"type": "ok", "acked": 2}]
    world.publish("work")
    assert [frame["queue"] for frame in peer.read()] == ["jobs"]


def test_a_queue_that_is_deleted_and_made_anew(world: World, peer: Peer) -> None:
    (id,) = delivered(world, peer)
    spent = Peer(world, "c2")
    spent.ask(subscribe(credits=0))
    world.broker.delete("jobs")
    assert peer.ask({"type": "ack", "queue": "jobs", "id": id}) == [OK]
    assert code(peer.ask({"type": "renew", "queue": "jobs", "id": id})) == "not_locked"
    world.queue("jobs")
    first = world.publish("jobs")
    assert [frame["id"] for frame in peer.read()] == [first]
    peer.gone()
    assert world.available("jobs") == 1
    spent.ask({"type": "credit", "queue": "jobs", "credits": 5})
    assert list(spent.session.held) == [first]


@pytest.mark.parametrize("ids", [None, "x", [1], {"a": 1}])
def test_batch_of_the_wrong_shape(peer: Peer, ids: object) -> None:
    assert code(peer.ask({"type": "batch-ack", "queue": "jobs", "ids": ids})) == "invalid_request"


def test_renew(world: World, peer: Peer) -> None:
    (id,) = delivered(world, peer)
    assert peer.ask({"type": "renew", "queue": "jobs", "id": id, "lock_timeout_secs": 60}) == [OK]
    assert peer.session.held[id].until == world.now + 60_000
    for queue, wrong in (("jobs", "x"), ("nope", id)):
        assert code(peer.ask({"type": "renew", "queue": queue, "id": wrong})) == "not_locked"
    peer.ask({"type": "ack", "queue": "jobs", "id": id})
    assert code(peer.ask({"type": "renew", "queue": "jobs", "id": id})) == "not_locked"


# req_id, no_reply, shapes


def test_answers_keep_the_order_and_the_req_id(peer: Peer) -> None:
    frames = peer.ask(
        publish(req_id="1"),
        {"type": "?", "req_id": 'ü"'},
        subscribe(req_id="3", credits=0),
        {"queue": 1, "req_id": "4"},
    )
    assert [frame["req_id"] for frame in frames] == ["1", 'ü"', "3", "4"]
    assert [frame.get("code") for frame in frames] == [None, "unknown_type", None, "invalid_request"]


def test_no_reply(world: World, peer: Peer) -> None:
    assert peer.ask(publish(no_reply=True), {"type": "?", "no_reply": True}, {"queue": 1, "no_reply": True}) == []
    assert world.available("jobs") == 1
    assert code(peer.ask(publish(no_reply="yes"))) == "invalid_request"


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
    (answer,) = peer.ask(publish(priority=None, max_retries=None, req_id=None, no_reply=None))
    assert set(answer) == {"type", "id"}


def test_a_long_req_id_is_not_sent_back(peer: Peer) -> None:
    (answer,) = peer.ask({"type": "unsubscribe", "queue": "jobs", "req_id": "x" * 2000})
    assert answer["code"] == "invalid_request"
    assert "req_id" not in answer


def test_an_error_is_short_whatever_was_sent(peer: Peer) -> None:
    long = "x" * 1_000_000
    for frame in (
        publish(queue=long),
        subscribe(queue=long),
        {"type": "credit", "queue": long, "credits": 1},
        {"type": long},
    ):
        (answer,) = peer.ask(frame)
        assert answer["type"] == "error"
        assert len(answer["message"]) <= 1000


# frames that end the connection


@pytest.mark.parametrize(
    "text",
    ["", "{", "nope", '{"type":"ack"} x', '{"type":5,', '{"queue":1}}', "[" * 5000, '{"payload":"\\ud800"}', "NaN"],
)
def test_what_is_not_json_closes_with_1007_after_the_answers(world: World, peer: Peer, text: str) -> None:
    frames = peer.ask(publish(), text, publish())
    assert [frame["type"] for frame in frames] == ["ok"]
    assert peer.session.close_code == 1007
    assert world.available("jobs") == 1
    assert peer.ask(publish()) == []


def test_binary_closes_with_1003(peer: Peer) -> None:
    assert len(peer.ask(publish(), b"{}")) == 1
    assert peer.session.close_code == 1003


def test_oversize_closes_with_1009(peer: Peer) -> None:
    overhead = len(json.dumps(publish(payload="")))
    assert peer.ask(publish(payload="x" * (MAX_FRAME_BYTES - overhead)))[0]["type"] == "ok"
    assert peer.ask('{"payload":"' + "ü" * (MAX_FRAME_BYTES // 2) + '"}') == []
    assert peer.session.close_code == 1009


def test_a_lock_that_ends_wakes_the_next_subscriber(world: World, peer: Peer) -> None:
    id = world.publish("jobs")
    peer.ask(subscribe(lock_timeout_secs=5, credits=1))
    other = Peer(world, "c2")
    other.ask(subscribe())
    world.now += 5001
    assert world.broker.expire(world.now, 10) == 1
    world.pump()
    assert [frame["id"] for frame in other.read()] == [id]
    assert peer.ask({"type": "ack", "queue": "jobs", "id": id}) == [OK]
    assert id in other.session.held


# gates


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
    assert id in peer.session.held


def test_a_burst_that_failed_half_way(world: World, peer: Peer) -> None:
    burst = peer.session.receive([json.dumps(publish(req_id=str(number))) for number in range(10)])
    assert peer.session.run(burst, world.broker, world.now, 4)
    peer.session.fail(burst, DiskFull("no space left"))
    frames = peer.read()
    assert [frame["req_id"] for frame in frames] == [str(number) for number in range(10)]
    assert {frame["code"] for frame in frames} == {"storage_error"}


# room


def test_deliveries_stop_when_the_outbox_is_full(world: World, peer: Peer) -> None:
    payload = "x" * (ROOM_BYTES // 4)
    for _ in range(10):
        world.publish("jobs", payload)
    peer.send(subscribe())
    assert world.available("jobs") == 6
    other = Peer(world, "c2")
    other.send(subscribe(credits=1))
    assert len(other.read()) == 2
    assert world.available("jobs") == 5
    assert len(peer.read()) == 10
    assert world.available("jobs") == 0


def test_an_empty_outbox_takes_a_message_of_any_size(world: World, peer: Peer) -> None:
    world.publish("jobs", "x" * (2 * ROOM_BYTES))
    world.publish("jobs", "y" * (2 * ROOM_BYTES))
    peer.send(subscribe(no_reply=True))
    assert world.available("jobs") == 1
    frames = peer.session.take()
    assert len(frames) == 1
    world.pump()
    assert world.available("jobs") == 1  # Still on its way: it counts.
    assert peer.session.sent()
    peer.session.resume()
    world.pump()
    assert len(peer.read()) == 1


def test_what_could_not_be_stored_is_taken_back(world: World, peer: Peer) -> None:
    """A delivery of a batch that failed has not left, and a subscription that it had parked goes on."""
    payload = "x" * (ROOM_BYTES // 2)
    peer.ask(subscribe(credits=10))
    for _ in range(3):
        world.broker.publish("jobs", 0, payload, 3, world.now)
    world.dispatcher.pump(world.broker, world.now, 64)
    assert len(peer.session.held) == 2
    world.dispatcher.retract()
    assert not peer.session.held
    assert peer.session.take() == []
    # The messages of the batch are gone with it; here they are still locked, which concerns nobody.
    world.publish("jobs", "next")
    assert [frame["payload"][:4] for frame in peer.read()] == ["xxxx", "next"]
    assert peer.session.subscriptions["jobs"].credits == 8


def test_what_expired_unsettled_does_not_pile_up(world: World, peer: Peer) -> None:
    peer.send(subscribe(lock_timeout_secs=1))
    for _ in range(6 * SWEEP_FROM):
        world.publish("jobs")
        world.now += 10
        peer.read()
    assert len(peer.session.held) <= SWEEP_FROM + 2


# the end


def test_a_closed_connection_gives_everything_back(world: World, peer: Peer) -> None:
    for number in range(100):
        world.publish("jobs", str(number))
    other = Peer(world, "c2")
    peer.ask(subscribe())
    other.send(subscribe())
    assert world.available("jobs") == 0
    peer.gone()
    assert [frame["payload"] for frame in other.read()[1:]] == [str(number) for number in range(100)]


def test_a_delivery_that_was_sent_counts(world: World, peer: Peer) -> None:
    """Whoever takes messages and goes away with them can't have them for ever."""
    world.publish("jobs", retries=2)
    for expected in (1, 0):
        session = Peer(world, "again")
        assert len(session.ask(subscribe(no_reply=True))) == 1
        session.gone()
        assert world.available("jobs") == expected


def test_a_delivery_that_was_never_sent_does_not_count(world: World) -> None:
    world.publish("jobs", retries=1)
    for _ in range(3):
        session = Peer(world, "again")
        session.send(subscribe(no_reply=True))
        assert world.available("jobs") == 0
        session.gone()
        assert world.available("jobs") == 1


# logs


def test_logs_history_then_live(world: World, peer: Peer) -> None:
    world.ring.write(1200)
    peer.send({"type": "subscribe-logs"}, {"type": "subscribe-logs"})
    frames = [frame for frame in peer.read() if frame["type"] == "log"]
    assert [frame["message"] for frame in frames] == [f"record {number}" for number in range(200, 1200)]
    assert set(frames[0]) == {"type", "timestamp", "level", "message"}
    woken = peer.woken
    world.ring.write()
    assert peer.woken > woken
    assert [frame["message"] for frame in peer.read()] == ["record 1200"]
    assert peer.ask({"type": "unsubscribe-logs"}) == [OK]
    world.ring.write()
    assert peer.read() == []
    assert world.ring.listeners == []


def test_a_slow_log_reader_is_told_what_it_lost(world: World, peer: Peer) -> None:
    peer.ask({"type": "subscribe-logs"})
    world.ring.write(1500)
    frames = peer.read()
    assert frames[0]["message"].startswith("500 log records were lost")
    assert len(frames) == 1001


def test_logs_end_with_the_connection(world: World, peer: Peer) -> None:
    peer.ask({"type": "subscribe-logs"})
    peer.gone()
    assert world.ring.listeners == []
