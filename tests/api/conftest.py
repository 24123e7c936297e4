"""A WebSocket peer and the world it talks to, for the tests of the session."""

from __future__ import annotations

import pytest

from tests.api.ws_peer import Peer, World


@pytest.fixture
def world() -> World:
    """A broker with the queue `jobs`."""
    world = World()
    world.queue("jobs")
    return world


@pytest.fixture
def peer(world: World) -> Peer:
    return Peer(world)
