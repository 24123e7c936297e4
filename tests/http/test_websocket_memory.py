"""What peers can make the server hold over WebSockets: on the resident memory of a real process, with wide margins.

Each test lets many connections do the same, and then looks at the memory and at whether others are served.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.http.ws_raw import BINARY, CONT, PING, TEXT, Raw, frame, head, raw, request, upgrade
from tests.http.ws_server import PATIENCE
from tests.server.running import Child, child_server, client_of

MIB = 1024 * 1024
CONNECTIONS = 100
LARGE = 1_900_000
BOUND_MIB = 260
"""Over what the server takes by itself: twice the budget of 64 MiB, and as much again for what is on its way."""
IDLE_MIB = 60
"""The same when no connection holds anything: 190 MB came and went."""

both_paths = pytest.mark.parametrize("fast", ["enabled", "disabled"], ids=["fast", "hypercorn"])


def resident_mib(server: Child) -> int:
    fields = Path(f"/proc/{server.process.pid}/statm").read_text().split()
    return int(fields[1]) * 4096 // MIB


@asynccontextmanager
async def connections(server: Child, count: int = CONNECTIONS) -> AsyncIterator[list[Raw]]:
    """That many peers, with small buffers, so that the kernel holds little of what they do not read."""
    async with AsyncExitStack() as stack:
        peers = []
        for _ in range(count):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stack.push_async_callback(trio.aclose_forcefully, stream)
            peers.append(peer := Raw(stream))
            await peer.send(upgrade())
            assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        yield peers


async def served(server: Child) -> None:
    """Others are served: over HTTP and over a WebSocket of their own. Patient, for memory may be short for a while."""
    async with client_of(server) as client:
        assert (await client.request("GET", "/health")).status == 200
    with trio.fail_after(PATIENCE):
        while True:
            async with raw(server.port) as peer:
                with trio.move_on_after(5):
                    await peer.send(request(type="unsubscribe", queue="x"))
                    try:
                        assert (await peer.read()).json() == {"type": "ok"}
                    except EOFError:
                        continue
                    return


async def send_what_it_takes(peer: Raw, data: bytes, seconds: float) -> None:
    """Send again and again until the server reads no more for a while."""
    try:
        while True:
            with trio.move_on_after(seconds) as waiting:
                await peer.send(data)
            if waiting.cancelled_caught:
                return
    except trio.BrokenResourceError:
        return  # Cut off.


async def in_all(peers: list[Raw], act: Callable[[Raw], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(act, peer)


async def flood(server: Child, data: bytes) -> None:
    before = resident_mib(server)
    async with connections(server) as peers:

        async def act(peer: Raw) -> None:
            await send_what_it_takes(peer, data, 1)

        await in_all(peers, act)
        assert resident_mib(server) < before + BOUND_MIB
        await served(server)
    assert resident_mib(server) < before + BOUND_MIB


# Verifies: WS-0019
@both_paths
async def test_answers_that_nobody_reads(tmp_path: Path, fast: str) -> None:
    async with child_server(tmp_path, QRUSTY_FAST_LANE=fast) as server:
        await flood(server, request(type="unsubscribe", queue="x", req_id="r" * 1000) * 60)


# Verifies: WS-0020
async def test_pongs_that_nobody_reads(tmp_path: Path) -> None:
    async with child_server(tmp_path) as server:
        await flood(server, frame(PING, b"x" * 125) * 500)


# Verifies: WS-0019
@both_paths
async def test_deliveries_that_nobody_reads(tmp_path: Path, fast: str) -> None:
    async with child_server(tmp_path, QRUSTY_FAST_LANE=fast) as server:
        async with client_of(server) as client:
            body = json.dumps({"name": "q", "config": {"ordering": "Fifo"}}).encode()
            assert (await client.request("POST", "/create-queue", body)).status == 200
            body = json.dumps({"queue": "q", "priority": 0, "payload": "x" * LARGE}).encode()
            for _ in range(2 * CONNECTIONS):
                assert (await client.request("POST", "/publish", body)).status == 200
        before = resident_mib(server)
        async with connections(server) as peers:
            for peer in peers:
                await peer.send(request(type="subscribe", queue="q"))
            await served(server)
            assert resident_mib(server) < before + BOUND_MIB
            # One that reads is served beside them.
            async with raw(server.port) as reader:
                await reader.send(request(type="subscribe", queue="q", credits=1))
                assert (await reader.read()).json()["type"] == "ok"
                assert (await reader.read()).json()["type"] == "deliver"
            assert resident_mib(server) < before + BOUND_MIB


# Verifies: WS-0025
@pytest.mark.parametrize(
    "begun",
    [
        head(TEXT, LARGE) + b"x" * (LARGE - 1),
        frame(TEXT, b"x" * 1_000_000, fin=False) + frame(CONT, b"x" * 900_000, fin=False),
        frame(TEXT, b"x" * 1_000_000, fin=False) + head(CONT, 1_000_000) + b"x" * 900_000,
    ],
    ids=["frame", "fragments", "both"],
)
@both_paths
async def test_messages_that_never_end(tmp_path: Path, begun: bytes, fast: str) -> None:
    async with child_server(tmp_path, QRUSTY_FAST_LANE=fast) as server:
        before = resident_mib(server)
        async with connections(server, 2 * CONNECTIONS) as peers:

            async def act(peer: Raw) -> None:
                with trio.move_on_after(PATIENCE):
                    try:
                        await peer.send(begun)
                    except trio.BrokenResourceError:
                        return  # Cut off.

            await in_all(peers, act)
            assert resident_mib(server) < before + BOUND_MIB
            await served(server)
        assert "WebSockets cut off" in server.log


# Verifies: WS-0032
async def test_a_connection_keeps_nothing_of_what_was_served(tmp_path: Path) -> None:
    async with child_server(tmp_path) as server:
        before = resident_mib(server)
        async with connections(server) as peers:
            for peer in peers:
                await peer.send(request(type="publish", queue="nowhere", payload="x" * LARGE))
                assert (await peer.read()).json()["code"] == "queue_not_found"
            assert resident_mib(server) < before + IDLE_MIB
            for peer in peers:
                half = json.dumps({"type": "publish", "queue": "nowhere", "payload": "x" * LARGE}).encode()
                await peer.send(frame(TEXT, half[:1_000_000], fin=False), frame(CONT, half[1_000_000:]))
                assert (await peer.read()).json()["code"] == "queue_not_found"
            assert resident_mib(server) < before + IDLE_MIB


# Verifies: WS-0032
@pytest.mark.parametrize(
    "refused",
    [
        frame(TEXT, b"x" * LARGE),
        frame(TEXT, b"\xff" * LARGE),
        frame(BINARY, b"x" * LARGE),
        frame(TEXT, b"x" * LARGE, fin=False) + frame(CONT, b"x" * LARGE),
        frame(TEXT, b"x" * LARGE, fin=False) + frame(TEXT, b"x"),
    ],
    ids=["no JSON", "no UTF-8", "binary", "too large", "no continuation"],
)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_nothing_is_left_of_a_connection_whose_frame_was_refused(
    tmp_path: Path, refused: bytes, reset: bool
) -> None:
    async with child_server(tmp_path) as server:
        before = resident_mib(server)
        for _ in range(CONNECTIONS):
            async with raw(server.port) as peer:
                try:
                    await peer.send(refused)
                    await peer.read()
                except trio.BrokenResourceError:
                    pass  # Refused before it was whole.
                if reset:
                    assert isinstance(peer.stream, trio.SocketStream)
                    peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await served(server)
        assert resident_mib(server) < before + IDLE_MIB
