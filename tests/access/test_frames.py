"""What a token may do over a WebSocket, without sockets: its grants, and its limits."""

from __future__ import annotations

import pytest

from qrusty_trio.access.limits import Limit
from qrusty_trio.api.ws_requests import BATCH_PIECE
from tests.access.asking import principal
from tests.api.ws_peer import OK, Peer, World, code, publish


@pytest.fixture
def peer() -> Peer:
    world = World()
    world.queue("jobs")
    found = Peer(world)
    found.session.guarded = True
    return found


def batch(count: int) -> dict[str, object]:
    return {"type": "batch-publish", "queue": "jobs", "messages": [{"priority": 1, "payload": "p"}] * count}


# Verifies: API-0138
def test_each_message_counts_against_the_limit(peer: Peer) -> None:
    peer.session.principal = principal("publish:*", limit=Limit(None, 3))
    assert [frame["type"] for frame in peer.ask(publish(), batch(5))] == ["ok", "ok"]
    assert code(peer.ask(publish())) == "rate_limited"
    assert peer.world.available("jobs") == 6
    peer.world.now += 1000
    assert code(peer.ask(publish())) == "rate_limited"
    peer.world.now += 1000
    assert [frame["type"] for frame in peer.ask(publish())] == ["ok"]


# Verifies: API-0138
def test_a_batch_in_pieces_is_one_request(peer: Peer) -> None:
    peer.session.principal = principal("publish:*", limit=Limit(1, None))
    assert [frame["type"] for frame in peer.ask(batch(3 * BATCH_PIECE))] == ["ok"]
    assert peer.world.available("jobs") == 3 * BATCH_PIECE
    assert code(peer.ask(publish())) == "rate_limited"


# Verifies: API-0137
def test_a_frame_without_a_grant_changes_nothing(peer: Peer) -> None:
    peer.session.principal = principal("consume:*")
    assert code(peer.ask(publish())) == "forbidden"
    assert peer.ask({"type": "ack", "queue": "jobs", "id": "x"}) == [OK]
    peer.session.principal = None
    assert code(peer.ask(publish())) == "unauthenticated"
    assert peer.world.available("jobs") == 0
