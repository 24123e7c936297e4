"""What a session is sent without asking: deliveries under credit and room, log records, and what is left at the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.api import ws_outbox, ws_session
from qrusty_trio.api.ws_outbox import ROOM_BYTES
from qrusty_trio.api.ws_requests import MAX_SUBSCRIPTIONS
from tests.api.ws_peer import OK, Peer, World, code, publish, subscribe

# subscribe, deliver


# Verifies: WS-0002
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


# Verifies: WS-0012
def test_subscribe_is_answered_before_the_backlog(world: World, peer: Peer) -> None:
    world.publish("jobs")
    frames = peer.ask(subscribe(req_id="s"))
    assert frames[0] == {"type": "ok", "req_id": "s"}
    assert frames[1]["type"] == "deliver"


# Verifies: WS-0012
def test_subscribe_to_an_unknown_queue(peer: Peer) -> None:
    assert code(peer.ask(subscribe(queue="nope"))) == "queue_not_found"


# Verifies: WS-0013
def test_second_subscribe_changes_nothing(world: World, peer: Peer) -> None:
    assert peer.ask(subscribe(credits=1), subscribe(credits=1)) == [OK, OK]
    for _ in range(3):
        world.publish("jobs")
    assert len(peer.read()) == 1
    assert peer.ask(subscribe(credits=1)) == [OK]


# Verifies: WS-0013
@pytest.mark.parametrize(
    ("first", "second", "credits", "seconds"),
    [
        ({"credits": 3}, {"credits": 5}, 3, 30),
        ({"credits": 3}, {}, 3, 30),
        ({}, {"credits": 3}, None, 30),
        ({"lock_timeout_secs": 5}, {}, None, 5),
        ({"credits": 3, "lock_timeout_secs": 5}, {"credits": 3, "lock_timeout_secs": 6}, 3, 5),
    ],
)
def test_second_subscribe_with_other_terms_says_which_are_in_force(
    world: World, peer: Peer, first: dict[str, Any], second: dict[str, Any], credits: int | None, seconds: int
) -> None:
    in_force = {"type": "ok", "unchanged": True, "credits": credits, "lock_timeout_secs": seconds}
    assert peer.ask(subscribe(**first), subscribe(**second)) == [OK, in_force]
    world.publish("jobs")
    peer.read()
    left = None if credits is None else credits - 1
    assert peer.ask(subscribe(**second, req_id="r")) == [{**in_force, "credits": left, "req_id": "r"}]
    assert peer.ask(subscribe(**first)) == [OK]


# Verifies: WS-0006
@pytest.mark.parametrize("fields", [{"credits": -1}, {"credits": "1"}, {"lock_timeout_secs": 0}, {"queue": None}])
def test_subscribe_of_the_wrong_shape(peer: Peer, fields: dict[str, Any]) -> None:
    assert code(peer.ask(subscribe(**fields))) == "invalid_request"


# Verifies: WS-0016
def test_subscriptions_are_bounded(world: World, peer: Peer) -> None:
    for number in range(MAX_SUBSCRIPTIONS):
        world.queue(f"q{number}")
        peer.send(subscribe(queue=f"q{number}", no_reply=True))
    assert code(peer.ask(subscribe())) == "invalid_request"
    assert peer.ask({"type": "unsubscribe", "queue": "q0"}, subscribe()) == [OK, OK]


# Verifies: WS-0015
def test_unsubscribe(world: World, peer: Peer) -> None:
    assert peer.ask({"type": "unsubscribe", "queue": "jobs"}) == [OK]
    assert peer.ask(subscribe(), {"type": "unsubscribe", "queue": "jobs"}) == [OK, OK]
    world.publish("jobs")
    assert peer.read() == []
    assert world.available("jobs") == 1


# Verifies: DLV-0001
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


# Verifies: WS-0014
def test_credits_are_spent_by_deliveries_and_come_back_by_credit_only(world: World, peer: Peer) -> None:
    peer.send(subscribe(credits=2))
    ids = [world.publish("jobs") for _ in range(5)]
    frames = peer.read()
    assert [frame["id"] for frame in frames[1:]] == ids[:2]
    assert peer.ask(*({"type": "ack", "queue": "jobs", "id": id} for id in ids[:2])) == [OK, OK]
    frames = peer.ask({"type": "credit", "queue": "jobs", "credits": 1})
    assert sorted(frame["type"] for frame in frames) == ["deliver", "ok"]


# Verifies: WS-0014
def test_no_credits_until_credit(world: World, peer: Peer) -> None:
    world.publish("jobs")
    assert peer.ask(subscribe(credits=0)) == [OK]
    assert len(peer.ask({"type": "credit", "queue": "jobs", "credits": 3})) == 2


# Verifies: WS-0014
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


# room


# Verifies: WS-0018, WS-0019
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
    world.dispatch()
    assert world.available("jobs") == 1  # Still on its way: it counts.
    assert peer.session.sent()
    peer.session.resume()
    world.dispatch()
    assert len(peer.read()) == 1


def test_a_message_that_comes_again_while_its_first_delivery_waits(
    world: World, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer reads slowly, locks end: which deliveries have left is known for each of them."""
    monkeypatch.setattr(ws_outbox, "TAKE_BYTES", 1)  # one frame at a time
    first, second = world.publish("jobs", "first"), world.publish("jobs", "second")
    peer.send(subscribe(lock_timeout_secs=1, no_reply=True))
    for _ in range(2):
        world.now += 1000
        world.broker.expire(world.now, 64)
        world.dispatch()
    left: list[str] = []
    while frames := peer.session.take():
        left += [json.loads(frame)["id"] for frame in frames]
        behind = 6 - len(left)
        assert peer.session.has_left(first) is (behind < 2)
        assert peer.session.has_left(second) is (behind < 1)
        peer.session.sent()
    assert left == [first, second] * 3


