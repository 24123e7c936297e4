"""A peer that takes nothing any more, on both loops: it holds up no connection that ends."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import ByteStream
from websockets.client import ClientProtocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from qrusty_trio.client import ConnectionLost, transport
from qrusty_trio.client.connection import Connection, Frame
from qrusty_trio.client.transport import WebSocket
from tests.client.server_process import on_both_loops
from tests.http.ws_server import PATIENCE


class FullStream(ByteStream):
    """What is sent stays on its way until `room`; what is received is `data`, and then nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.room = anyio.Event()

    async def send(self, item: bytes) -> None:
        await self.room.wait()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data, self._data = self._data, b""
        if not data:
            await anyio.sleep_forever()
        return data

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


def opened() -> tuple[ClientProtocol, bytes]:
    """A client's protocol after the handshake, and what comes next in one piece: a delivery, a ping, and a close."""
    client, server = ClientProtocol(parse_uri("ws://broker.test/ws")), ServerProtocol()
    client.send_request(client.connect())
    server.receive_data(b"".join(client.data_to_send()))
    (request,) = server.events_received()
    server.send_response(server.accept(request))  # type: ignore[arg-type]  # it is the request
    client.receive_data(b"".join(server.data_to_send()))
    client.events_received()
    server.send_text(b'{"type": "deliver", "queue": "jobs", "id": "m1"}')
    server.send_ping(b"1")
    server.send_close(1001)
    return client, b"".join(server.data_to_send())


# Verifies: WS-0036, WS-0047
@on_both_loops
def test_a_frame_that_begins_to_leave_as_the_end_has_come(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """The reader finds the end in the step in which the writer is woken: the deadline holds for what it then sends."""
    monkeypatch.setattr(transport, "CLOSE_SECONDS", 0.01)
    got: list[Frame] = []

    async def main() -> None:
        protocol, data = opened()
        stream = FullStream(data)
        websocket = WebSocket(stream, protocol)
        connection = Connection(websocket, got.append, 30)
        ended = anyio.Event()

        async def run() -> None:
            assert isinstance(await connection.run(), ConnectionLost)
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            with anyio.move_on_after(PATIENCE):
                await ended.wait()
            in_time = ended.is_set()
            stream.room.set()
        assert in_time
        assert [frame.id for frame in got] == ["m1"]

    anyio.run(main, backend=backend)
