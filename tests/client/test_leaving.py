"""Leaving a client that is connecting again, on both loops over real sockets: it waits for no server."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
import trio.testing
from anyio.abc import ByteStream, SocketAttribute
from websockets.server import ServerProtocol

from qrusty_trio import client as q
from qrusty_trio.client import streams, transport
from qrusty_trio.client.client import Client
from tests.client.scripted import URL, Peer, scripted
from tests.client.server_process import on_both_loops
from tests.http.ws_server import PATIENCE

Act = Callable[[ByteStream], Awaitable[None]]


async def open_and_leave(stream: ByteStream) -> None:
    """Answer the handshake, and break off."""
    protocol = ServerProtocol()
    while not (requests := protocol.events_received()):
        protocol.receive_data(await stream.receive())
    protocol.send_response(protocol.accept(requests[0]))  # type: ignore[arg-type]  # the first event is the request
    await stream.send(b"".join(protocol.data_to_send()))


@asynccontextmanager
async def listening(*acts: Act) -> AsyncIterator[int]:
    """A server whose n-th connection is met by the n-th of `acts`. Gives its port."""
    left = list(acts)

    async def serve(stream: ByteStream) -> None:
        async with stream:
            await left.pop(0)(stream)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


# Verifies: WS-0036
@on_both_loops
def test_during_a_handshake_that_gets_no_answer(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(transport, "HANDSHAKE_SECONDS", math.inf)

    async def main() -> None:
        asked = anyio.Event()

        async def say_nothing(stream: ByteStream) -> None:
            await stream.receive()
            asked.set()
            await anyio.sleep_forever()

        with anyio.fail_after(PATIENCE):
            async with listening(open_and_leave, say_nothing) as port, q.connect(f"ws://127.0.0.1:{port}/ws"):
                await asked.wait()

    anyio.run(main, backend=backend)


# Verifies: WS-0036
@on_both_loops
def test_before_tcp_answers(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """The server has no room for one more connection, so what asks for one is passed over in silence."""
    monkeypatch.setattr(transport, "HANDSHAKE_SECONDS", math.inf)
    open_stream = streams.open_stream

    async def main() -> None:
        asked = anyio.Event()

        async def seen(host: str, port: int, *, tls: ssl.SSLContext | None) -> ByteStream:
            if listener.getsockname()[1] in full:
                asked.set()
            return await open_stream(host, port, tls=tls)

        monkeypatch.setattr(transport, "open_stream", seen)
        full: set[int] = set()
        with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            address = listener.getsockname()

            async def serve_one() -> None:
                peer, _ = await anyio.to_thread.run_sync(listener.accept)
                for each in (first, second):
                    each.setblocking(False)
                    each.connect_ex(address)
                full.add(address[1])
                async with await anyio.abc.SocketStream.from_socket(peer) as stream:
                    await open_and_leave(stream)

            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(serve_one)
                    async with q.connect(f"ws://127.0.0.1:{address[1]}/ws"):
                        await asked.wait()
                        await anyio.wait_all_tasks_blocked()

    anyio.run(main, backend=backend)


# Verifies: WS-0036
async def test_in_the_step_in_which_a_connection_was_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed in order at once."""
    ends: list[int] = []
    shake_hands = transport.WebSocket.shake_hands

    async def watch(peer: Peer) -> None:
        code, _ = await peer.until_closed()
        ends.append(code)

    async def shake_hands_and_close(websocket: transport.WebSocket, authorization: str = "") -> None:
        await shake_hands(websocket)
        client.close()

    monkeypatch.setattr(transport.WebSocket, "shake_hands", shake_hands_and_close)
    async with scripted(monkeypatch, watch):
        client = Client(URL, 300, patient=True)
        with trio.fail_after(PATIENCE):
            await client.run()
        await trio.testing.wait_all_tasks_blocked()
    assert ends == [1000]
