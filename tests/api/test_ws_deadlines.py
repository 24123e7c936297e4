"""Warnings before locks end, as a connection asks for them and gets them."""

from __future__ import annotations

import json

import pytest

from qrusty_trio.core.deadlines import MAX_LENGTHS, MAX_SECONDS
from tests.api.ws_peer import OK, Frame, Peer, World, code, subscribe


def delivered(world: World, peer: Peer, queue: str = "jobs") -> str:
    """The id of a new message, which the peer has been sent."""
    id = world.publish(queue)
    peer.read()
    return id


def look(world: World, seconds: float) -> None:
    """Time passes, and the server looks at the locks."""
    world.now += int(seconds * 1000)
    while world.dispatcher.deadlines.look(world.broker.locks, world.now, 1000):
        pass


def warnings(peer: Peer) -> list[Frame]:
    return [frame for frame in peer.read() if frame["type"] == "deadline-soon"]


# Verifies: WS-0041
def test_a_warning(world: World, peer: Peer) -> None:
    assert peer.ask(subscribe(lock_timeout_secs=30, deadline_soon_secs=10)) == [OK]
    id = delivered(world, peer)
    end = world.now + 30_000
    look(world, 19.9)
    assert warnings(peer) == []
    look(world, 0.1)
    assert warnings(peer) == [{"type": "deadline-soon", "queue": "jobs", "id": id, "lock_until": end}]
    look(world, 5)
    assert warnings(peer) == []
    assert peer.ask({"type": "renew", "queue": "jobs", "id": id, "lock_timeout_secs": 20}) == [OK]
    end = world.now + 20_000
    look(world, 9)
    assert warnings(peer) == []
    look(world, 1)
    assert warnings(peer) == [{"type": "deadline-soon", "queue": "jobs", "id": id, "lock_until": end}]


def test_a_renewal_by_less_than_that_time_warns_at_once(world: World, peer: Peer) -> None:
    peer.ask(subscribe(lock_timeout_secs=30, deadline_soon_secs=10))
    id = delivered(world, peer)
    look(world, 25)
    assert len(warnings(peer)) == 1
    frames = peer.ask({"type": "renew", "queue": "jobs", "id": id, "lock_timeout_secs": 10})
    assert sorted(frame["type"] for frame in frames) == ["deadline-soon", "ok"]
    look(world, 9)
    assert warnings(peer) == []


# Verifies: WS-0041
def test_nobody_else_is_warned(world: World, peer: Peer) -> None:
    world.queue("other")
    quiet = Peer(world, "c2")
    quiet.ask(subscribe(lock_timeout_secs=30))
    peer.ask(
        subscribe(lock_timeout_secs=30, deadline_soon_secs=10),
        subscribe(queue="other", lock_timeout_secs=30),
    )
    for _ in range(2):
        delivered(world, peer)
    delivered(world, peer, "other")
    look(world, 25)
    assert [frame["queue"] for frame in warnings(peer)] == ["jobs"]
    assert warnings(quiet) == []


def test_two_subscriptions_with_times_of_their_own(world: World, peer: Peer) -> None:
    world.queue("other")
    peer.ask(
        subscribe(lock_timeout_secs=30, deadline_soon_secs=10),
        subscribe(queue="other", lock_timeout_secs=30, deadline_soon_secs=5),
    )
    delivered(world, peer)
    delivered(world, peer, "other")
    look(world, 21)
    assert [frame["queue"] for frame in warnings(peer)] == ["jobs"]
    look(world, 5)
    assert [frame["queue"] for frame in warnings(peer)] == ["other"]
    peer.ask({"type": "unsubscribe", "queue": "jobs"})
    assert world.dispatcher.deadlines.lengths() == [5]
    peer.gone()
    assert world.dispatcher.deadlines.lengths() == []


def test_the_name_is_the_one_that_was_subscribed_to(world: World, peer: Peer) -> None:
    peer.ask(subscribe(lock_timeout_secs=30, deadline_soon_secs=10))
    for _ in world.broker.catalog.update("jobs", "renamed", None, world.now):
        pass
    delivered(world, peer, "renamed")
    look(world, 25)
    assert [frame["queue"] for frame in warnings(peer)] == ["jobs"]


def test_no_warning_of_what_was_not_sent_yet(world: World, peer: Peer) -> None:
    peer.send(subscribe(lock_timeout_secs=30, deadline_soon_secs=10))
    world.publish("jobs")
    look(world, 25)
    assert [frame["type"] for frame in peer.read()] == ["ok", "deliver"]


def test_after_an_ack_a_forced_unlock_or_an_unsubscribe_there_is_none(world: World, peer: Peer) -> None:
    peer.ask(subscribe(lock_timeout_secs=30, deadline_soon_secs=10, credits=3))
    ids = [world.publish("jobs") for _ in range(3)]
    assert len(peer.read()) == 3
    peer.ask({"type": "ack", "queue": "jobs", "id": ids[0]})
    lock = world.broker.catalog.by_name["jobs"].locks.get(ids[1])
    assert lock is not None
    world.broker.give_back(lock, counts=False, now=world.now)
    peer.ask({"type": "unsubscribe", "queue": "jobs"})
    look(world, 25)
    assert warnings(peer) == []
    assert peer.ask({"type": "ack", "queue": "jobs", "id": ids[1]}) == [OK]
    assert world.available("jobs") == 1


def test_a_slow_reader_is_not_sent_warnings(world: World, peer: Peer) -> None:
    peer.ask(subscribe(lock_timeout_secs=30, deadline_soon_secs=10))
    world.publish("jobs", "x" * 1000)
    peer.session.take()
    world.publish("jobs", "x" * 300_000)
    look(world, 25)
    assert all(json.loads(frame)["type"] != "deadline-soon" for frame in peer.session.take())


@pytest.mark.parametrize("seconds", [0, -1, 30, 31, MAX_SECONDS + 1, 2**64, "1", 1.5, True, [1]])
def test_times_that_are_refused(world: World, peer: Peer, seconds: object) -> None:
    frames = peer.ask(subscribe(lock_timeout_secs=30, deadline_soon_secs=seconds))
    assert code(frames) == "invalid_request"
    assert "'deadline_soon_secs'" in frames[0]["message"]
    assert not peer.session.subscriptions
    long = peer.ask(subscribe(lock_timeout_secs=10_000, deadline_soon_secs=MAX_SECONDS + 1))
    assert code(long) == "invalid_request"


def test_a_second_subscribe_is_told_the_terms_in_force(world: World, peer: Peer) -> None:
    assert peer.ask(subscribe(deadline_soon_secs=None)) == [OK]
    assert peer.ask(subscribe(deadline_soon_secs=5))[0]["unchanged"] is True
    peer.ask({"type": "unsubscribe", "queue": "jobs"})
    assert peer.ask(subscribe(deadline_soon_secs=5)) == [OK]
    assert peer.ask(subscribe(deadline_soon_secs=5)) == [OK]
    assert peer.ask(subscribe())[0]["deadline_soon_secs"] == 5


# Verifies: WS-0042
def test_too_many_times(world: World, peer: Peer) -> None:
    for seconds in range(1, MAX_LENGTHS + 2):
        world.queue(str(seconds))
        frames = peer.ask(subscribe(queue=str(seconds), deadline_soon_secs=seconds))
    assert code(frames) == "invalid_request"
    assert "1, 2, 3" in frames[0]["message"]
    assert peer.ask(subscribe(queue=str(MAX_LENGTHS + 1), deadline_soon_secs=1)) == [OK]
