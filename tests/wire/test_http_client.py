"""The test client itself: pieces, keep-alive, reconnecting, an early close; over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests.wire.http_client import Response, open_client

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Type: application/json\r\n\r\nnull"


@asynccontextmanager
async def serving(*pieces: bytes, close: bool = False) -> AsyncIterator[tuple[str, list[list[bytes]]]]:
    """A server that answers each request with `pieces`. Gives its URL and, per connection, the requests it got."""
    connections: list[list[bytes]] = []

    async def handle(stream: trio.SocketStream) -> None:
        requests: list[bytes] = []
        connections.append(requests)
        async for data in stream:
            requests.append(bytes(data))
            for piece in pieces:
                await stream.send_all(piece)
                await trio.lowlevel.checkpoint()
            if close:
                break
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", connections
        nursery.cancel_scope.cancel()


async def test_a_request_as_it_is_written() -> None:
    async with serving(OK) as (url, connections), open_client(url) as client:
        await client.request("POST", "/a?b", b"{}", headers=[("X-Y", "z")])
        await client.request("GET", "/")
        await client.request("POST", "/", b"", content_type=None)
    assert connections == [
        [
            b"POST /a?b HTTP/1.1\r\nHost: localhost\r\nX-Y: z\r\n"
            b"Content-Length: 2\r\nContent-Type: application/json\r\n\r\n{}",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        ]
    ]


async def test_an_answer_in_pieces() -> None:
    expected = Response(200, {"content-length": "4", "content-type": "application/json"}, b"null")
    async with serving(*(OK[at : at + 1] for at in range(len(OK)))) as (url, _), open_client(url) as client:
        for _ in range(2):
            assert await client.request("GET", "/") == expected
    assert expected.json() is None


async def test_the_answer_to_a_head_has_no_body() -> None:
    async with serving(OK[:-4]) as (url, _), open_client(url) as client:
        response = await client.request("HEAD", "/")
    assert (response.headers["content-length"], response.body) == ("4", b"")


async def test_a_new_connection_after_an_announced_close() -> None:
    closing = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with serving(closing, close=True) as (url, connections), open_client(url) as client:
        for _ in range(3):
            assert (await client.request("GET", "/")).status == 404
    assert len(connections) == 3


@pytest.mark.parametrize("cut", [0, 10, len(OK) - 1])
async def test_a_close_in_mid_answer_is_an_error(cut: int) -> None:
    async with serving(OK[:cut], close=True) as (url, _), open_client(url) as client:
        with pytest.raises(EOFError):
            await client.request("GET", "/")
