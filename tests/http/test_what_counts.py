"""What counts towards `max_retries`, over a real server: each row of the table in docs/operating.md.

In each test one connection is delivered a message and does not settle it. Then something ends that, the message is
available again, and the next delivery says how many of them counted.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from websockets.exceptions import ConnectionClosed as ClosedForSyncClient
from websockets.sync.client import connect

from tests.http.ws_raw import BINARY, CLOSE, PONG, TEXT, Raw, frame, raw, request
from tests.http.ws_server import PATIENCE, Running, both_paths, running
from tests.server.running import child_server, client_of

LONG = 300


@asynccontextmanager
async def holding(server: Running, **subscribe: object) -> AsyncIterator[Raw]:
    """A connection that was delivered the one message of a queue."""
    await server.create()
    await server.publish(max_retries=3)
    async with raw(server.port) as peer:
        await peer.send(request(type="subscribe", queue="jobs", **{"lock_timeout_secs": LONG, **subscribe}))
        assert (await peer.read()).json() == {"type": "ok"}
        assert (await peer.read()).json()["type"] == "deliver"
        yield peer


async def counted(server: Running, *, available: int = 1) -> int:
    """How many deliveries counted, once the message is available again."""
    await server.settle_down(available, 0, 0)
    again = await server.http("POST", "/consume/jobs", {"consumer_id": "c", "timeout_seconds": LONG})
    return int(again["retry_count"]) - 1


async def until_close(peer: Raw) -> int:
    while (received := await peer.any_frame()).opcode != CLOSE:
        pass
    return received.close_code


def reset(peer: Raw) -> None:
    """Let the close of the socket be a reset."""
    assert isinstance(peer.stream, trio.SocketStream)
    peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# What counts


# Verifies: DLV-0011
@both_paths
async def test_a_nack_counts(fast_path: bool) -> None:
    async with running(fast_path) as server:
        await server.create()
        id = await server.publish(max_retries=3)
        async with server.socket() as holder:
            await holder.subscribe(lock_timeout_secs=LONG, credits=1)
            await holder.push()
            assert await holder.ask(type="nack", queue="jobs", id=id) == {"type": "ok"}
            assert await counted(server) == 1


# Verifies: DLV-0012
@both_paths
async def test_the_end_of_a_lock_counts(fast_path: bool) -> None:
    async with running(fast_path) as server, holding(server, lock_timeout_secs=1, credits=1):
        assert await counted(server) == 1


# Verifies: DLV-0013
@both_paths
@pytest.mark.parametrize("way", ["reset", "end of stream", "half closed"])
async def test_a_lost_connection_counts(fast_path: bool, way: str) -> None:
    async with running(fast_path) as server, holding(server) as peer:
        if way == "half closed":
            assert isinstance(peer.stream, trio.SocketStream)
            await peer.stream.send_eof()
        else:
            if way == "reset":
                reset(peer)
            await trio.aclose_forcefully(peer.stream)
        assert await counted(server) == 1


# Verifies: DLV-0010
@both_paths
async def test_the_last_delivery_that_counts_makes_a_dead_letter(fast_path: bool) -> None:
    async with running(fast_path) as server:
        await server.create()
        await server.publish(max_retries=2)
        for _ in range(2):
            async with server.socket() as worker:
                await worker.subscribe(lock_timeout_secs=LONG)
                await worker.push()
                await worker.vanish()
            with trio.fail_after(PATIENCE):
                while server.counts()[1]:  # noqa: ASYNC110  # the server announces no such thing
                    await trio.sleep(0.002)
        assert server.counts() == (0, 0, 1)


# What does not


# Verifies: DLV-0014
@both_paths
@pytest.mark.parametrize("code", [None, 1000, 1001, 1009, 1011, 4000])
@pytest.mark.parametrize("then", ["waits", "resets"])
async def test_a_close_frame_does_not_count(fast_path: bool, code: int | None, then: str) -> None:
    async with running(fast_path) as server, holding(server) as peer:
        await peer.send(frame(CLOSE, b"" if code is None else code.to_bytes(2, "big")))
        if then == "waits":
            assert (await peer.read()).opcode == CLOSE
        else:
            reset(peer)
            # The close frame is on its way before the reset is.
            await trio.sleep(0.05)
            await trio.aclose_forcefully(peer.stream)
        assert await counted(server) == 0


# Verifies: DLV-0014
async def test_a_close_frame_behind_a_send_that_broke_does_not_count() -> None:
    """The peer resets while the server sends: what it sent before is still heard, its acks and its close frame."""
    async with running(True) as server:
        await server.create()
        ids = [await server.publish("x" * 1_000_000, max_retries=3) for _ in range(20)]
        async with raw(server.port) as peer:
            await peer.send(request(type="subscribe", queue="jobs", lock_timeout_secs=LONG))
            assert (await peer.read()).json() == {"type": "ok"}
            assert (await peer.read()).json()["id"] == ids[0]
            await server.settle_down(*server.counts())
            reset(peer)
            await peer.send(request(type="ack", queue="jobs", id=ids[0]), frame(CLOSE, b"\x03\xe8"))
            await trio.aclose_forcefully(peer.stream)
        await server.settle_down(19, 0, 0)
        assert await counted_now(server) == 0


async def counted_now(server: Running) -> int:
    again = await server.http("POST", "/consume/jobs", {"consumer_id": "c", "timeout_seconds": LONG})
    return int(again["retry_count"]) - 1


# Verifies: DLV-0015
@both_paths
@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (frame(TEXT, b"no JSON"), 1007),
        (frame(TEXT, b"\xff"), 1007),
        (frame(BINARY, b"x"), 1003),
        (frame(TEXT, b"{}", reserved=0x40), 1002),
        (frame(TEXT, b"{}", mask=False), 1002),
        (frame(CLOSE, b"\x00"), 1002),
        (frame(TEXT, b'"' + b"x" * 2**21 + b'"'), 1009),
    ],
)
async def test_breaking_the_rules_does_not_count(fast_path: bool, broken: bytes, code: int) -> None:
    async with running(fast_path) as server, holding(server) as peer:
        await peer.send(broken)
        assert await until_close(peer) == code
        assert await counted(server) == 0


# Verifies: DLV-0015
@both_paths
async def test_silence_does_not_count(fast_path: bool) -> None:
    async with (
        running(fast_path, ws_ping_interval_secs=0.2, ws_ping_timeout_secs=0.2) as server,
        holding(server) as peer,
    ):
        assert await until_close(peer) == 1001
        assert await counted(server) == 0


# Verifies: DLV-0015
@both_paths
async def test_a_stop_of_the_server_does_not_count(fast_path: bool, tmp_path: Path) -> None:
    for restarts in range(4):
        async with running(fast_path, data_path=tmp_path) as server:
            if not restarts:
                await server.create()
                await server.publish(max_retries=1)
            async with server.socket() as worker:
                await worker.subscribe(lock_timeout_secs=LONG)
                assert (await worker.push())["payload"] == "p"
                server.stopping.set()
                with pytest.raises(Exception):  # noqa: B017, PT011  # closed with 1001, the library's exception
                    while True:
                        await worker.push()
    async with running(fast_path, data_path=tmp_path) as server:
        assert await counted(server) == 0


# Verifies: DLV-0016
async def test_a_server_that_was_killed_does_not_count(tmp_path: Path) -> None:
    for restarts in range(3):
        async with child_server(tmp_path) as server:
            if not restarts:
                async with client_of(server) as client:
                    body = json.dumps({"name": "jobs", "config": {"ordering": "Fifo"}}).encode()
                    assert (await client.request("POST", "/create-queue", body)).status == 200
                    body = json.dumps({"queue": "jobs", "priority": 0, "payload": "p", "max_retries": 2}).encode()
                    assert (await client.request("POST", "/publish", body)).status == 200
            async with raw(server.port) as peer:
                await peer.send(request(type="subscribe", queue="jobs"))
                assert (await peer.read()).json() == {"type": "ok"}
                with trio.fail_after(60):
                    assert (await peer.read()).json()["payload"] == "p"
                await server.kill()


# Verifies: DLV-0017
@both_paths
async def test_what_never_left_does_not_count(fast_path: bool) -> None:
    """A connection is lost while most of its deliveries wait to be sent."""
    messages = 8
    async with running(fast_path) as server:
        await server.create()
        ids = [await server.publish("x" * 200_000, max_retries=3) for _ in range(messages)]
        async with server.socket(message_queue_size=1) as slow:
            slow.socket().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await slow.subscribe(lock_timeout_secs=LONG)
            await server.settle_down(*server.counts())
            delivered = server.counts()[1]
            await slow.vanish()
        await server.settle_down(messages, 0, 0)
        again = [await counted_now(server) for _ in ids]
        # What was on its way counts; what had no room yet was not even delivered.
        assert again == sorted(again, reverse=True)
        assert again[-1] == 0
        assert sum(again) <= max(delivered, messages - 1)


# Real clients


def busy(url: str, credits: int, seconds: float) -> str:
    """A worker of the `websockets` library, busy long with its first message: the response to its ack, or its end."""
    with connect(url, ping_interval=None, compression=None) as connection:
        subscribe = {"type": "subscribe", "queue": "jobs", "credits": credits, "lock_timeout_secs": LONG}
        connection.send(json.dumps(subscribe))
        connection.recv(timeout=PATIENCE)
        delivery = json.loads(connection.recv(timeout=PATIENCE))
        time.sleep(seconds)
        try:
            connection.send(json.dumps({"type": "ack", "queue": "jobs", "id": delivery["id"]}))
            while (response := json.loads(connection.recv(timeout=PATIENCE)))["type"] == "deliver":
                pass
            return str(response["type"])
        except ClosedForSyncClient as closed:
            return str(closed.rcvd.code if closed.rcvd is not None else "lost")


@both_paths
@pytest.mark.parametrize(("credits", "outcome"), [(10, "ok"), (100, "1001")])
async def test_a_worker_that_is_busy_for_longer_than_the_ping_timeout(
    fast_path: bool, credits: int, outcome: str
) -> None:
    """The library reads on in the background, and answers pings, until 16 frames wait for the program.

    Then it is silent: closed with 1001, and what it held is as if it had not been delivered.
    """
    async with running(fast_path, ws_ping_interval_secs=0.5, ws_ping_timeout_secs=1.5) as server:
        await server.create()
        for _ in range(50):
            await server.publish(max_retries=1)
        with trio.fail_after(PATIENCE):
            assert await trio.to_thread.run_sync(busy, server.url, credits, 3.0) == outcome
        await server.settle_down(49 if outcome == "ok" else 50, 0, 0)


def refuse(url: str, limit: int) -> int:
    """A client with a limit of its own that is smaller than the message. The code of its close frame."""
    with connect(url, max_size=limit, compression=None) as connection:
        connection.send(json.dumps({"type": "subscribe", "queue": "jobs", "lock_timeout_secs": LONG}))
        with pytest.raises(ClosedForSyncClient) as closed:
            while True:
                connection.recv(timeout=PATIENCE)
    assert closed.value.sent is not None
    return int(closed.value.sent.code)


# Verifies: DLV-0018
@both_paths
async def test_a_client_with_a_limit_smaller_than_the_message(
    fast_path: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(fast_path) as server:
        await server.create()
        id = await server.publish("x" * 5000, max_retries=1)
        with trio.fail_after(PATIENCE):
            for _ in range(3):
                assert await trio.to_thread.run_sync(refuse, server.url, 1000) == 1009
        assert await counted(server) == 0
        if fast_path:
            lines = [record.getMessage() for record in caplog.records if "1009" in record.getMessage()]
            assert lines
            assert all(id in line and '"jobs"' in line and "5" in line for line in lines)


# Signs of life


# Verifies: WS-0024
async def test_bytes_that_wait_unread_are_a_sign_of_life() -> None:
    """A peer sends requests and reads no responses: the server stops reading. Its pongs wait behind, unread."""
    async with running(True, ws_ping_interval_secs=0.3, ws_ping_timeout_secs=0.3) as server, holding(server) as peer:
        data = request(type="unsubscribe", queue="x", req_id="r" * 1000) * 60
        with trio.move_on_after(2):
            while True:
                await peer.send(data)
        # The half of a frame that may be missing now does not matter: nothing more is sent.
        await trio.sleep(2)
        assert server.counts()[1] == 1
        await trio.aclose_forcefully(peer.stream)
        assert await counted(server) == 1


# Verifies: WS-0024
async def test_who_takes_what_it_is_sent_is_alive() -> None:
    """It sends nothing, not even pongs, but reads slowly what would fill all buffers otherwise."""
    async with running(True, ws_ping_interval_secs=0.3, ws_ping_timeout_secs=1.5) as server, raw(server.port) as peer:
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await server.create()
        for _ in range(30):
            await server.publish("x" * 1_000_000, max_retries=3)
        await peer.send(request(type="subscribe", queue="jobs", lock_timeout_secs=LONG))
        taken, begun = 0, trio.current_time()
        while taken < 1_000_000 or trio.current_time() < begun + 4:
            taken += len(await peer.stream.receive_some(100_000))
            await trio.sleep(0.02)
        assert taken < 29_000_000
        assert server.counts()[1] > 0


# Verifies: WS-0024
async def test_a_pong_is_a_sign_of_life() -> None:
    async with running(True, ws_ping_interval_secs=0.2, ws_ping_timeout_secs=1) as server, holding(server) as peer:
        with trio.move_on_after(2.5):
            while True:
                ping = await peer.any_frame()
                await peer.send(frame(PONG, ping.data))
        assert server.counts() == (0, 1, 0)
