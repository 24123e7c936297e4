"""A queue that is renamed out of what a token may take from: the token gets no more of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from qrusty_trio.access.tokens_file import read_tokens
from qrusty_trio.server.supervisor import Server
from tests.access.guarded import TokenBook, guarded, websocket_to
from tests.access.test_served_matrix import PATHS
from tests.access.test_waiting_calls import PATIENCE, Waiting, access_of, counts, put
from tests.core.brokers import exhaust


async def rename(server: Server, name: str, new_name: str) -> None:
    await server.engine.transact(
        lambda broker, now: exhaust(broker.catalog.update(name, new_name, None, now)), sync=True
    )


async def subscribe(socket: WebSocketConnection, queue: str = "a1") -> None:
    await socket.send_message(json.dumps({"type": "subscribe", "queue": queue, "credits": 10}))
    assert (await received(socket))["type"] == "ok"


async def received(socket: WebSocketConnection) -> dict[str, Any]:
    with trio.fail_after(PATIENCE):
        message: dict[str, Any] = json.loads(await socket.get_message())
    return message


async def code_of_close(socket: WebSocketConnection) -> int:
    with trio.fail_after(PATIENCE), pytest.raises(ConnectionClosed) as closed:
        await socket.get_message()
    assert closed.value.reason is not None
    return closed.value.reason.code


# Verifies: API-0189, WS-0050
@PATHS
async def test_a_subscription_ends(book: TokenBook, fast_path: bool) -> None:
    book.add("narrow", "consume:a*")
    book.add("wide", "consume:*")
    async with (
        guarded(book, fast_path=fast_path) as server,
        websocket_to(server, book.bearer("narrow")) as narrow,
        websocket_to(server, book.bearer("wide")) as wide,
    ):
        put(server, "a1")
        await subscribe(narrow)
        await subscribe(wide)
        assert (await received(narrow))["type"] == "deliver"
        await rename(server, "a1", "a2")
        for _ in range(2):
            put(server, "a2")
        assert [(await received(socket))["queue"] for socket in (wide, narrow)] == ["a1", "a1"]
        await wide.send_message('{"type":"unsubscribe","queue":"a1"}')
        assert (await received(wide))["type"] == "ok"
        await rename(server, "a2", "b")
        put(server, "b")
        assert await code_of_close(narrow) == 1008
        # What it held goes back uncounted, as after every close by the server.
        with trio.fail_after(PATIENCE):
            while counts(server, "b") != (3, 1):  # noqa: ASYNC110  # in steps
                await trio.sleep(0.001)
        taken = [await server.engine.transact(lambda broker, now: broker.consume("b", "c", 30, now), sync=True)]
        assert [each.retry_count for each in taken if each is not None] == [1]
        await subscribe(wide, "b")
        assert [(await received(wide))["queue"] for _ in range(2)] == ["b", "b"]


# Verifies: API-0189, WS-0050
@PATHS
async def test_a_token_that_loses_the_new_name_loses_its_subscription(book: TokenBook, fast_path: bool) -> None:
    book.add("shrinks", "consume:a1", "consume:b")
    async with (
        guarded(book, fast_path=fast_path) as server,
        websocket_to(server, book.bearer("shrinks")) as socket,
    ):
        put(server, "a1")
        await subscribe(socket)
        assert (await received(socket))["type"] == "deliver"
        await rename(server, "a1", "b")
        put(server, "b")
        assert (await received(socket))["type"] == "deliver"
        book.add("shrinks", "consume:a1")
        access_of(server).replace(read_tokens(book.path.read_bytes()))
        assert await code_of_close(socket) == 1008


# Verifies: API-0189
@PATHS
async def test_a_queue_of_the_first_name_is_waited_for(book: TokenBook, fast_path: bool) -> None:
    """As after a delete: the subscription is not for the queue that went on under another name."""
    book.add("both", "consume:a1", "consume:b")
    async with (
        guarded(book, fast_path=fast_path) as server,
        websocket_to(server, book.bearer("both")) as socket,
    ):
        put(server, "a1")
        await subscribe(socket)
        assert (await received(socket))["type"] == "deliver"
        await rename(server, "a1", "b")
        await server.engine.transact(lambda broker, _: broker.catalog.delete("b"), sync=True)
        book.add("both", "consume:a1")
        access_of(server).replace(read_tokens(book.path.read_bytes()))
        put(server, "a1")
        assert (await received(socket))["queue"] == "a1"


# Verifies: API-0189, DLV-0055
@PATHS
@pytest.mark.parametrize("how", ["renamed", "shrunk"])
async def test_a_call_that_waits_gets_nothing_of_it(book: TokenBook, fast_path: bool, how: str) -> None:
    book.add("narrow", "consume:a1", *(["consume:b"] if how == "shrunk" else []))
    async with guarded(book, fast_path=fast_path) as server, trio.open_nursery() as nursery:
        await server.engine.transact(lambda broker, _: broker.catalog.create_default("a1"), sync=True)
        waits = Waiting(server, book.bearer("narrow"), "/consume/a1")
        await waits.begin(nursery)
        await rename(server, "a1", "b")
        if how == "shrunk":
            book.add("narrow", "consume:a1")
            access_of(server).replace(read_tokens(book.path.read_bytes()))
        put(server, "b")
        assert counts(server, "b") == (1, 0)
        put(server, "a1")
        assert (await waits.ended()).json()["retry_count"] == 1
        assert counts(server, "b") == (1, 0)
        assert counts(server, "a1") == (0, 1)
