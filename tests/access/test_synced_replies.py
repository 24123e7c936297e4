"""Replies and deliveries that wait for a sync while their token ends: what is handed out, and what is answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from qrusty_trio.config import StorageMode
from qrusty_trio.server.supervisor import Server
from tests.access.guarded import TokenBook, client_to, guarded, websocket_to
from tests.access.test_served_matrix import PATHS
from tests.access.test_waiting_calls import (
    ENDS,
    PATIENCE,
    ROUTES,
    End,
    asked_anew,
    body_of,
    counts,
    put,
    revoke,
    same_refusal,
)
from tests.http.test_batching import held
from tests.wire.http_client import Response


@asynccontextmanager
async def synced(book: TokenBook, fast_path: bool) -> AsyncIterator[Server]:
    """A server whose locks are synced, with two tokens and a queue with a message."""
    for name in ("goes", "stays"):
        book.add(name, "consume:*", "publish:*")
    values: dict[str, Any] = {"storage_mode": StorageMode.ROCKSDB, "fsync_locks": True, "fast_path": fast_path}
    async with guarded(book, **values) as server:
        put(server)
        yield server


async def until_back(server: Server) -> None:
    with trio.fail_after(PATIENCE):
        while counts(server) != (1, 0):  # noqa: ASYNC110  # in steps
            await trio.sleep(0.001)


# Verifies: API-0189, DLV-0057
@PATHS
@ROUTES
@ENDS
async def test_the_message_of_a_consume_goes_back_uncounted(
    book: TokenBook, fast_path: bool, route: str, end: End, status: int
) -> None:
    responses: list[Response] = []
    async with synced(book, fast_path) as server, client_to(server) as client, client_to(server) as other:
        goes = book.bearer("goes")
        assert (await client.request("GET", "/health")).status == 200  # so that request batching serves it

        async def consume() -> None:
            responses.append(await client.request("POST", route, body_of(route, 0), headers=goes))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                with held(server) as sync:
                    nursery.start_soon(consume)
                    await sync.until_reached()
                    assert counts(server) == (0, 1)
                    await end(server, book)
        assert responses[0].status == status
        assert same_refusal(responses[0], await asked_anew(other, goes, route))
        await until_back(server)
        taken = (await asked_anew(other, book.bearer("stays"), "/consume/q")).json()
        assert taken["retry_count"] == 1


# Verifies: API-0189
@PATHS
async def test_what_was_done_is_answered(book: TokenBook, fast_path: bool) -> None:
    """A client that is told nothing of its publish would do it again."""
    responses: list[Response] = []
    async with synced(book, fast_path) as server, client_to(server) as client:
        headers = book.bearer("goes")

        async def publish() -> None:
            body = b'{"queue":"q","priority":1,"payload":"p"}'
            responses.append(await client.request("POST", "/publish", body, headers=headers))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                with held(server) as sync:
                    nursery.start_soon(publish)
                    await sync.until_reached()
                    await revoke(server, book)
        assert responses[0].status == 200
        assert counts(server) == (2, 0)


# Verifies: API-0189, WS-0050
@PATHS
@pytest.mark.parametrize("fields", [{}, {"batch": 5}], ids=["alone", "in_batches"])
async def test_a_delivery_to_a_websocket_goes_back_uncounted(
    book: TokenBook, fast_path: bool, fields: dict[str, Any]
) -> None:
    frames: list[dict[str, Any]] = []
    async with synced(book, fast_path) as server, websocket_to(server, book.bearer("goes")) as socket:

        async def read() -> None:
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    frames.append(json.loads(await socket.get_message()))
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1008

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                with held(server) as sync:
                    nursery.start_soon(read)
                    await socket.send_message(json.dumps({"type": "subscribe", "queue": "q", "credits": 10, **fields}))
                    await sync.until_reached()
                    assert counts(server) == (0, 1)
                    await revoke(server, book)
        assert [frame["type"] for frame in frames if frame["type"].startswith("deliver")] == []
        await until_back(server)
        async with client_to(server) as client:
            taken = (await asked_anew(client, book.bearer("stays"), "/consume/q")).json()
            assert taken["retry_count"] == 1
