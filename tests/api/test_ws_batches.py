"""Batches over a WebSocket: batch-publish, and several deliveries in a frame."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.api import ws_outbox
from qrusty_trio.api.ws_outbox import BATCH_BYTES
from qrusty_trio.api.ws_requests import BATCH_PIECE
from qrusty_trio.core.model import MAX_BATCH_DELIVERIES, MAX_BATCH_MESSAGES, U32_MAX, U64_MAX
from tests.api.ws_peer import OK, Frame, Peer, World, code, subscribe


def message(payload: Any = "p", priority: Any = 1, **more: Any) -> Frame:
    return {"priority": priority, "payload": payload, **more}


def batch(*messages: Frame, **fields: Any) -> Frame:
    return {"type": "batch-publish", "queue": "jobs", "messages": list(messages), **fields}


def test_a_batch_is_published(world: World, peer: Peer) -> None:
    (done,) = peer.ask(batch(message("a"), message("b", "text"), message("c", max_retries=0), req_id="r"))
    assert (done["type"], done["req_id"], len(done["ids"])) == ("ok", "r", 2)
    assert [(each["index"], each["code"]) for each in done["rejected"]] == [(1, "priority_kind_mismatch")]
    peer.ask(subscribe())
    assert peer.held == done["ids"]


def test_a_long_batch_is_published_in_steps(world: World, peer: Peer) -> None:
    many = [message(str(number)) for number in range(3 * BATCH_PIECE + 1)]
    responses = peer.ask(batch(*many), {"type": "unsubscribe", "queue": "jobs"}, batch(message("last")))
    assert [len(each.get("ids", ())) for each in responses] == [len(many), 0, 1]
    assert world.available("jobs") == len(many) + 1


@pytest.mark.parametrize(("kind", "count"), [("batch-ack", "acked"), ("batch-nack", "unlocked")])
def test_several_batches_in_one_burst_are_settled_from_their_first_id(
    world: World, peer: Peer, kind: str, count: str
) -> None:
    peer.ask(batch(*(message(str(number)) for number in range(6))), subscribe(credits=6))
    ids = list(peer.held)
    assert len(ids) == 6
    responses = peer.ask(*({"type": kind, "queue": "jobs", "ids": ids[at : at + 2]} for at in (0, 2, 4)))
    settled = [each[count] for each in responses if each["type"] == "ok"]
    assert settled == [2, 2, 2]


def test_an_unknown_queue_is_not_made(world: World, peer: Peer) -> None:
    assert code(peer.ask(batch(message(), queue="other"))) == "queue_not_found"
    assert peer.ask(batch(queue="other")) == [{"type": "ok", "ids": [], "rejected": []}]
    assert world.broker.catalog.names() == ["jobs"]


def test_under_memory_pressure_no_batch_is_taken(world: World, peer: Peer) -> None:
    world.gate.memory_critical = True
    assert code(peer.ask(batch(message()))) == "memory_pressure"


# Verifies: PER-0063
def test_a_disk_with_little_room_takes_no_publish(world: World, peer: Peer) -> None:
    world.gate.disk_short = "No space left"
    for frame in (batch(message()), {"type": "publish", "queue": "jobs", "priority": 1, "payload": "p"}):
        (refused,) = peer.ask(frame)
        assert (refused["code"], refused["message"]) == ("storage_error", "No space left")
    assert world.available("jobs") == 0


WRONG: tuple[Any, ...] = (None, 1, "x", {}, [1], [None], [{}])
PRIORITIES: tuple[Any, ...] = (-1, 1.5, None, True, U64_MAX + 1)
PAYLOADS: tuple[Any, ...] = (1, None, [])
RETRIES: tuple[Any, ...] = (-1, 0.5, "1", U32_MAX + 1)


@pytest.mark.parametrize(
    "fields",
    [
        *({"messages": wrong} for wrong in WRONG),
        *({"messages": [message(priority=wrong)]} for wrong in PRIORITIES),
        *({"messages": [message(wrong)]} for wrong in PAYLOADS),
        *({"messages": [message(max_retries=wrong)]} for wrong in RETRIES),
        {"messages": [message("")] * (MAX_BATCH_MESSAGES + 1)},
        {"queue": None},
    ],
)
def test_batches_that_are_refused(world: World, peer: Peer, fields: dict[str, Any]) -> None:
    (refused,) = peer.ask(batch(message(), **fields, req_id="r"))
    assert (refused["code"], refused["req_id"]) == ("invalid_request", "r")
    assert peer.ask(batch(message(), **fields, no_reply=True)) == []
    assert world.available("jobs") == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"priority":1,"payload":"p","payload":"q"}', "'messages[0].payload' must be given only once"),
        ('{"priority":1,"priority":2,"payload":"p"}', "'messages[0].priority' must be given only once"),
    ],
)
def test_a_field_of_a_message_given_twice(world: World, peer: Peer, text: str, problem: str) -> None:
    (refused,) = peer.ask(f'{{"type":"batch-publish","queue":"jobs","messages":[{text}],"req_id":"r"}}')
    assert (refused["code"], refused["message"], refused["req_id"]) == ("invalid_request", problem, "r")
    (refused,) = peer.ask(f'{{"type":"publish","queue":"jobs","payload":"p","messages":[{text}]}}')
    assert refused["code"] == "invalid_request"
    assert world.available("jobs") == 0


def test_ids_with_escapes_are_no_doubt(peer: Peer) -> None:
    ids = ",".join(['"\\u0061 id of forty characters, no matter which"'] * 1000)
    assert peer.ask(f'{{"type":"batch-ack","queue":"jobs","ids":[{ids}]}}') == [{"type": "ok", "acked": 0}]


def test_payloads_that_look_like_fields(world: World, peer: Peer) -> None:
    texts = ["messages", "payload", "type", '"priority"', "\\", "ü"]
    (done,) = peer.ask(batch(*(message(text) for text in texts)))
    assert len(done["ids"]) == len(texts)


# deliver-batch


def test_deliveries_that_came_together_are_one_frame(world: World, peer: Peer) -> None:
    assert peer.ask(subscribe(batch=3)) == [OK]
    world.now = 1_767_323_045_006
    publisher = Peer(world, "p")
    (done,) = publisher.ask(batch(*(message(f'"{number}"', number) for number in range(7, 0, -1))))
    frames = peer.read()
    assert [frame["type"] for frame in frames] == ["deliver-batch"] * 3
    assert [len(frame["messages"]) for frame in frames] == [3, 3, 1]
    assert frames[0].keys() == {"type", "queue", "messages"}
    assert frames[0]["messages"][0] == {
        "id": done["ids"][0],
        "payload": '"7"',
        "priority": 7,
        "created_at": "2026-01-02T03:04:05.006Z",
    }
    assert [each["id"] for frame in frames for each in frame["messages"]] == done["ids"] == peer.held


def test_credits_count_messages(world: World, peer: Peer) -> None:
    for _ in range(5):
        world.publish("jobs")
    ok, frame = peer.ask(subscribe(batch=10, credits=3))
    assert (ok, len(frame["messages"])) == (OK, 3)
    frames = peer.ask({"type": "credit", "queue": "jobs", "credits": 1})
    assert [len(frame["messages"]) for frame in frames if frame != OK] == [1]


def test_responses_and_other_subscriptions_stand_between_batches(world: World, peer: Peer) -> None:
    world.queue("more")
    peer.ask(subscribe(batch=10), subscribe(queue="more", batch=10))
    for queue in ("jobs", "jobs", "more", "jobs"):
        world.publish(queue)
    assert [(frame["queue"], len(frame["messages"])) for frame in peer.read()] == [
        *(("jobs", 2), ("more", 1), ("jobs", 1)),
    ]


def test_a_frame_has_a_bounded_size(world: World, peer: Peer) -> None:
    peer.ask(subscribe(batch=MAX_BATCH_DELIVERIES))
    for _ in range(3):
        world.publish("jobs", "x" * BATCH_BYTES)
    assert [len(frame["messages"]) for frame in peer.read()] == [1, 1, 1]


@pytest.mark.parametrize("wrong", [0, -1, MAX_BATCH_DELIVERIES + 1, 1.5, "1", True, []])
def test_sizes_of_batches_that_are_refused(world: World, peer: Peer, wrong: Any) -> None:
    assert code(peer.ask(subscribe(batch=wrong))) == "invalid_request"
    assert not peer.session.subscriptions


def test_what_has_not_left_is_known(world: World, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a frame that waits, no message has left. Of one that was handed out, all have."""
    monkeypatch.setattr(ws_outbox, "TAKE_BYTES", 10)
    peer.ask(subscribe(batch=2))
    ids = [world.publish("jobs") for _ in range(4)]
    assert not any(peer.session.has_left(id) for id in ids)
    (frame,) = peer.session.take()
    assert [each["id"] for each in json.loads(frame)["messages"]] == ids[:2]
    assert [peer.session.has_left(id) for id in ids] == [True, True, False, False]
    peer.gone()
    assert world.available("jobs") == 4


def test_a_fault_withdraws_batches_that_wait(world: World, peer: Peer) -> None:
    peer.ask(subscribe(batch=2))
    for _ in range(3):
        world.publish("jobs")
    world.dispatcher.clear()
    assert peer.session.take() == []
    assert peer.session.outbox.size == 0


# Verifies: WS-0013
def test_a_second_subscribe_with_another_batch_says_which_is_in_force(peer: Peer) -> None:
    in_force = {"type": "ok", "unchanged": True, "credits": None, "lock_timeout_secs": 30}
    assert peer.ask(subscribe(), subscribe(batch=5)) == [OK, in_force]
    peer.ask({"type": "unsubscribe", "queue": "jobs"})
    assert peer.ask(subscribe(batch=5), subscribe(batch=5)) == [OK, OK]
    assert peer.ask(subscribe(batch=6), subscribe()) == [{**in_force, "batch": 5}] * 2
