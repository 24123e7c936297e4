"""Deliveries that wait for the sync of their locks: what leaves when, and what ends with them."""

from __future__ import annotations

from typing import Any

import pytest

from qrusty_trio.api import ws_outbox
from qrusty_trio.core.unsynced import Unsynced
from tests.api.ws_peer import OK, Peer, World, subscribe

SOME = [{}, {"batch": 10}]
some = pytest.mark.parametrize("fields", SOME, ids=["alone", "in_batches"])


def ids(frames: list[dict[str, Any]]) -> list[str]:
    """The messages in the deliveries among them."""
    found = []
    for frame in frames:
        if frame["type"] == "deliver":
            found.append(frame["id"])
        elif frame["type"] == "deliver-batch":
            found += [message["id"] for message in frame["messages"]]
    return found


@pytest.fixture
def synced(world: World) -> World:
    """A world whose locks are synced."""
    world.dispatcher.unsynced = Unsynced()
    return world


def next_sync(world: World) -> Unsynced:
    """What was delivered so far waits for one sync, and what comes now for another."""
    unsynced, world.dispatcher.unsynced = world.dispatcher.unsynced, Unsynced()
    assert unsynced is not None
    return unsynced


# Verifies: PER-0061
@some
def test_a_delivery_leaves_after_its_sync(synced: World, peer: Peer, fields: dict[str, Any]) -> None:
    assert peer.ask(subscribe(**fields)) == [OK]
    id = synced.publish("jobs")
    assert peer.read() == []
    assert not peer.session.has_left(id)
    sync, woken = next_sync(synced), peer.woken
    sync.finish()
    assert peer.woken > woken
    assert ids(peer.read()) == [id]
    assert peer.session.has_left(id)
    assert peer.session.outbox.size == 0


# Verifies: PER-0061
@some
def test_each_sync_lets_its_own_deliveries_leave(synced: World, peer: Peer, fields: dict[str, Any]) -> None:
    peer.ask(subscribe(**fields))
    first, syncs = [], []
    for _ in range(3):
        first.append([synced.publish("jobs") for _ in range(2)])
        syncs.append(next_sync(synced))
    for published, sync in zip(first, syncs, strict=True):
        assert peer.read() == []
        sync.finish()
        frames = peer.read()
        assert ids(frames) == published
        assert len(frames) == (1 if fields else 2)


# Verifies: PER-0061
@some
def test_frames_stay_in_order(synced: World, peer: Peer, fields: dict[str, Any]) -> None:
    """The response to an unsubscribe comes behind the last delivery, and one to a subscribe before the first."""
    id = synced.publish("jobs")
    assert peer.ask(subscribe(**fields)) == [OK]
    assert peer.ask({"type": "unsubscribe", "queue": "jobs"}) == []
    next_sync(synced).finish()
    delivery, response = peer.read()
    assert ids([delivery]) == [id]
    assert response == OK


# Verifies: PER-0061
def test_much_leaves_in_pieces(synced: World, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws_outbox, "TAKE_BYTES", 300)
    peer.ask(subscribe())
    published = [synced.publish("jobs") for _ in range(5)]
    next_sync(synced).finish()
    late = synced.publish("jobs")
    pieces = []
    while taken := peer.session.take():
        pieces.append(len(taken))
        peer.session.sent()
    assert sum(pieces) == 5
    assert max(pieces) < 5
    assert all(peer.session.has_left(id) for id in published)
    assert not peer.session.has_left(late)


# Verifies: PER-0062
@some
def test_what_could_not_be_synced_never_leaves(synced: World, peer: Peer, fields: dict[str, Any]) -> None:
    peer.ask(subscribe(**fields))
    id = synced.publish("jobs")
    sync = next_sync(synced)
    waits = [peer.session.outbox.waits]
    sync.failed = True
    waits.append(peer.session.outbox.waits)
    assert waits == [True, False]
    assert peer.read() == []
    peer.gone()
    assert synced.available("jobs") == 1
    other = Peer(synced, "c2")
    other.ask(subscribe())
    next_sync(synced).finish()
    assert ids(other.read()) == [id]


# Verifies: PER-0062
@some
def test_what_waits_when_the_store_fails_is_withdrawn(synced: World, peer: Peer, fields: dict[str, Any]) -> None:
    peer.ask(subscribe(**fields))
    synced.publish("jobs")
    old = synced.dispatcher.unsynced
    peer.session.outbox.put(b'{"type":"ok"}')
    synced.dispatcher.clear()
    assert synced.dispatcher.unsynced not in (old, None)
    assert peer.read() == [OK]
    assert peer.session.outbox.size == 0


# Verifies: PER-0061
def test_a_renewal_waits_where_locks_are_synced(synced: World, peer: Peer) -> None:
    renew = '{"type": "renew", "queue": "jobs", "id": "x"}'
    assert peer.session.receive([renew]).changes
    synced.dispatcher.unsynced = None
    assert not peer.session.receive([renew]).changes
