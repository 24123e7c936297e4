"""What one connection makes the server hold over HTTP: measured by tracemalloc, with wide margins."""

from __future__ import annotations

import gc
import socket
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import h2.settings
import pytest
import trio
import trio.testing

from qrusty_trio.core.model import QueueConfig
from qrusty_trio.http import lingering
from qrusty_trio.http.fallback import guard, hypercorn
from tests.http.fallback.test_http2 import LARGE as POST
from tests.http.fallback.test_http2 import Peer, peer_of
from tests.http.web import PATHS, Client, Web, request, running

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])

MIB = 1024 * 1024
LARGE = 1_000_000
CONSUME = request("POST", "/consume/q", {"consumer_id": "w"})


class Held:
    """Bytes allocated since the beginning."""

    def __init__(self) -> None:
        gc.collect()
        tracemalloc.reset_peak()
        self._before = tracemalloc.get_traced_memory()[0]

    @property
    def most(self) -> int:
        return tracemalloc.get_traced_memory()[1] - self._before

    @property
    def uncollected(self) -> int:
        """With what waits for the collector."""
        return tracemalloc.get_traced_memory()[0] - self._before

    @property
    def now(self) -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - self._before


@contextmanager
def traced() -> Iterator[Held]:
    tracemalloc.start()
    try:
        yield Held()
    finally:
        tracemalloc.stop()


async def fill(web: Web, count: int, octets: int = LARGE) -> None:
    for number in range(count):
        body = {"queue": "q", "priority": 1, "payload": str(number % 10) * octets}
        assert (await web.ask("POST", "/publish", body)).status == 200


@asynccontextmanager
async def non_readers(web: Web, count: int) -> AsyncIterator[list[Client]]:
    """Peers with small buffers, so that the kernel holds little of what they do not read."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(client := await stack.enter_async_context(web.client()))
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        yield clients


# Verifies: API-0039
async def test_pipelined_answers_are_made_as_they_are_taken(fast_path: bool) -> None:
    async with running(fast_path) as web, non_readers(web, 1) as (client,):
        await fill(web, 16)
        with traced() as held:
            await client.send(CONSUME * 16)
            await trio.testing.wait_all_tasks_blocked(0.1)
            stats = web.engine.broker.catalog.stats("q")
            assert stats is not None
            assert stats.locked < 12, "more is run only when there is room"
            assert held.most < 8 * LARGE
            # As the peer reads on, so does the server.
            for number in range(16):
                assert (await client.response()).json()["payload"][0] == str(number % 10)
            assert (await client.ask("GET", "/health")).status == 200


# Verifies: API-0039
async def test_reports_that_are_pipelined_are_made_as_they_are_taken(fast_path: bool) -> None:
    async with running(fast_path) as web, non_readers(web, 1) as (client,):
        for number in range(1000):
            web.engine.broker.catalog.create(f"{number:0250}", QueueConfig())
        size = len((await web.ask("GET", "/stats")).body)
        with traced() as held:
            await client.send(request("GET", "/stats") * 32)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert held.most < 8 * size
            for _ in range(32):
                assert len((await client.response()).body) == size


# Verifies: API-0042
async def test_an_answer_that_has_left_is_not_kept(fast_path: bool) -> None:
    async with running(fast_path) as web, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(web.client()) for _ in range(10)]
        for client in clients:
            assert (await client.ask("POST", "/consume/q", {"consumer_id": "w"})).body == b"null"
        await fill(web, 2 * len(clients))
        with traced() as held:
            for _ in range(2):
                for client in clients:
                    id = (await client.ask("POST", "/consume/q", {"consumer_id": "w"})).json()["id"]
                    assert (await web.ask("POST", f"/ack/q/{id}", {"consumer_id": "w"})).status == 200
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert held.now < 3 * LARGE, "none of the connections keeps its own"


# Verifies: API-0042
async def test_nothing_of_a_connection_that_is_cut_off_waits_for_the_collector(fast_path: bool) -> None:
    count = 8
    async with running(fast_path) as web, non_readers(web, count) as clients:
        await fill(web, count)
        with traced() as held, collector_off():
            for client in clients:
                await client.send(CONSUME)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert held.most > count * LARGE / 2, "the answers are held"
            web.nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                while web.nursery.child_tasks:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            # What was given back to the queue is a new record of the store.
            assert held.uncollected < (count + 2) * LARGE


# Verifies: API-0042
async def test_nothing_of_a_client_over_http2_that_left_waits_for_the_collector(
    fast_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (guard, hypercorn, lingering):
        monkeypatch.setattr(module, "LINGER_SECONDS", 0.02)
    count = 8
    async with running(fast_path) as web:
        await fill(web, count)
        with traced() as held, collector_off():
            async with await trio.open_tcp_stream("127.0.0.1", web.port) as stream:
                peer = Peer(stream)
                peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
                asked = [peer.ask({**POST, b":path": b"/consume/q"}, whole=False) for _ in range(count)]
                for each in asked:
                    peer.h2.send_data(each, b'{"consumer_id":"w"}', end_stream=True)
                await peer.until(lambda: set(asked) <= peer.status.keys())
            with trio.fail_after(60):
                while (stats := web.engine.broker.catalog.stats("q")) is None or stats.locked:
                    await trio.testing.wait_all_tasks_blocked(0.02)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert held.uncollected < (count + 2) * LARGE


async def test_answers_that_a_client_over_http2_takes_back_are_not_kept(fast_path: bool) -> None:
    count = 4
    async with running(fast_path) as web, peer_of(web) as peer:
        await fill(web, count)
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        with traced() as held:
            for _ in range(5):
                asked = [peer.ask({**POST, b":path": b"/consume/q"}, whole=False) for _ in range(count)]
                for each in asked:
                    peer.h2.send_data(each, b'{"consumer_id":"w"}', end_stream=True)
                await peer.until(lambda asked=asked: set(asked) <= peer.status.keys())  # type: ignore[misc]
                for each in asked:
                    peer.h2.reset_stream(each)
                await peer.flush()
                with trio.fail_after(60):
                    while (stats := web.engine.broker.catalog.stats("q")) is None or stats.locked:
                        await trio.testing.wait_all_tasks_blocked(0.01)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert held.now < 2 * count * LARGE
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65_535})


@contextmanager
def collector_off() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
