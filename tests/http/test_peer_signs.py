"""What a socket tells of its peer without waiting for it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from qrusty_trio.http.peer_signs import acked_bytes, socket_of, unread_bytes
from qrusty_trio.http.pipe import pipe_over


async def until(count: Callable[[], int], expected: int) -> None:
    with trio.fail_after(60):
        while count() != expected:
            await wait_all_tasks_blocked(0.01)


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        return server.accept()[0], theirs


# Verifies: WS-0024
async def test_what_waits_to_be_read_and_what_the_peers_kernel_has(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    with ours, theirs:
        before = acked_bytes(ours)
        ours.sendall(b"x" * 1000)
        await until(lambda: acked_bytes(ours) - before, 1000)
        await until(lambda: unread_bytes(theirs), 1000)
        theirs.recv(400)
        assert unread_bytes(theirs) == 600
    assert acked_bytes(ours) == unread_bytes(theirs) == 0, "closed"


def test_what_has_no_acknowledgements_tells_of_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"x")
        assert (acked_bytes(ours), unread_bytes(theirs)) == (0, 1)
    assert acked_bytes(None) == unread_bytes(None) == 0


async def test_a_stream_without_a_socket_tells_nothing() -> None:
    ours, theirs = memory_stream_pair()
    await theirs.aclose()
    pipe = pipe_over(ours)
    assert not any((socket_of(ours), pipe.gone(), pipe.left(), pipe.refused()))