# Verifies: WS-0011
def test_what_could_not_be_stored_never_leaves(world: World, peer: Peer) -> None:
    """A delivery of a batch that failed is not seen; the responses that are true are. Then the session does nothing."""
    peer.ask(subscribe(credits=10))
    world.publish("jobs", "stored")
    peer.send({"type": "nonsense", "req_id": "1"})
    world.broker.publish("jobs", 0, "not stored", 3, world.now)
    world.dispatcher.dispatch(world.broker, world.now, 64)
    assert len(peer.session.outbox.unsent) == 2
    world.dispatcher.clear()
    assert [frame.get("req_id") for frame in peer.read()] == ["1"]
    assert peer.session.expired
    assert code(peer.ask(publish())) == "storage_error"
    world.publish("jobs", "next")
    assert peer.read() == []
    peer.gone()


# Verifies: WS-0011
def test_what_could_not_be_stored_never_leaves_behind_its_subscribe(world: World, peer: Peer) -> None:
    """It was delivered while the response to the subscribe waited for the store."""
    world.publish("jobs")
    burst = peer.session.receive([json.dumps(subscribe())])
    assert not peer.session.run(burst, world.broker, world.now, 128)
    world.dispatch()
    assert len(peer.session.outbox.unsent) == 1
    world.dispatcher.clear()
    assert peer.session.take() == []
    peer.session.finish(burst)
    assert peer.read() == [OK]
    assert peer.session.outbox.size == 0


def test_names_are_remembered_within_bounds(world: World, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws_session, "MAX_DELIVERED_FROM", 3)
    for number in range(10):
        world.queue(f"q{number}")
        id = world.publish(f"q{number}")
        peer.ask(subscribe(queue=f"q{number}"))
        assert peer.ask({"type": "ack", "queue": f"q{number}", "id": id}) == [{"type": "ok"}]
        peer.ask({"type": "unsubscribe", "queue": f"q{number}"})
    assert not peer.held
    assert len(peer.session._delivered_from) <= 3


def test_a_name_that_is_still_subscribed_to_is_not_forgotten(
    world: World, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws_session, "MAX_DELIVERED_FROM", 3)
    world.queue("old")
    peer.ask(subscribe(queue="old"))
    world.publish("old")
    for _ in world.broker.catalog.update("old", "new", None, world.now):
        pass
    for number in range(5):
        world.queue(f"q{number}")
        id = world.publish(f"q{number}")
        peer.ask(subscribe(queue=f"q{number}"))
        peer.ask({"type": "ack", "queue": f"q{number}", "id": id}, {"type": "unsubscribe", "queue": f"q{number}"})
    id = world.publish("new")
    (delivery,) = peer.read()
    assert (delivery["queue"], delivery["id"]) == ("old", id)
    assert peer.ask({"type": "batch-ack", "queue": "old", "ids": [id]}) == [{"type": "ok", "acked": 1}]


# the end


# Verifies: DLV-0026
def test_a_closed_connection_gives_everything_back(world: World, peer: Peer) -> None:
    for number in range(100):
        world.publish("jobs", str(number))
    other = Peer(world, "c2")
    peer.ask(subscribe())
    other.send(subscribe())
    assert world.available("jobs") == 0
    peer.gone()
    assert [frame["payload"] for frame in other.read()[1:]] == [str(number) for number in range(100)]


# Verifies: DLV-0013
def test_a_delivery_that_was_sent_counts(world: World, peer: Peer) -> None:
    """Whoever takes messages and goes away with them can't have them for ever."""
    world.publish("jobs", retries=2)
    for expected in (1, 0):
        session = Peer(world, "again")
        assert len(session.ask(subscribe(no_reply=True))) == 1
        session.gone()
        assert world.available("jobs") == expected


# Verifies: DLV-0017
def test_a_delivery_that_was_never_sent_does_not_count(world: World) -> None:
    world.publish("jobs", retries=1)
    for _ in range(3):
        session = Peer(world, "again")
        session.send(subscribe(no_reply=True))
        assert world.available("jobs") == 0
        session.gone()
        assert world.available("jobs") == 1


# logs


# Verifies: WS-0017
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


# Verifies: WS-0017
def test_a_slow_log_reader_is_told_what_it_lost(world: World, peer: Peer) -> None:
    peer.ask({"type": "subscribe-logs"})
    world.ring.write(1500)
    frames = peer.read()
    assert frames[0] == {
        "type": "log",
        "timestamp": frames[1]["timestamp"],
        "level": "warn",
        "message": "500 log records were lost: this connection reads too slowly",
    }
    assert [frame["message"] for frame in frames[1:]] == [f"record {number}" for number in range(500, 1500)]
    assert len({frame["timestamp"] for frame in frames}) == 1000


def test_logs_end_with_the_connection(world: World, peer: Peer) -> None:
    peer.ask({"type": "subscribe-logs"})
    peer.gone()
    assert world.ring.listeners == []


# Verifies: WS-0018
def test_a_peer_that_does_not_read_gets_no_more_of_the_log_than_there_is_room_for(world: World, peer: Peer) -> None:
    peer.ask(subscribe(), {"type": "subscribe-logs"})
    for _ in range(4):
        world.publish("jobs", "x" * (ROOM_BYTES // 4))
    world.ring.write(10)
    waiting = peer.session.outbox.size
    assert len(peer.session.take()) == 1
    assert peer.session.outbox.size == waiting
    assert [frame["type"] for frame in peer.read()] == ["deliver"] * 3 + ["log"] * 10
