"""The locks of a worker: renewed in time, and what becomes of a handler that lost one; on a test clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from qrusty_trio import client as q
from tests.client.scripted import URL, Peer, scripted

Clock = trio.testing.MockClock


# Verifies: WS-0044
async def test_its_locks_are_renewed_while_handlers_run(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """At a third of the lock, again and again; not before, and not after."""
    stop = trio.Event()
    times: list[tuple[str, str, float]] = []

    async def handle(message: q.Message) -> None:
        await trio.sleep(float(message.payload))

    async def script(peer: Peer) -> None:
        await peer.subscribed()
        begin = trio.current_time()
        await peer.deliver("long", payload="99")
        await peer.deliver("short", payload="25")
        await peer.deliver("brief", payload="9")
        while len([each for each in times if each[0] == "ack"]) < 3:
            frame = await peer.read()
            if "req_id" not in frame:
                continue
            if frame["type"] == "renew":
                assert frame["lock_timeout_secs"] == 30
            times.append((frame["type"], frame["id"], round(trio.current_time() - begin, 3)))
            await peer.ok(frame)
        await trio.sleep(60)
        stop.set()
        assert await peer.until_closed() == (1000, [("unsubscribe", "")])

    async with scripted(monkeypatch, script):
        await q.worker(URL, "jobs", handle, concurrency=3, lock_seconds=30, stop=stop)
    assert [time for *what, time in times if what == ["renew", "long"]] == list(range(10, 100, 10))
    assert [time for *what, time in times if what == ["renew", "short"]] == [10, 20]
    assert [(id, time) for kind, id, time in times if kind == "ack"] == [("brief", 9), ("short", 25), ("long", 99)]


async def a_lost_lock(
    monkeypatch: pytest.MonkeyPatch, *scripts: Callable[[Peer], Awaitable[None]], stop: trio.Event
) -> list[tuple[str, float]]:
    """How handlers that take for ever ended, and when."""
    ends: list[tuple[str, float]] = []
    begin = trio.current_time()

    async def handle(message: q.Message) -> None:
        try:
            if message.id == "next":
                return
            await trio.sleep_forever()
        except trio.Cancelled:
            ends.append((message.id, round(trio.current_time() - begin, 1)))
            raise

    async with scripted(monkeypatch, *scripts):
        await q.worker(URL, "jobs", handle, concurrency=2, lock_seconds=30, stop=stop)
    return ends


# Verifies: WS-0044
async def test_a_handler_whose_lock_was_ended_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    stop = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m")
        await peer.refuse(await peer.expect("renew"), "not_locked")
        await trio.sleep(1)
        await peer.deliver("next")
        ack = await peer.expect("ack")
        assert ack["id"] == "next"
        await peer.ok(ack)
        stop.set()
        await peer.serve()

    assert await a_lost_lock(monkeypatch, script, stop=stop) == [("m", 10)]
    assert "message m of 'jobs': its lock was lost" in caplog.text


async def test_a_handler_whose_lock_could_not_be_renewed_is_cancelled_when_it_ends(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    stop = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m")
        await peer.deliver("n")
        for _ in range(2):  # At 10 s one of them is renewed, and one gets no response.
            request = await peer.expect("renew")
            if request["id"] == "n":
                await peer.ok(request)
        with suppress(ConnectionClosed):
            while True:  # From 20 s on, the other one is refused.
                frame = await peer.read()
                if frame["type"] == "renew":
                    await peer.refuse(frame, "storage_error")
                elif "req_id" in frame:
                    await peer.ok(frame)

    async def end() -> None:
        await trio.sleep(50)
        stop.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        assert await a_lost_lock(monkeypatch, script, stop=stop) == [("m", 30), ("n", 40)]


async def test_handlers_are_cancelled_when_the_connection_breaks(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    stop = trio.Event()

    async def first(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m")
        await peer.deliver("n")
        await trio.sleep(3)

    async def second(peer: Peer) -> None:
        assert (await peer.subscribed())["credits"] == 2
        await peer.deliver("next")
        await peer.ok(await peer.expect("ack"))
        stop.set()
        await peer.serve()

    assert sorted(await a_lost_lock(monkeypatch, first, second, stop=stop)) == [("m", 3), ("n", 3)]
