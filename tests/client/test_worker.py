"""A worker: settling, locks, failures, the end; against a scripted server, on a test clock."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from qrusty_trio import client as q
from qrusty_trio.client.worker import MAX_REST_SECONDS, REST_SECONDS
from tests.client.scripted import URL, Peer, scripted

Clock = trio.testing.MockClock


async def nothing(message: q.Message) -> None:
    pass


# Verifies: WS-0043
async def test_what_a_handler_gets_and_what_becomes_of_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[q.Message] = []
    stop = trio.Event()

    async def handle(message: q.Message) -> None:
        got.append(message)
        if message.payload != "good":
            raise ValueError(message.payload.replace("?", "\ud800"))

    async def script(peer: Peer) -> None:
        request = await peer.subscribed()
        assert (request["queue"], request["credits"], request["lock_timeout_secs"]) == ("jobs", 1, 40)
        await peer.deliver("a", payload="good")
        ack = await peer.expect("ack")
        assert (ack["queue"], ack["id"]) == ("jobs", "a")
        await peer.ok(ack)
        assert (await peer.expect("credit"))["credits"] == 1
        await peer.deliver("b", payload="bad ?")
        nack = await peer.expect("nack")
        assert (nack["queue"], nack["id"], nack["error"]) == ("jobs", "b", "ValueError: bad ?")
        await peer.ok(nack)
        await peer.expect("credit")
        await peer.deliver("c", payload="é" * 1000)
        nack = await peer.expect("nack")
        assert nack["error"] == "ValueError: " + "é" * 506
        await peer.ok(nack)
        stop.set()
        await peer.serve()

    async with scripted(monkeypatch, script):
        await q.worker(URL, "jobs", handle, concurrency=1, lock_seconds=40, stop=stop)
    assert [(message.queue, message.id, message.priority, message.created_at.year) for message in got] == [
        ("jobs", id, 7, 2026) for id in "abc"
    ]
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failures) == 2
    assert all(record.exc_info is not None and record.exc_info[0] is ValueError for record in failures)


async def test_handlers_that_shield_themselves_still_count(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """Two at a time, also while two of a connection that is gone are still at work."""
    stop = trio.Event()
    running: set[str] = set()
    most = 0

    async def handle(message: q.Message) -> None:
        nonlocal most
        running.add(message.id)
        most = max(most, len(running))
        with trio.CancelScope(shield=message.id in "ab"):
            await trio.sleep(5)
        running.remove(message.id)

    async def first(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("a")
        await peer.deliver("b")
        await trio.sleep(1)

    async def second(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("c")
        await peer.deliver("d")
        acks = [await peer.expect("ack") for _ in range(2)]
        assert sorted(ack["id"] for ack in acks) == ["c", "d"]
        for ack in acks:
            await peer.ok(ack)
        stop.set()
        await peer.serve()

    async with scripted(monkeypatch, first, second):
        await q.worker(URL, "jobs", handle, concurrency=2, stop=stop)
    assert most == 2


async def test_it_rests_while_everything_fails(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    stop = trio.Event()
    rests: list[float] = []

    async def handle(message: q.Message) -> None:
        if message.payload == "bad":
            raise ValueError("no database")

    async def script(peer: Peer) -> None:
        await peer.subscribed()

        async def one(payload: str) -> None:
            begin = trio.current_time()
            await peer.deliver("m", payload=payload)
            while (frame := await peer.read())["type"] != ("ack" if payload == "good" else "nack"):
                if "req_id" in frame:
                    await peer.ok(frame)
            rests.append(trio.current_time() - begin)
            await peer.ok(frame)
            await peer.expect("credit")

        for _ in range(20):
            await one("bad")
        await one("good")
        await one("bad")
        await peer.deliver("m", payload="bad")
        await trio.testing.wait_all_tasks_blocked()
        stop.set()
        code, frames = await peer.until_closed()
        assert (code, ("nack", "m") in frames) == (1000, True)

    async with scripted(monkeypatch, script):
        await q.worker(URL, "jobs", handle, concurrency=1, stop=stop)
    limits = [min(MAX_REST_SECONDS, REST_SECONDS * 2**number) for number in range(20)] + [0, REST_SECONDS]
    assert all(limit / 2 <= rest <= limit + 0.001 for rest, limit in zip(rests, limits, strict=True))
    assert limits[19] == MAX_REST_SECONDS


async def test_an_ack_is_repeated_while_the_server_accepts_no_changes(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    stop = trio.Event()
    renewed = 0

    async def script(peer: Peer) -> None:
        nonlocal renewed
        await peer.subscribed()
        begin = trio.current_time()
        await peer.deliver("m")
        while True:
            frame = await peer.read()
            if frame["type"] == "renew":
                renewed += 1
                await peer.ok(frame)
            elif trio.current_time() - begin < 60:
                assert (frame["type"], frame["id"]) == ("ack", "m")  # No credit: the message is still here.
                await peer.refuse(frame, "storage_error")
            else:
                break
        await peer.ok(frame)
        while frame["type"] != "credit":
            frame = await peer.read()
        stop.set()
        await peer.serve()

    async with scripted(monkeypatch, script):
        await q.worker(URL, "jobs", nothing, concurrency=1, stop=stop)
    assert renewed in (5, 6)


# Verifies: WS-0045
async def test_it_stops_in_order(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """No new messages; those at work are finished; one that came too late is kept until the connection is closed."""
    stop = trio.Event()
    begun: list[str] = []

    async def handle(message: q.Message) -> None:
        begun.append(message.id)
        await trio.sleep(25)

    async def script(peer: Peer) -> None:
        assert (await peer.subscribed())["credits"] == 3
        await peer.deliver("m")
        await trio.sleep(1)
        stop.set()
        request = await peer.expect("unsubscribe")
        await peer.deliver("late")
        await peer.ok(request)
        code, frames = await peer.until_closed()
        assert code == 1000
        assert frames.count(("ack", "m")) == 1
        assert frames.count(("renew", "m")) == frames.count(("renew", "late")) == 2
        assert {kind for kind, _ in frames} == {"ack", "renew"}

    async with scripted(monkeypatch, script) as server:
        await q.worker(URL, "jobs", handle, concurrency=3, lock_seconds=30, stop=stop)
        assert len(server.opened) == 1
    assert begun == ["m"]


# Verifies: WS-0045
async def test_it_stops_when_the_grace_is_over(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    stop = trio.Event()

    async def handle(message: q.Message) -> None:
        with trio.CancelScope(shield=message.id == "stubborn", deadline=trio.current_time() + 8):
            await trio.sleep(7)
        await trio.sleep(20 if message.id == "m" else 0)

    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m")
        await peer.deliver("stubborn")
        await trio.sleep(1)
        stop.set()
        stopped = trio.current_time()
        code, frames = await peer.until_closed()
        # What was done in spite of a cancellation is acked, and nothing is nacked.
        assert (code, frames) == (1000, [("unsubscribe", "")])
        assert trio.current_time() - stopped <= 6.1

    async with scripted(monkeypatch, script):
        await q.worker(URL, "jobs", handle, concurrency=2, grace_seconds=5, stop=stop)
    assert "handlers were cancelled after 5 s" in caplog.text


async def test_what_is_done_is_acked_although_the_grace_is_over(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    stop = trio.Event()

    async def handle(message: q.Message) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await trio.sleep(5)

    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m")
        await trio.sleep(1)
        stop.set()
        assert await peer.until_closed() == (1000, [("unsubscribe", ""), ("ack", "m")])

    async with scripted(monkeypatch, script):
        await q.worker(URL, "jobs", handle, grace_seconds=2, stop=stop)


async def test_cancelling_it_closes_in_order(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    ended: list[str] = []

    async def handle(message: q.Message) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(message.id)

    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m")
        assert await peer.until_closed() == (1000, [])

    async with scripted(monkeypatch, script):
        with trio.move_on_after(1) as scope:
            await q.worker(URL, "jobs", handle)
        assert scope.cancelled_caught
        assert trio.current_time() <= 1.1
        assert ended == ["m"]


class Fatal(BaseException):
    """Not an Exception: no handler's everyday failure."""


