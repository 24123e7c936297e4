"""Clients that show a token: over HTTP, over WebSocket, on an event loop and in threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from qrusty_trio.client import (
    Forbidden,
    HttpClient,
    RequestError,
    Unauthenticated,
    Unavailable,
    blocking,
    connect,
    worker,
)
from qrusty_trio.client.client import Client
from tests.access.guarded import TokenBook, guarded
from tests.server.running import url


# Verifies: API-0193
async def test_http_with_a_token(tmp_path: Path) -> None:
    book = TokenBook(tmp_path / "tokens.toml")
    token = book.add("ann", "publish:team.*", "read:*")
    async with guarded(book) as server:
        async with HttpClient(url(server.port), token=token) as client:
            await client.publish("team.jobs", "hello")
            with pytest.raises(Forbidden, match="no grant publish on queue 'other'"):
                await client.publish("other", "hello")
        async with HttpClient(url(server.port)) as client:
            with pytest.raises(Unauthenticated):
                await client.queues()

        def in_a_thread() -> list[str]:
            with blocking.HttpClient(url(server.port), token=token) as client:
                return list(client.queues())

        assert await trio.to_thread.run_sync(in_a_thread) == ["team.jobs"]


# Verifies: API-0193
async def test_a_websocket_and_a_worker_with_a_token(tmp_path: Path) -> None:
    book = TokenBook(tmp_path / "tokens.toml")
    token = book.add("ann", "publish:*", "consume:*")
    async with guarded(book) as server:
        address = f"ws://127.0.0.1:{server.port}/ws"
        async with HttpClient(url(server.port), token=token) as client:
            await client.publish("jobs", "first")
        async with connect(address, token=token) as socket:
            await socket.publish("jobs", "second")
        seen: list[str] = []
        stop = trio.Event()

        async def handle(message: object) -> None:
            seen.append(getattr(message, "payload", ""))
            if len(seen) == 2:
                stop.set()

        with trio.fail_after(60):
            await worker(address, "jobs", handle, token=token, stop=stop)
        assert sorted(seen) == ["first", "second"]


@pytest.mark.parametrize("token", ["", "a b", "ü", "a\r\nb", "\n"])
def test_what_is_no_token_is_not_sent_and_not_repeated(token: str) -> None:
    for make in (
        lambda: HttpClient("http://a", token=token),
        lambda: blocking.HttpClient("http://a", token=token),
        lambda: Client("ws://a", 1, token=token),
    ):
        with pytest.raises(
            ValueError, match=r"^a token has printable ASCII characters only, at least one, and no space$"
        ):
            make()


def test_what_a_limit_refuses_may_be_sent_again() -> None:
    from qrusty_trio.client.errors import request_error

    assert isinstance(request_error("rate_limited", "", 429), Unavailable)
    assert type(request_error("too_many_failures", "", 429)) is RequestError
