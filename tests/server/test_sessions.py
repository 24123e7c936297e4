"""What a WebSocket held that is gone: it goes back in small steps, and meanwhile its locks may end."""

from __future__ import annotations

import pytest

from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import WS_CONSUMER_PREFIX, Delivery
from qrusty_trio.server.sessions import Sessions
from qrusty_trio.storage.memory import MemoryStorage


class Gone:
    """A connection."""

    def __init__(self, name: str, unsent: set[str]) -> None:
        self.consumer = WS_CONSUMER_PREFIX + name
        self.unsent = unsent

    def has_left(self, id: str) -> bool:
        return id not in self.unsent

    def sync_failed(self) -> None:
        raise AssertionError

    def store_failed(self) -> None:
        raise AssertionError


def one_of_two_left(broker: Broker, sessions: Sessions, counts: bool, lock_seconds: int) -> tuple[Gone, Delivery]:
    """A connection that held two messages is gone, and one of them had left. Returns it, and the other message."""
    for text in ("left", "never left"):
        broker.publish("q", 1, text, 1, 0)
    first, second = (broker.consume("q", WS_CONSUMER_PREFIX + "1", lock_seconds, 0) for _ in range(2))
    assert first is not None
    assert second is not None
    peer = Gone("1", {second.id})
    sessions.join(peer)
    sessions.leave(peer, counts, frozenset(peer.unsent))
    return peer, second


@pytest.mark.parametrize("counts", [True, False])
def test_a_lock_that_ends_before_it_is_given_back(counts: bool) -> None:
    """What never left counts for nothing, although the connection can't be asked any more; what left does."""
    broker = Broker(MemoryStorage())
    sessions = Sessions(broker)
    broker.has_left = sessions.has_left
    peer, second = one_of_two_left(broker, sessions, counts, lock_seconds=1)
    assert broker.expire(1000, 64) == 2
    sessions.give_back(64, 0)
    queue = broker.catalog.by_name["q"]
    assert (queue.available, queue.locked, queue.dead) == (1, 0, 1)
    again = broker.consume("q", "c", 1, 0)
    assert again is not None
    assert (again.id, again.retry_count) == (second.id, 1)
    sessions.give_back(64, 0)
    assert not sessions.departed
    assert sessions.has_left(peer.consumer, second.id)  # nothing of it is kept


# Verifies: DLV-0027
def test_so_many_go_back_in_a_step() -> None:
    """Of one connection or of several, and not one more."""
    broker = Broker(MemoryStorage())
    sessions = Sessions(broker)
    for name in "abc":
        for _ in range(4):
            broker.publish("q", 1, "payload", 9, 0)
            assert broker.consume("q", WS_CONSUMER_PREFIX + name, 60, 0) is not None
    for name in "abc":
        peer = Gone(name, set())
        sessions.join(peer)
        sessions.leave(peer, counts=True, unsent=frozenset())
    available = []
    while sessions.departed:
        sessions.give_back(5, 0)
        available.append(broker.catalog.by_name["q"].available)
    assert available == [5, 10, 12]


def test_what_was_to_be_given_back_is_left_to_the_recovery() -> None:
    broker = Broker(MemoryStorage())
    sessions = Sessions(broker)
    broker.publish("q", 1, "payload", 9, 0)
    delivery = broker.consume("q", WS_CONSUMER_PREFIX + "1", 60, 0)
    assert delivery is not None
    peer = Gone("1", {delivery.id})
    sessions.join(peer)
    sessions.leave(peer, counts=True, unsent=frozenset(peer.unsent))
    assert not sessions.has_left(peer.consumer, delivery.id)
    sessions.forget_departed()
    sessions.give_back(64, 0)
    assert broker.catalog.by_name["q"].locked == 1
    assert sessions.has_left(peer.consumer, delivery.id)


# Verifies: DLV-0027
@pytest.mark.parametrize("counts", [True, False])
def test_only_what_left_counts_when_it_goes_back(counts: bool) -> None:
    broker = Broker(MemoryStorage())
    sessions = Sessions(broker)
    one_of_two_left(broker, sessions, counts, lock_seconds=60)
    sessions.give_back(64, 7)
    queue = broker.catalog.by_name["q"]
    assert (queue.available, queue.locked, queue.dead) == (2 - counts, 0, counts)


# Verifies: PER-0062
def test_who_waits_for_what_was_not_synced_is_told() -> None:
    told = []

    class Open(Gone):
        def sync_failed(self) -> None:
            told.append(self.consumer)

    sessions = Sessions(Broker(MemoryStorage()))
    peers = [Open(name, set()) for name in "abc"]
    for peer in peers:
        sessions.join(peer)
    assert sessions.everyone() == peers
    sessions.leave(peers[0], True, frozenset())
    assert sessions.everyone() == peers[1:]
    sessions.sync_failed([peers[0].consumer, peers[2].consumer, "nobody"])
    assert told == [peers[2].consumer]