async def test_a_handler_may_end_the_worker(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    async def handle(message: q.Message) -> None:
        raise Fatal

    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m")
        assert await peer.until_closed() == (1000, [])

    async with scripted(monkeypatch, script):
        with pytest.raises(Fatal):
            await q.worker(URL, "jobs", handle)


async def test_it_waits_for_its_server(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    stop = trio.Event()

    async def script(peer: Peer) -> None:
        for _ in range(3):
            await peer.refuse(await peer.expect("subscribe"), "starting")
        await peer.subscribed()
        await peer.deliver("m")
        await peer.ok(await peer.expect("ack"))
        stop.set()
        await peer.serve()

    async with scripted(monkeypatch, None, 503, None, None, script) as server:
        await q.worker(URL, "jobs", nothing, stop=stop)
        assert len(server.opened) == 5


async def test_stopping_it_while_it_waits_for_its_server(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    stop = trio.Event()
    async with scripted(monkeypatch), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: q.worker(URL, "jobs", nothing, stop=stop))
        await trio.sleep(20)
        stop.set()
    assert 20 <= trio.current_time() < 20.1


async def test_it_gives_up(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    async with scripted(monkeypatch) as server:
        with pytest.raises(q.ConnectionLost, match="nobody listens"):
            await q.worker(URL, "jobs", nothing, reconnect_seconds=60)
        assert 50 <= trio.current_time() <= 60
        assert len(server.opened) < 20


async def test_refusals_end_it(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    async def no_such_queue(peer: Peer) -> None:
        await peer.refuse(await peer.expect("subscribe"), "queue_not_found")
        await peer.serve()

    async with scripted(monkeypatch, 404, no_such_queue):
        with pytest.raises(q.ConnectFailed):
            await q.worker(URL, "jobs", nothing)
        with pytest.raises(q.QueueNotFound):
            await q.worker(URL, "jobs", nothing)


async def test_a_queue_that_is_gone_after_a_reconnect_ends_it_when_its_handlers_have_ended(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    ended: list[float] = []

    async def handle(message: q.Message) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await trio.sleep(5)
        ended.append(trio.current_time())

    async def first(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m")

    async def second(peer: Peer) -> None:
        await peer.refuse(await peer.expect("subscribe"), "queue_not_found")
        await peer.serve()

    async with scripted(monkeypatch, first, second):
        with pytest.raises(q.QueueNotFound):
            await q.worker(URL, "jobs", handle)
        assert ended == [pytest.approx(trio.current_time(), abs=0.1)]


@pytest.mark.parametrize("fields", [{"concurrency": 0}, {"concurrency": 10_001}, {"lock_seconds": 0}])
async def test_wrong_arguments(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(fields))} must be"):
        await q.worker(URL, "jobs", nothing, **fields)  # type: ignore[arg-type]  # all of these are integers
    with pytest.raises(ValueError, match="not a WebSocket URL"):
        await q.worker("http://127.0.0.1/ws", "jobs", nothing)
